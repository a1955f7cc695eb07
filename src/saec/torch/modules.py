"""Modules that look rows up in compressed tables, in plain torch operations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from saec.codes import check_ids
from saec.compressed import ClusteredField, CompressedField, RawField
from saec.errors import IdError, ModuleError

__all__ = ["CompressedEmbedding", "CompressedEmbeddingBag", "CompressedTable", "Segment"]

_DECODE_ROWS = 1 << 16
_ID_DTYPES = (torch.int32, torch.int64)


@dataclass(frozen=True)
class Segment:
    """Rows ``first_row`` .. ``first_row + rows`` of a table: one field.

    Their codes of ``code_bits`` bits start at byte ``first_byte``; code 0 is the codebook's row
    ``first_centroid``. With ``code_bits`` 0 the codebook holds the rows themselves, in order.
    ``axes`` (rank, dim) are the only directions in which its centroids may move; None for all.
    """

    name: str
    first_row: int
    rows: int
    code_bits: int
    first_byte: int
    first_centroid: int
    centroids: int
    axes: NDArray[np.float16] | None = field(default=None, compare=False, repr=False)

    @property
    def columns(self) -> list[int]:
        """Numbers that a lookup needs: first row, bits, first bit, mask, first centroid, is raw."""
        mask = (1 << self.code_bits) - 1
        first_bit = 8 * self.first_byte
        raw = int(self.code_bits == 0)
        return [self.first_row, self.code_bits, first_bit, mask, self.first_centroid, raw]


class CompressedTable(nn.Module):
    """Packed codes and one codebook; maps ids to codebook rows.

    Modules that share a table hold the same object. After the centroids the codebook has one row
    for each id in ``pads``: the row that ``padding_idx`` returns, exact.

    Attributes:
        codebook: parameter (centroids, dim), the only thing that learns.
        codes: buffer (bytes,) uint8, the segments' packed codes one after the other.
        layout: buffer (6, segments) int64, see :attr:`Segment.columns`.
    """

    codebook: nn.Parameter
    codes: Tensor
    layout: Tensor

    def __init__(
        self, segments: Sequence[Segment], codes: Tensor, codebook: Tensor, pads: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.segments = tuple(segments)
        self.pads = tuple(pads)
        self.codebook = nn.Parameter(codebook)
        columns = torch.tensor([segment.columns for segment in segments], device=codebook.device)
        self.register_buffer("codes", codes)
        self.register_buffer("layout", columns.T.contiguous())
        # The widest reach of a code over byte borders; starts are multiples of gcd(bits, 8).
        self._bytes = max(
            math.ceil((bits + 8 - math.gcd(bits, 8)) / 8)
            for bits in (segment.code_bits for segment in segments)
        )

    @classmethod
    def from_fields(
        cls, compressed: Sequence[CompressedField], pads: Mapping[int, Tensor], like: Tensor
    ) -> Self:
        """The table of fields that follow each other in rows, on the device and of the dtype of
        ``like``; ``pads`` (dim,) by id are kept as they are.

        Raises:
            ModuleError: a field of a codec that has no PyTorch module.
            ArtifactError: a code beyond its codebook.
        """
        segments: list[Segment] = []
        codes: list[NDArray[np.uint8]] = []
        centroids: list[NDArray[np.float32]] = []
        row = byte = centroid = 0
        for part in compressed:
            bits, data, values, axes = _stored(part)
            start = byte if bits else 0  # rows without codes read bytes, too, and ignore them
            segments.append(
                Segment(part.name, row, part.vocab_size, bits, start, centroid, len(values), axes)
            )
            codes.append(data)
            centroids.append(values)
            row, byte, centroid = row + part.vocab_size, byte + len(data), centroid + len(values)
        codebook = torch.from_numpy(np.concatenate(centroids)).to(like.device, like.dtype)
        if pads:
            codebook = torch.cat([codebook, torch.stack(list(pads.values()))])
        packed = torch.from_numpy(np.concatenate(codes)).to(like.device)
        return cls(segments, packed, codebook, tuple(pads))

    @torch.no_grad()
    def keep_to_axes_(self, start: Tensor) -> None:
        """Take back what moved the codebook from ``start`` off the axes that are stored with it."""
        for segment in self.segments:
            if segment.axes is None:
                continue
            axes = torch.from_numpy(segment.axes.astype(np.float32)).to(start)
            rows = slice(segment.first_centroid, segment.first_centroid + segment.centroids)
            moved = self.codebook[rows] - start[rows]
            # float32 at least: half precision cannot invert.
            onto = torch.linalg.pinv(axes.float()) @ axes.float()
            self.codebook[rows] = start[rows] + (moved.float() @ onto).to(start)

    @property
    def vocab_size(self) -> int:
        """Number of rows that can be looked up."""
        return self.segments[-1].first_row + self.segments[-1].rows

    def forward(self, ids: Tensor) -> Tensor:
        """Codebook rows of ``ids`` (any shape, int32 or int64), int64 of the same shape.

        Raises:
            IdError: ids are of another dtype or, on a CPU and not while a graph is captured, out
                of range.
        """
        if ids.dtype not in _ID_DTYPES:
            raise IdError(f"{self._place}: ids must be int32 or int64, not {ids.dtype}")
        # In a captured graph values are unknown: there the gather's own bounds check stands.
        if type(ids) is Tensor and ids.device.type == "cpu" and not torch.compiler.is_compiling():
            check_ids(ids.numpy(), self.vocab_size, self._place)
        flat = ids.reshape(-1).long().contiguous()  # bucketize warns of strided input
        rows = self._single(flat) if len(self.segments) == 1 else self._joint(flat)
        for index, pad in enumerate(self.pads):
            rows = torch.where(flat == pad, self._first_pad + index, rows)
        return rows.reshape(ids.shape)

    def pad_row(self, padding_idx: int | None) -> int | None:
        """The codebook row of a padding id."""
        return None if padding_idx is None else self._first_pad + self.pads.index(padding_idx)

    @torch.no_grad()
    def decode(self) -> Tensor:
        """The whole table, (vocab_size, dim) of the codebook's dtype."""
        ids = torch.arange(self.vocab_size, device=self.codes.device)
        blocks = torch.split(ids, _DECODE_ROWS)
        return torch.cat([self.codebook[self(block)] for block in blocks])

    @property
    def _first_pad(self) -> int:
        return self.segments[-1].first_centroid + self.segments[-1].centroids

    @property
    def _place(self) -> str:
        return f"table {', '.join(segment.name for segment in self.segments)}"

    def _single(self, ids: Tensor) -> Tensor:
        (segment,) = self.segments
        bits = ids * segment.code_bits
        return self._words(bits) & ((1 << segment.code_bits) - 1)

    def _joint(self, ids: Tensor) -> Tensor:
        part = torch.bucketize(ids, self.layout[0, 1:], right=True)
        first_row, code_bits, first_bit, mask, first_centroid, raw = (
            column.index_select(0, part) for column in self.layout.unbind(0)
        )
        local = ids - first_row
        codes = self._words(first_bit + local * code_bits) & mask
        return first_centroid + codes + local * raw

    def _words(self, bits: Tensor) -> Tensor:
        """Little-endian words that start at ``bits``, int64."""
        starts = bits >> 3
        # index_select, not indexing: it refuses negative positions instead of wrapping around.
        words = self.codes.index_select(0, starts).long()
        for byte in range(1, self._bytes):
            words |= self.codes.index_select(0, starts + byte).long() << (8 * byte)
        return words >> (bits & 7)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # Codes of other widths may fill as many bytes, and would be read as garbage.
        layout = state_dict.get(prefix + "layout")
        if layout is not None and layout.tolist() != self.layout.tolist():
            error_msgs.append(f"{prefix}layout is of another compression than this {self._place}")
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )


class _CompressedModule(nn.Module):
    """What both modules share: the table, and the options that decoding gives back."""

    def __init__(
        self, table: CompressedTable, padding_idx: int | None = None, sparse: bool = False
    ) -> None:
        super().__init__()
        self.table = table
        self.num_embeddings = table.vocab_size
        self.embedding_dim = table.codebook.shape[1]
        self.padding_idx = padding_idx
        self.sparse = sparse  # of the plain module; a codebook's gradients are dense
        self._pad_row = table.pad_row(padding_idx)

    def decode(self) -> Tensor:
        """The whole table, (num_embeddings, embedding_dim), detached."""
        return self.table.decode()

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        bits = "+".join(str(segment.code_bits) for segment in self.table.segments)
        return (
            f"{self.num_embeddings}, {self.embedding_dim}, code_bits={bits}, "
            f"centroids={self.table.codebook.shape[0]}, padding_idx={self.padding_idx}"
        )


class CompressedEmbedding(_CompressedModule):
    """In place of an ``nn.Embedding``: the same call, and the numbers of the decoded table.

    The row at ``padding_idx`` is exact and gets no gradient.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Embedding's name)
        """Rows of ``input`` (any shape, int32 or int64), ``input.shape + (dim,)``.

        Raises:
            IdError: see :meth:`CompressedTable.forward`.
        """
        return functional.embedding(self.table(input), self.table.codebook, self._pad_row)


class CompressedEmbeddingBag(_CompressedModule):
    """In place of an ``nn.EmbeddingBag``: the same call, and the numbers of the decoded table.

    Entries equal to ``padding_idx`` are left out of the reduction.
    """

    def __init__(
        self,
        table: CompressedTable,
        mode: str = "mean",
        padding_idx: int | None = None,
        sparse: bool = False,
        include_last_offset: bool = False,
    ) -> None:
        super().__init__(table, padding_idx, sparse)
        self.mode = mode
        self.include_last_offset = include_last_offset

    def forward(
        self,
        input: Tensor,  # noqa: A002  (nn.EmbeddingBag's name)
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """Reduce bags of rows; arguments and result as those of ``nn.EmbeddingBag``.

        Raises:
            IdError: see :meth:`CompressedTable.forward`.
        """
        return functional.embedding_bag(
            self.table(input),
            self.table.codebook,
            None if offsets is None else offsets.long(),
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self._pad_row,
        )

    def extra_repr(self) -> str:
        """Sizes and mode, for ``print(model)``."""
        return f"{super().extra_repr()}, mode={self.mode}"


_Stored = tuple[int, NDArray[np.uint8], NDArray[np.float32], NDArray[np.float16] | None]


def _stored(field: CompressedField) -> _Stored:
    """Width of the codes (0: none), packed codes, codebook and the directions it may move in."""
    if isinstance(field, RawField):
        return 0, np.empty(0, dtype=np.uint8), field.weights.astype(np.float32), None
    if isinstance(field, ClusteredField):
        # A damaged code must not reach the centroids of the next field.
        field.checked_codes(np.arange(field.vocab_size, dtype=np.int64))
        codebook = field.codebook
        axes = None if codebook.axes is None else codebook.axes[:-1]
        return field.codes.bits, field.codes.data, codebook.values, axes
    raise ModuleError(f"field {field.name!r}: codec {field.codec!r} has no PyTorch module")
