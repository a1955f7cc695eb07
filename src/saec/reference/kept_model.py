"""A trained uncompressed model in a file, so that a benchmark need not train it again."""

from __future__ import annotations

import pickle
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saec.errors import DataError
from saec.reference.log import Log
from saec.reference.models import ClickModel, build
from saec.reference.train import train
from saec.reference.training_settings import PricedTraining, Training
from saec.util.atomic_file import whole_file

__all__ = ["fitted_or_kept", "trained_or_kept"]

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
    log: Log,
    model: str,
    dim: int,
    seed: int,
    folder: Path | None,
    settings: Training | None = None,
    *,
    progress: bool = False,
) -> tuple[ClickModel, float]:
    """An uncompressed model over the log's ids, and the seconds that its training took.

    Args:
        log: trains it.
        model: a key of :data:`saec.reference.models.MODELS`.
        dim: of its tables.
        seed: of the model and its training.
        folder: keeps it in ``TASK-MODEL-DIM-SEED.pt``, or with the price of a bit, the half-life of
            the mean, or the learning rate and decay of the tables in the name, where settings have
            them; later calls take it from there. None keeps nothing.
        settings: of the training; None for the defaults.
        progress: whether to show bars.

    Raises:
        DataError: the file cannot be read or written, or its model was trained on another log or
            with other settings; or training diverged.
    """
    net, settings = build(model, log.vocab_sizes, dim, seed), settings or Training()
    tables = dict(zip(("rate", "decay"), settings.of_tables(log.name), strict=True))
    made = {
        "log": _check_of(log),
        "training": asdict(settings),
        "rate and decay of its tables": tables,
    }
    if settings.bit_price is not None:
        made["priced"] = asdict(PricedTraining.of(log.name))
    own = {
        "price": settings.bit_price,
        "mean": settings.mean_half_life,
        "rate": settings.table_learning_rate,
        "decay": settings.table_decay,
    }
    marks = "".join(f"-{key}-{value:g}" for key, value in own.items() if value is not None)
    name = f"{log.name}-{model}-{dim}-{seed}{marks}.pt"
    path = None if folder is None else folder / name
    seconds = fitted_or_kept(
        net, path, made, lambda: train(net, log, settings, seed=seed, progress=progress)
    )
    return net, seconds


def fitted_or_kept(
    net: nn.Module, path: Path | None, made: Mapping[str, Any], fit: Callable[[], object]
) -> float:
    """Fit a model, or take its state from a file; returns the seconds that fitting it took.

    Args:
        net: the model.
        path: of the file, which is written if it does not exist; None keeps nothing.
        made: plain values that tell how the model is made: a file with others is refused.
        fit: trains ``net``.

    Raises:
        DataError: the file cannot be read or written, or its model was made in another way.
    """
    if path is not None and path.exists():
        found = _read(path, made)
        net.load_state_dict(found["state"])
        return float(found["seconds"])
    start = time.perf_counter()
    fit()
    seconds = time.perf_counter() - start
    if path is not None:
        with whole_file(path) as stream:
            torch.save({**made, "state": net.state_dict(), "seconds": seconds}, stream)
    return seconds


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
