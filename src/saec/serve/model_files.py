"""The files that a server serves: one model, or an artifact with what follows or scores it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from saec.errors import ArtifactError, BudgetError, require
from saec.serve.lookup_model import LookupModel
from saec.serve.model import Model

__all__ = ["ModelFiles"]


@dataclass(frozen=True)
class ModelFiles:
    """Where a model is, and how it is opened.

    Attributes:
        path: an artifact, or an ONNX file.
        memory: limit of the bytes of an artifact's tables in memory; None: they are mapped.
        patches: folder of patches that follow the artifact; None for none.
        dense: an ONNX file that computes scores from the artifact's rows; None for none.
        batches: whether requests are computed together.
    """

    path: Path
    memory: int | None = None
    patches: Path | None = None
    dense: Path | None = None
    batches: bool = False

    def open(self, go_on: Callable[[], None]) -> Model:
        """Read and check all of them.

        Args:
            go_on: called every few milliseconds; an exception from it ends the reading.

        Raises:
            ArtifactError: a file cannot be served.
            BudgetError: nor with this limit of memory.
        """
        model = self._opened(go_on)
        if self.batches:
            model.check_batches()
        return model

    def identity(self) -> tuple[object, ...] | None:
        """The identities of all files; None if one other than a patch is missing."""
        files = [_identity_of(path) for path in (self.path, self.dense) if path is not None]
        if None in files:
            return None
        patches = [] if self.patches is None else sorted(self.patches.glob("*.patch"))
        return *files, *((each.name, _identity_of(each)) for each in patches)

    def _opened(self, go_on: Callable[[], None]) -> Model:
        for path in (self.path, self.dense):
            if path is not None and path.exists() and not path.is_file():
                raise ArtifactError(f"{path} is no regular file")  # a FIFO waits for a writer
        if self.patches is not None and not self.patches.is_dir():
            raise ArtifactError(f"{self.patches} is no folder of patches")
        if self.path.suffix == ".onnx":
            self._check_only_model()
            return _scores_model(self.path)
        tables = LookupModel.open(self.path, go_on, self.memory, self.patches)
        if self.dense is None:
            return tables
        require("onnxruntime", "serve")
        from saec.serve.scored_tables import ScoredTables

        return ScoredTables.open(self.dense, tables)

    def _check_only_model(self) -> None:
        if self.memory is not None:
            raise BudgetError(
                f"{self.path}: a limit of memory is for artifacts, not for ONNX models"
            )
        if self.patches is not None:
            raise ArtifactError(f"{self.path} is an ONNX model, and patches are of artifacts")
        if self.dense is not None:
            raise ArtifactError(f"{self.path} is an ONNX model; {self.dense} scores artifacts")


def _scores_model(path: Path) -> Model:
    require("onnxruntime", "serve")  # lookups do not need this file
    from saec.serve.scores_model import ScoresModel

    return ScoresModel.open(path)


def _identity_of(path: Path) -> tuple[int, ...] | None:
    """The identity of a file, which differs for another file of the same name; None if missing."""
    try:
        held = path.stat()
    except OSError:
        return None
    return held.st_dev, held.st_ino, held.st_mtime_ns, held.st_size
