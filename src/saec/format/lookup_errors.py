"""Errors of lookups, from what the native core found."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, NoReturn

from saec._native import LookupTable
from saec.errors import ArtifactError, BudgetError, IdError, SaecError

__all__ = ["fail", "offsets_error", "unread_error"]

_FAULTS = ("", "id", "code", "offset")


def unread_error(error: OSError, places: Sequence[str]) -> SaecError:
    """The error of rows that could not be read from the file of an artifact opened with a limit of
    its memory."""
    what = f"rows of {', '.join(places)}"
    if error.errno == errno.ENOBUFS:
        return BudgetError(
            f"{what} cannot be read: those of a single bag take more memory than a lookup may have"
        )
    reasons = {
        errno.ESTALE: "the file has changed since it was opened",
        errno.ENODATA: "the file has become shorter since it was opened",
        errno.ECHILD: "the artifact was opened before this process was forked; open it again here",
    }
    reason = reasons.get(error.errno or 0, error.strerror)
    return ArtifactError(f"{what} cannot be read: {reason}")


def fail(failure: tuple[int, int, int], ids: Any, table: LookupTable, place: str) -> NoReturn:
    """Raise the error that the core found, from its result and the field concerned.

    Raises:
        IdError: an id or an offset.
        ArtifactError: a code, and so the file.
    """
    fault, position = _FAULTS[failure[0]], failure[2]
    if fault == "offset":
        raise offsets_error(place, len(ids))
    row = int(ids[position])
    if fault == "id":
        raise IdError(f"{place}: id {row} at position {position} is outside [0, {table.rows})")
    raise ArtifactError(f"{place}: row {row} has a code beyond the {table.stored_rows} centroids")


def offsets_error(place: str, count: int) -> IdError:
    """That offsets of bags do not fit ``count`` ids or keys."""
    return IdError(f"{place}: offsets must ascend from 0 to at most {count}")
