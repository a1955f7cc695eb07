"""Bags of rows from packed codes: borders of chunks, weights, several fields at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lookup_reference import (
    BFLOAT16,
    HERE,
    Ask,
    Runs,
    Slow,
    Tiers,
    call,
    check_bags,
    decoded,
    everywhere,
    pooled,
    random_offsets,
    random_tiers,
)
from numpy.typing import NDArray

from saec.format.native_lookup import RowRun

MODES = ("sum", "mean", "max")

# Chunk sizes of the core: 64 ids are found and 128 added at a time, 512 stored, 32 prefetched.
BORDERS = sorted({n + d for n in (0, 32, 64, 96, 128, 192, 256, 512, 1024) for d in (-1, 0, 1)})


def book(rows: int, dim: int, seed: int = 0) -> Runs:
    """Uncoded rows of integers, whose sums are exact."""
    stored = np.random.default_rng(seed).integers(-50, 50, (rows, dim)).astype(np.float32)
    return Runs(rows, [RowRun(0, 0, 0, 0)], np.zeros(0, np.uint8), stored)


def int8_book(rows: int, width: int, dim: int | None) -> Runs:
    rng = np.random.default_rng(width)
    stored = rng.integers(-128, 128, (rows, width)).astype(np.int8)
    axes = None if dim is None else rng.standard_normal((width + 1, dim))
    grid = rng.standard_normal((2, width)).astype(np.float32)
    return Runs(rows, [RowRun(0, 0, 0, 0)], np.zeros(0, np.uint8), stored, grid, axes)


def long_tiers(dim: int, shuffled: bool = False) -> Tiers:
    """Most rows are sums of stored rows; for the last ones coordinates are added one by one."""
    bound = 64
    while bound * dim * 4 <= 1 << 20:
        bound *= 4
    hot = ["3", "2j2", "1", "2", "4", "1", "2"][: (bound // 64).bit_length() // 2]
    return random_tiers(bound + 3000, [*hot, "6 5j2 4g - 6", "16 2 0"], dim, 1, shuffled)


SLOW: dict[str, Slow] = {
    "rows": book(400, 16),
    "any-dim": book(400, 7),
    "int8": int8_book(300, 16, None),
    "int8-axes": int8_book(300, 5, 12),
    "tiers": long_tiers(200),
    "tiers-vectors": long_tiers(64, shuffled=True),
}
every_table = pytest.mark.parametrize("slow", SLOW.values(), ids=SLOW.keys())


def some_ids(slow: Slow, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Random ids among a few hundred, for a fast reference; all tiers are equally likely."""
    rng = np.random.default_rng(seed)
    top = np.array([*slow.firsts[1:], slow.count]) if isinstance(slow, Tiers) else [slow.count]
    return rng.choice(np.concatenate([rng.integers(0, n, 60) for n in top]), count)


def offsets_of(*lengths: int) -> NDArray[np.int64]:
    return np.cumsum([0, *lengths[:-1]])


@every_table
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "lengths",
    [[0], [0, 0, 0], [3, 0, 4], [0, 5], [5, 0], [0, 0, 1, 0, 0, 2, 0, 0], [1000], [0, 1000, 0]],
    ids=str,
)
def test_empty_and_long_bags(slow: Slow, mode: str, lengths: list[int]) -> None:
    ask = Ask(slow, some_ids(slow, sum(lengths)), offsets_of(*lengths), mode=mode)
    check_bags(ask)
    rows = everywhere(ask)
    assert not rows[np.array(lengths) == 0].any()


@every_table
def test_no_bags(slow: Slow) -> None:
    nothing = np.zeros(0, np.int64)
    for dtype in (np.float32, np.float16, BFLOAT16):
        assert everywhere(Ask(slow, nothing, nothing), dtype).shape == (0, slow.dim)
        assert everywhere(Ask(slow, nothing), dtype).shape == (0, slow.dim)


@pytest.mark.parametrize("count", [n for n in BORDERS if n > 0])
def test_lengths_around_the_sizes_of_chunks(count: int) -> None:
    for name in ("rows", "any-dim", "tiers"):
        slow = SLOW[name]
        ids = some_ids(slow, count + 700, count)
        check_bags(Ask(slow, ids[:count], np.zeros(1, np.int64)))
        check_bags(Ask(slow, ids, offsets_of(count, 700)))
        check_bags(Ask(slow, ids[: count + 40], offsets_of(40, count)))
        found = everywhere(Ask(slow, ids[:count]))
        assert np.ascontiguousarray(found).tobytes() == decoded(slow, ids[:count]).tobytes()


@every_table
@pytest.mark.parametrize("longest", [3, 64, 130, 700])
def test_bags_across_chunk_borders(slow: Slow, longest: int) -> None:
    rng = np.random.default_rng(longest)
    ids = some_ids(slow, 1800, longest)
    for mode in MODES:
        check_bags(Ask(slow, ids, random_offsets(rng, len(ids), longest), mode=mode))
    weights = rng.standard_normal(len(ids)).astype(np.float32)
    check_bags(Ask(slow, ids, random_offsets(rng, len(ids), longest), weights))


@given(
    lengths=st.lists(st.integers(0, 9) | st.sampled_from(BORDERS[1:15]), min_size=1, max_size=12),
    seed=st.integers(0, 2**32 - 1),
    mode=st.sampled_from(MODES),
    weighted=st.booleans(),
    skips=st.booleans(),
    name=st.sampled_from(list(SLOW)),
)
@settings(max_examples=60)
def test_any_bags(
    lengths: list[int], seed: int, mode: str, weighted: bool, skips: bool, name: str
) -> None:
    slow, rng = SLOW[name], np.random.default_rng(seed)
    ids = some_ids(slow, sum(lengths))
    weights = None
    if weighted and mode == "sum":
        weights = rng.standard_normal(len(ids)).astype(np.float32)
    skipped = int(ids[len(ids) // 2]) if skips and len(ids) else -1
    check_bags(Ask(slow, ids, offsets_of(*lengths), weights, mode, skipped))


def test_sums_of_integers_are_exact() -> None:
    slow = SLOW["rows"]
    ids = some_ids(slow, 5000)
    offsets = random_offsets(np.random.default_rng(0), len(ids), 400)
    sums = everywhere(Ask(slow, ids, offsets))
    rows = np.cumsum(np.vstack([np.zeros(slow.dim), decoded(slow, ids)]), axis=0)
    assert np.array_equal(sums, rows[[*offsets[1:], len(ids)]] - rows[offsets])
    halves = np.full(len(ids), 0.5, np.float32)
    assert np.array_equal(everywhere(Ask(slow, ids, offsets, halves)), sums / 2)
    lengths = np.diff([*offsets, len(ids)])[:, None].astype(np.float32)
    means = sums / np.maximum(lengths, 1)
    assert np.array_equal(everywhere(Ask(slow, ids, offsets, mode="mean")), means)


def test_maximum_of_negative_numbers() -> None:
    slow = Runs(
        2, [RowRun(0, 0, 0, 0)], np.zeros(0, np.uint8), -np.array([[1, 5], [4, 2]], np.float32)
    )
    ask = Ask(slow, np.array([0, 1, 1]), offsets_of(2, 0, 1), mode="max")
    assert everywhere(ask).tolist() == [[-1, -2], [0, 0], [-4, -2]]


@every_table
@pytest.mark.parametrize("mode", MODES)
def test_skipped_ids_are_left_out_of_bags(slow: Slow, mode: str) -> None:
    ids = some_ids(slow, 600)
    ids[200:300] = ids[7]
    offsets = random_offsets(np.random.default_rng(1), len(ids), 30)
    check_bags(Ask(slow, ids, offsets, mode=mode, skipped=int(ids[7])))
    # Bags without ids are rows of zeros.
    found = everywhere(Ask(slow, ids, mode=mode, skipped=int(ids[7])))
    assert not found[ids == ids[7]].any()
    wanted, tolerance = Ask(slow, ids, mode=mode).expected
    others = ids != ids[7]
    assert (np.abs(found - wanted)[others] <= tolerance[others]).all()


@every_table
def test_weights_of_single_ids(slow: Slow) -> None:
    ids = some_ids(slow, 300)
    weights = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    check_bags(Ask(slow, ids, weights=weights))
    ones = np.ones(300, np.float32)
    plain = everywhere(Ask(slow, ids))
    assert everywhere(Ask(slow, ids, weights=ones)).tobytes() == plain.tobytes()


@every_table
def test_a_weight_of_two_equals_the_id_twice(slow: Slow) -> None:
    ids = some_ids(slow, 50)
    twice = everywhere(Ask(slow, np.repeat(ids, 2), np.arange(50) * 2))
    weighted = everywhere(Ask(slow, ids, np.arange(50), np.full(50, 2, np.float32)))
    np.testing.assert_allclose(twice, weighted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16], ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_fields_in_one_call_equal_separate_calls(dtype: np.dtype, threads: int) -> None:
    rng, count, bags = np.random.default_rng(0), 9000, 500
    asks = []
    for i, slow in enumerate(SLOW.values()):
        ids = some_ids(slow, count + 100 * i, i).astype(np.int32 if i % 2 else np.int64)
        offsets = np.sort(rng.integers(0, len(ids), bags))
        offsets[0] = 0
        weights = rng.standard_normal(len(ids)).astype(np.float32) if i % 3 == 0 else None
        skipped = int(ids[5]) if i == 1 else -1
        asks.append(Ask(slow, ids, offsets, weights, MODES[i % 3], skipped))
    for isa in HERE:
        failure, together = call(asks, dtype, threads, isa)
        assert failure[0] == 0
        for ask, rows in zip(asks, together, strict=True):
            assert np.array_equal(rows, pooled(ask, dtype, isa=isa))


def test_fields_of_single_ids_in_one_call() -> None:
    asks = [Ask(slow, some_ids(slow, 333, i)) for i, slow in enumerate(SLOW.values())]
    failure, together = call(asks)
    assert failure[0] == 0
    for ask, rows in zip(asks, together, strict=True):
        assert np.ascontiguousarray(rows).tobytes() == decoded(ask.slow, ask.ids).tobytes()


@every_table
@pytest.mark.parametrize("mode", MODES)
def test_bags_do_not_depend_on_the_ids_before_them(slow: Slow, mode: str) -> None:
    ids = some_ids(slow, 900)
    lengths = [300, 1, 140, 0, 129, 30, 300]
    weights = np.random.default_rng(0).standard_normal(900).astype(np.float32)
    for factors in (None, weights) if mode == "sum" else (None,):
        alone = everywhere(Ask(slow, ids, offsets_of(*lengths), factors, mode))
        for before in (1, 37, 64, 500):
            more = np.concatenate([ids[:before], ids])
            also = None if factors is None else np.concatenate([factors[:before], factors])
            after = everywhere(Ask(slow, more, offsets_of(before, *lengths), also, mode))
            assert after[1:].tobytes() == alone.tobytes()


def test_inputs_are_not_changed() -> None:
    slow = SLOW["tiers-vectors"]
    ids, offsets = some_ids(slow, 300), np.arange(0, 300, 3)
    weights = np.ones(300, np.float32)
    before = ids.copy(), offsets.copy(), weights.copy()
    pooled(Ask(slow, ids, offsets, weights))
    for array, old in zip((ids, offsets, weights), before, strict=True):
        assert np.array_equal(array, old)
