"""Click logs by the name of their task, one file per data set."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saec.errors import DataError
from saec.reference.datasets.avazu import avazu
from saec.reference.datasets.columns import ColumnSpec, columns
from saec.reference.datasets.criteo import criteo
from saec.reference.datasets.globo import globo, globo_days
from saec.reference.datasets.movielens import movielens, movielens_crossed
from saec.reference.datasets.online_retail import online_retail
from saec.reference.datasets.source import LogRows
from saec.reference.encode import encode
from saec.reference.log import Log
from saec.reference.simulated import simulate

__all__ = ["ColumnSpec", "load", "tasks"]

LOADERS: dict[str, Callable[..., LogRows]] = {
    "ml-1m": movielens,
    "ml-1m-x": movielens_crossed,
    "globo": globo,
    "globo-days": globo_days,
    "criteo": criteo,
    "avazu": avazu,
    "online-retail": online_retail,
    "columns": columns,
}


def tasks() -> tuple[str, ...]:
    """Names that :func:`load` knows."""
    return ("simulated", *LOADERS)


def load(
    task: str,
    path: str | Path | None = None,
    seed: int = 0,
    *,
    vocabularies: bool = False,
    keys: bool = False,
    **options: Any,
) -> Log:
    """Load the log of a task.

    Args:
        task: one of :func:`tasks`.
        path: its file or directory, in any of the published formats (the modules of this package
            list them); None for ``simulated``, which needs none.
        seed: of the split and whatever else is drawn.
        vocabularies: keep the original values.
        keys: keep them as keys of 64 bits, for each row.
        **options: of the task: ``days`` for ``globo-days`` (train on days 1 to ``days``, test on
            the next), ``max_rows`` for ``criteo`` and ``avazu``, ``spec``, a :class:`ColumnSpec`,
            for ``columns``, ``rows``, ``days`` and ``deaths`` for ``simulated``.

    Raises:
        DataError: no such task, an option that it does not have or lacks, a negative seed, a
            file that is missing, unreadable, empty or malformed.
    """
    if seed < 0:
        raise DataError(f"seed is {seed}; it must not be negative")
    if task == "simulated":
        if path is not None:
            raise DataError(f"task 'simulated' reads no file, but path is {str(path)!r}")
        _check_options(task, simulate, options)
        return simulate(seed=seed, vocabularies=vocabularies, keys=keys, **options)
    if task not in LOADERS:
        raise DataError(f"no task {task!r}; there are {', '.join(tasks())}")
    if path is None:
        raise DataError(f"task {task!r} needs the path of its data")
    _check_options(task, LOADERS[task], options)
    rows = LOADERS[task](Path(path), seed, **options)
    return encode(rows.columns, rows.labels, rows.split, task, vocabularies=vocabularies, keys=keys)


def _check_options(task: str, loader: Callable[..., object], options: dict[str, Any]) -> None:
    parameters = inspect.signature(loader).parameters
    known = [name for name in parameters if name not in ("path", "seed", "vocabularies", "keys")]
    for name in options:
        if name not in known:
            allowed = ", ".join(known) or "none"
            raise DataError(f"task {task!r} has no option {name!r}; it has: {allowed}")
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and name not in options:
            raise DataError(f"task {task!r} needs the option {name!r}")
