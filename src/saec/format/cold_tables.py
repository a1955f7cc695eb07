"""Tables larger than the memory that they may take: lookups read what a batch needs from the file.

The largest tensor of a field, its rows or its codes, stays in the file, and a cache holds pages of
it, or single rows if they are uncompressed and much shorter than a page. All other tensors are in
memory. A page in the cache has the address that it would have if the whole tensor were mapped, so
lookups are those of a mapped artifact.
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
_LEAST_ROW = 16  # bytes of a row that may be kept by itself, which costs 5 bytes more
_ROWS_PER_PAGE = 8  # or more: longer rows are kept in pages
_MOST_ROWS = 2**32 - 1
_LEAST_ROWS_MEMORY = 4 << 20  # for buffers and rows under way; with less, rows are kept in pages


@dataclass(frozen=True)
class ReadCounts:
    """Counts of an artifact that was opened with a limit of its memory, since it was opened.

    Attributes:
        hits: uses of pages that were in memory, and of rows where single rows are kept; a row takes
            one or two pages.
        misses: uses of pages or rows that were not.
        reads: reads of bytes side by side.
        pages_read: number of pages; part of a page counts as one.
        bytes_read: bytes that were asked for.
        memory_bytes: memory in use now, with everything that is not in pages or rows.
        most_memory_bytes: the largest that it can become.
    """

    hits: int
    misses: int
    reads: int
    pages_read: int
    bytes_read: int
    memory_bytes: int
    most_memory_bytes: int


@dataclass(frozen=True)
class _Cold:
    """A field, and the tensor of it that stays in the file."""

    field: CompressedField
    entry: artifact.Entry
    role: str

    @property
    def tensor(self) -> NDArray[Any]:
        return self.entry.tensors[self.role]

    @property
    def ranges(self) -> Sequence[artifact.FileRange]:
        return self.entry.ranges[self.role]

    @property
    def row_bytes(self) -> int:
        """Of a row that may be kept by itself; 0 if pages are better."""
        if self.role != "weights":
            return 0
        each = self.tensor.nbytes // len(self.tensor)
        short = _LEAST_ROW <= each <= os.sysconf("SC_PAGE_SIZE") // _ROWS_PER_PAGE
        return each if short and all(part.nbytes % each == 0 for part in self.ranges) else 0


class ColdTables:
    """The caches of an artifact's fields. They give each of them its lookup table.

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
        cold = [
            _Cold(field, entry, _cold_role(field))
            for field, entry in zip(fields, entries, strict=True)
        ]
        self._memory = memory
        self._resident = sum(
            tensor.nbytes
            for one in cold
            for role, tensor in one.entry.tensors.items()
            if role != one.role
        )
        self._check(0)
        groups = _groups(cold, memory - self._resident)
        self._caches: list[_native.PageCache | _native.RowCache] = []
        with _reading(path):
            pages = self._keep_pages(groups.pop(0, []), path, identity)
            kept = 0 if pages is None else pages.counts()["memory_bytes"]
            least = len(groups) * _native.RowCache.least_memory
            self._check(kept + least)
            left, total = memory - self._resident - kept, sum(one.tensor.nbytes for one in cold)
            rest = left - least - (0 if pages is None else _LEAST_PAGES * pages.page_bytes)
            for row_bytes, own in groups.items():
                share = rest * sum(one.tensor.nbytes for one in own) // total
                share += _native.RowCache.least_memory
                self._keep_rows(own, row_bytes, share, path, identity)
                memory -= share
        if pages is not None:
            pages.limit((memory - self._resident - kept) // pages.page_bytes)

    @property
    def counts(self) -> ReadCounts:
        """The counts at this moment."""
        found = [cache.counts() for cache in self._caches]
        total = {key: sum(counts[key] for counts in found) for key in found[0]}
        total["memory_bytes"] += self._resident
        total["most_memory_bytes"] += self._resident
        return ReadCounts(**total)

    def _check(self, kept: int) -> None:
        least = self._resident + kept + _LEAST_PAGES * os.sysconf("SC_PAGE_SIZE")
        if least > self._memory:
            raise BudgetError(
                f"lookups with at most {self._memory} bytes of memory are impossible: what cannot "
                f"stay in the file takes {least} bytes"
            )

    def _keep_rows(
        self,
        own: Sequence[_Cold],
        row_bytes: int,
        memory: int,
        path: Path,
        identity: tuple[int, ...],
    ) -> None:
        """Give fields with rows of equal length their tables, with a cache of rows."""
        firsts = np.cumsum([0, *(len(one.ranges) for one in own[:-1])]).tolist()
        tables = [(len(one.tensor), first) for one, first in zip(own, firsts, strict=True)]
        with _opened([part for one in own for part in one.ranges], path, identity) as parts:
            cache = _native.RowCache(parts, tables, row_bytes, memory)
        for one, first in zip(own, firsts, strict=True):
            self._give_table(one, cache, first)
        self._caches.append(cache)

    def _keep_pages(
        self, own: Sequence[_Cold], path: Path, identity: tuple[int, ...]
    ) -> _native.PageCache | None:
        """Give fields their tables, with a cache of pages that has no limit yet."""
        if not own:
            return None
        with _opened([part for one in own for part in one.ranges], path, identity) as parts:
            cache = _native.PageCache(parts)
        self._resident += _PAGE_RECORD * (len(cache.array()) // cache.page_bytes)
        self._check(0)
        tiered = sum(isinstance(one.field, TieredField) for one in own)
        number = 0
        for one in own:
            if isinstance(one.field, TieredField):
                most = self._memory // _KEPT_SHARE // tiered
                _keep_tiers(one.field, cache, cache.offset(number), most)
            self._give_table(one, cache, number)
            number += len(one.ranges)
        self._caches.append(cache)
        return cache

    def _give_table(
        self, one: _Cold, cache: _native.PageCache | _native.RowCache, part: int
    ) -> None:
        """The field's table, as of a mapped artifact, but with the tensor in the cache."""
        first, stored = cache.offset(part), one.tensor
        cold = cache.array()[first : first + stored.nbytes]
        tensors: dict[str, NDArray[Any]] = {
            role: np.array(tensor) for role, tensor in one.entry.tensors.items() if role != one.role
        }
        tensors[one.role] = cold.view(stored.dtype).reshape(stored.shape)
        table = type(one.field)._from_entry(replace(one.entry, tensors=tensors)).lookup_table
        if one.role == "codes":  # what they stand for; a codebook has been counted as it is stored
            book = one.entry.tensors.get("codebook")
            self._resident += table.stored_bytes - (0 if book is None else book.nbytes)
        cache.serve(table)
        one.field.lookup_table = table


def _groups(cold: Sequence[_Cold], memory: int) -> dict[int, list[_Cold]]:
    """Fields by the bytes of a row; 0 for those that are kept in pages.

    These are also short rows if their share of the memory, by their bytes in files, is small, or
    if there is enough for all fields.
    """
    total = sum(one.tensor.nbytes for one in cold)
    groups: dict[int, list[_Cold]] = {0: []}
    for row_bytes in sorted({one.row_bytes for one in cold}):
        own = [one for one in cold if one.row_bytes == row_bytes]
        share = memory * sum(one.tensor.nbytes for one in own) // total
        countable = sum(len(one.tensor) for one in own) < _MOST_ROWS
        in_rows = share >= _LEAST_ROWS_MEMORY and total > memory and countable
        groups.setdefault(row_bytes if in_rows else 0, []).extend(own)
    return groups


def _keep_tiers(field: TieredField, cache: _native.PageCache, first: int, most: int) -> None:
    """Keep the codes of frequent tiers, and of those that may be decoded once."""
    layout = field.layout
    ends = [*layout.first_bytes[1:], layout.code_bytes]
    rows = np.diff(layout.bounds).tolist()
    for start, end, count in zip(layout.first_bytes, ends, rows, strict=True):
        if end <= most or 4 * field.dim * count <= _DECODED_BYTES:
            cache.keep(first + start, end - start)


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


@contextmanager
def _opened(
    ranges: Sequence[artifact.FileRange], path: Path, identity: tuple[int, ...]
) -> Iterator[list[tuple[int, int, int]]]:
    """Descriptor, first byte and bytes of each range; the descriptors are then closed."""
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
        yield parts


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
