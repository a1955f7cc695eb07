"""Tables larger than the memory that they may take: lookups read what a batch needs from the file.

The largest tensor of a field, its rows or its codes, stays in the file, and a cache holds pages of
it. All other tensors are in memory. A page in the cache has the address that it would have if the
whole tensor were mapped, so lookups are those of a mapped artifact.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import saec._native as _native
import saec.artifact as artifact
from saec.errors import ArtifactError, BudgetError
from saec.format.clustered_field import ClusteredField
from saec.format.compressed_field import CompressedField
from saec.format.raw_field import RawField
from saec.format.tiered_field import TieredField

__all__ = ["ColdTables", "ReadCounts", "file_identity"]

# Of each form of a field, the tensor that stays in the file.
_COLD: Mapping[type[CompressedField], str] = {
    RawField: "weights",
    ClusteredField: "codes",
    TieredField: "codes",
}

_PAGE_RECORD = 12  # bytes for each page of a file: 4 of the cache, 8 of the system's page table
_LEAST_PAGES = 16
_KEPT_SHARE = 8  # frequent tiers are kept for good while they take this part of the memory
_DECODED_BYTES = 1 << 20  # tiers whose float32 rows take less may be decoded when a table is made


@dataclass(frozen=True)
class ReadCounts:
    """Counts of an artifact that was opened with a limit of its memory, since it was opened.

    Attributes:
        hits: uses of pages that were in memory; a row takes one or two pages.
        misses: uses of pages that were not.
        reads: calls of the system; one reads pages side by side.
        pages_read: number of pages.
        bytes_read: their bytes.
        memory_bytes: memory in use now, with everything that is not in pages.
        most_memory_bytes: the largest that it can become.
    """

    hits: int
    misses: int
    reads: int
    pages_read: int
    bytes_read: int
    memory_bytes: int
    most_memory_bytes: int


class ColdTables:
    """The page cache of an artifact's fields. It gives each of them its lookup table.

    Args:
        fields: of the artifact.
        entries: of the same fields.
        memory: limit in bytes.
        path: of the artifact.
        identity: of the file when the entries were read.

    Raises:
        BudgetError: a field's form has no support, or what must be in memory takes more than the
            limit.
        ArtifactError: a file cannot be opened or read, or was replaced meanwhile.
    """

    def __init__(
        self,
        fields: Sequence[CompressedField],
        entries: Sequence[artifact.Entry],
        memory: int,
        path: Path,
        identity: tuple[int, ...],
    ) -> None:
        roles = [_cold_role(field) for field in fields]
        ranges = [entry.ranges[role] for entry, role in zip(entries, roles, strict=True)]
        self._memory = memory
        self._resident = sum(
            tensor.nbytes
            for entry, role in zip(entries, roles, strict=True)
            for other, tensor in entry.tensors.items()
            if other != role
        )
        self._check(0)
        with _reading(path):
            self._cache = _opened([part for parts in ranges for part in parts], path, identity)
            whole = self._cache.array()
            self._page = self._cache.page_bytes
            self._resident += _PAGE_RECORD * (len(whole) // self._page)
            self._check(0)
            tiered = sum(isinstance(field, TieredField) for field in fields)
            number = 0
            for field, entry, role, parts in zip(fields, entries, roles, ranges, strict=True):
                first = self._cache.offset(number)
                number += len(parts)
                cold = whole[first : first + entry.tensors[role].nbytes]
                if isinstance(field, TieredField):
                    self._keep(field, first, memory // _KEPT_SHARE // tiered)
                self._give_table(field, entry, role, cold)
        kept = self._cache.counts()["resident_pages"] * self._page
        self._check(kept)
        self._cache.limit((memory - self._resident - kept) // self._page)

    @property
    def counts(self) -> ReadCounts:
        """The counts at this moment."""
        counts = self._cache.counts()
        return ReadCounts(
            counts["hits"],
            counts["misses"],
            counts["reads"],
            counts["pages_read"],
            counts["bytes_read"],
            self._resident + self._page * counts["resident_pages"],
            self._resident + self._page * counts["most_pages"],
        )

    def _check(self, kept: int) -> None:
        least = self._resident + kept + _LEAST_PAGES * os.sysconf("SC_PAGE_SIZE")
        if least > self._memory:
            raise BudgetError(
                f"lookups with at most {self._memory} bytes of memory are impossible: what cannot "
                f"stay in the file takes {least} bytes"
            )

    def _keep(self, field: TieredField, first: int, most: int) -> None:
        """Keep the codes of frequent tiers, and of those that may be decoded once."""
        layout = field.layout
        ends = [*layout.first_bytes[1:], layout.code_bytes]
        rows = np.diff(layout.bounds).tolist()
        for start, end, count in zip(layout.first_bytes, ends, rows, strict=True):
            if end <= most or 4 * field.dim * count <= _DECODED_BYTES:
                self._cache.keep(first + start, end - start)

    def _give_table(
        self, field: CompressedField, entry: artifact.Entry, role: str, cold: NDArray[np.uint8]
    ) -> None:
        """The field's table, as of a mapped artifact, but with the tensor in the cache."""
        stored = entry.tensors[role]
        tensors: dict[str, NDArray[Any]] = {
            other: np.array(tensor) for other, tensor in entry.tensors.items() if other != role
        }
        tensors[role] = cold.view(stored.dtype).reshape(stored.shape)
        table = type(field)._from_entry(replace(entry, tensors=tensors)).lookup_table
        if role == "codes":  # what they stand for; a codebook has been counted as it is stored
            book = entry.tensors.get("codebook")
            self._resident += table.stored_bytes - (0 if book is None else book.nbytes)
        self._cache.serve(table)
        field.lookup_table = table


def _cold_role(field: CompressedField) -> str:
    role = _COLD.get(type(field))
    if role is None:
        raise BudgetError(
            f"{field.place} is stored as {field.codec!r}: a limit of memory is for fields stored "
            f"as {', '.join(form.codec for form in _COLD)}; open the artifact without one"
        )
    return role


def file_identity(held: os.stat_result) -> tuple[int, ...]:
    """What changes if a file is replaced or written to."""
    return held.st_dev, held.st_ino, held.st_size, held.st_mtime_ns


def _opened(
    ranges: Sequence[artifact.FileRange], path: Path, identity: tuple[int, ...]
) -> _native.PageCache:
    # Without O_DIRECT, the system would hold what is read a second time.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    with ExitStack() as stack:
        parts = []
        for part in ranges:
            descriptor = _open_direct(part.path, flags)
            stack.callback(os.close, descriptor)
            if part.path == path and file_identity(os.fstat(descriptor)) != identity:
                raise ArtifactError(f"{path} was replaced while it was opened")
            parts.append((descriptor, part.first, part.nbytes))
        return _native.PageCache(parts)


def _open_direct(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | getattr(os, "O_DIRECT", 0))
    except OSError:  # a file system without it, or there is no file: the second error says which
        return os.open(path, flags)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
