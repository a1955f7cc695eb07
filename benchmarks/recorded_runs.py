"""Finished runs of a benchmark, one JSON line each, so that an interrupted one can go on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["RecordedRuns"]


@dataclass(frozen=True)
class RecordedRuns:
    """Lines of the file ``path``, which need not exist."""

    path: Path

    def lines(self) -> list[dict[str, Any]]:
        """All lines so far; a line that an interruption cut off has no end and does not count."""
        if not self.path.exists():
            return []
        whole = self.path.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def hold(self, key: dict[str, Any]) -> bool:
        """Whether a line has all values of ``key``."""
        return any(key.items() <= line.items() for line in self.lines())

    def add(self, line: dict[str, Any]) -> None:
        """Append a run; whatever was cut off before is dropped."""
        lines = [json.dumps(each) for each in [*self.lines(), line]]
        new = self.path.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n")
        new.replace(self.path)
