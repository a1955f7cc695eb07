"""Executor and place of work on the rows of fields: memory, or files for large arrays."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from saec.errors import ArtifactError, BudgetError
from saec.util.atomic_file import reserve, whole_file
from saec.util.records import Records
from saec.util.sizes import parse_size

if TYPE_CHECKING:
    from saec.streaming.map_reduce import Executor

__all__ = ["IN_MEMORY", "ShardNames", "Workspace", "held_bytes"]

logger = logging.getLogger(__name__)

# Memory of any pass: a part as float32 and, several times, as float64.
_WORKING_BYTES = 400 << 20


@dataclass(frozen=True)
class ShardNames:
    """Names of the shards of one field: see :func:`saec.artifact.write_shard`.

    Args:
        path: of the artifact.
        run: 16 hexadecimal digits.
        first: number of the first shard.
    """

    path: Path
    run: str
    first: int = 1


@dataclass(frozen=True)
class Workspace:
    """Memory, or files of a folder; and the executor of the work on rows.

    Args:
        folder: of mapped files; None for memory.
        held: largest number of bytes for rows that are needed several times; others are read again.
        shards: of an artifact that workers write, if there are any.
        executor: works on the parts of fields; None for this process.
    """

    folder: Path | None = None
    held: int = 1 << 60
    shards: ShardNames | None = None
    executor: Executor | None = None

    def zeros(self, nbytes: int) -> NDArray[np.uint8]:
        """Writable zeros of ``nbytes`` bytes.

        Raises:
            ArtifactError: there is not enough space on the disk.
        """
        if self.folder is None or not nbytes:
            return np.zeros(nbytes, dtype=np.uint8)
        # A file without a name: the system removes it, however the process ends.
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                reserve(file, nbytes, self.folder, ArtifactError)
                mapped = np.memmap(file, dtype=np.uint8, mode="r+", shape=(nbytes,))
        except OSError as error:
            raise ArtifactError(f"cannot write to {self.folder}: {error.strerror}") from error
        return mapped.view(np.ndarray)  # numpy's memmap is slow for single elements

    def records(self, dtype: DTypeLike) -> Records:
        """Records of ``dtype``, none as yet.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        return Records(dtype, self.folder)

    def recalled(self, what: str, name: str) -> Mapping[str, NDArray[Any]] | None:
        """The arrays that :meth:`remembered` kept in an earlier, interrupted run.

        Args:
            what: kind of the arrays.
            name: of their field.
        """
        return None if self.folder is None else _loaded(self._kept(self.folder, what, name))

    def remembered(
        self, what: str, name: str, arrays: Mapping[str, NDArray[Any]]
    ) -> Mapping[str, NDArray[Any]]:
        """``arrays`` of plain dtypes by role, kept for another run if there is a folder."""
        if self.folder is not None:
            _save(self._kept(self.folder, what, name), arrays)
        return arrays

    @staticmethod
    def _kept(folder: Path, what: str, name: str) -> Path:
        return folder / f"{what}-{blake2b(name.encode(), digest_size=16).hexdigest()}.npz"


def _loaded(path: Path) -> Mapping[str, NDArray[Any]] | None:
    """The arrays of a file; None if it is missing or damaged, so that they are computed again."""
    try:
        # Opened here, because numpy does not close a damaged archive.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as loaded:
            return dict(loaded)
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged archive may raise anything
        logger.warning("%s cannot be read and is computed again: %s", path, error)
        return None


def _save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    with whole_file(path, ArtifactError) as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # no role is an option


IN_MEMORY = Workspace()


def held_bytes(memory: int | str, dim: int, sampled: int) -> int:
    """The limit :attr:`Workspace.held` for a memory limit ``memory`` of the process.

    Args:
        memory: bytes, or text like ``"2GB"``.
        dim: of the tables, for the error.
        sampled: bytes that a codec needs in addition to those of any pass, see
            :meth:`saec.codecs.protocol.Codec.sampled_bytes`.

    Raises:
        BudgetError: it is less than a pass needs.
    """
    limit = parse_size(memory)
    taken = _resident_bytes()
    needed = taken + _WORKING_BYTES + sampled
    if needed > limit:
        raise BudgetError(
            f"{memory} of memory are {limit} bytes; tables of dim {dim} need at least {needed} "
            f"bytes, of which this process already takes {taken}"
        )
    return limit - needed


def _resident_bytes() -> int:
    """Present memory of this process on Linux; 0 elsewhere."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
