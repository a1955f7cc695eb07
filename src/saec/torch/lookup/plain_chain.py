"""The same as :mod:`saec.torch.lookup.keyed_plain`, of a field and its patches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saec.format.keyed_field import KeyedField
from saec.format.keyed_patch import KeyedPatch
from saec.format.patched_field import PatchedField
from saec.torch.lookup.keyed_plain import PlainKeys

__all__ = ["PlainChain"]


class PlainChain:
    """What the rows of a field, with its patches, are read from on a ``device``."""

    def __init__(self, field: KeyedField, device: torch.device) -> None:
        self._base = PlainKeys(field.base if isinstance(field, PatchedField) else field, device)
        patches = field.patches if isinstance(field, PatchedField) else ()
        self._patches = [_PlainPatch(patch, device) for patch in patches]

    def rows(self, keys: Tensor) -> Tensor:
        """Rows (m, dim) float32 of keys (m,) int64, or of the hashes of strings."""
        rows = self._base.rows(keys)
        hashes = self._base.hashes(keys)
        for patch in self._patches:
            known = patch.known(hashes).nonzero()[:, 0]
            rows[known] = patch.keys.rows(keys[known])
        return rows


class _PlainPatch:
    def __init__(self, patch: KeyedPatch, device: torch.device) -> None:
        self.keys = PlainKeys(patch.as_field, device)
        # Prefixes have fewer than 63 bits.
        prefixes = patch.changed.prefixes.astype(np.int64)
        self._prefixes = torch.from_numpy(prefixes).to(device)
        self._bits = patch.changed.bits

    def known(self, hashes: Tensor) -> Tensor:
        """Whether the patch has keys with these hashes (m,), (m,) bool."""
        if not len(self._prefixes):
            return torch.zeros_like(hashes, dtype=torch.bool)
        wanted = hashes >> (64 - self._bits) & ((1 << self._bits) - 1)
        places = torch.searchsorted(self._prefixes, wanted).clamp(max=len(self._prefixes) - 1)
        return self._prefixes[places] == wanted
