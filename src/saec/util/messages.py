"""Parts of messages."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["first_line", "listed"]

_LONGEST_LINE = 500  # letters of an error


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names for a message, shortened to a limit."""
    all_names = list(names)
    more = f" and {len(all_names) - most} more" if len(all_names) > most else ""
    return (", ".join(all_names[:most]) or "none") + more


def first_line(error: BaseException) -> str:
    """An error in one line; its class, if it has no text."""
    text = f"no {error}" if isinstance(error, KeyError) else str(error)
    return (text or type(error).__name__).split("\n", 1)[0][:_LONGEST_LINE]
