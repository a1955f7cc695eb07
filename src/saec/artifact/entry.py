"""One field of a file: its record, the bytes of the record, and its total size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.artifact.byte_reader import ByteReader, number_bytes, number_size, text_bytes
from saec.artifact.container import DTYPES, FIXED_BYTES, shortly
from saec.artifact.shards import Shard, ShardedTensor
from saec.errors import ArtifactError

__all__ = [
    "ROLES",
    "Entry",
    "FileRange",
    "Place",
    "Record",
    "Stored",
    "entry_bytes",
    "file_bytes",
    "read_record",
    "record_of",
]

# In the order of their numbers in a file, from 0 on: append only.
ROLES = (
    "weights",
    "codes",
    "codebook",
    "grid",
    "axes",
    "values",
    "tiers",
    "starts",
    "lengths",
    "directory",
    "steps",
)

Stored = NDArray[Any] | ShardedTensor
"""A tensor of a field: an array in memory or mapped, or bytes that workers left in shards."""

MOST_NAME_BYTES = (1 << 16) - 1

# The byte of a tensor: its dtype, then one or two lengths, then whether its bytes are in shards.
_DTYPE_BITS = 4
_DIMENSIONS_BITS = 3
_IN_SHARDS = 1 << 7
_MOST_LENGTH = 1 << 62
_RUN_BYTES = 8


@dataclass(frozen=True)
class FileRange:
    """Some bytes of a file."""

    path: Path
    first: int
    nbytes: int


@dataclass(frozen=True, eq=False)
class Entry:
    """One field of a file.

    Args:
        name: not empty, and unique in its file.
        codec: number of the form in which the table is stored, below 256.
        dtype: of the table that was compressed.
        vocab_size, dim: its shape.
        details: further bytes that the codec defines.
        tensors: of one or two dimensions, by role, one of :data:`ROLES`; in memory or mapped.
        sharded: tensors whose bytes are in shards instead of the file itself. If a role is also in
            ``tensors``, it is mapped there; the file gets only the list of shards.
        ranges: the files with the bytes of each tensor, one range after the other; only of a field
            that was read.
    """

    name: str
    codec: int
    dtype: np.dtype[Any]
    vocab_size: int
    dim: int
    details: bytes
    tensors: Mapping[str, NDArray[Any]]
    sharded: Mapping[str, ShardedTensor] = field(default_factory=dict)
    ranges: Mapping[str, tuple[FileRange, ...]] = field(default_factory=dict)

    @property
    def inside(self) -> dict[str, NDArray[Any]]:
        """The tensors whose bytes are in the file itself, in the order of :data:`ROLES`."""
        return {
            role: self.tensors[role]
            for role in sorted(self.tensors, key=ROLES.index)
            if role not in self.sharded
        }

    @cached_property
    def head(self) -> bytes:
        """The record up to the tensors; errors as of :func:`record_of`."""
        return b"".join(
            [
                bytes([self.codec]),
                _name_bytes(self.name),
                bytes([_dtype_number(self.dtype)]),
                number_bytes(self.vocab_size),
                number_bytes(self.dim),
                text_bytes(self.details),
            ]
        )


@dataclass(frozen=True)
class Place:
    """A tensor in a record: its bytes are in ``shards``, or in the file's own
    data."""

    role: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    shards: ShardedTensor | None

    @property
    def inside_bytes(self) -> int:
        """Bytes of the tensor in the file's own data."""
        return 0 if self.shards else math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Record:
    """A record after reading; see :class:`Entry`."""

    name: str
    codec: int
    dtype: np.dtype[Any]
    vocab_size: int
    dim: int
    details: bytes
    places: tuple[Place, ...]

    def entry(
        self, tensors: Mapping[str, NDArray[Any]], ranges: Mapping[str, tuple[FileRange, ...]]
    ) -> Entry:
        """The field with its ``tensors``, mapped, and the files that they are mapped from."""
        sharded = {place.role: place.shards for place in self.places if place.shards}
        return Entry(
            self.name,
            self.codec,
            self.dtype,
            self.vocab_size,
            self.dim,
            self.details,
            tensors,
            sharded,
            ranges,
        )


def record_of(entry: Entry) -> bytes:
    """The record of a field.

    Raises:
        ArtifactError: the name of the field or of its shards is not UTF-8, or longer than a record
            allows.
    """
    tensors: dict[str, Stored] = {**entry.inside, **entry.sharded}
    parts = [entry.head, bytes([len(tensors)])]
    for role in sorted(tensors, key=ROLES.index):
        parts.append(bytes([ROLES.index(role)]))
        parts += _tensor_parts(tensors[role])
    return b"".join(parts)


def file_bytes(entries: Sequence[Entry]) -> int:
    """Bytes of the file that :func:`saec.artifact.write` makes of the entries, and of their
    shards."""
    return FIXED_BYTES + sum(map(entry_bytes, entries))


def entry_bytes(entry: Entry) -> int:
    """Bytes that ``entry`` adds to a file, independent of the other fields; errors as of
    :func:`record_of`.

    Its record is not made: thousands of layouts of a field are compared by their sizes.
    """
    numbers = entry.vocab_size, entry.dim, len(entry.details)
    # A byte each: the codec, the dtype, the number of tensors.
    head = 3 + len(_name_bytes(entry.name)) + sum(map(number_size, numbers)) + len(entry.details)
    tensors: dict[str, Stored] = {**entry.tensors, **entry.sharded}
    return head + sum(map(_tensor_bytes, tensors.values()))


def _tensor_bytes(tensor: Stored) -> int:
    """Bytes of a tensor and of its part of the record: a byte for the role, and what
    :func:`_tensor_parts` gives, which is a byte and the shape for tensors inside."""
    if isinstance(tensor, ShardedTensor):
        return 1 + sum(map(len, _tensor_parts(tensor))) + tensor.file_bytes
    return 2 + sum(map(number_size, tensor.shape)) + tensor.nbytes


def _tensor_parts(tensor: Stored) -> list[bytes]:
    in_shards = isinstance(tensor, ShardedTensor)
    assert 1 <= len(tensor.shape) <= 2, f"a tensor of shape {tensor.shape}"
    kind = _dtype_number(tensor.dtype) | len(tensor.shape) << _DTYPE_BITS
    lengths = map(number_bytes, tensor.shape)
    parts = [bytes([kind | (_IN_SHARDS if in_shards else 0)]), *lengths]
    if isinstance(tensor, ShardedTensor):
        parts += [_name_bytes(tensor.name), bytes.fromhex(tensor.run)]
        parts.append(number_bytes(len(tensor.shards)))
        for shard in tensor.shards:
            parts += [number_bytes(shard.number), number_bytes(shard.nbytes)]
    return parts


def _name_bytes(name: str) -> bytes:
    try:
        said = name.encode()
    except UnicodeEncodeError as error:
        raise ArtifactError(f"the name {shortly(name)} is no UTF-8: {error}") from error
    if len(said) > MOST_NAME_BYTES:
        raise ArtifactError(
            f"the name {shortly(name)} takes {len(said)} bytes; the limit is {MOST_NAME_BYTES}"
        )
    return text_bytes(said)


def read_record(reader: ByteReader) -> Record:
    """Read the next record.

    Raises:
        ArtifactError: it ends early or is invalid; names the field if possible.
    """
    codec = reader.byte()
    name = _text(reader)
    try:
        dtype = _dtype(reader.byte())
        vocab_size, dim = reader.number(), reader.number()
        details = reader.text()
        places: list[Place] = []
        for _ in range(reader.byte()):
            role = reader.byte()
            least = ROLES.index(places[-1].role) + 1 if places else 0
            if not least <= role < len(ROLES):
                raise ArtifactError(f"role {role} is unknown, or out of order")
            places.append(_place(ROLES[role], reader))
    except ArtifactError as error:
        raise ArtifactError(f"field {shortly(name)}: {error}") from error
    return Record(name, codec, dtype, vocab_size, dim, details, tuple(places))


def _place(role: str, reader: ByteReader) -> Place:
    kind = reader.byte()
    dtype = _dtype(kind & (1 << _DTYPE_BITS) - 1)
    dimensions = kind >> _DTYPE_BITS & (1 << _DIMENSIONS_BITS) - 1
    if not 1 <= dimensions <= 2:
        raise ArtifactError(f"{role!r} has {dimensions} dimensions, not 1 or 2")
    shape = tuple(reader.number() for _ in range(dimensions))
    if any(length >= _MOST_LENGTH for length in shape):
        raise ArtifactError(f"{role!r} cannot have shape {shape}")
    if not kind & _IN_SHARDS:
        return Place(role, dtype, shape, None)
    name, run = _text(reader), reader.take(_RUN_BYTES).hex()
    # Each shard takes bytes of the record, which limits their number.
    shards = tuple(Shard(reader.number(), reader.number()) for _ in range(reader.number()))
    return Place(role, dtype, shape, ShardedTensor(dtype, shape, name, run, shards))


def _text(reader: ByteReader) -> str:
    said = reader.text()
    if len(said) > MOST_NAME_BYTES:
        raise ArtifactError(f"a name takes {len(said)} bytes; the limit is {MOST_NAME_BYTES}")
    try:
        return said.decode()
    except UnicodeDecodeError as error:
        raise ArtifactError(f"a name is no UTF-8: {error}") from error


def _dtype_number(dtype: np.dtype[Any]) -> int:
    return DTYPES.index(dtype) + 1


def _dtype(number: int) -> np.dtype[Any]:
    if not 1 <= number <= len(DTYPES):
        raise ArtifactError(f"dtype {number} is unknown")
    return DTYPES[number - 1]
