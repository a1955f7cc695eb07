"""Shards: files beside an artifact, each with some bytes of one of its tensors.

Workers write them, in any order and possibly repeatedly; the artifact's own file, written last,
lists them. Shards are mapped one after the other, so that a tensor in shards is one array.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import saec._native as _native
from saec.artifact.container import DTYPES, byte_blocks, padded_header, shortly
from saec.errors import ArtifactError
from saec.util.atomic_file import target_name, whole_file

__all__ = [
    "GRAIN",
    "Shard",
    "ShardedTensor",
    "check_shards",
    "find_shard",
    "map_shards",
    "remove_run",
    "remove_stale",
    "write_shard",
]

# Bytes. It is a multiple of the page size of any processor, 4 to 64 KiB, as mapping requires.
GRAIN = 1 << 16

_NAME = re.compile(r"[^/\\\0]{1,255}")
_RUN = re.compile(r"[0-9a-f]{16}")
_FILE = re.compile(rf"(.+)\.({_RUN.pattern})-(\d{{5,}})", re.DOTALL)
_MOST = 1 << 62  # limits of numbers and bytes, far above any real ones


@dataclass(frozen=True)
class Shard:
    """A file with some bytes of a tensor.

    Args:
        number: from 1; distinct within a run.
        nbytes: number of the tensor's bytes in it, 1 or more.

    Raises:
        ArtifactError: one of them is 0, or beyond its limit.
    """

    number: int
    nbytes: int

    def __post_init__(self) -> None:
        if not (0 < self.number < _MOST and 0 < self.nbytes < _MOST):
            number, nbytes = shortly(self.number), shortly(self.nbytes)
            raise ArtifactError(f"there is no shard {number} of {nbytes} bytes")

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return GRAIN + self.nbytes


@dataclass(frozen=True)
class ShardedTensor:
    """A tensor whose bytes, in row-major order, are those of its shards joined.

    Args:
        dtype: one that an artifact may hold.
        shape: of one or two dimensions.
        name: prefix of the shards' names: the artifact's name when they were written.
        run: 16 hexadecimal digits, of a random number or of a hash of the run's inputs; so shards
            of different runs are never mixed.
        shards: in order; all but the last hold a multiple of :data:`GRAIN` bytes.

    Raises:
        ArtifactError: a name or run is not possible for a file, or shards do not fit the shape.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    name: str
    run: str
    shards: tuple[Shard, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ArtifactError(f"{self.dtype} is no dtype of an artifact's tensors")
        shard_name(self.name, self.run, 1)
        for shard in self.shards[:-1]:
            if shard.nbytes % GRAIN:
                raise ArtifactError(
                    f"shard {shard.number} has {shard.nbytes} bytes, no multiple of {GRAIN}, and "
                    "is not the last"
                )
        held = sum(shard.nbytes for shard in self.shards)
        if not 0 < held == self.nbytes < _MOST:
            raise ArtifactError(f"shards of {held} bytes are no {self.dtype} {shortly(self.shape)}")

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def file_bytes(self) -> int:
        """Size of all its shards."""
        return sum(shard.file_bytes for shard in self.shards)

    @property
    def files(self) -> list[str]:
        """The shards' names, in order."""
        return [shard_name(self.name, self.run, shard.number) for shard in self.shards]


def shard_name(name: str, run: str, number: int) -> str:
    """The file's name; raises ArtifactError if it is not a valid one."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ArtifactError(f"{shortly(name)} is no name of a file beside the artifact")
    if not isinstance(run, str) or not _RUN.fullmatch(run):
        raise ArtifactError(f"a run is 16 hexadecimal digits, not {shortly(run)}")
    return f"{name}.{run}-{number:05d}"


def write_shard(
    path: str | os.PathLike[str], run: str, number: int, blocks: Iterable[NDArray[Any]]
) -> Shard:
    """Write a shard atomically; several workers may write the same one at once.

    Args:
        path: of the artifact that it will be a part of.
        run: 16 hexadecimal digits.
        number: of the shard, 1 or more.
        blocks: its part of the tensor's bytes, block after block; together a multiple of
            :data:`GRAIN` bytes, unless it is the tensor's last shard.

    Returns:
        Its entry for a :class:`ShardedTensor`.

    Raises:
        ArtifactError: the shard cannot be written, and nothing has changed; or there are no bytes.
    """
    name = shard_name(Path(path).name, run, number)
    with whole_file(Path(path).with_name(name), ArtifactError) as file:
        file.seek(GRAIN)
        for block in blocks:
            for part in byte_blocks(block):
                file.write(part)
        shard = Shard(number, file.tell() - GRAIN)
        file.seek(0)
        file.write(_head(run, shard))
    return shard


def find_shard(path: str | os.PathLike[str], run: str, number: int) -> Shard | None:
    """A shard that an earlier process of the same run has written; None if there is none.

    Raises:
        ArtifactError: a file of its name is not a shard.
    """
    file = Path(path).with_name(shard_name(Path(path).name, run, number))
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        return None
    shard = Shard(number, max(size - GRAIN, 1))  # what is even shorter is refused as it is opened
    with _opened(file, run, shard):
        return shard


def check_shards(directory: Path, tensor: ShardedTensor) -> None:
    """Raise ArtifactError unless all shards exist and have the expected sizes and headers."""
    for name, shard in zip(tensor.files, tensor.shards, strict=True):
        with _opened(directory / name, tensor.run, shard):
            pass


def map_shards(directory: Path, tensor: ShardedTensor) -> NDArray[Any]:
    """The tensor, read-only and mapped; raises ArtifactError, see :func:`check_shards`."""
    mapping = _reserved(tensor)
    for name, shard in zip(tensor.files, tensor.shards, strict=True):
        with _opened(directory / name, tensor.run, shard) as descriptor:
            try:
                mapping.add(descriptor, GRAIN, shard.nbytes)
            except (OSError, ValueError) as error:
                raise ArtifactError(f"shard {name!r} cannot be mapped: {error}") from error
    return mapping.array().view(tensor.dtype).reshape(tensor.shape)


def _reserved(tensor: ShardedTensor) -> _native.Mapping:
    try:
        return _native.Mapping(tensor.nbytes)
    except OSError as error:
        raise ArtifactError(f"{tensor.nbytes} bytes cannot be mapped: {error.strerror}") from error


def remove_run(path: str | os.PathLike[str], run: str) -> None:
    """Remove all shards of one run of the artifact ``path``, including those of killed workers.

    Raises:
        ArtifactError: one cannot be removed.
    """
    _remove(Path(path), lambda other: other == run)


def remove_stale(path: str | os.PathLike[str], run: str) -> None:
    """Remove the shards of all other runs of ``path``, once it lists the shards of ``run``.

    Processes that have mapped them can continue; those that have opened the old file, but not yet
    its shards, cannot.

    Raises:
        ArtifactError: one cannot be removed.
    """
    _remove(Path(path), lambda other: other != run)


def _remove(path: Path, wanted: Callable[[str], bool]) -> None:
    """Remove shards of runs that are ``wanted``, and temporary files that would become some."""
    try:
        for file in sorted(path.parent.iterdir()):
            found = _FILE.fullmatch(target_name(file))
            if found and found[1] == path.name and wanted(found[2]) and file.is_file():
                file.unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot remove shards of {path}: {error}") from error


def _head(run: str, shard: Shard) -> bytes:
    """The fixed beginning of a shard: its header is compared, not parsed."""
    header = {
        "__metadata__": {"saec_run": run, "saec_shard": str(shard.number)},
        "piece": {"dtype": "U8", "shape": [shard.nbytes], "data_offsets": [0, shard.nbytes]},
    }
    return padded_header(header, GRAIN)


@contextmanager
def _opened(file: Path, run: str, shard: Shard) -> Iterator[int]:
    """A descriptor of the shard, checked; raises ArtifactError that names the shard."""
    try:
        # A named pipe, which is no shard, must not wait for someone to write to it.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise ArtifactError(f"shard {file.name!r} is missing") from error
    except (OSError, ValueError) as error:  # or no name that a file can have
        raise ArtifactError(f"shard {file.name!r} cannot be opened: {error}") from error
    try:
        _check(descriptor, file.name, run, shard)
        yield descriptor
    finally:
        os.close(descriptor)


def _check(descriptor: int, name: str, run: str, shard: Shard) -> None:
    held = os.fstat(descriptor)
    if not stat.S_ISREG(held.st_mode):
        raise ArtifactError(f"shard {name!r} is no file")
    if held.st_size != shard.file_bytes:
        raise ArtifactError(f"shard {name!r} has {held.st_size} bytes, not {shard.file_bytes}")
    if os.pread(descriptor, GRAIN, 0) != _head(run, shard):
        raise ArtifactError(f"shard {name!r} does not begin as number {shard.number} of its run")
