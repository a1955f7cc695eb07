"""Compressed fields made by hand and a small click model, as factories for several files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from click_model import ClickModel
from torch import Tensor

from saec.bits.elias_fano import pack_starts
from saec.bits.packing import PackedCodes
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook, CodebookDtype
from saec.format.compressed import Compressed
from saec.format.raw_field import RawField
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout, tier_bounds
from saec.format.tiered_field import TieredField

Make = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread: None) -> None:
    """With small tables, threads only wait for each other, on a busy machine for seconds."""


@pytest.fixture(scope="session")
def clustered() -> Make:
    """Makes fields with random codes that use all bits, and the last centroid."""

    def make(
        name: str,
        rows: int,
        dim: int = 4,
        bits: int = 3,
        dtype: CodebookDtype = "float32",
        seed: int = 0,
    ) -> ClusteredField:
        rng = np.random.default_rng([seed, rows, bits])
        clusters = min(1 << bits, 5000)
        codes = rng.integers(0, clusters, rows)
        codes[-1] = clusters - 1
        centroids = rng.standard_normal((clusters, dim)).astype(np.float32)
        packed = PackedCodes.pack(codes, bits)
        return ClusteredField(name, packed, Codebook.round(centroids, dtype), "float32")

    return make


@pytest.fixture(scope="session")
def tiered() -> Make:
    """Makes fields with random codes, values and axes; ``keep`` scatters their tiers."""

    def make(
        name: str,
        rows: int,
        dim: int = 4,
        tiers: tuple[str, ...] = ("9g 6j2 2", "3 2g", "- 1g 4", ""),
        keep: bool = False,
        axes_dtype: str = "float16",
        seed: int = 0,
    ) -> TieredField:
        rng = np.random.default_rng([seed, rows, keep])
        layout = Layout.parse(rows, tiers[: len(tier_bounds(rows)) - 1])
        own = rng.permutation(layout.tier_of(np.arange(rows)))
        return TieredField(
            name,
            layout,
            rng.integers(0, 256, layout.code_bytes).astype(np.uint8),
            rng.standard_normal(layout.value_count).astype(np.float16) / 8,
            rng.standard_normal((layout.rank + 1, dim)).astype(axes_dtype),
            TierIndex.of(own) if keep else None,
            "float32",
        )

    return make


@pytest.fixture(scope="session")
def in_order() -> Make:
    """Makes fields whose tiers are sorted by one or several codes, and also have packed codes."""
    usual = ("7g 5 - 3", "o4g 2j2 1", "o3 o2g 4", "2 0", "o6j3 o2 3 2", "o3 o2 o4 1 4g", "o2")

    def make(name: str, rows: int, dim: int = 4, tiers: tuple[str, ...] = usual) -> TieredField:
        rng = np.random.default_rng([4, rows])
        layout = Layout.parse(rows, tiers[: len(tier_bounds(rows)) - 1])
        starts = [np.zeros(0, np.uint8)]
        for tier, count in enumerate(np.diff(layout.bounds).tolist()):
            if bits := layout.ordered_bits(tier):
                own = np.sort(rng.integers(0, count, (1 << bits) - 1, endpoint=True))
                starts.append(pack_starts(own, count))
        return TieredField(
            name,
            layout,
            rng.integers(0, 256, layout.code_bytes).astype(np.uint8),
            rng.standard_normal(layout.value_count).astype(np.float16) / 8,
            rng.standard_normal((layout.rank + 1, dim)).astype(np.float16),
            None,
            "float32",
            renumbered=True,
            starts=np.concatenate(starts),
        )

    return make


@pytest.fixture(scope="session")
def raw() -> Make:
    """Makes uncompressed fields."""

    def make(name: str, rows: int, dim: int = 4) -> RawField:
        rng = np.random.default_rng(rows)
        return RawField(name, rng.standard_normal((rows, dim), np.float32))

    return make


@pytest.fixture(scope="session")
def click_model() -> Make:
    """Makes click models, all with the same weights."""
    return ClickModel


@pytest.fixture(scope="session")
def click_result(clustered: Make) -> Make:
    """Makes compressed tables for the click model."""
    return lambda: Compressed([clustered("user", 30, bits=3), clustered("tags", 12, bits=2)])


@pytest.fixture(scope="session")
def click_inputs() -> Make:
    """Makes ids for the click model."""

    def make(rows: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return (
            torch.randint(0, 30, (rows,), generator=generator),
            torch.randint(0, 12, (rows, 3), generator=generator),
        )

    return make
