"""A trained uncompressed model in a file, so that a benchmark need not train it again."""

from __future__ import annotations

import pickle
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from saec.errors import DataError
from saec.reference.log import Log
from saec.reference.models import ClickModel, build
from saec.reference.train import train
from saec.reference.training_settings import Training
from saec.util.atomic_file import whole_file

__all__ = ["trained_or_kept"]

# What torch.load raises for files that are damaged.
_DAMAGES = (
    OSError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


def trained_or_kept(
    log: Log, model: str, dim: int, seed: int, folder: Path | None, *, progress: bool = False
) -> tuple[ClickModel, float]:
    """An uncompressed model over the log's ids, and the seconds that its training took.

    Args:
        log: trains it, with default settings.
        model: a key of :data:`saec.reference.models.MODELS`.
        dim: of its tables.
        seed: of the model and its training.
        folder: keeps it in ``TASK-MODEL-DIM-SEED.pt``, from where later calls take it; None keeps
            nothing.
        progress: whether to show bars.

    Raises:
        DataError: the file cannot be read or written, or its model was trained on another log or
            with other settings; or training diverged.
    """
    net, settings = build(model, log.vocab_sizes, dim, seed), Training()
    made = {"log": _check_of(log), "training": asdict(settings)}
    path = None if folder is None else folder / f"{log.name}-{model}-{dim}-{seed}.pt"
    if path is not None and path.exists():
        found = _read(path, made)
        net.load_state_dict(found["state"])
        return net, float(found["seconds"])
    start = time.perf_counter()
    train(net, log, settings, seed=seed, progress=progress)
    seconds = time.perf_counter() - start
    if path is not None:
        with whole_file(path) as stream:
            torch.save({**made, "state": net.state_dict(), "seconds": seconds}, stream)
    return net, seconds


def _check_of(log: Log) -> dict[str, Any]:
    """What distinguishes a log from others."""
    labels = zlib.crc32(log.labels.tobytes(), zlib.crc32(log.split.tobytes()))
    return {"vocab_sizes": dict(log.vocab_sizes), "rows": len(log.labels), "labels": labels}


def _read(path: Path, made: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = torch.load(path, weights_only=True)
    except _DAMAGES as error:
        raise DataError(f"cannot read the model in {path}: {error}") from error
    for what in made:
        if not isinstance(found, dict) or found.get(what) != made[what]:
            raise DataError(
                f"the model in {path} has another {what}; remove the file to train it anew"
            )
    return found
