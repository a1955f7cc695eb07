"""Clustered and raw tables with one codebook: tensors and training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.errors import ModuleError
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.compressed_field import CompressedField
from saec.format.native_lookup import RowRun
from saec.format.raw_field import RawField
from saec.torch.lookup.operator import Place
from saec.torch.lookup.run_reader import RunReader
from saec.torch.table.learned import LearnedTable

__all__ = ["ClusteredTable"]

# What rounds a segment's rows: its previous codebook, or the dtype of raw rows.
Stored = Codebook | np.dtype[Any]


@dataclass(frozen=True)
class FieldSegment:
    """A field of the table: its run of rows, and its rows of the codebook."""

    name: str
    run: RowRun
    rows: int
    centroids: int

    @property
    def span(self) -> slice:
        """Rows of the codebook."""
        first = self.run.first_stored
        return slice(first, first + self.centroids)


class ClusteredTable(LearnedTable):
    """Packed codes and one codebook, which has one more row after the centroids for each pad.

    :class:`saec.torch.lookup.run_reader.RunReader` defines how rows are read.

    Args:
        fields: clustered or raw ones whose rows follow each other.
        pads: exact rows (dim,) by id that lookups return instead of the stored ones.
        like: tensor with the device and dtype of the table.

    Attributes:
        codebook: parameter (centroids, dim), the only one.
        codes: buffer (bytes,) uint8, the segments' packed codes one after the other.
        layout: buffer (6, segments) int64, see :attr:`RunReader.columns`.

    Raises:
        ModuleError: a field of a codec that has no PyTorch module.
        ArtifactError: a code beyond its codebook.
    """

    codebook: nn.Parameter
    codes: Tensor

    def __init__(
        self, fields: Sequence[CompressedField], pads: Mapping[int, Tensor], like: Tensor
    ) -> None:
        segments, data, centroids, stored = _packed(fields)
        runs = tuple(segment.run for segment in segments)
        names = [field.name for field in fields]
        reader = RunReader(_rows(fields), runs, tuple(pads))
        super().__init__(names, [field.vocab_size for field in fields], reader)
        self.segments, self.stored = segments, stored
        codebook = torch.from_numpy(centroids).to(like.device, like.dtype)
        if pads:
            codebook = torch.cat([codebook, torch.stack(list(pads.values()))])
        self.codebook = nn.Parameter(codebook)
        self.register_buffer("codes", torch.from_numpy(data).to(like.device))
        self.register_buffer("layout", reader.columns.to(like.device, copy=True))
        self._prepare()

    @property
    def places(self) -> list[Place]:
        """See :class:`LearnedTable`."""
        held, own = self._parameters, self._buffers
        return [(held, "codebook"), (own, "codes"), (own, "layout")]

    @property
    def tensors(self) -> list[Tensor]:
        """See :class:`LearnedTable`."""
        own: dict[str, Any] = self._buffers
        return [self.codebook, own["codes"], own["layout"]]

    @property
    def sample(self) -> Tensor:
        """See :class:`CompressedTable`."""
        sample: Any = self._parameters["codebook"]  # earlier than as an attribute, also in graphs
        return sample  # type: ignore[no-any-return]

    @property
    def summary(self) -> str:
        """Widths of codes and size of the codebook."""
        bits = "+".join(str(segment.run.code_bits) for segment in self.segments)
        return f"code_bits={bits}, centroids={self.codebook.shape[0]}"

    def tuned(self, field: CompressedField) -> CompressedField:
        """See :class:`LearnedTable`."""
        index = self.names.index(field.name)
        self._check_codes(field, self.segments[index])
        rows = self._values(self.segments[index])
        if not np.isfinite(rows).all():
            raise ModuleError(
                f"field {field.name!r}: the codebook holds values that are not finite"
            )
        # Unchanged values keep their rounding: int8 would choose another scale the second time.
        if np.array_equal(_centroids(field), rows):
            return field
        stored = _rounded(self.stored[index], rows)
        if isinstance(field, ClusteredField):
            assert isinstance(stored, Codebook)
            return ClusteredField(field.name, field.codes, stored, field.dtype)
        return RawField(field.name, rows.astype(np.dtype(field.dtype)))

    def take_(self, field: CompressedField) -> None:
        """See :class:`LearnedTable`."""
        index = self.names.index(field.name)
        stored = list(self.stored)
        stored[index] = _stored(field)
        self.stored = tuple(stored)
        self._set(self.segments[index], _centroids(field))

    def round_(self) -> None:
        """See :class:`LearnedTable`."""
        values = [self._values(segment) for segment in self.segments]
        self.stored = tuple(map(_rounded, self.stored, values))
        for segment, stored, rows in zip(self.segments, self.stored, values, strict=True):
            self._set(segment, _exact(stored, rows))

    @torch.no_grad()
    def settle_(self) -> None:
        """Project centroids onto the axes that are stored with them."""
        for segment, stored in zip(self.segments, self.stored, strict=True):
            if not isinstance(stored, Codebook) or stored.axes is None:
                continue
            axes = torch.from_numpy(stored.axes.astype(np.float32)).to(self.codebook.device)
            # At least float32: half precision cannot invert.
            onto = torch.linalg.pinv(axes[:-1]) @ axes[:-1]
            centred = self.codebook[segment.span].float() - axes[-1]
            self.codebook[segment.span] = (centred @ onto + axes[-1]).to(self.codebook)

    def _check_codes(self, field: CompressedField, segment: FieldSegment) -> None:
        bits, codes, clusters = 0, b"", field.vocab_size
        if isinstance(field, ClusteredField):
            bits, codes = field.codes.bits, field.codes.data.tobytes()
            clusters = field.codebook.clusters
        first = segment.run.first_byte
        held = self.codes[first : first + len(codes)].cpu().numpy()
        here = (segment.rows, segment.run.code_bits, segment.centroids, self.dim)
        if here != (field.vocab_size, bits, clusters, field.dim) or held.tobytes() != codes:
            raise ModuleError(
                f"field {field.name!r} has other codes in the model than in the result"
            )

    def _values(self, segment: FieldSegment) -> NDArray[np.float32]:
        array: NDArray[np.float32] = self.codebook.detach()[segment.span].float().cpu().numpy()
        return array

    @torch.no_grad()
    def _set(self, segment: FieldSegment, rows: NDArray[np.float32]) -> None:
        self.codebook[segment.span] = torch.tensor(rows).to(self.codebook)


def _rows(fields: Sequence[CompressedField]) -> int:
    return sum(field.vocab_size for field in fields)


def _packed(
    fields: Sequence[CompressedField],
) -> tuple[tuple[FieldSegment, ...], NDArray[np.uint8], NDArray[np.float32], tuple[Stored, ...]]:
    """Segments of consecutive fields, their codes and codebooks, and their rounding."""
    segments: list[FieldSegment] = []
    codes: list[NDArray[np.uint8]] = []
    centroids: list[NDArray[np.float32]] = []
    row = byte = centroid = 0
    for field in fields:
        bits, data = _codes(field)
        values = _centroids(field)
        start = byte if bits else 0  # rows without codes also read bytes, and ignore them
        run = RowRun(row, bits, start, centroid)
        segments.append(FieldSegment(field.name, run, field.vocab_size, len(values)))
        codes.append(data)
        centroids.append(values)
        row, byte, centroid = row + field.vocab_size, byte + len(data), centroid + len(values)
    return (
        tuple(segments),
        np.concatenate(codes) if byte else np.zeros(1, dtype=np.uint8),
        np.concatenate(centroids),
        tuple(map(_stored, fields)),
    )


def _codes(field: CompressedField) -> tuple[int, NDArray[np.uint8]]:
    """Width of the codes (0: none) and the packed codes."""
    if isinstance(field, RawField):
        return 0, np.empty(0, dtype=np.uint8)
    if isinstance(field, ClusteredField):
        field.check_codes()  # a damaged code must not reach the centroids of the next field
        return field.codes.bits, field.codes.data
    raise ModuleError(f"field {field.name!r}: codec {field.codec!r} has no PyTorch module")


def _centroids(field: CompressedField) -> NDArray[np.float32]:
    return field.codebook.values if isinstance(field, ClusteredField) else field.decode()


def _stored(field: CompressedField) -> Stored:
    return field.codebook if isinstance(field, ClusteredField) else np.dtype(field.dtype)


def _rounded(stored: Stored, rows: NDArray[np.float32]) -> Stored:
    """The stored form of ``rows``, in the form of ``stored``."""
    if isinstance(stored, Codebook) and not np.array_equal(stored.values, rows):
        return stored.moved(rows)
    return stored


def _exact(stored: Stored, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """``rows`` after storing and reading."""
    if isinstance(stored, Codebook):
        return stored.values
    return rows.astype(stored).astype(np.float32)
