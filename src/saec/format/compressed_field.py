"""Base class of all stored fields: lookup, pooling, decoding, and the record in the artifact."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar, Self

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

import saec.artifact as artifact
from saec.bits.packing import whole_ids
from saec.errors import ArtifactError
from saec.format.bags import Bags, Mode, bags_of
from saec.format.native_lookup import LookupTable, gather, output_dtype
from saec.format.permutation_file import SavedPermutation
from saec.format.tier_layout import MOST_ROWS
from saec.tables.field import WEIGHT_DTYPES
from saec.util.html_table import html_table

__all__ = ["SIZE_HEADING", "CompressedField", "Mode", "size_cells"]

SIZE_HEADING = ("field", "rows", "dim", "codec", "bytes", "bits per feature", "ratio")

_DECODE_ROWS = 1 << 16


class CompressedField(ABC):
    """A field's table in its compressed form; ids are row numbers in [0, vocab_size).

    Attributes:
        codec: name of the form.
        kind: its number in an artifact, below 256.
    """

    codec: ClassVar[str]
    kind: ClassVar[int]

    # Whether ids are new ones, and the old id of each, (vocab_size,): in memory or, until they are
    # saved, in shards; or the place where they were saved.
    renumbered: bool = False
    permutation: artifact.Stored | None = None
    saved_permutation: SavedPermutation | None = None

    def __init__(self, name: str, vocab_size: int, dim: int, dtype: str) -> None:
        if not isinstance(name, str) or not name:
            raise ArtifactError(f"a field's name is a string that is not empty, not {name!r}")
        if not 0 < vocab_size <= MOST_ROWS:
            raise ArtifactError(f"vocab_size {vocab_size} is outside 1..{MOST_ROWS}")
        if dtype not in tuple(allowed.name for allowed in WEIGHT_DTYPES):
            raise ArtifactError(f"a table cannot have been {dtype!r}")
        self.name = name
        self.vocab_size = vocab_size
        self.dim = dim
        self.dtype = dtype

    @property
    @abstractmethod
    def tensors(self) -> dict[str, NDArray[Any]]:
        """The stored tensors, by role; see docs/format.md."""

    @abstractmethod
    def _lookup_table(self) -> LookupTable:
        """The table from which the native core reads rows."""

    @cached_property
    def lookup_table(self) -> LookupTable:
        """The table from which the native core reads rows; made at the first lookup."""
        return self._lookup_table()

    def __getstate__(self) -> dict[str, Any]:
        """The state without cached properties, because pickle cannot write all of these."""
        cached = (
            name
            for kind in type(self).__mro__
            for name, part in vars(kind).items()
            if isinstance(part, cached_property)
        )
        state = self.__dict__.copy()
        for name in cached:
            state.pop(name, None)
        return state

    @classmethod
    @abstractmethod
    def _from_entry(cls, entry: artifact.Entry) -> Self:
        """The field of a file's entry; raises KeyError if a tensor is missing, or ArtifactError."""

    @property
    def details(self) -> bytes:
        """The codec's details in the artifact, in addition to name, dtype and shape."""
        return b""

    @property
    def description(self) -> dict[str, Any]:
        """The field's record in readable form."""
        return {
            "name": self.name,
            "codec": self.codec,
            "vocab_size": self.vocab_size,
            "dim": self.dim,
            "dtype": self.dtype,
        }

    @property
    def nbytes(self) -> int:
        """Bytes of the stored tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def entry(self) -> artifact.Entry:
        """The field's entry in the artifact."""
        return artifact.Entry(
            self.name,
            self.kind,
            np.dtype(self.dtype),
            self.vocab_size,
            self.dim,
            self.details,
            self.tensors,
        )

    @property
    def original_nbytes(self) -> int:
        """Bytes of the table that was compressed, in its own dtype."""
        return self.vocab_size * self.dim * np.dtype(self.dtype).itemsize

    @property
    def place(self) -> str:
        """The field's name in error messages."""
        return f"field {self.name!r}"

    @property
    def permutation_known(self) -> bool:
        """Whether features were renumbered and their old ids are available."""
        saved = self.saved_permutation
        return self.permutation is not None or (saved is not None and saved.known)

    @property
    def old_ids(self) -> NDArray[np.int64]:
        """The old id of each feature by its new one, which lookups take, (vocab_size,) int64.

        Old and new ids differ only if compression renumbered the features. The old ids of a loaded
        field are read from the file that was saved beside its artifact.

        Raises:
            ArtifactError: that file is missing, damaged, or belongs to another artifact.
        """
        assert not isinstance(self.permutation, artifact.ShardedTensor), "they are not saved yet"
        if self.permutation is not None:
            return self.permutation
        if not self.renumbered:
            return np.arange(self.vocab_size)
        if self.saved_permutation is None:
            raise ArtifactError(
                f"{self.place} was renumbered, and bytes or a stream have no place for its old "
                "ids: load the artifact from its path"
            )
        return self.saved_permutation.read()

    @property
    def new_ids(self) -> NDArray[np.int64]:
        """The new id of each feature, which lookups take, by its old one, (vocab_size,) int64.

        Raises:
            ArtifactError: see :attr:`old_ids`; or the ids do not fit into this machine's memory.
        """
        self._check_fits("the new ids", 8 * self.vocab_size)
        old_ids = self.old_ids
        if len(old_ids) and not 0 <= old_ids.min() <= old_ids.max() < self.vocab_size:
            raise ArtifactError(f"{self.place}: an old id lies outside [0, {self.vocab_size})")
        new_ids = np.full(self.vocab_size, -1, dtype=np.int64)
        new_ids[old_ids] = np.arange(self.vocab_size)
        if new_ids.min() < 0:
            raise ArtifactError(f"{self.place}: an old id is given twice")
        return new_ids

    def lookup(
        self, ids: ArrayLike, *, dtype: DTypeLike = np.float32, threads: int = 0
    ) -> NDArray[Any]:
        """Rows of ``ids``, any shape of integers, as ``ids.shape + (dim,)``.

        Args:
            ids: int32 and int64 are read without a copy.
            dtype: float32, float16 or bfloat16.
            threads: largest number of threads; 0 for the default.

        Raises:
            IdError: an id is outside [0, vocab_size).
            ArtifactError: the file is damaged.
        """
        table, whole = self.asked(ids, threads)
        rows = self._gathered(table, Bags(whole.reshape(-1)), dtype, threads)
        return rows.reshape(*whole.shape, self.dim)

    def pool(
        self,
        ids: ArrayLike,
        offsets: ArrayLike,
        per_sample_weights: ArrayLike | None = None,
        mode: Mode = "sum",
        *,
        dtype: DTypeLike = np.float32,
        threads: int = 0,
    ) -> NDArray[Any]:
        """Reduce bags of rows, as ``torch.nn.EmbeddingBag`` does: (bags, dim).

        Args:
            ids: (m,) integers, bag after bag.
            offsets: (bags,) start of each bag, ascending from 0; an empty bag gives zeros.
            per_sample_weights: (m,) factors, for ``sum`` only.
            mode: ``sum``, ``mean`` or ``max``.
            dtype: float32, float16 or bfloat16; sums are float32 and rounded at the end.
            threads: largest number of threads; 0 for the default.

        Raises:
            IdError: an id or an offset is out of range.
            ValueError: weights with a mode other than sum, or of another length.
            ArtifactError: the file is damaged.
        """
        table, bags = self.asked_bags(ids, offsets, per_sample_weights, mode, threads)
        return self._gathered(table, bags, dtype, threads)

    def asked(self, ids: ArrayLike, threads: int = 0) -> tuple[LookupTable, NDArray[np.integer]]:
        """The table from which the native core reads the rows of ``ids``, integers of any shape,
        and their row numbers in it, in the same shape.

        Raises:
            IdError: ids are not integers; for a field with keys, KeysError.
        """
        return self.lookup_table, whole_ids(ids, self.place)

    def asked_bags(
        self,
        ids: ArrayLike,
        offsets: ArrayLike,
        per_sample_weights: ArrayLike | None,
        mode: Mode,
        threads: int = 0,
    ) -> tuple[LookupTable, Bags]:
        """As :meth:`asked`, for bags of row numbers; arguments and errors: see :meth:`pool`."""
        table, whole = self.asked(ids, threads)
        return table, bags_of(whole, offsets, per_sample_weights, mode, self.place)

    def _gathered(
        self, table: LookupTable, bags: Bags, dtype: DTypeLike, threads: int
    ) -> NDArray[Any]:
        rows = np.empty((bags.count, self.dim), dtype=output_dtype(dtype))
        gather([table], [bags], [self.place], rows, threads)
        return rows

    def decode(self) -> NDArray[np.float32]:
        """The whole table, (vocab_size, dim) float32.

        Raises:
            ArtifactError: the table does not fit into this machine's memory, or the file is
                damaged.
        """
        self._check_fits("the decoded table", 4 * self.vocab_size * self.dim)
        table = np.empty((self.vocab_size, self.dim), dtype=np.float32)
        for start in range(0, self.vocab_size, _DECODE_ROWS):
            stop = min(start + _DECODE_ROWS, self.vocab_size)
            block = Bags(np.arange(start, stop, dtype=np.int64))
            gather([self.lookup_table], [block], [self.place], table[start:stop])
        return table

    def _check_fits(
        self, what: str, nbytes: int, instead: str = "look up some of the rows"
    ) -> None:
        # A small file may claim any number of rows, because rows of tiers without bits take no
        # bytes.
        held = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if nbytes > held:
            raise ArtifactError(
                f"{self.place}: {what} would take {nbytes} bytes, and this machine has {held}; "
                f"{instead}"
            )

    def __repr__(self) -> str:
        ratio = self.original_nbytes / self.nbytes
        return (
            f"{type(self).__name__}({self.name!r}, {self.vocab_size} x {self.dim}, "
            f"{self.nbytes} bytes, ratio {ratio:.1f})"
        )

    def _repr_html_(self) -> str:
        return html_table("", SIZE_HEADING, [self.size_row()])

    def size_row(self) -> tuple[str, ...]:
        """Cells under :data:`SIZE_HEADING`."""
        shape = (f"{self.vocab_size:,}", str(self.dim), self.codec)
        return (self.name, *shape, *size_cells(self.nbytes, self.original_nbytes, self.vocab_size))


def size_cells(nbytes: int, original_nbytes: int, features: int) -> tuple[str, ...]:
    """Bytes, bits per feature and ratio, as text."""
    return (f"{nbytes:,}", f"{8 * nbytes / features:.2f}", f"{original_nbytes / nbytes:.1f}")
