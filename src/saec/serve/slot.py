"""The model in use, and how a new one takes its place while requests run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from saec.errors import require
from saec.serve.lookup_model import LookupModel
from saec.serve.metrics import Metrics
from saec.serve.model import Model

__all__ = ["Slot", "Version"]

_WATCH_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Version:
    """A model, and how many were served up to it."""

    number: int
    model: Model


class Slot:
    """The version in use of the model in a file.

    A request takes ``current`` once and keeps it to its end: whatever replaces it in the meantime,
    its map of the file stays, as artifacts are written beside the old file and renamed.

    Raises:
        ArtifactError: the file cannot be served.
    """

    def __init__(self, path: Path, metrics: Metrics) -> None:
        self._path = path
        self._metrics = metrics
        self._lock = threading.Lock()
        self.name = path.stem
        self._loaded = _identity(path)
        self.current = Version(1, _open(path))
        self._tell()

    def reload(self, only_if: Callable[[], bool] = lambda: True) -> None:
        """Read the file again and put it in the place of the current version.

        Raises:
            ArtifactError: it cannot be served; the current version stays.
        """
        with self._lock:
            if not only_if():
                return
            self._loaded = _identity(self._path)  # before it is read: what comes later is newer
            try:
                model = _open(self._path)
            except Exception as error:
                self._metrics.reload_failed()
                _log.warning("version %d stays: %s", self.current.number, error)
                raise
            self.current = Version(self.current.number + 1, model)
            self._tell()
            _log.info("version %d of model %r in use", self.current.number, self.name)

    async def watch(self) -> None:
        """Reload whenever the file is another one than that read last; never ends."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if self._changed():
                # Logged and counted; whatever is wrong with a file, the next one may be right.
                with contextlib.suppress(Exception):
                    await asyncio.to_thread(self.reload, self._changed)

    def _changed(self) -> bool:
        identity = _identity(self._path)
        return identity is not None and identity != self._loaded

    def _tell(self) -> None:
        self._metrics.model(self.current.number, self.current.model.nbytes)


def _open(path: Path) -> Model:
    if path.suffix == ".onnx":
        require("onnxruntime", "serve")  # lookups do without
        from saec.serve.scores_model import ScoresModel

        return ScoresModel.open(path)
    return LookupModel.open(path)


def _identity(path: Path) -> tuple[int, ...] | None:
    """What differs between a file and another of its name; None if there is none."""
    try:
        held = path.stat()
    except OSError:
        return None
    return held.st_dev, held.st_ino, held.st_mtime_ns, held.st_size
