"""The tier index against a dictionary, made at once and joined from pieces."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec.errors import ArtifactError
from saec.format.tier_index import TierIndex, index_pieces, levels_of
from saec.format.tier_layout import tier_bounds
from saec.streaming.bit_writes import lay


def shuffled_tiers(count: int, seed: int = 0, most: int | None = None) -> NDArray[np.int8]:
    """The tier of each id, in random order."""
    bounds = tier_bounds(count, most)
    tiers = np.repeat(np.arange(len(bounds) - 1, dtype=np.int8), np.diff(bounds))
    return np.random.default_rng(seed).permutation(tiers)


def dictionary(tiers: NDArray[np.int8]) -> dict[int, tuple[int, int]]:
    """Tier and place of each id, by counting."""
    held: dict[int, int] = {}
    result = {}
    for number, tier in enumerate(tiers.tolist()):
        result[number] = (tier, held.get(tier, 0))
        held[tier] = held.get(tier, 0) + 1
    return result


def located(index: TierIndex, ids: list[int]) -> list[tuple[int, int]]:
    tiers, places = index.locate(np.array(ids, dtype=np.int64))
    assert tiers.dtype == places.dtype == np.int64
    return list(zip(tiers.tolist(), places.tolist(), strict=True))


def test_300_ids_by_hand() -> None:
    # Ids 0, 3, 6, ..., 189 in tier 0; 256 to 299 in tier 2; the others in tier 1.
    tiers = np.ones(300, dtype=np.int8)
    tiers[:192:3] = 0
    tiers[256:] = 2
    index = TierIndex.of(tiers)
    assert located(index, [0, 1, 2, 3, 4]) == [(0, 0), (1, 0), (1, 1), (0, 1), (1, 2)]
    assert located(index, [189, 190, 191, 192, 255]) == [
        (0, 63),
        (1, 126),
        (1, 127),
        (1, 128),
        (1, 191),
    ]
    assert located(index, [256, 299, 189, 189]) == [(2, 0), (2, 43), (0, 63), (0, 63)]
    assert located(index, []) == []


def test_literal_bytes_of_bits() -> None:
    # Of 300 ids the first level marks 256, in two blocks: 232 of the first 256 ids, 24 of the
    # others. The second level marks 64 of these 256.
    tiers = np.repeat(np.array([2, 0, 1, 2], dtype=np.int8), [24, 64, 192, 20])
    data = TierIndex.of(tiers).data.tobytes()
    first = bytes(8) + bytes([0, 0, 232, 0, 0, 1])  # the base; 0, 232 and 256 members
    first += bytes(3) + b"\xff" * 29 + b"\xff" * 3 + bytes(29)
    second = bytes(8) + bytes([0, 0, 64, 0]) + b"\xff" * 8 + bytes(24)
    assert data == first + second + bytes(31)


def test_literal_bytes_of_lists() -> None:
    # 64 of 600 ids are listed: 2 in the first block, 62 in the third.
    tiers = np.ones(600, dtype=np.int8)
    tiers[[7, 255, *range(512, 574)]] = 0
    data = TierIndex.of(tiers, 2).data.tobytes()
    counts = bytes([0, 0, 2, 0, 2, 0, 64, 0])
    assert data == bytes(8) + counts + bytes([7, 255, *range(62)]) + bytes(31)


def test_counts_hold_the_lowest_bits_and_bases_the_rest() -> None:
    # All of the first 262,144 ids are members; each 256 blocks have 65,536 ids.
    data = TierIndex.of(np.sort(shuffled_tiers(300_000))).data
    assert data[: 5 * 8].view("<u8").tolist() == [0, 65_536, 131_072, 196_608, 262_144]
    level = levels_of(300_000, 8)[0]
    counts = data[level.counts_at : level.leaves_at].view("<u2")
    assert len(counts) == 1172 + 1
    assert counts[[0, 1, 255, 256, 1024, 1172]].tolist() == [0, 256, 65_280, 0, 0, 0]


@pytest.mark.parametrize("most", [None, 2, 3])
@pytest.mark.parametrize("count", [1, 64, 65, 256, 257, 511, 512, 513, 1024, 1025, 1700, 5000])
def test_every_id_is_where_a_dictionary_has_it(count: int, most: int | None) -> None:
    tiers = shuffled_tiers(count, most=most)
    expected = dictionary(tiers)
    index = TierIndex.of(tiers, int(tiers.max()) + 1)
    assert located(index, list(range(count))) == [expected[i] for i in range(count)]
    assert np.array_equal(index.tiers_of_ids(), tiers)
    backwards = list(range(count - 1, -1, -1))
    assert located(index, backwards) == [expected[i] for i in backwards]
    assert index.data.shape == (TierIndex.planned_bytes(count, int(tiers.max()) + 1),)


@given(
    count=st.integers(1, 3000),
    most=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_any_ids_of_any_count(count: int, most: int, seed: int, data: st.DataObject) -> None:
    tiers = shuffled_tiers(count, seed, most)
    expected = dictionary(tiers)
    ids = data.draw(st.lists(st.integers(0, count - 1), max_size=20))
    index = TierIndex.of(tiers, int(tiers.max()) + 1)
    assert located(index, ids) == [expected[i] for i in ids]


def test_size() -> None:
    assert TierIndex.planned_bytes(64, 1) == TierIndex.planned_bytes(10**6, 1) == 0
    assert TierIndex.planned_bytes(65, 2) == 8 + 4 + 32 + 31
    assert TierIndex.planned_bytes(512, 3) == 8 + 6 + 64 + 8 + 4 + 32 + 31
    # 3907 blocks of 1,000,000 ids, of which 65,536 are listed; then 65,536, 16,384, ... in bits.
    first = 16 * 8 + 3908 * 2 + 65_536
    assert levels_of(10**6, 7)[0].stop == first
    later = [blocks * 34 + 2 + -(-(blocks + 1) // 256) * 8 for blocks in (256, 64, 16, 4, 1)]
    assert TierIndex.planned_bytes(10**6, 7) == first + sum(later) + 31
    assert 8 * TierIndex.planned_bytes(10**6, 7) / 10**6 == pytest.approx(0.681, abs=1e-3)


def test_data_of_another_length_or_dtype() -> None:
    with pytest.raises(ArtifactError, match=r"65 ids in 2 tiers takes 75 bytes, not uint8 \(74,\)"):
        TierIndex(np.zeros(74, np.uint8), 65, 2)
    with pytest.raises(ArtifactError, match=r"takes 75 bytes, not uint8 \(75, 1\)"):
        TierIndex(np.zeros((75, 1), np.uint8), 65, 2)
    with pytest.raises(ArtifactError, match="takes 75 bytes, not int8"):
        TierIndex(np.zeros(75, np.int8), 65, 2)
    with pytest.raises(ArtifactError, match="takes 0 bytes"):
        TierIndex(np.zeros(75, np.uint8), 64, 1)


SOUND = {
    "bits": TierIndex.of(shuffled_tiers(1000)),
    "lists": TierIndex.of(shuffled_tiers(600, most=2), 2),
}


@pytest.mark.parametrize("fill", [0, 1, 0x55, 0x80, 0xFF])
@pytest.mark.parametrize("kind", SOUND)
def test_an_index_of_equal_bytes_is_refused(kind: str, fill: int) -> None:
    index = SOUND[kind]
    lying = TierIndex(np.full_like(index.data, fill), index.count, index.tiers)
    with pytest.raises(ArtifactError, match="the tier index contradicts itself about tier"):
        lying.locate(np.arange(index.count))


@pytest.mark.parametrize(
    ("kind", "byte", "value"),
    [
        ("lists", 0, 1),  # the base
        ("lists", 8, 1),  # members before the first block
        ("lists", 14, 65),  # members in all
        ("lists", 16, 255),  # a list descends
        ("lists", 16 + 63, 88),  # beyond the last id, 599 = 512 + 87
        ("lists", 16 + 64, 1),  # the end
        ("bits", 8 + 10, 0),  # a block has other ones than its count says
        ("bits", 8 + 10 + 127, 255),  # ones beyond the last id
    ],
)
def test_a_wrong_byte_is_found(kind: str, byte: int, value: int) -> None:
    index = SOUND[kind]
    data = index.data.copy()
    assert data[byte] != value
    data[byte] = value
    with pytest.raises(ArtifactError, match="the tier index"):
        TierIndex(data, index.count, index.tiers).check()


@given(seed=st.integers(0, 2**32 - 1), damaged=st.integers(1, 9), most=st.integers(2, 4))
def test_a_damaged_index_is_refused_or_gives_places_in_range(
    seed: int, damaged: int, most: int
) -> None:
    rng = np.random.default_rng(seed)
    data = TierIndex.of(shuffled_tiers(1700, seed, most), most).data.copy()
    data[rng.integers(len(data), size=damaged)] = rng.integers(256, size=damaged)
    sizes = np.diff(tier_bounds(1700, most))
    try:
        tiers, places = TierIndex(data, 1700, most).locate(np.arange(1700))
    except ArtifactError:
        return
    assert np.array_equal(np.bincount(tiers, minlength=most), sizes)
    for tier, size in enumerate(sizes.tolist()):
        assert np.array_equal(places[tiers == tier], np.arange(size))


def laid(tiers: NDArray[np.int8], number: int, cuts: list[int]) -> NDArray[np.uint8]:
    """The index of all ``tiers``, joined from the pieces of the parts between ``cuts``."""
    count = len(tiers)
    data = np.zeros(TierIndex.planned_bytes(count, number), np.uint8)
    bounds = [0, *sorted(cuts), count]
    for start, stop in pairwise(bounds):
        passed = np.bincount(tiers[:start], minlength=number)
        lay(index_pieces("x", tiers[start:stop], passed, count), {"x": data})
    return data


@pytest.mark.parametrize("count", [1, 64, 65, 300, 511, 512, 513, 1024, 1025, 1700, 5000, 70_000])
@pytest.mark.parametrize("cuts", [[], [1], [7, 8, 9, 300], [512], [511, 513, 1024], [65_536]])
def test_pieces_make_up_the_index(count: int, cuts: list[int]) -> None:
    cuts = [cut for cut in cuts if cut < count]
    for most in (None, 2, 3):
        tiers = shuffled_tiers(count, most=most)
        number = int(tiers.max()) + 1
        assert np.array_equal(laid(tiers, number, cuts), TierIndex.of(tiers, number).data)


@given(
    count=st.integers(1, 3000),
    most=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_pieces_of_any_parts_make_up_the_index(
    count: int, most: int, seed: int, data: st.DataObject
) -> None:
    tiers = shuffled_tiers(count, seed, most)
    number = int(tiers.max()) + 1
    cuts = data.draw(st.lists(st.integers(0, count), max_size=8))
    assert np.array_equal(laid(tiers, number, cuts), TierIndex.of(tiers, number).data)
