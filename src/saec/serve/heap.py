"""Return memory that requests have freed to the system."""

from __future__ import annotations

import asyncio
import gc

from saec.util.heap import trim

__all__ = ["keep_trimming"]

_TRIM_SECONDS = 5.0


async def keep_trimming() -> None:
    """Collect garbage and trim every few seconds, until this is cancelled.

    Python collects old reference cycles, such as those of closed connections, only after many
    have come. A collection looks at all objects, so those of the imports and of the model, most
    of them, are left out of it: it takes a millisecond or two.
    """
    gc.collect()
    gc.freeze()
    try:
        while True:
            await asyncio.sleep(_TRIM_SECONDS)
            gc.collect()
            await asyncio.to_thread(trim)
    finally:
        gc.unfreeze()
