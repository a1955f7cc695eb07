"""Synthetic tables and ids of benchmarks are as stated, and all rivals read the same rows."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import lookup_rivals as rivals
import lookup_tables as tables
import numpy as np
import pytest
import timing
import torch
from lookup_rivals import Batch

from saec.format.compressed_field import CompressedField
from saec.format.tier_layout import tier_bounds

ROWS = 5000


def test_zipf_ids_have_their_exact_shares() -> None:
    ids = tables.draw_ids(np.random.default_rng(0), "zipf", 3, (100_000,))
    weights = np.array([1, 2**-1.05, 3**-1.05])
    shares = np.bincount(ids, minlength=3) / len(ids)
    assert shares == pytest.approx(weights / weights.sum(), abs=0.005)


@pytest.mark.parametrize("distribution", tables.DISTRIBUTIONS)
def test_ids_differ_from_repeat_to_repeat(distribution: str) -> None:
    ids = tables.draw_ids(np.random.default_rng(0), distribution, ROWS, (3, 1000))
    assert ids.shape == (3, 1000)
    assert 0 <= ids.min() <= ids.max() < ROWS
    assert not np.array_equal(ids[0], ids[1])


def test_a_float_table_is_filled_to_its_ragged_end() -> None:
    table = tables.float_table(np.random.default_rng(0), (1 << 16) + 3, 2)
    assert torch.equal(table[-3:], table[:3])
    assert table.std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("dim", [3, 8, 16, 64])
def test_tiers_use_no_more_axes_than_there_are(dim: int) -> None:
    field = tables.tiered(np.random.default_rng(0), ROWS, dim, tables.USERS)
    assert field.layout.rank == min(dim, 16)
    assert field.layout.texts[0].split()[0] == "8g"


def test_frequent_features_are_in_the_first_tiers_wherever_their_ids_are() -> None:
    rng = np.random.default_rng(0)
    places = tables.scattered(rng, ROWS)
    field = tables.tiered(rng, ROWS, 16, places=places)
    assert field.index is not None
    tiers, _ = field.index.locate(places)
    expected = np.repeat(np.arange(5), np.diff(tier_bounds(ROWS)))
    assert tiers.tolist() == expected.tolist()


def test_a_stored_field_is_read_from_its_file(tmp_path: Path) -> None:
    field = tables.clustered(np.random.default_rng(0), ROWS, 8, 70)
    read = tables.stored(field, tmp_path / "table")
    assert np.array_equal(read.decode(), field.decode())
    assert len(np.unique(field.decode(), axis=0)) == 70


def test_peak_memory_stays_when_memory_is_given_back() -> None:
    held = np.ones(1 << 27, dtype=np.uint8)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    del held
    assert resident > 1 << 27
    assert timing.peak_bytes() > 0.99 * resident  # the kernel counts in portions


def made(name: str) -> CompressedField:
    rng = np.random.default_rng(0)
    return tables.clustered(rng, ROWS, 8, 70) if name == "clusters" else tables.tiered(rng, ROWS, 8)


@pytest.mark.parametrize("bag", [1, 4])
@pytest.mark.parametrize("name", ["clusters", "axes"])
def test_a_module_reads_what_the_field_reads(name: str, bag: int) -> None:
    field = made(name)
    batch = Batch.of(np.arange(0, ROWS, 5), bag)
    read = rivals.compressed(name, field).read(batch, 1)
    assert read.shape == (1000 // bag, 8)
    wanted = field.decode()[::5].reshape(-1, bag, 8).sum(1)
    assert np.allclose(read, wanted, atol=1e-4)
    assert np.allclose(rivals.module(name, field).read(batch, 1).detach(), wanted, atol=1e-4)


@pytest.mark.parametrize("bag", [1, 4])
def test_rivals_read_the_rows_of_the_table(bag: int) -> None:
    table = tables.float_table(np.random.default_rng(0), ROWS, 8)
    batch = Batch.of(np.arange(0, ROWS, 5), bag)
    wanted = table[::5].reshape(-1, bag, 8).sum(1).numpy()
    for rival in rivals.float32(table):
        assert np.allclose(rival.read(batch, 1), wanted, atol=1e-5), rival.name
    for bits, error in ((8, 0.02), (4, 0.3)):
        rows = np.asarray(rivals.quantised(table, bits).read(batch, 1))
        assert np.abs(rows - wanted).max() < error * bag
        assert not np.array_equal(rows, wanted)


@pytest.mark.skipif(find_spec("fbgemm_gpu") is None, reason="fbgemm-gpu-cpu is not installed")
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_fbgemm_sums_its_rows(bits: int) -> None:
    rival = rivals.fbgemm(ROWS, 8, bits)
    assert ROWS * bits <= rival.nbytes <= ROWS * (bits + 8)
    ids = np.arange(0, ROWS, 5)
    rows, sums = (np.asarray(rival.read(Batch.of(ids, bag), 1)) for bag in (1, 4))
    assert np.allclose(sums, rows.reshape(-1, 4, 8).sum(1), rtol=1e-4, atol=1e-3)


def test_rivals_take_turns_each_with_ids_of_every_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "IDS_PER_CALL", 2)
    seen: dict[str, list[list[int]]] = {"plain": [], "kept": []}
    made = [
        rivals.Rival("plain", 0, lambda batch, _: seen["plain"].append(batch.ids.tolist())),
        rivals.Rival("kept", 0, lambda batch, _: seen["kept"].append(batch.ids.tolist()), True),
    ]
    ids = np.arange(16).reshape(4, 4)
    seconds = rivals.time_in_turn(made, ids, 10 * np.arange(16), 1, torch.get_num_threads(), 1)
    assert seen["plain"] == np.arange(16).reshape(8, 2).tolist()
    assert seen["kept"] == (10 * np.roll(np.arange(16), -4).reshape(8, 2)).tolist()
    assert {name: len(times) for name, times in seconds.items()} == {"plain": 1, "kept": 1}
