"""The results file of ``saec bench --rivals`` while it grows, run by run."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from saec.errors import DataError
from saec.report.rival_runs import parsed_runs, whole_lines

__all__ = ["RivalRun", "RunFile"]


@dataclass(frozen=True)
class RivalRun:
    """One method at one size, to be trained and measured once.

    Args:
        task, model, dim: what is trained.
        method: its name.
        ratio: to aim at; None for a method of one size.
        seed: of the split, the model, its training and the method.
        trial: number of the settings; 0 has the defaults. None: the best of the first seed.
        settings: of the method, and of the training of its tables.
    """

    task: str
    model: str
    dim: int
    method: str
    ratio: float | None
    seed: int
    trial: int | None
    settings: Mapping[str, Any]

    @property
    def described(self) -> dict[str, Any]:
        """As in the results file."""
        return {
            "task": self.task,
            "model": self.model,
            "dim": self.dim,
            "method": self.method,
            "target_ratio": self.ratio,
            "seed": self.seed,
            "trial": self.trial,
            "settings": dict(self.settings),
        }

    def same(self, row: Mapping[str, Any]) -> bool:
        """Whether ``row`` of a results file is this run; its number among the trials may differ."""
        own = self.described
        return all(row.get(name) == value for name, value in own.items() if name != "trial")


class RunFile:
    """Finished runs, in memory and in a file that grows line by line.

    A line that was cut off when a run was killed is removed.

    Args:
        path: is made with the first run.

    Raises:
        DataError: the file cannot be read, or a line of it is no finished run.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            whole = whole_lines(path)
            self.rows = parsed_runs(whole, path)
            if len(whole) < path.stat().st_size:
                os.truncate(path, len(whole))

    def found(self, run: RivalRun) -> dict[str, Any] | None:
        """The line of a run, if it is finished."""
        return next((row for row in self.rows if run.same(row)), None)

    def add(self, row: dict[str, Any]) -> None:
        """Write a finished run; it is on the disk when this returns.

        Raises:
            DataError: the file cannot be written.
        """
        line = json.dumps(row, allow_nan=False) + "\n"
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"cannot write {self._path}: {error.strerror}") from error
        self.rows.append(row)

    def seconds(self, run: RivalRun, alike: Collection[str]) -> float | None:
        """How long a run is expected to take: the median of recorded ones, of its method and size
        if there are any, else of its method, else of the methods ``alike``; None if unknown."""
        rows = [row for row in self.rows if row["task"] == run.task]
        own = [row for row in rows if row["method"] == run.method]
        sized = [row for row in own if row["target_ratio"] == run.ratio]
        known = sized or own or [row for row in rows if row["method"] in alike]
        return median(row["seconds"] for row in known) if known else None
