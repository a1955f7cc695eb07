"""Where rows are stored: bit-vectors against a dictionary, whole and laid together of pieces."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec.errors import ArtifactError
from saec.format.tier_index import TierVectors, vector_pieces
from saec.format.tier_layout import tier_bounds
from saec.streaming.bit_writes import lay


def shuffled_tiers(count: int, seed: int = 0) -> NDArray[np.int8]:
    """The tier of each id, ids in no order."""
    bounds = tier_bounds(count)
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


def located(vectors: TierVectors, ids: list[int]) -> list[tuple[int, int]]:
    tiers, places = vectors.locate(np.array(ids, dtype=np.int64))
    assert tiers.dtype == places.dtype == np.int64
    return list(zip(tiers.tolist(), places.tolist(), strict=True))


def test_300_ids_by_hand() -> None:
    # Ids 0, 3, 6, ..., 189 in tier 0; 256 to 299 in tier 2; the others in tier 1.
    tiers = np.ones(300, dtype=np.int8)
    tiers[:192:3] = 0
    tiers[256:] = 2
    vectors = TierVectors.of(tiers)
    assert located(vectors, [0, 1, 2, 3, 4]) == [(0, 0), (1, 0), (1, 1), (0, 1), (1, 2)]
    assert located(vectors, [189, 190, 191, 192, 255]) == [
        (0, 63),
        (1, 126),
        (1, 127),
        (1, 128),
        (1, 191),
    ]
    assert located(vectors, [256, 299, 189, 189]) == [(2, 0), (2, 43), (0, 63), (0, 63)]
    assert located(vectors, []) == []


def test_literal_bytes() -> None:
    # Tier 1 is the larger: its vector is over all 200 ids, in one block. Ids 8 to 143 are in it.
    tiers = np.zeros(200, dtype=np.int8)
    tiers[8:144] = 1
    data = TierVectors.of(tiers).data
    assert data.tobytes() == bytes(4) + b"\x00" + b"\xff" * 17 + bytes(64 - 18)
    # Of 1000 ids, tier 2 holds the first 744: 512 ones come before its second block.
    tiers = np.repeat(np.array([2, 0, 1], dtype=np.int8), [744, 64, 192])
    data = TierVectors.of(tiers).data
    assert len(data) == 3 * 68  # two blocks for tier 2, then one over 256 ids for tier 1
    assert data[:4].tobytes() == bytes(4)
    assert data[68:72].tobytes() == (512).to_bytes(4, "little")
    assert data[72 : 72 + 29].tobytes() == b"\xff" * 29
    assert data[136:].tobytes() == bytes(4 + 8) + b"\xff" * 24 + bytes(64 - 32)


@pytest.mark.parametrize("count", [1, 64, 65, 256, 257, 511, 512, 513, 1024, 1025, 1700, 5000])
def test_every_id_is_where_a_dictionary_has_it(count: int) -> None:
    tiers = shuffled_tiers(count)
    expected = dictionary(tiers)
    vectors = TierVectors.of(tiers)
    assert located(vectors, list(range(count))) == [expected[i] for i in range(count)]
    backwards = list(range(count - 1, -1, -1))
    assert located(vectors, backwards) == [expected[i] for i in backwards]
    assert vectors.data.shape == (TierVectors.planned_bytes(count),)


@given(count=st.integers(1, 3000), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_any_ids_of_any_count(count: int, seed: int, data: st.DataObject) -> None:
    tiers = shuffled_tiers(count, seed)
    expected = dictionary(tiers)
    ids = data.draw(st.lists(st.integers(0, count - 1), max_size=20))
    assert located(TierVectors.of(tiers), ids) == [expected[i] for i in ids]


def test_size() -> None:
    assert TierVectors.planned_bytes(64) == 0
    assert TierVectors.planned_bytes(65) == 68
    assert TierVectors.planned_bytes(512) == 68 + 68  # 256 ids in tier 2, then over 256 others
    # 1,000,000 ids; 262,144 before the last tier, and so on: 1954 + 512 + 128 + 32 + 8 + 2 + 1.
    assert TierVectors.planned_bytes(10**6) == 68 * 2637
    assert 8 * TierVectors.planned_bytes(10**6) / 10**6 == pytest.approx(1.4345, abs=1e-3)


def test_data_of_another_length_or_dtype() -> None:
    with pytest.raises(ArtifactError, match=r"of 65 ids take 68 bytes, not uint8 \(67,\)"):
        TierVectors(np.zeros(67, np.uint8), 65)
    with pytest.raises(ArtifactError, match=r"take 68 bytes, not uint8 \(68, 1\)"):
        TierVectors(np.zeros((68, 1), np.uint8), 65)
    with pytest.raises(ArtifactError, match="take 68 bytes, not int8"):
        TierVectors(np.zeros(68, np.int8), 65)
    with pytest.raises(ArtifactError, match="take 0 bytes"):
        TierVectors(np.zeros(68, np.uint8), 64)


def lying(fill: int, count: int = 1000) -> TierVectors:
    return TierVectors(np.full(TierVectors.planned_bytes(count), fill, np.uint8), count)


@pytest.mark.parametrize("fill", [0, 1, 0x55, 0x80, 0xFF])
def test_vectors_that_contradict_themselves(fill: int) -> None:
    with pytest.raises(ArtifactError, match="tier vectors contradict themselves"):
        lying(fill).locate(np.arange(1000))


def test_messages_about_vectors_that_lie() -> None:
    with pytest.raises(ArtifactError, match="they give places from 0 to 999 among 256 rows"):
        lying(0).locate(np.arange(1000))  # no id in the largest tier: all would be in the others
    with pytest.raises(ArtifactError, match="from 4294967295 to 4294967295 among 744 rows"):
        lying(0xFF).locate(np.array([0]))
    # 2**32 - 2 ones before id 0, which is not in the tier: its place would be negative.
    data = np.zeros(TierVectors.planned_bytes(1000), np.uint8)
    data[:4] = 0xFF
    with pytest.raises(ArtifactError, match="they give places from -4294967295 to -4294967295"):
        TierVectors(data, 1000).locate(np.array([0]))


@given(seed=st.integers(0, 2**32 - 1), damaged=st.integers(1, 60))
def test_damaged_vectors_give_places_in_range_or_an_error(seed: int, damaged: int) -> None:
    rng = np.random.default_rng(seed)
    data = TierVectors.of(shuffled_tiers(1700, seed)).data.copy()
    data[rng.integers(len(data), size=damaged)] = rng.integers(256, size=damaged)
    sizes = np.diff(tier_bounds(1700))
    for ids in (np.arange(1700), rng.integers(1700, size=3)):
        try:
            tiers, places = TierVectors(data, 1700).locate(ids)
        except ArtifactError:
            continue
        assert np.all((places >= 0) & (places < sizes[tiers]))


def laid(tiers: NDArray[np.int8], cuts: list[int]) -> NDArray[np.uint8]:
    """The vectors that parts between ``cuts`` contribute to, of all ``tiers``."""
    count = len(tiers)
    data = np.zeros(TierVectors.planned_bytes(count), np.uint8)
    bounds = [0, *sorted(cuts), count]
    for start, stop in pairwise(bounds):
        passed = np.bincount(tiers[:start], minlength=len(tier_bounds(count)) - 1)
        pieces = list(vector_pieces("x", tiers[start:stop], passed, start, count))
        assert all(np.all(np.diff(piece.places) >= 0) for piece in pieces)
        lay(pieces, {"x": data})
    return data


def test_pieces_by_hand() -> None:
    # Tier 1 is the larger of 200 ids: ids 8 to 143. Bits stand behind the four bytes of the count.
    tiers = np.zeros(200, dtype=np.int8)
    tiers[8:144] = 1
    ones, heads = vector_pieces("x", tiers[8:12], np.array([8, 0]), 8, 200)
    assert (ones.role, ones.places.tolist(), ones.words.tolist()) == ("x", [5] * 4, [1, 2, 4, 8])
    assert heads.places.tolist() == [], "another part has the block's first id"
    # Of 1000 ids, tier 2 holds the first 744, and 600 before this part: 512 before the block of
    # id 512 are told by another part, and 1000 is beyond the last block.
    tiers = np.repeat(np.array([2, 0, 1], dtype=np.int8), [744, 64, 192])
    pieces = list(vector_pieces("x", tiers[510:514], np.array([0, 0, 510]), 510, 1000))
    assert pieces[0].places.tolist() == [4 + 63, 4 + 63, 68 + 4, 68 + 4]
    assert pieces[0].words.tolist() == [64, 128, 1, 2]
    assert pieces[1].places.tolist() == [68]
    assert pieces[1].words.tolist() == [512]
    assert pieces[1].words.dtype == np.uint32
    assert not any(len(piece.places) for piece in pieces[2:])


@pytest.mark.parametrize("count", [1, 64, 65, 300, 511, 512, 513, 1024, 1025, 1700, 5000])
@pytest.mark.parametrize("cuts", [[], [1], [7, 8, 9, 300], [512], [511, 513, 1024]])
def test_pieces_lay_the_vectors(count: int, cuts: list[int]) -> None:
    tiers = shuffled_tiers(count)
    cuts = [cut for cut in cuts if cut < count]
    assert np.array_equal(laid(tiers, cuts), TierVectors.of(tiers).data)


@given(count=st.integers(1, 3000), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_pieces_of_any_parts_lay_the_vectors(count: int, seed: int, data: st.DataObject) -> None:
    tiers = shuffled_tiers(count, seed)
    cuts = data.draw(st.lists(st.integers(0, count), max_size=8))
    assert np.array_equal(laid(tiers, cuts), TierVectors.of(tiers).data)
