"""Limit of open files: limits connections to it, and limits log messages about it."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import time
from collections.abc import Callable
from typing import Any

__all__ = ["connections_within", "quiet_about_descriptors"]

_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_QUIET_SECONDS = 60.0

_log = logging.getLogger(__name__)


def connections_within(wanted: int) -> int:
    """Number of connections for HTTP and gRPC each: ``wanted``, or what the limit of open files
    allows.

    A quarter of the descriptors, and 16 more, are reserved for files and for connections that are
    accepted only to be closed.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return wanted
    allowed = max((limit * 3 // 4 - 16) // 2, 1)
    if allowed < wanted:
        _log.warning(
            "%d connections at once in place of %d: %d files may be open", allowed, wanted, limit
        )
    return min(allowed, wanted)


def quiet_about_descriptors() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """An error handler of an event loop that logs at most once a minute that descriptors ran out.

    asyncio would log each failed accept with its traceback, up to the length of the backlog every
    second. It continues by itself as soon as descriptors are free again.
    """
    quiet_until = 0.0

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal quiet_until
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _OUT_OF_DESCRIPTORS:
            loop.default_exception_handler(context)
        elif time.monotonic() >= quiet_until:
            quiet_until = time.monotonic() + _QUIET_SECONDS
            _log.error("%s: new connections wait until others end", error.strerror)

    return handle
