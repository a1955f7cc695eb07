"""Results files are checked once, before anything reads them."""

from __future__ import annotations

from typing import Any

from saec.errors import DataError
from saec.report.checks import check_numbers, expect, is_number, is_text
from saec.report.inside import check_inside

__all__ = ["check_results"]


_NUMBERS = (
    "ratio",
    "nbytes",
    "original_nbytes",
    "base_auc",
    "base_logloss",
    "auc",
    "logloss",
    "compress_seconds",
)


# Null where they mean nothing; files of earlier versions lack some of them.
_NUMBERS_OR_NULL = (
    "target_ratio",
    "target_loss_increase",
    "predicted_loss_increase",
    "divergence",
    "dim",
    "best_auc",
    "best_logloss",
)


def check_results(results: object) -> dict[str, Any]:
    """Return ``results`` after checking all that a report uses.

    Raises:
        DataError: something is missing or of the wrong type; names it.
    """
    if not isinstance(results, dict):
        raise DataError(f"results are a JSON object, not a {type(results).__name__}")
    for name, kind in (("command", str), ("machine", dict), ("rows", list)):
        if name not in results:
            raise DataError(f"no results: {name!r} is missing")
        if not isinstance(results[name], kind):
            raise DataError(f"{name!r} is a {type(results[name]).__name__}, not a {kind.__name__}")
    if not results["rows"]:
        raise DataError("'rows' is empty")
    for number, row in enumerate(results["rows"]):
        _check_row(row, f"row {number}")
    return results


def _check_row(row: object, place: str) -> None:
    if not isinstance(row, dict):
        raise DataError(f"{place} is a {type(row).__name__}, not an object")
    for name in ("task", "model", "method", "seed", "target_ratio", "finetuned", *_NUMBERS):
        if name not in row:
            raise DataError(f"{place}: {name!r} is missing")
    for name in ("task", "model", "method"):
        expect(is_text(row[name]), place, name, row[name], "text")
    expect(isinstance(row["finetuned"], bool), place, "finetuned", row["finetuned"], "a boolean")
    for name in (*_NUMBERS, "seed"):
        expect(is_number(row[name]), place, name, row[name], "a finite number up to 1e30")
    for name in _NUMBERS_OR_NULL:
        value = row.get(name)
        expect(
            value is None or is_number(value),
            place,
            name,
            value,
            "a finite number up to 1e30, or null",
        )
    expect(row["ratio"] > 0, place, "ratio", row["ratio"], "above 0")
    deciles = row.get("deciles", [])
    expect(isinstance(deciles, list), place, "deciles", deciles, "a list")
    for number, decile in enumerate(deciles):
        where = f"{place}, decile {number}"
        check_numbers(decile, ("least", "most", "logloss_change"), where)
        error = decile.get("logloss_error")
        expect(
            error is None or is_number(error),
            where,
            "logloss_error",
            error,
            "a finite number up to 1e30",
        )
    check_inside(row, place)
