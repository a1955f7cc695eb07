"""Rows of keys by the native core: what it needs to know, and what it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import saec._native as _native
from saec.errors import ArtifactError
from saec.format.bags import Bags
from saec.format.key_prefixes import KeyPrefixes
from saec.format.key_strings import KeyStrings
from saec.format.keyed_layout import KeyedLayout
from saec.keys.static_function import StaticFunction

__all__ = ["KeyedRows"]

_MOST_PATCHES = 255
_NO_WEIGHTS = np.zeros(0, np.float32)


class KeyedRows:
    """Reads classes, rows and bags of rows by the hashes of keys.

    Args:
        layout, strings, lengths, values, axes, function: of a
            :class:`~saec.format.keyed_field.KeyedField`.
    """

    def __init__(
        self,
        layout: KeyedLayout,
        strings: KeyStrings,
        lengths: NDArray[np.uint8],
        values: NDArray[np.float16],
        axes: NDArray[np.floating[Any]],
        function: StaticFunction,
    ) -> None:
        self.dim = axes.shape[1]
        parts, all_lengths, all_values = [], [np.zeros(0, np.uint8)], [np.zeros(0, np.float32)]
        plans = strings.plans if layout.classes else ()
        for number, (own, plan) in enumerate(zip(layout.classes, plans, strict=True)):
            places = [string for string, members in enumerate(plan) for _ in members]
            for at, (part, string) in enumerate(
                zip(own, places, strict=True), layout.first_parts[number]
            ):
                parts.append([number, part.symbols, part.axes, string])
                all_lengths.append(layout.part_lengths(at, part, lengths))
                all_values.append(layout.part_values(at, part, values).reshape(-1))
        self._table = _native.keyed_table(
            function.table,
            np.array(parts, np.int64).reshape(-1, 4),
            np.concatenate(all_lengths),
            np.concatenate(all_values),
            axes.astype(np.float32),
        )

    def behind(self, patches: Sequence[Self], changed: Sequence[KeyPrefixes]) -> Self:
        """These rows for keys that none of the ``patches`` has, which are the newest first.

        changed: the keys of each. Patches have the same axes.

        Raises:
            ArtifactError: there are more than 255 patches.
        """
        if len(patches) > _MOST_PATCHES:
            raise ArtifactError(f"{len(patches)} patches of a field; at most {_MOST_PATCHES}")
        result = copy(self)
        result._table = _native.patched_table(
            self._table,
            [patch._table for patch in patches],
            [own.prefixes for own in changed],
            [own.bits for own in changed],
        )
        return result

    def classes(self, hashes: NDArray[np.uint64], threads: int = 0) -> NDArray[np.int32]:
        """The class (m,) of the row of each key, by hashes (m,); -1 for unknown keys."""
        classes = np.empty(len(hashes), np.int32)
        self._table.read_classes(hashes, classes, threads)
        return classes

    def rows(
        self, hashes: NDArray[np.uint64], threads: int = 0, *, in_pytorch: bool = False
    ) -> NDArray[np.float32]:
        """The rows (m, dim) of keys, by hashes (m,).

        Args:
            threads: the most; 0 for as many as there are.
            in_pytorch: whether to use the threads of PyTorch's operations.
        """
        rows = np.empty((len(hashes), self.dim), np.float32)
        self._table.read_rows(hashes, rows, threads, in_pytorch=in_pytorch)
        return rows

    def pooled(
        self,
        hashes: NDArray[np.uint64],
        bags: Bags,
        threads: int = 0,
        isa: str = "auto",
        *,
        in_pytorch: bool = False,
    ) -> NDArray[np.float32] | None:
        """Sums or means (bags, dim) of the rows of keys, by hashes (m,).

        Args:
            bags: of the keys; the ids in them are not looked at.
            threads, in_pytorch: as of :meth:`rows`.
            isa: ``scalar``, ``avx2``, ``avx512``, or what suits the processor best.

        Returns:
            None if offsets do not ascend from 0 to at most m.
        """
        assert bags.offsets is not None, "single keys are no bags"
        rows = np.empty((bags.count, self.dim), np.float32)
        weights = _NO_WEIGHTS if bags.weights is None else bags.weights
        mean = bags.mode == "mean"
        done = self._table.pool_rows(
            hashes, bags.offsets, weights, mean, rows, threads, isa, in_pytorch
        )
        return rows if done else None
