"""What keys are: strings, or integers with or without a sign."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from saec.errors import KeysError

__all__ = ["KeyKind", "check_kind", "kind_of"]


class KeyKind(IntEnum):
    """What all keys of a field are; numbers as in a file."""

    UNSIGNED = 0
    SIGNED = 1
    TEXT = 2

    def __str__(self) -> str:
        return ("unsigned integers", "integers", "strings")[self]


def kind_of(keys: ArrayLike) -> KeyKind:
    """The kind of keys that :func:`~saec.keys.hashing.hash_keys` takes; of a list or of objects,
    that of the first one. Python's integers are unsigned if none is negative."""
    given: Any = keys
    text = str(getattr(given, "type", getattr(given, "dtype", ""))).lower()
    if any(name in text for name in ("str", "utf8", "binary", "cat", "<u", "|s")):
        return KeyKind.TEXT
    if "object" not in text and "int" in text:
        return KeyKind.UNSIGNED if "uint" in text else KeyKind.SIGNED
    first = next(iter(given), None) if hasattr(given, "__iter__") else None
    if isinstance(first, str | bytes):
        return KeyKind.TEXT
    if isinstance(first, int | np.integer):
        return KeyKind.SIGNED if min(given) < 0 else KeyKind.UNSIGNED
    return KeyKind.UNSIGNED


def check_kind(keys: ArrayLike, kind: KeyKind, place: str) -> None:
    """Refuse ``keys``, valid ones, that are of another kind than those of a field.

    Raises:
        KeysError: a string where integers are meant or the reverse; an integer that the field's
            kind does not have.
    """
    given = kind_of(keys)
    array: Any = keys
    if len(array) == 0:
        return
    if (given == KeyKind.TEXT) != (kind == KeyKind.TEXT):
        raise KeysError(f"{place}: keys are {kind}, and {given} were given")
    if kind == KeyKind.TEXT or given == kind:
        return
    numbers = np.asarray(array)
    beyond = numbers < 0 if kind == KeyKind.UNSIGNED else numbers > np.iinfo(np.int64).max
    if beyond.any():
        at = int(beyond.argmax())
        raise KeysError(
            f"{place}: keys are {kind} of 64 bits, and {int(numbers[at])} at position {at} is none"
        )
