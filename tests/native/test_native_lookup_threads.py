"""Lookups by several threads give the same bits as by one. Also run under a thread sanitizer.

A thread is started for every 8,192 ids at most, so there are more here.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from lookup_reference import (
    BFLOAT16,
    HERE,
    IDS_PER_THREAD,
    Ask,
    Runs,
    Slow,
    call,
    check_rows,
    decoded,
    pooled,
    random_offsets,
    random_tiers,
)

from saec.format.native_lookup import RowRun

COUNT = 6 * IDS_PER_THREAD + 129


def coded(dtype: str) -> Runs:
    rng = np.random.default_rng(0)
    stored = rng.integers(-128, 128, (1024, 16)).astype(dtype)
    grid = rng.standard_normal((2, 16)).astype(np.float32) if dtype == "int8" else None
    codes = rng.integers(0, 256, 10 * 400 + 7, dtype=np.uint8)
    return Runs(3200, [RowRun(0, 10, 0, 0)], codes, stored, grid)


# Rows of the last tier but one are sums of stored rows, those of the last sums of coordinates.
LAYOUT = ["3", "2", "2j2", "1", "6 5 4 6", "16 3"]
SLOW: dict[str, Slow] = {
    "codes": coded("float32"),
    "int8": coded("int8"),
    "tiers": random_tiers(17_000, LAYOUT, 64, 1),
    "kept": random_tiers(17_000, LAYOUT, 64, 1, shuffled=True),
}
every_table = pytest.mark.parametrize("slow", SLOW.values(), ids=SLOW.keys())
every_isa = pytest.mark.parametrize("isa", HERE)
many_threads = pytest.mark.parametrize("threads", [2, 3, 7])


def asked(slow: Slow, longest: int, mode: str = "sum", weighted: bool = False) -> Ask:
    rng = np.random.default_rng(longest)
    ids = rng.integers(0, slow.count, COUNT)
    weights = rng.standard_normal(COUNT).astype(np.float32) if weighted else None
    offsets = random_offsets(rng, COUNT, longest) if longest else None
    return Ask(slow, ids, offsets, weights, mode)


@every_table
@every_isa
def test_bags(slow: Slow, isa: str) -> None:
    for ask in (asked(slow, 5), asked(slow, 90, "mean"), asked(slow, 40, weighted=True)):
        for dtype in (np.float32, BFLOAT16):
            one = pooled(ask, dtype, threads=1, isa=isa)
            for threads in (2, 3, 7):
                many = pooled(ask, dtype, threads, isa)
                assert many.tobytes() == one.tobytes()


@every_table
@many_threads
def test_single_ids(slow: Slow, threads: int) -> None:
    rng = np.random.default_rng(1)
    ids = rng.choice(rng.integers(0, slow.count, 300), COUNT)
    found = pooled(Ask(slow, ids), threads=threads)
    assert np.ascontiguousarray(found).tobytes() == decoded(slow, ids).tobytes()


@many_threads
@pytest.mark.parametrize(
    "sizes",
    [[COUNT], [COUNT, 0, 0], [0, 0, COUNT], [0, COUNT, 0], [1, COUNT - 1], [COUNT - 1, 1]],
    ids=str,
)
def test_one_bag_with_nearly_all_ids(sizes: list[int], threads: int) -> None:
    # Its thread does all the work; others have nothing, or the empty bags next to it.
    ids = np.random.default_rng(0).integers(0, 3200, COUNT)
    ask = Ask(SLOW["codes"], ids, np.cumsum([0, *sizes[:-1]]))
    one = pooled(ask, threads=1)
    assert pooled(ask, threads=threads).tobytes() == one.tobytes()
    assert not one[np.array(sizes) == 0].any()


@every_isa
@many_threads
def test_fields(isa: str, threads: int) -> None:
    rng = np.random.default_rng(0)
    asks = []
    for i, slow in enumerate((*SLOW.values(), *SLOW.values())):
        ids = rng.integers(0, slow.count, [1, 30_000, 50, 9_000, 0, 3, 20_000, 100][i])
        offsets = np.sort(rng.integers(0, len(ids), 1000)) if len(ids) else np.zeros(1000, np.int64)
        offsets[0] = 0
        asks.append(Ask(slow, ids, offsets))
    _, one = call(asks, threads=1, isa=isa)
    failure, many = call(asks, threads=threads, isa=isa)
    assert failure[0] == 0
    for a, b in zip(one, many, strict=True):
        assert np.array_equal(a, b)


@many_threads
@pytest.mark.parametrize("part", [0, 1, 5])
def test_failures_name_the_first_position(part: int, threads: int) -> None:
    ask = asked(SLOW["codes"], 20)
    bad = part * IDS_PER_THREAD + 77
    ask.ids[bad] = -1
    ask.ids[bad + 1 :: 3000] = 3200
    for isa in HERE:
        failure, _ = call([ask], threads=threads, isa=isa)
        assert failure == (1, 0, bad)


def test_more_threads_than_needed() -> None:
    ids = np.arange(100)
    for slow in SLOW.values():
        check_rows(slow, ids)
        one = pooled(Ask(slow, ids), threads=1)
        assert pooled(Ask(slow, ids), threads=64).tobytes() == one.tobytes()


def test_concurrent_calls_with_one_table() -> None:
    ask = asked(SLOW["kept"], 20)
    one = pooled(ask, threads=1)
    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(lambda _: pooled(ask, threads=3), range(8)))
    assert all(rows.tobytes() == one.tobytes() for rows in found)
