"""Checks of the content of a results file, with errors that name the invalid entry."""

from __future__ import annotations

from collections.abc import Sequence

from saec.errors import DataError

__all__ = ["check_numbers", "expect", "is_number", "is_text"]


# Sums and axes of larger numbers overflow.
_LARGEST = 1e30


def expect(holds: bool, place: str, name: str, value: object, wanted: str) -> None:
    """Raise DataError unless ``holds``: ``name`` at ``place`` is ``value``, not ``wanted``."""
    if not holds:
        raise DataError(f"{place}: {name!r} is {value!r}, not {wanted}")


def is_text(value: object) -> bool:
    """Whether it is text that can be drawn: JSON can spell half a character."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def is_number(value: object) -> bool:
    """Whether it is a number that can be averaged and drawn: finite, and not beyond 1e30."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= _LARGEST  # false for NaN, too


def check_numbers(entry: object, names: Sequence[str], place: str) -> None:
    """Check that ``entry`` is an object with finite numbers of these ``names``.

    Raises:
        DataError: it is not, or one is missing or of another type.
    """
    if not isinstance(entry, dict):
        raise DataError(f"{place} is a {type(entry).__name__}, not an object")
    for name in names:
        if name not in entry:
            raise DataError(f"{place}: {name!r} is missing")
        expect(is_number(entry[name]), place, name, entry[name], "a finite number up to 1e30")
