"""A keyed field with patches: each key has the row of the newest patch that has it, or its old
one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import saec.artifact as artifact
from saec.errors import PatchError
from saec.format.keyed_field import KeyedField
from saec.format.keyed_patch import KeyedPatch
from saec.format.keyed_rows import KeyedRows

__all__ = ["PatchedField"]


class PatchedField(KeyedField):
    """A keyed field behind its patches.

    Args:
        base: the field as it was compressed.
        patches: oldest first, of which there is one at least.

    Raises:
        PatchError: by whatever needs the field as one table, such as saving it.
    """

    def __init__(self, base: KeyedField, patches: Sequence[KeyedPatch]) -> None:
        super().__init__(
            base.name,
            patches[-1].vocab_size,
            base.layout,
            base.lengths,
            base.values,
            base.axes,
            base.function,
            base.dtype,
            base.key_kind,
            base.seed,
            base.price,
        )
        self.base = base
        self.patches = tuple(patches)

    @cached_property
    def _rows(self) -> KeyedRows:
        """What the native core reads strings and rows from: the newest patch first."""
        newest_first = self.patches[::-1]
        rows, changed = zip(*((patch.rows, patch.changed) for patch in newest_first), strict=True)
        return self.base._rows.behind(rows, changed)

    def contains(self, keys: ArrayLike) -> NDArray[np.bool_]:
        """See :class:`KeyedField`; false for keys that a patch removed."""
        return self.classes_of_hashes(self.hashes_of(keys)) >= 0

    def classes_of_hashes(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The class (m,) of the row of each key; -1 for keys that have the default row."""
        classes = np.full(len(hashes), -1, np.int64)
        left = np.arange(len(hashes))
        for patch in reversed(self.patches):
            found = patch.classes(hashes[left])
            known = found > -2
            classes[left[known]] = found[known]
            left = left[~known]
        classes[left] = self.base.classes_of_hashes(hashes[left])
        return classes

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors of the base and of all patches."""
        own = [tensor for patch in self.patches for tensor in patch.tensors.values()]
        return self.base.nbytes + sum(tensor.nbytes for tensor in own)

    @property
    def false_positive_rate(self) -> float:
        """The share of unknown keys that are taken for known ones, by a patch or by the base."""
        left, taken = 1.0, 0.0
        for patch in reversed(self.patches):
            taken += left * patch.taken_share
            left *= 1 - patch.changed.share
        return taken + left * self.base.false_positive_rate

    @property
    def bill(self) -> dict[str, int]:
        """See :class:`KeyedField`; functions of patches are in ``codes``, prefixes of their keys in
        ``fingerprints``, lengths of their codewords in ``symbols``."""
        bill = self.base.bill
        for patch in self.patches:
            bill["codes"] += patch.function.nbytes
            bill["fingerprints"] += patch.changed.nbytes
            bill["symbols"] += patch.layout.stored_lengths.nbytes
        return bill

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """Refused, as are :attr:`details` and :attr:`entry`: they belong to several files."""
        raise self._in_several_files()

    @property
    def details(self) -> bytes:
        """See :attr:`tensors`."""
        raise self._in_several_files()

    @property
    def entry(self) -> artifact.Entry:
        """See :attr:`tensors`."""
        raise self._in_several_files()

    def _in_several_files(self) -> PatchError:
        return PatchError(
            f"{self.place} has {len(self.patches)} patches: saec.compact makes one artifact of "
            "them and the base"
        )
