"""Tables with keys: tensors as a module's buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from saec.errors import KeysError, ModuleError
from saec.format.keyed_field import KeyedField
from saec.torch.lookup.keyed_operator import (
    keyed_bags,
    keyed_rows,
    keyed_tensors,
    table_text,
    tensor_names,
)
from saec.torch.lookup.reader import pool_rows
from saec.torch.table.base import CompressedTable

__all__ = ["KeyedTable"]

_KEY_DTYPES = (torch.int32, torch.int64, torch.uint64)


class KeyedTable(CompressedTable):
    """The tensors of a keyed field, and of its patches, as buffers; there are no parameters.

    The ids of the base class are keys here: int64, or the bits of uint64; for a field of strings
    ``saec.hash_keys(strings, seed=field.seed).view(numpy.int64)``.

    Args:
        field: the field of the rows.
        pads: exact rows (dim,) by key that lookups return instead of the stored ones.
        like: tensor with the device and dtype of the table.

    Attributes:
        like: buffer (0, dim) of the dtype of rows.
        layout: buffer (4,) int64, a hash of everything that the other buffers do not contain.
        pad_rows: buffer (pads, dim), or None.
    """

    like: Tensor  # not in the state dict
    pad_rows: Tensor | None

    def __init__(self, field: KeyedField, pads: Mapping[int, Tensor], like: Tensor) -> None:
        super().__init__([field.name], [field.vocab_size])
        self._text = table_text(field)
        self.key_kind, self.seed = field.key_kind, field.seed
        self.pads = tuple(pads)
        self._roles = tuple(
            f"patch{link}_{role}" if link else role for link, role in tensor_names(field)
        )
        for role, tensor in zip(self._roles, keyed_tensors(field), strict=True):
            # An empty one could not be saved by torch.export without a warning.
            self.register_buffer(role, tensor.to(like.device) if len(tensor) else None)
        self.register_buffer("layout", self._layout.to(like.device))
        self.register_buffer("pad_rows", torch.stack(list(pads.values())) if pads else None)
        empty = torch.empty((0, field.dim), dtype=like.dtype, device=like.device)
        self.register_buffer("like", empty, persistent=False)

    @property
    def sample(self) -> Tensor:
        """No rows, with the dtype and width of rows."""
        return self.like

    @property
    def _layout(self) -> Tensor:
        digest = blake2b(self._text.encode(), digest_size=32).digest()
        return torch.from_numpy(np.frombuffer(digest, np.int64).copy())

    @property
    def summary(self) -> str:
        """The kind of the keys and the bytes of all buffers."""
        nbytes = sum(buffer.nbytes for buffer in self.buffers())
        return f"keys={self.key_kind}, nbytes={nbytes}"

    def rows(self, ids: Tensor, padding_idx: int | None) -> Tensor:
        """Rows (m, dim) of flat keys (m,).

        Raises:
            KeysError: on a CPU, a key is outside of the field's kind.
        """
        return self._rows(*_as_int64(ids))

    def _rows(self, keys: Tensor, unsigned: bool) -> Tensor:
        rows: Tensor = keyed_rows(keys, self._tensors, self._text, unsigned)
        rows = rows.to(self.dtype)
        for pad, row in zip(self.pads, () if self.pad_rows is None else self.pad_rows, strict=True):
            rows = torch.where((keys == pad)[:, None], row, rows)
        return rows

    def bags(
        self,
        ids: Tensor,
        offsets: Tensor,
        per_sample_weights: Tensor | None,
        mode: str,
        padding_idx: int | None,
    ) -> Tensor:
        """See :class:`CompressedTable`."""
        keys, unsigned = _as_int64(ids)
        if not self._sums_suffice(per_sample_weights, mode, padding_idx):
            rows = self._rows(keys, unsigned)
            return pool_rows(rows, keys, offsets, per_sample_weights, mode, padding_idx)
        bags: Tensor = keyed_bags(
            keys, offsets, per_sample_weights, self._tensors, self._text, unsigned, mode
        )
        return bags

    def _sums_suffice(self, weights: Tensor | None, mode: str, padding_idx: int | None) -> bool:
        """Whether no single row is needed: for a maximum, in place of a padding row, to be rounded,
        or for weights of another dtype or with gradients."""
        if padding_idx is not None or self.pads or mode == "max" or self.dtype != torch.float32:
            return False
        return weights is None or (weights.dtype == torch.float32 and not weights.requires_grad)

    @property
    def _tensors(self) -> list[Tensor]:
        held = [self._buffers[role] for role in self._roles]  # get_buffer takes microseconds each
        return [self._no_bytes() if tensor is None else tensor for tensor in held]

    def _no_bytes(self) -> Tensor:
        return torch.empty(0, dtype=torch.uint8, device=self.like.device)

    def decode(self) -> NoReturn:
        """Not possible: the keys are not stored.

        Raises:
            ModuleError: always.
        """
        raise ModuleError(
            f"{self._place} does not store its keys, so cannot list its rows: look up known keys"
        )

    def weight(self) -> NoReturn:
        """Not possible, see :meth:`decode`."""
        self.decode()

    def _blocks(self) -> Sequence[Tensor]:
        self.decode()

    def _check(self, ids: Tensor) -> None:
        self._check_given(ids, "keys", _KEY_DTYPES, "int64 or uint64", KeysError)


def _as_int64(ids: Tensor) -> tuple[Tensor, bool]:
    """Keys as int64 in one piece, and whether these are the bits of uint64."""
    unsigned = ids.dtype == torch.uint64
    return (ids.view(torch.int64) if unsigned else ids.long()).contiguous(), unsigned
