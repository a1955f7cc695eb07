"""Experiments: train a click model once, compress it by several methods, see what that costs.

The protocol is that of docs/results.md: the uncompressed model is trained to its best validation
log loss, every compressed one is evaluated on the same test rows, and no choice looks at those.
"""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from saec.baselines import BASELINES
from saec.codecs.axes.codec import Axes, renumbers
from saec.codecs.clusters.codec import Clusters
from saec.codecs.protocol import Codec
from saec.compression.budget import LossIncrease, Ratio
from saec.errors import DataError, OptionError, did_you_mean
from saec.reference.datasets import load, tasks
from saec.reference.machine import machine
from saec.reference.models import MODELS
from saec.reference.simulated import simulate
from saec.reference.train import OPTIMISERS, Optimiser
from saec.reference.trial import Job, Method, Trial
from saec.streaming.scratch import IN_MEMORY
from saec.tables.field import Field
from saec.util.atomic_file import whole_file
from saec.util.progress import bar

__all__ = ["FULL_KMEANS", "METHODS", "bench", "demo", "write_json"]

OnRow = Callable[[dict[str, Any]], None]


def _baseline(make: Callable[[], Codec]) -> Callable[[], Method]:
    return lambda: Method(make())


# What the paper compares its clustering with: all rows, all iterations, exact search.
FULL_KMEANS = Clusters(
    clusters=0.01,
    head_share=1.0,
    weighting=0.0,
    iterations=20,
    tolerance=0.0,
    codebook="float32",
    radius_share=1.0,
)

# Makers, because a baseline needs its package only when it is used.
METHODS: dict[str, Callable[[], Method]] = {
    "saec": lambda: Method(Clusters()),
    "saec-metric": lambda: Method(Clusters(), metric=True),
    "axes": lambda: Method(Axes(), metric=True),
    "axes-remapped": lambda: Method(Axes(order="code"), metric=True),
    "kmeans": lambda: Method(FULL_KMEANS),
    "kmeans-weighted": lambda: Method(replace(FULL_KMEANS, weighting=1.0)),
    **{name: _baseline(make) for name, make in BASELINES.items()},
}

# What may follow a method's name after a plus.
TUNINGS = ("finetune", "unseen")

DEMO_ROWS = 200_000
DEMO_DIM = 16
DEMO_METHODS = ("saec", "saec-metric", "axes", "axes+finetune", "axes-remapped")
DEMO_RATIOS = (20.0, 50.0, 120.0, 300.0)


def bench(
    task: str,
    path: str | None,
    *,
    model: str = "deepfm",
    dim: int = 16,
    optimiser: Optimiser = "row-adagrad",
    bit_price: float | None = None,
    methods: Sequence[str],
    ratios: Sequence[float],
    loss_increases: Sequence[float] = (),
    seeds: Sequence[int],
    names: bool = False,
    progress: bool = True,
    on_row: OnRow | None = None,
) -> dict[str, Any]:
    """Measure what compression costs on a task.

    For every seed, the log is split, a model trained on it, and its tables compressed by every
    method at every ratio. A method that has one size only ignores the ratios.

    Args:
        task: one of :func:`saec.reference.tasks`.
        path: its data; None for ``simulated``.
        model: a key of :data:`saec.reference.models.MODELS`.
        dim: width of the tables.
        optimiser: of the tables in training, see :func:`saec.reference.train.train`.
        bit_price: nats that a bit of the tables is charged for in training; see there.
        methods: keys of :data:`METHODS`; with ``+finetune`` the compressed model is then trained on
            the predictions of the uncompressed one (distillation), with ``+unseen`` after that also
            on the labels of one half of the validation rows, while the other half chooses.
        ratios: compression ratios to aim at, each at least 1.
        loss_increases: increases of the log loss to aim at, in nats, by methods with a metric
            that keep ids; validation rows calibrate them.
        seeds: of the split, the model, its training and the clustering.
        names: keep the values that features stand for, which name them in pictures; of a log of
            millions of features that takes some 500 MB.
        progress: show bars on stderr for work over two seconds.
        on_row: gets every row once it is measured.

    Returns:
        What :func:`write_json` writes: ``command``, ``machine``, and ``rows``, one dictionary for
        each model measured. Sizes are in bytes, times in seconds, log losses in nats. For
        the first seed, the smallest result of each method that tunes nothing has ``pictures`` of
        its clusters (:meth:`saec.reference.pictures.View.picture`).

    Raises:
        DataError: an unknown task or model, a log that cannot be read or trained on.
        OptionError: an unknown method, no methods, ratios or seeds, a negative seed, or only
            increases of the log loss for a method without metric, which skips them otherwise.
        BudgetError: a ratio below 1, or one that a method cannot reach; no compressed model of that
            seed has been evaluated then.
        OptionalDependencyError: a method's package is not installed.
    """
    jobs = _jobs(task, model, optimiser, bit_price, methods, ratios, loss_increases, seeds)
    results: dict[str, Any] = {
        "command": _command(
            task,
            path,
            model,
            dim,
            optimiser,
            bit_price,
            methods,
            ratios,
            loss_increases,
            seeds,
            names,
        ),
        "machine": machine(),
        "rows": [],
    }
    for seed in seeds:
        with bar(f"loading {task}", None, progress):
            log = load(task, path, seed, vocabularies=names and seed == seeds[0])
        trial = Trial.start(log, model, dim, seed, progress, optimiser, bit_price)
        results["rows"] += _told(trial.rows(jobs, pictures=seed == seeds[0]), on_row)
    return results


def demo(
    directory: Path, *, seed: int = 0, progress: bool = True, on_row: OnRow | None = None
) -> dict[str, Any]:
    """Train on the simulated log, compress by several methods at several ratios, evaluate.

    Args:
        directory: made if need be; gets ``results.json``.
        seed: everything but the times follows from it.
        progress: show bars on stderr for work over two seconds.
        on_row: gets every row once it is measured.

    Returns:
        The results as written; see :func:`bench`.

    Raises:
        DataError: the directory or the file in it cannot be written.
        OptionError: the seed is negative.
    """
    if seed < 0:
        raise OptionError(f"seed {seed}: a seed must not be negative")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the directory {directory}: {error.strerror}") from error
    target = directory / "results.json"
    if target.is_dir():
        raise DataError(f"cannot write {target}: it is a directory")
    results: dict[str, Any] = {"command": f"saec demo --seed {seed}", "machine": machine()}
    with bar("simulating a click log", None, progress):
        log = simulate(DEMO_ROWS, seed=seed, vocabularies=True)
    trial = Trial.start(log, "deepfm", DEMO_DIM, seed, progress)
    jobs = [
        Job(name, _method(name), Ratio(ratio)) for name in DEMO_METHODS for ratio in DEMO_RATIOS
    ]
    results["rows"] = _told(trial.rows(jobs, pictures=True), on_row)
    write_json(target, results)
    return results


def write_json(path: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Write ``results`` as JSON, whole or not at all.

    Raises:
        DataError: the file cannot be written; what was there before is as it was.
    """
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    with whole_file(path) as file:
        file.write(text.encode())


def _jobs(
    task: str,
    model: str,
    optimiser: str,
    bit_price: float | None,
    methods: Sequence[str],
    ratios: Sequence[float],
    loss_increases: Sequence[float],
    seeds: Sequence[int],
) -> list[Job]:
    """All compressions of a seed; everything is checked here, before hours are spent."""
    if task not in tasks():
        raise DataError(
            f"no task {task!r}; there are {', '.join(tasks())}{did_you_mean(task, tasks())}"
        )
    if optimiser not in OPTIMISERS:
        raise OptionError(
            f"no optimiser {optimiser!r}; there are {', '.join(OPTIMISERS)}"
            f"{did_you_mean(optimiser, OPTIMISERS)}"
        )
    if bit_price is not None and not 0 < bit_price < math.inf:
        raise OptionError(f"bit_price is {bit_price:g}; it must be positive, in nats per bit")
    if model not in MODELS:
        raise DataError(
            f"no model is called {model!r}; there are {', '.join(sorted(MODELS))}"
            f"{did_you_mean(model, MODELS)}"
        )
    budgets: list[Ratio | LossIncrease] = [*map(Ratio, ratios)]
    budgets += map(LossIncrease, loss_increases)
    for what, given in (("methods", methods), ("ratios", budgets), ("seeds", seeds)):
        if len(given) == 0:
            raise OptionError(f"bench needs {what}: none were given")
    if min(seeds) < 0:
        raise OptionError(f"seed {min(seeds)}: seeds must not be negative")
    jobs = []
    for name in methods:
        method = _method(name)
        if _has_one_size(method.codec):
            jobs.append(Job(name, method, None))
            continue
        in_nats = method.metric and not renumbers(method.codec)
        met = [size for size in budgets if in_nats or isinstance(size, Ratio)]
        if not met:
            lack = "renumbers features" if method.metric else "has no loss metric"
            raise OptionError(f"method {name!r} {lack}: give it ratios")
        jobs += [Job(name, method, budget) for budget in met]
    return jobs


def _method(name: str) -> Method:
    """A method by its name, which may end in what tunes the model afterwards."""
    plain, _, tuning = name.partition("+")
    if plain not in METHODS or (tuning not in TUNINGS if "+" in name else False):
        every = [*METHODS, *(f"{method}+{known}" for method in METHODS for known in TUNINGS)]
        raise OptionError(
            f"no method {name!r}; there are {', '.join(METHODS)}, each of which may be followed by "
            f"{' or '.join('+' + known for known in TUNINGS)}{did_you_mean(name, every)}"
        )
    return replace(METHODS[plain](), tuning=tuning or None)


def _has_one_size(codec: Codec) -> bool:
    """Whether a codec leaves a budget nothing to choose, seen on a small table."""
    rows = np.random.default_rng(0).standard_normal((256, 2)).astype(np.float32)
    field = Field("any", rows, np.ones(256))
    return len(codec.options(field, None, np.random.default_rng(0), IN_MEMORY)) == 1


def _told(rows: Iterable[dict[str, Any]], on_row: OnRow | None) -> list[dict[str, Any]]:
    told = []
    for row in rows:
        told.append(row)
        if on_row is not None:
            on_row(row)
    return told


def _command(
    task: str,
    path: str | None,
    model: str,
    dim: int,
    optimiser: str,
    bit_price: float | None,
    methods: Sequence[str],
    ratios: Sequence[float],
    loss_increases: Sequence[float],
    seeds: Sequence[int],
    names: bool,
) -> str:
    """The command line that measures the same."""
    words = ["saec", "bench", task]
    words += ["--path", path] if path is not None else []
    words += ["--model", model, "--dim", str(dim)]
    words += [] if optimiser == "row-adagrad" else ["--optimiser", optimiser]
    words += [] if bit_price is None else ["--bit-price", f"{bit_price:g}"]
    words += ["--methods", ",".join(methods)]
    words += ["--ratios", ",".join(f"{ratio:g}" for ratio in ratios)]
    if loss_increases:
        words += ["--loss-increases", ",".join(f"{value:g}" for value in loss_increases)]
    words += ["--seeds", ",".join(map(str, seeds))]
    words += ["--names"] if names else []
    return shlex.join(words)
