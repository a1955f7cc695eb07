"""The model in use, and its replacement by a new one while requests run."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from saec.errors import SaecError
from saec.serve.metrics import Metrics
from saec.serve.model import Model
from saec.serve.model_files import ModelFiles
from saec.serve.protocol import RefusedError, Status

__all__ = ["Slot", "Version"]

_WATCH_SECONDS = 1.0
_CLOSE_SECONDS = 0.02  # interval between two checks whether loading has ended

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Version:
    """A model and its version number."""

    number: int
    model: Model


class Slot:
    """The version in use of the model in some files.

    A request reads ``current`` once and uses it to its end. Its memory map stays valid after a
    reload, because artifacts are written beside the old file and renamed.

    Raises:
        ArtifactError: the file cannot be served.
        BudgetError: nor with this limit of memory.
    """

    def __init__(self, files: ModelFiles, metrics: Metrics) -> None:
        self._files, self._metrics = files, metrics
        self._loader = concurrent.futures.ThreadPoolExecutor(1, "saec-load")
        self._closing = threading.Event()
        self.loading = False  # whether a file is being read for a reload
        self.name = files.path.stem
        self._loaded = files.identity()
        self.current = Version(1, files.open(self._go_on))
        self._tell()

    async def reload(self, only_if: Callable[[], bool] = lambda: True) -> None:
        """Read the file again and replace the current version.

        Raises:
            ArtifactError: the file cannot be served; the current version stays.
            RefusedError: the server stops; the current version stays.
        """
        if self._closing.is_set():
            raise _stopping()
        await asyncio.wrap_future(self._loader.submit(self._reload, only_if))

    async def watch(self) -> None:
        """Reload whenever a file differs from the one read last, forever."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if self._changed():
                # Logged and counted; the next file may be valid.
                with contextlib.suppress(Exception):
                    await self.reload(self._changed)

    async def close(self, seconds: float) -> None:
        """Interrupt loading, and wait at most ``seconds`` for its end.

        Only the reading of rows can be interrupted, not the opening or parsing of a file.
        """
        self._closing.set()
        self._loader.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.loading:
                    await asyncio.sleep(_CLOSE_SECONDS)

    def _reload(self, only_if: Callable[[], bool]) -> None:
        """Runs in a dedicated thread, so that loads do not overlap."""
        if not only_if():
            return
        self.loading = True
        self._loaded = self._files.identity()  # before reading: later changes are seen as new
        try:
            model = self._files.open(self._go_on)
        except RefusedError:
            raise
        except Exception as error:
            self._metrics.reload_failed()
            unexpected = None if isinstance(error, SaecError) else error
            _log.warning("version %d stays: %s", self.current.number, error, exc_info=unexpected)
            raise
        finally:
            self.loading = False
        self.current = Version(self.current.number + 1, model)
        self._tell()
        _log.info("version %d of model %r in use", self.current.number, self.name)

    def _go_on(self) -> None:
        if self._closing.is_set():
            raise _stopping()

    def _changed(self) -> bool:
        identity = self._files.identity()
        return identity is not None and identity != self._loaded

    def _tell(self) -> None:
        model = self.current.model
        self._metrics.model(self.current.number, model.nbytes, lambda: model.read_counts)


def _stopping() -> RefusedError:
    return RefusedError(Status.BUSY, "the server is stopping")
