"""Sizes in bytes, as numbers or as text."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from numbers import Integral

from saec.errors import BudgetError

__all__ = ["parse_size"]


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*((?:[kmgt]i?)?b)?\s*", re.ASCII | re.IGNORECASE)


_UNITS: dict[str, int] = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000 ** (i + 1) for i, prefix in enumerate("kmgt")},
    **{f"{prefix}ib": 1024 ** (i + 1) for i, prefix in enumerate("kmgt")},
}


def parse_size(size: int | str) -> int:
    """Bytes of a size given as a number or as text: ``161000000``, ``"161MB"``, ``"1.5 GiB"``.

    kB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB powers of 1024; case does not matter.

    Raises:
        BudgetError: the size is below 1 byte or cannot be read.
    """
    if isinstance(size, str):
        match = _SIZE.fullmatch(size)
        if match is None:
            raise BudgetError(f"cannot read {size!r} as a size; write it like 161MB, 2GiB or 4096")
        number, unit = match.groups()
        nbytes = math.floor(Fraction(number) * _UNITS[(unit or "").lower()])
    elif isinstance(size, Integral) and not isinstance(size, bool):
        nbytes = int(size)
    else:
        raise BudgetError(f"a size must be a whole number of bytes or text, not {size!r}")
    if nbytes < 1:
        raise BudgetError(f"a size must be at least 1 byte, not {size!r}")
    return nbytes
