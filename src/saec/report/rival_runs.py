"""Results files of ``saec bench --rivals``: one line of JSON for each finished run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from saec.errors import DataError
from saec.report.checks import check_numbers, expect, is_number, is_text

__all__ = ["RUNS_SUFFIX", "parsed_runs", "read_runs", "whole_lines"]

RUNS_SUFFIX = ".jsonl"

_MOST_LINE = 1 << 20  # bytes; a run takes about 800

_MEASURED = (
    *("nbytes", "bytes_all_in", "ratio", "ratio_all_in"),
    *("auc", "logloss", "validation_logloss"),
)
_OPTIONAL = ("train_seconds", "lookup_ns")


def read_runs(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The finished runs of a file, whose last line may be cut off, or being written.

    Raises:
        DataError: the file cannot be read, or a line of it is no finished run; names what is
            missing or wrong.
    """
    return parsed_runs(whole_lines(path), path)


def parsed_runs(data: bytes, path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The runs of whole lines; ``path`` is where they come from, for errors.

    Raises:
        DataError: a line is no finished run; names what is missing or wrong.
    """
    lines = data.split(b"\n")[:-1]
    return [_run(line, f"line {number} of {path}") for number, line in enumerate(lines, 1)]


def whole_lines(path: str | os.PathLike[str]) -> bytes:
    """A file up to the end of its last whole line.

    Raises:
        DataError: it cannot be read.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    return data[: data.rfind(b"\n") + 1]


def _run(line: bytes, place: str) -> dict[str, Any]:
    if len(line) > _MOST_LINE:
        raise DataError(f"{place} has {len(line):,} bytes; a finished run has up to {_MOST_LINE:,}")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is no JSON: {error}") from error
    check_numbers(row, ("dim", "seed", "seconds"), place)
    for name in ("task", "model", "method"):
        expect(is_text(row.get(name)), place, name, row.get(name), "text")
    expect(
        isinstance(row.get("settings"), dict), place, "settings", row.get("settings"), "an object"
    )
    if "target_ratio" not in row:
        raise DataError(f"{place}: 'target_ratio' is missing")
    for name in ("target_ratio", "trial", *_OPTIONAL):
        value = row.get(name)
        expect(value is None or is_number(value), place, name, value, "a number, or null")
    if "impossible" in row:
        expect(is_text(row["impossible"]), place, "impossible", row["impossible"], "text")
    else:
        check_numbers(row, _MEASURED, place)
        expect(row["bytes_all_in"] > 0, place, "bytes_all_in", row["bytes_all_in"], "above 0")
    return dict(row)
