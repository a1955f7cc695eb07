"""Rows of clustered and raw tables, straight from one codebook, in plain torch operations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from saec.codebook import Codebook
from saec.errors import ModuleError
from saec.stored.clustered import ClusteredField
from saec.stored.field import CompressedField
from saec.stored.raw import RawField
from saec.torch.base import LearnedTable, words

__all__ = ["ClusteredTable"]

# What rounds a segment's rows: the codebook that stored them last, or the dtype of raw ones.
Stored = Codebook | np.dtype[Any]


@dataclass(frozen=True)
class Segment:
    """Rows ``first_row`` .. ``first_row + rows`` of a table: one field.

    Their codes of ``code_bits`` bits start at byte ``first_byte``; code 0 is the codebook's row
    ``first_centroid``. With ``code_bits`` 0 the codebook holds the rows themselves, in order.
    """

    name: str
    first_row: int
    rows: int
    code_bits: int
    first_byte: int
    first_centroid: int
    centroids: int

    @property
    def span(self) -> slice:
        """Rows of the codebook."""
        return slice(self.first_centroid, self.first_centroid + self.centroids)

    @property
    def columns(self) -> list[int]:
        """Numbers that a lookup needs: first row, bits, first bit, mask, first centroid, is raw."""
        mask = (1 << self.code_bits) - 1
        first_bit = 8 * self.first_byte
        raw = int(self.code_bits == 0)
        return [self.first_row, self.code_bits, first_bit, mask, self.first_centroid, raw]


class ClusteredTable(LearnedTable):
    """Packed codes and one codebook; maps ids to codebook rows.

    After the centroids the codebook has one row for each of the pads.

    Args:
        fields: clustered or raw ones that follow each other in rows.
        pads: see :class:`CompressedTable`.
        like: tensor on the device and of the dtype that the table gets.

    Attributes:
        codebook: parameter (centroids, dim), the only thing that learns.
        codes: buffer (bytes,) uint8, the segments' packed codes one after the other.
        layout: buffer (6, segments) int64, see :attr:`Segment.columns`.

    Raises:
        ModuleError: a field of a codec that has no PyTorch module.
        ArtifactError: a code beyond its codebook.
    """

    codebook: nn.Parameter
    codes: Tensor

    def __init__(
        self, fields: Sequence[CompressedField], pads: Mapping[int, Tensor], like: Tensor
    ) -> None:
        super().__init__([field.name for field in fields], _rows(fields), {})
        self.pads = tuple(pads)  # their rows are in the codebook
        self.segments, data, centroids, stored = _packed(fields)
        self.stored = stored
        codebook = torch.from_numpy(centroids).to(like.device, like.dtype)
        if pads:
            codebook = torch.cat([codebook, torch.stack(list(pads.values()))])
        self.codebook = nn.Parameter(codebook)
        self.register_buffer("codes", torch.from_numpy(data).to(like.device))
        columns = torch.tensor([segment.columns for segment in self.segments], device=like.device)
        self.register_buffer("layout", columns.T.contiguous())
        # The widest reach of a code over byte borders; starts are multiples of gcd(bits, 8).
        self._bytes = max(
            math.ceil((bits + 8 - math.gcd(bits, 8)) / 8)
            for bits in (segment.code_bits for segment in self.segments)
        )

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self.codebook.shape[1]

    @property
    def summary(self) -> str:
        """Widths of codes and size of the codebook."""
        bits = "+".join(str(segment.code_bits) for segment in self.segments)
        return f"code_bits={bits}, centroids={self.codebook.shape[0]}"

    def forward(self, ids: Tensor, padding_idx: int | None = None) -> Tensor:
        """See :class:`CompressedTable`."""
        return functional.embedding(
            self.codebook_rows(ids), self.codebook, self._pad_row(padding_idx)
        )

    def pool(
        self,
        ids: Tensor,
        offsets: Tensor | None,
        per_sample_weights: Tensor | None,
        mode: str,
        include_last_offset: bool,
        padding_idx: int | None,
    ) -> Tensor:
        """See :class:`CompressedTable`; rows go from the codebook straight into their bags."""
        return functional.embedding_bag(
            self.codebook_rows(ids),
            self.codebook,
            offsets,
            mode=mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=include_last_offset,
            padding_idx=self._pad_row(padding_idx),
        )

    def stored_rows(self, ids: Tensor) -> Tensor:
        """See :class:`CompressedTable`."""
        return functional.embedding(self._found(ids), self.codebook)

    def codebook_rows(self, ids: Tensor) -> Tensor:
        """Codebook rows of ``ids`` (any shape, int32 or int64), int64 of the same shape.

        Raises:
            IdError: see :meth:`CompressedTable.forward`.
        """
        flat = self.checked(ids)
        rows = self._found(flat)
        for index, pad in enumerate(self.pads):
            rows = torch.where(flat == pad, self._first_pad + index, rows)
        return rows.reshape(ids.shape)

    def _found(self, ids: Tensor) -> Tensor:
        coded = self.segments[0].code_bits > 0
        return self._single(ids) if len(self.segments) == 1 and coded else self._joint(ids)

    def _single(self, ids: Tensor) -> Tensor:
        (segment,) = self.segments
        mask = (1 << segment.code_bits) - 1
        return words(self.codes, ids * segment.code_bits, self._bytes) & mask

    def _joint(self, ids: Tensor) -> Tensor:
        part = torch.bucketize(ids, self.layout[0, 1:], right=True)
        first_row, code_bits, first_bit, mask, first_centroid, raw = (
            column.index_select(0, part) for column in self.layout.unbind(0)
        )
        local = ids - first_row
        codes = words(self.codes, first_bit + local * code_bits, self._bytes) & mask
        return first_centroid + codes + local * raw

    @property
    def _first_pad(self) -> int:
        return self.segments[-1].first_centroid + self.segments[-1].centroids

    def _pad_row(self, padding_idx: int | None) -> int | None:
        return None if padding_idx is None else self._first_pad + self.pads.index(padding_idx)

    def tuned(self, field: CompressedField) -> CompressedField:
        """See :class:`LearnedTable`."""
        index = self.names.index(field.name)
        self._check_codes(field, self.segments[index])
        rows = self._values(self.segments[index])
        if not np.isfinite(rows).all():
            raise ModuleError(
                f"field {field.name!r}: the codebook holds values that are not finite"
            )
        # Untouched values keep their rounding: int8 would choose another scale the second time.
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
        """Return centroids to the axes that are stored with them."""
        for segment, stored in zip(self.segments, self.stored, strict=True):
            if not isinstance(stored, Codebook) or stored.axes is None:
                continue
            axes = torch.from_numpy(stored.axes.astype(np.float32)).to(self.codebook.device)
            # float32 at least: half precision cannot invert.
            onto = torch.linalg.pinv(axes[:-1]) @ axes[:-1]
            centred = self.codebook[segment.span].float() - axes[-1]
            self.codebook[segment.span] = (centred @ onto + axes[-1]).to(self.codebook)

    def _check_codes(self, field: CompressedField, segment: Segment) -> None:
        bits, codes, clusters = 0, b"", field.vocab_size
        if isinstance(field, ClusteredField):
            bits, codes = field.codes.bits, field.codes.data.tobytes()
            clusters = field.codebook.clusters
        held = self.codes[segment.first_byte : segment.first_byte + len(codes)].cpu().numpy()
        here = (segment.rows, segment.code_bits, segment.centroids, self.dim)
        if here != (field.vocab_size, bits, clusters, field.dim) or held.tobytes() != codes:
            raise ModuleError(
                f"field {field.name!r} has other codes in the model than in the result"
            )

    def _values(self, segment: Segment) -> NDArray[np.float32]:
        array: NDArray[np.float32] = self.codebook.detach()[segment.span].float().cpu().numpy()
        return array

    @torch.no_grad()
    def _set(self, segment: Segment, rows: NDArray[np.float32]) -> None:
        self.codebook[segment.span] = torch.tensor(rows).to(self.codebook)


def _rows(fields: Sequence[CompressedField]) -> int:
    return sum(field.vocab_size for field in fields)


def _packed(
    fields: Sequence[CompressedField],
) -> tuple[tuple[Segment, ...], NDArray[np.uint8], NDArray[np.float32], tuple[Stored, ...]]:
    """Segments of fields that follow each other, their codes and codebooks, and their rounding."""
    segments: list[Segment] = []
    codes: list[NDArray[np.uint8]] = []
    centroids: list[NDArray[np.float32]] = []
    row = byte = centroid = 0
    for field in fields:
        bits, data = _codes(field)
        values = _centroids(field)
        start = byte if bits else 0  # rows without codes read bytes, too, and ignore them
        segments.append(
            Segment(field.name, row, field.vocab_size, bits, start, centroid, len(values))
        )
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
        # A damaged code must not reach the centroids of the next field.
        field.checked_codes(np.arange(field.vocab_size, dtype=np.int64))
        return field.codes.bits, field.codes.data
    raise ModuleError(f"field {field.name!r}: codec {field.codec!r} has no PyTorch module")


def _centroids(field: CompressedField) -> NDArray[np.float32]:
    return field.codebook.values if isinstance(field, ClusteredField) else field.decode()


def _stored(field: CompressedField) -> Stored:
    return field.codebook if isinstance(field, ClusteredField) else np.dtype(field.dtype)


def _rounded(stored: Stored, rows: NDArray[np.float32]) -> Stored:
    """How ``rows`` are stored where ``stored`` is now."""
    if isinstance(stored, Codebook) and not np.array_equal(stored.values, rows):
        return stored.moved(rows)
    return stored


def _exact(stored: Stored, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """``rows`` as they are read after they were stored."""
    if isinstance(stored, Codebook):
        return stored.values
    return rows.astype(stored).astype(np.float32)
