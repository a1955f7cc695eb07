"""Compressed tables: one object per field, lookups straight from the packed codes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec import artifact
from saec.codebook import Codebook, CodebookDtype
from saec.codes import PackedCodes, bits_for, check_ids, packed_bytes
from saec.errors import ArtifactError, FieldError, IdError
from saec.table import WEIGHT_DTYPES, Field

__all__ = ["ClusteredField", "Compressed", "CompressedField", "Mode", "RawField", "load"]

Mode = Literal["sum", "mean", "max"]

_DECODE_ROWS = 1 << 16


class CompressedField(ABC):
    """A field's table in its compressed form; ids are row numbers in [0, vocab_size)."""

    codec: ClassVar[str]

    def __init__(self, name: str, vocab_size: int, dim: int, dtype: str) -> None:
        if not isinstance(name, str) or not name:
            raise ArtifactError(f"a field's name is a string that is not empty, not {name!r}")
        if vocab_size < 1:
            raise ArtifactError(f"vocab_size {vocab_size} is below 1")
        if dtype not in tuple(allowed.name for allowed in WEIGHT_DTYPES):
            raise ArtifactError(f"a table cannot have been {dtype!r}")
        self.name = name
        self.vocab_size = vocab_size
        self.dim = dim
        self.dtype = dtype

    @property
    @abstractmethod
    def tensors(self) -> dict[str, NDArray[Any]]:
        """What is stored, by role; see docs/format.md."""

    @abstractmethod
    def _rows(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows of checked ids (m,), as (m, dim)."""

    @classmethod
    @abstractmethod
    def _from_entry(cls, entry: artifact.Entry) -> Self:
        """The field of a file's entry; raises KeyError, TypeError or ArtifactError."""

    @property
    def description(self) -> dict[str, Any]:
        """What the artifact's metadata say about the field."""
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
        """What the artifact holds of the field."""
        return artifact.Entry(self.description, self.tensors)

    @property
    def original_nbytes(self) -> int:
        """Bytes of the table that was compressed, in its own dtype."""
        return self.vocab_size * self.dim * np.dtype(self.dtype).itemsize

    def lookup(self, ids: ArrayLike) -> NDArray[np.float32]:
        """Rows of ``ids``, any shape of integers, as ``ids.shape + (dim,)`` float32.

        Raises:
            IdError: an id lies outside [0, vocab_size).
        """
        checked = check_ids(ids, self.vocab_size, f"field {self.name!r}")
        return self._rows(checked.reshape(-1)).reshape(*checked.shape, self.dim)

    def pool(
        self,
        ids: ArrayLike,
        offsets: ArrayLike,
        per_sample_weights: ArrayLike | None = None,
        mode: Mode = "sum",
    ) -> NDArray[np.float32]:
        """Reduce bags of rows, as ``torch.nn.EmbeddingBag`` does: (bags, dim) float32.

        Args:
            ids: (m,) integers, bag after bag.
            offsets: (bags,) start of each bag, ascending from 0; an empty bag gives zeros.
            per_sample_weights: (m,) factors, for ``sum`` only.
            mode: ``sum``, ``mean`` or ``max``.

        Raises:
            IdError: an id or an offset is out of range.
            ValueError: weights with another mode than sum, or of another length.
        """
        rows = self.lookup(np.asarray(ids).reshape(-1))
        starts = _checked_offsets(offsets, len(rows), self.name)
        if per_sample_weights is not None:
            rows = rows * _checked_weights(per_sample_weights, len(rows), mode)[:, None]
        return _reduce_bags(rows, starts, mode)

    def decode(self) -> NDArray[np.float32]:
        """The whole table, (vocab_size, dim) float32."""
        table = np.empty((self.vocab_size, self.dim), dtype=np.float32)
        for start in range(0, self.vocab_size, _DECODE_ROWS):
            stop = min(start + _DECODE_ROWS, self.vocab_size)
            table[start:stop] = self._rows(np.arange(start, stop, dtype=np.int64))
        return table

    def __repr__(self) -> str:
        ratio = self.original_nbytes / self.nbytes
        return (
            f"{type(self).__name__}({self.name!r}, {self.vocab_size} x {self.dim}, "
            f"{self.nbytes} bytes, ratio {ratio:.1f})"
        )


class ClusteredField(CompressedField):
    """A code per feature and a centroid per cluster: e_i = codebook[code_i]."""

    codec = "clusters"

    def __init__(self, name: str, codes: PackedCodes, codebook: Codebook, dtype: str) -> None:
        super().__init__(name, codes.count, codebook.dim, dtype)
        self.codes = codes
        self.codebook = codebook

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """``codes``, ``codebook`` and what it needs: ``grid`` for int8, ``axes`` for few axes."""
        tensors: dict[str, NDArray[Any]] = {
            "codes": self.codes.data,
            "codebook": self.codebook.stored,
        }
        if self.codebook.grid is not None:
            tensors["grid"] = self.codebook.grid
        if self.codebook.axes is not None:
            tensors["axes"] = self.codebook.axes
        return tensors

    @property
    def description(self) -> dict[str, Any]:
        """See :class:`CompressedField`; with the width of a code."""
        return super().description | {"code_bits": self.codes.bits}

    @classmethod
    def planned(
        cls, field: Field, clusters: int, dtype: CodebookDtype, rank: int
    ) -> ClusteredField:
        """What coding ``field`` would give, with zeros that take no memory: for its size."""
        bits = bits_for(clusters)
        codes = np.broadcast_to(np.uint8(0), packed_bytes(field.vocab_size, bits))
        stored = np.broadcast_to(np.zeros((), dtype), (clusters, rank))
        grid = np.zeros((2, rank), np.float32) if dtype == "int8" else None
        axes = np.zeros((rank + 1, field.dim), np.float16) if rank < field.dim else None
        packed = PackedCodes(codes, field.vocab_size, bits)
        return cls(field.name, packed, Codebook(stored, grid, axes), field.weights.dtype.name)

    def _rows(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.codebook.values[self.checked_codes(ids)]

    def checked_codes(self, ids: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Codes of checked ids; a code beyond the codebook means a damaged file."""
        codes = self.codes.gather(ids)
        if len(codes) and int(codes.max()) >= self.codebook.clusters:
            bad = int(np.argmax(codes >= self.codebook.clusters))
            raise ArtifactError(
                f"field {self.name!r}: row {ids[bad]} has code {codes[bad]}, but there are "
                f"{self.codebook.clusters} centroids"
            )
        return codes

    @classmethod
    def _from_entry(cls, entry: artifact.Entry) -> Self:
        described, tensors = entry.description, entry.tensors
        codes = PackedCodes(tensors["codes"], described["vocab_size"], described["code_bits"])
        codebook = Codebook(tensors["codebook"], tensors.get("grid"), tensors.get("axes"))
        return cls(described["name"], codes, codebook, described["dtype"])


class RawField(CompressedField):
    """A table kept as it is, because no codec would make it smaller or the budget allows it."""

    codec = "raw"

    def __init__(self, name: str, weights: NDArray[Any]) -> None:
        super().__init__(name, weights.shape[0], weights.shape[1], weights.dtype.name)
        self.weights = weights

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """``weights``."""
        return {"weights": self.weights}

    def _rows(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.weights[ids].astype(np.float32)

    @classmethod
    def _from_entry(cls, entry: artifact.Entry) -> Self:
        weights = entry.tensors["weights"]
        if weights.ndim != 2 or 0 in weights.shape:
            raise ArtifactError(f"weights have shape {weights.shape}, not (vocab_size, dim)")
        return cls(entry.description["name"], weights)


_FIELDS: dict[str, type[CompressedField]] = {
    field.codec: field for field in (ClusteredField, RawField)
}


class Compressed(Mapping[str, CompressedField]):
    """Compressed tables by field name."""

    def __init__(self, fields: Sequence[CompressedField]) -> None:
        self._fields = {field.name: field for field in fields}
        if len(self._fields) != len(fields):
            raise FieldError("field names are not unique")

    def __getitem__(self, name: str) -> CompressedField:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    @property
    def nbytes(self) -> int:
        """Bytes of the artifact as saved, with everything that decoding needs."""
        return artifact.file_bytes(self._entries())

    @property
    def original_nbytes(self) -> int:
        """Bytes of the original tables, in their own dtypes."""
        return sum(field.original_nbytes for field in self.values())

    @property
    def compression_ratio(self) -> float:
        """Original bytes / compressed bytes."""
        return self.original_nbytes / self.nbytes

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact, whole or not at all (docs/format.md).

        Raises:
            ArtifactError: the file cannot be written.
        """
        artifact.write(path, self._entries())

    def _entries(self) -> list[artifact.Entry]:
        return [field.entry for field in self.values()]

    def __repr__(self) -> str:
        return (
            f"Compressed({len(self)} fields, {self.nbytes} bytes, "
            f"ratio {self.compression_ratio:.1f})"
        )


def load(path: str | os.PathLike[str]) -> Compressed:
    """Open an artifact, memory-mapped: lookups read only the pages that they need.

    Raises:
        ArtifactError: the file is missing, damaged, hostile or of another format.
    """
    fields = []
    for entry in artifact.read(path):
        try:
            field = _FIELDS[entry.description["codec"]]._from_entry(entry)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ArtifactError(f"{path}: damaged field {_name(entry)}: {error}") from error
        if field.description != entry.description or set(field.tensors) != set(entry.tensors):
            raise ArtifactError(
                f"{path}: field {_name(entry)} is described as {dict(entry.description)}, but its "
                f"tensors say {field.description}"
            )
        fields.append(field)
    try:
        return Compressed(fields)
    except FieldError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _name(entry: artifact.Entry) -> str:
    return repr(entry.description.get("name", "without a name"))


def _checked_offsets(offsets: ArrayLike, count: int, name: str) -> NDArray[np.int64]:
    starts = np.asarray(offsets)
    if starts.ndim != 1 or (starts.size and starts.dtype.kind not in "iu"):
        raise IdError(f"field {name!r}: offsets must be a vector of integers")
    starts = starts.astype(np.int64)
    if starts.size and (starts[0] != 0 or np.any(np.diff(starts) < 0) or starts[-1] > count):
        raise IdError(f"field {name!r}: offsets must ascend from 0 to at most {count}")
    if not starts.size and count:
        raise IdError(f"field {name!r}: {count} ids, but no bags")
    return starts


def _checked_weights(weights: ArrayLike, count: int, mode: Mode) -> NDArray[np.float32]:
    factors = np.asarray(weights, dtype=np.float32)
    if mode != "sum":
        raise ValueError(f"per_sample_weights go with mode 'sum', not {mode!r}")
    if factors.shape != (count,):
        raise ValueError(f"{count} ids, but per_sample_weights of shape {factors.shape}")
    return factors


def _reduce_bags(
    rows: NDArray[np.float32], starts: NDArray[np.int64], mode: Mode
) -> NDArray[np.float32]:
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"mode is sum, mean or max, not {mode!r}")
    pooled = np.zeros((len(starts), rows.shape[1]), dtype=np.float32)
    lengths = np.diff(starts, append=len(rows))
    full = lengths > 0  # reduceat would give an empty bag its neighbour's first row
    if full.any():
        reduce = np.maximum if mode == "max" else np.add
        pooled[full] = reduce.reduceat(rows, starts[full], axis=0)
    if mode == "mean":
        pooled[full] /= lengths[full, None].astype(np.float32)
    return pooled
