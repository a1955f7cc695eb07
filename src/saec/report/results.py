"""Results files, checked once, and their rows summarised over seeds."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from saec.errors import DataError
from saec.report.check_results import check_results
from saec.report.inside import FieldSize, Picture, field_sizes, pictures_of

__all__ = [
    "Decile",
    "Experiment",
    "Measured",
    "Spread",
    "check_results",
    "read_results",
    "summarise",
]

Row = dict[str, Any]


# Suffixes of a method's name after a plus, in words.
_TUNINGS = {"finetune": "fine-tuned", "unseen": "fine-tuned on unseen rows"}


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and their standard deviation (n - 1), which one seed does not have."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Mean and standard deviation of ``values``, at least one."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation)

    def __str__(self) -> str:
        """With sign and five digits, as changes of AUC and log loss are written."""
        after = "" if self.deviation is None else f" ± {self.deviation:.5f}"
        return f"{self.mean:+.5f}{after}"


@dataclass(frozen=True)
class Decile:
    """A tenth of the test rows by the frequency of their rarest feature; means over seeds.

    ``least`` and ``most`` are these frequencies, 0 for a feature that training never saw. Of a
    single seed, the deviation of ``logloss_change`` is its standard error over test rows.
    """

    least: float
    most: float
    logloss_change: Spread


@dataclass(frozen=True)
class Measured:
    """One method at one size, over seeds; sizes in bytes, times in seconds, log loss in nats.

    ``predicted`` is the increase of the log loss as forecast before, None where nobody did.
    ``deciles`` go from rare to frequent; there are none if a seed lacks them. ``fields`` are those
    of which all seeds tell, ``pictures`` those of the first seed that has some.
    """

    method: str
    finetuned: bool
    seeds: int
    ratio: float
    nbytes: float
    auc: float
    auc_change: Spread
    logloss: float
    logloss_change: Spread
    compress_seconds: float
    predicted: float | None
    deciles: tuple[Decile, ...]
    fields: tuple[FieldSize, ...]
    pictures: tuple[Picture, ...]

    @property
    def plain_method(self) -> str:
        """The method without its tuning."""
        return self.method.partition("+")[0]

    @property
    def label(self) -> str:
        """The method's name, and whether and on what it was fine-tuned."""
        name, _, tuning = self.method.partition("+")
        if not self.finetuned:
            return self.method
        return f"{name}, {_TUNINGS.get(tuning, _TUNINGS['finetune'])}"


@dataclass(frozen=True)
class Experiment:
    """All that was measured on one task with one model; means over seeds.

    ``best_auc`` and ``best_logloss`` are what the true click probabilities reach; None where these
    are not known.
    """

    task: str
    model: str
    dim: int | None
    base_auc: float
    base_logloss: float
    original_nbytes: float
    best_auc: float | None
    best_logloss: float | None
    measured: tuple[Measured, ...]

    @property
    def title(self) -> str:
        """Task, model and width of the tables."""
        return f"{self.task}, {self.model}" + ("" if self.dim is None else f", dim {self.dim}")


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check a results file.

    Raises:
        DataError: it is missing, no JSON, or no results file; names what is missing or wrong.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON, or damaged: {error}") from error
    try:
        return check_results(results)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def summarise(results: dict[str, Any]) -> list[Experiment]:
    """Experiments in a results file, each with its methods' means and spread over seeds.

    Raises:
        DataError: as :func:`check_results`.
    """
    rows = check_results(results)["rows"]
    return [_experiment(group) for group in _grouped(rows, _experiment_key)]


def _grouped(rows: Iterable[Row], key: Callable[[Row], tuple[Any, ...]]) -> list[list[Row]]:
    """Rows of equal keys, in the order in which these first occur."""
    places: dict[tuple[Any, ...], int] = {}
    ordered = sorted(rows, key=lambda row: places.setdefault(key(row), len(places)))
    return [list(group) for _, group in groupby(ordered, key)]


def _experiment_key(row: Row) -> tuple[Any, ...]:
    return row["task"], row["model"], row.get("dim")


def _measured_key(row: Row) -> tuple[Any, ...]:
    return row["method"], row["finetuned"], row["target_ratio"], row.get("target_loss_increase")


def _experiment(rows: list[Row]) -> Experiment:
    task, model, dim = _experiment_key(rows[0])
    # A seed's base stands in each of its rows, and seeds may have different numbers of rows.
    bases = list({row["seed"]: row for row in rows}.values())
    measured = [_measured(group) for group in _grouped(rows, _measured_key)]
    return Experiment(
        task=task,
        model=model,
        dim=dim,
        base_auc=_mean(bases, "base_auc"),
        base_logloss=_mean(bases, "base_logloss"),
        original_nbytes=_mean(bases, "original_nbytes"),
        best_auc=_mean_if_known(bases, "best_auc"),
        best_logloss=_mean_if_known(bases, "best_logloss"),
        measured=tuple(measured),
    )


def _measured(rows: list[Row]) -> Measured:
    return Measured(
        method=rows[0]["method"],
        finetuned=rows[0]["finetuned"],
        seeds=len({row["seed"] for row in rows}),
        ratio=_mean(rows, "ratio"),
        nbytes=_mean(rows, "nbytes"),
        auc=_mean(rows, "auc"),
        auc_change=Spread.of([row["auc"] - row["base_auc"] for row in rows]),
        logloss=_mean(rows, "logloss"),
        logloss_change=Spread.of([row["logloss"] - row["base_logloss"] for row in rows]),
        compress_seconds=_mean(rows, "compress_seconds"),
        predicted=_mean_if_known(rows, "predicted_loss_increase"),
        deciles=_deciles([row.get("deciles", []) for row in rows]),
        fields=field_sizes(rows),
        pictures=pictures_of(rows),
    )


def _deciles(seeds: list[list[Row]]) -> tuple[Decile, ...]:
    """Means over seeds, place by place; none if seeds have different numbers of them."""
    if len({len(deciles) for deciles in seeds}) > 1:
        return ()
    return tuple(
        Decile(
            least=_mean(same, "least"),
            most=_mean(same, "most"),
            logloss_change=_decile_change(same),
        )
        for same in zip(*seeds, strict=True)
    )


def _decile_change(seeds: Sequence[Row]) -> Spread:
    if len(seeds) == 1:
        return Spread(seeds[0]["logloss_change"], seeds[0].get("logloss_error"))
    return Spread.of([decile["logloss_change"] for decile in seeds])


def _mean(rows: Sequence[Row], name: str) -> float:
    return statistics.fmean(row[name] for row in rows)


def _mean_if_known(rows: list[Row], name: str) -> float | None:
    if any(row.get(name) is None for row in rows):
        return None
    return _mean(rows, name)
