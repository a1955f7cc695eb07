"""All methods at all sizes: which runs there are, what is left, and running it.

Settings are drawn by trials on the first seed and chosen by validation log loss; the other seeds
take the choice. Runs are recorded one by one, so that a run that was stopped goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saec.errors import BudgetError, DataError, FieldError, OptionError, did_you_mean
from saec.reference.datasets import load
from saec.reference.machine import machine
from saec.reference.rival_runs import RivalRun, RunFile
from saec.reference.rival_trials import (
    AFTER_TRAINING,
    MODEL_SETTINGS,
    TRAINED_OTHERWISE,
    TRAINING_SPACE,
    RivalTrials,
    drawn_settings,
    has_one_size,
    model_settings,
)
from saec.reference.small import SMALL
from saec.util.progress import bar

__all__ = ["RIVAL_METHODS", "RivalBenchmark"]

# By classes: after training, also of a model trained otherwise, and trained small.
RIVAL_METHODS = (*AFTER_TRAINING, *TRAINED_OTHERWISE, *SMALL)

_CLASSES = (AFTER_TRAINING, TRAINED_OTHERWISE, SMALL)


@dataclass(frozen=True)
class RivalBenchmark:
    """A task, and the methods to train and measure on it.

    Args:
        task: one of :func:`saec.reference.tasks`.
        path: its data; None for ``simulated``.
        model: a key of :data:`saec.reference.models.MODELS`.
        dim: width of the vectors that the model gets.
        methods: names of :data:`RIVAL_METHODS`.
        ratios: bytes of the uncompressed tables by those of the small ones, to aim at.
        seeds: trials take the first one.
        trials: settings of each method that changes training, at each ratio.
        keep: folder for the trained uncompressed models, one of each seed, price on bits and
            half-life, so that a comparison that goes on need not train them again; None keeps none.

    Raises:
        OptionError: an unknown method; no methods, ratios or seeds; trials below 1, a ratio below
            1 or a negative seed.
    """

    task: str
    path: str | None = None
    model: str = "deepfm"
    dim: int = 16
    methods: Sequence[str] = RIVAL_METHODS
    ratios: Sequence[float] = (10.0, 30.0, 100.0)
    seeds: Sequence[int] = (0,)
    trials: int = 8
    keep: Path | None = None

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in RIVAL_METHODS:
                raise OptionError(
                    f"no method {name!r} of --rivals; there are {', '.join(RIVAL_METHODS)}"
                    f"{did_you_mean(name, RIVAL_METHODS)}"
                )
        given = {"methods": self.methods, "ratios": self.ratios, "seeds": self.seeds}
        for what, values in given.items():
            if not values:
                raise OptionError(f"bench --rivals needs {what}: none were given")
        if self.trials < 1:
            raise OptionError(f"trials is {self.trials}; it must be at least 1")
        if min(self.ratios) < 1:
            raise OptionError(f"ratio {min(self.ratios):g} is below 1")
        if min(self.seeds) < 0:
            raise OptionError(f"seed {min(self.seeds)}: seeds must not be negative")

    def run(self, results: Path, tell: Callable[[str], None], *, progress: bool = True) -> RunFile:
        """Run what ``results`` lacks, and add it there.

        Args:
            results: file with a line of JSON for each finished run.
            tell: gets a line of text after each run, and what is left.
            progress: show bars on stderr for work over two seconds.

        Raises:
            DataError: the log or ``results`` cannot be read or written.
        """
        file = RunFile(results)
        tell(self.left(file))
        where = machine()
        trials: RivalTrials | None = None
        while (run := next(self.missing(file), None)) is not None:
            if trials is None or trials.seed != run.seed:
                trials = self._trials(run.seed, progress)
            row = {**run.described, **_outcome(trials, run), **_origin(where)}
            file.add(row)
            tell(_told(row))
            tell(self.left(file))
        return file

    def missing(self, file: RunFile) -> Iterator[RivalRun]:
        """Runs that are not recorded, in the order in which they are done.

        First the default settings of all methods, size by size, so that all soon have a point.
        """
        for run in self._of_first_seed():
            if file.found(run) is None:
                yield run
        for seed in self.seeds[1:]:
            every = [self._chosen(method, ratio, seed, file) for method, ratio in self._sizes()]
            chosen = [run for run in every if run is not None and file.found(run) is None]
            yield from sorted(chosen, key=_model_order)

    def same_model(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of the results file is of this task, model and width."""
        return all(row[name] == getattr(self, name) for name in ("task", "model", "dim"))

    def left(self, file: RunFile) -> str:
        """How many runs are left, and how long they take by the recorded ones."""
        runs = list(self.missing(file))
        if not runs:
            return "all runs are recorded"
        expected = [
            file.seconds(run, next(own for own in _CLASSES if run.method in own)) for run in runs
        ]
        known = [seconds for seconds in expected if seconds is not None]
        unknown = f", without {len(runs) - len(known)} of unknown time" * (len(known) < len(runs))
        return f"{len(runs)} runs left, about {sum(known) / 60:.0f} minutes{unknown}"

    def _trials(self, seed: int, progress: bool) -> RivalTrials:
        with bar(f"loading {self.task}", None, progress):
            log = load(self.task, self.path, seed, keys=True)
        return RivalTrials(log, self.model, self.dim, seed, progress, self.keep)

    def _of_first_seed(self) -> Iterator[RivalRun]:
        for trial in range(self.trials):
            runs = [
                self._run(method, ratio, self.seeds[0], trial, settings)
                for method, ratio in self._sizes()
                for settings in [trial_settings(method, self.task, trial)]
                if settings is not None
            ]
            yield from sorted(runs, key=_model_order)

    def _sizes(self) -> Iterator[tuple[str, float | None]]:
        for place, ratio in enumerate(self.ratios):
            for method in self.methods:
                if not has_one_size(method):
                    yield method, ratio
                elif place == 0:
                    yield method, None

    def _chosen(
        self, method: str, ratio: float | None, seed: int, file: RunFile
    ) -> RivalRun | None:
        """The run of another seed with the settings that were best on validation rows."""
        if method in AFTER_TRAINING:
            return self._run(method, ratio, seed, 0, {})
        rows = [
            row
            for run in self._of_first_seed()
            if (run.method, run.ratio) == (method, ratio)
            for row in [file.found(run)]
            if row is not None and "impossible" not in row
        ]
        if not rows:
            return None
        best = min(rows, key=lambda row: float(row["validation_logloss"]))
        return self._run(method, ratio, seed, None, best["settings"])

    def _run(
        self,
        method: str,
        ratio: float | None,
        seed: int,
        trial: int | None,
        settings: Mapping[str, Any],
    ) -> RivalRun:
        return RivalRun(self.task, self.model, self.dim, method, ratio, seed, trial, settings)


def trial_settings(method: str, task: str, trial: int) -> dict[str, Any] | None:
    """Settings of a trial: the defaults, then random draws, each once; None if there are no more.

    Methods after training have none; for models trained with a price or a running mean see
    :func:`saec.reference.rival_trials.model_settings`. Of tables trained small, ``rate`` and
    ``decay`` multiply the task's learning rate and decay of the tables.
    """
    if method in AFTER_TRAINING:
        return {} if trial == 0 else None
    if method in TRAINED_OTHERWISE:
        return model_settings(method, task, trial)
    kind = SMALL[method]
    defaults = kind()
    space = {**TRAINING_SPACE, **kind.space}
    first = {name: getattr(defaults, name, 1.0) for name in space}
    return drawn_settings(method, first, space, trial)


def _model_order(run: RivalRun) -> tuple[float, ...]:
    """Runs on the same trained model follow one another: only the last is kept in memory."""
    return tuple(run.settings.get(name, 0.0) for name in MODEL_SETTINGS)


def _outcome(trials: RivalTrials, run: RivalRun) -> dict[str, Any]:
    """What was measured; or why there is no such table, or no such training."""
    start = time.perf_counter()
    try:
        measured = trials.measured(run)
    except (BudgetError, DataError, FieldError) as error:
        measured = {"impossible": str(error)}
    return {**measured, "seconds": time.perf_counter() - start}


def _origin(where: Mapping[str, Any]) -> dict[str, Any]:
    packages = where["packages"]
    return {
        "cpu": where["cpu"],
        "cores": where["cores"],
        "torch": packages["torch"],
        "saec": packages["saec"],
        "date": machine()["date"],
    }


def _told(row: Mapping[str, Any]) -> str:
    size = "" if row["target_ratio"] is None else f" at ratio {row['target_ratio']:g}"
    head = f"seed {row['seed']}, trial {row['trial']}: {row['method']}{size}"
    if "impossible" in row:
        return f"{head}: impossible: {row['impossible']}"
    return (
        f"{head}: AUC {row['auc']:.4f}, log loss {row['logloss']:.4f}, "
        f"{row['bytes_all_in']:,} bytes in all, {row['seconds']:.0f} s"
    )
