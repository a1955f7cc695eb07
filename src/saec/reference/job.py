"""One compression to measure: a method and a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from saec.codecs.protocol import Codec
from saec.compression.budget import LossIncrease, Ratio
from saec.format.compressed import Compressed

__all__ = ["Job", "Method", "asked_for", "smallest", "untuned"]


@dataclass(frozen=True)
class Method:
    """A codec, whether it gets the loss metric, and what is done to the compressed model.

    tuning: None, ``"finetune"`` (distillation on the training rows) or ``"unseen"`` (after that,
    labels of one half of the validation rows; the other half chooses).
    """

    codec: Codec
    metric: bool = False
    tuning: str | None = None


@dataclass(frozen=True)
class Job:
    """One compression: a method by its name, and the budget to keep if it takes one."""

    name: str
    method: Method
    budget: Ratio | LossIncrease | None


def smallest(results: Mapping[Job, Compressed]) -> dict[Job, Compressed]:
    """Of each method the smallest result."""
    found: dict[str, Job] = {}
    for job in sorted(results, key=lambda job: results[job].nbytes):
        found.setdefault(job.name, job)
    return {job: results[job] for job in found.values()}


def untuned(job: Job) -> Job:
    """The job whose result this one tunes, under one name for all of them."""
    return replace(job, name="", method=replace(job.method, tuning=None))


def asked_for(budget: Ratio | LossIncrease | None) -> dict[str, float | None]:
    return {
        "target_ratio": budget.value if isinstance(budget, Ratio) else None,
        "target_loss_increase": budget.value if isinstance(budget, LossIncrease) else None,
    }
