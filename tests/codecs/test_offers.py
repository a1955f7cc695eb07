"""Candidates of a tier: bits and nats by hand, and compared with coding."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from numpy.typing import NDArray

import saec
from saec.bits.elias_fano import starts_bytes
from saec.codecs.axes.candidates import (
    TierRows,
    _count_different,
    measure_tier,
    sampled_shares,
)
from saec.codecs.axes.quantizer import Coder, ColumnOffers, Offer, TierOffers


def measured(
    coordinates: NDArray[np.float32],
    nats: list[float],
    shares: NDArray[np.float64] | None = None,
    count: int | None = None,
) -> TierOffers:
    rows = np.asarray(coordinates, np.float32)
    if shares is None:
        shares = np.full(len(rows), 1 / len(rows))
    tier = TierRows(rows, shares, len(rows) if count is None else count)
    return measure_tier(tier, np.array(nats), np.random.default_rng(0))


def coder_of(offer: Offer) -> Coder:
    [coder] = offer.coders
    return coder


def texts(offers: tuple[Offer, ...]) -> list[str]:
    return [str(coder_of(offer).part) for offer in offers]


FOUR = np.array([[0], [1], [4], [5]], np.float32)
GRIDS = [f"{bits}g" for bits in range(3, 13)]


def test_four_rows_by_hand() -> None:
    found = measured(FOUR, [2.0])
    assert found.joint == {}
    [offers] = found.scalar
    assert texts(offers) == ["-", "0", "1", "2", *GRIDS]
    nothing, mean, one, two, grid, *_ = offers
    # 2 nats x (0 + 1 + 16 + 25) / 4; about the mean 2.5; about 0.5 and 4.5; exactly.
    assert (nothing.bits, nothing.nats) == (0, 21)
    assert (mean.bits, mean.nats) == (16, 8.5)
    assert coder_of(mean).values.tolist() == [2.5]
    assert (one.bits, one.nats) == (2 * 16 + 4, 0.5)
    assert coder_of(one).values.tolist() == [0.5, 4.5]
    assert (two.bits, two.nats) == (4 * 16 + 8, 0)
    assert coder_of(two).values.tolist() == [0, 1, 4, 5]
    # Steps of 5/7: 1 and 4 are 2/7 away from 5/7 and 30/7.
    assert grid.bits == 2 * 16 + 4 * 3
    assert grid.nats == pytest.approx(2 * 2 * (2 / 7) ** 2 / 4, rel=0.01)
    assert coder_of(grid).values == pytest.approx([0, 5 / 7], rel=1e-3)


def test_shares_by_hand() -> None:
    [offers] = measured(FOUR, [1.0], np.array([0.4, 0.1, 0.0, 0.1])).scalar
    nothing, mean, one, *_ = offers
    assert nothing.nats == pytest.approx(0.1 + 0.1 * 25)
    assert coder_of(mean).values == pytest.approx([1], rel=1e-3)  # 0.6 / 0.6
    assert mean.nats == pytest.approx(0.4 + 0.1 * 16)
    # 0 and 1 about 0.2; 5, and 4 that never occurs.
    assert coder_of(one).values == pytest.approx([0.2, 5], rel=1e-3)
    assert one.nats == pytest.approx(0.4 * 0.04 + 0.1 * 0.64, rel=1e-3)


def test_grids_span_the_frequent_rows() -> None:
    # 64 rows from 0 to 7, and one at 700 that has a millionth of the occurrences.
    rows = np.append(np.arange(64) % 8, 700).astype(np.float32)[:, None]
    shares = np.append(np.full(64, 1 / 64), 1e-6)
    [offers] = measured(rows, [1.0], shares / shares.sum()).scalar
    three = next(offer for offer in offers if str(coder_of(offer).part) == "3g")
    assert coder_of(three).values[1] < 4  # a step of 100 would span all rows
    assert three.nats == pytest.approx(
        coded_nats(three, 0, rows, shares / shares.sum(), [1.0]), rel=1e-4
    )


def test_shares_and_bits_of_a_sampled_tier() -> None:
    shares = np.array([0.1, 0.2, 0.3, 0.2])
    chosen = np.array([1, 3])
    assert sampled_shares(shares, chosen) == pytest.approx([0.4, 0.4])
    assert sampled_shares(np.zeros(4), chosen).tolist() == [0, 0]
    [offers] = measured(FOUR, [2.0], count=1000).scalar
    assert [offer.bits for offer in offers[:4]] == [0, 16, 32 + 1000, 64 + 2000]
    assert offers[2].nats == 0.5
    assert {"5", "8g"} <= set(texts(offers))
    assert "6" not in texts(offers)  # its 64 values would take one bit per row
    [offers] = measured(FOUR, [2.0], count=10_000).scalar
    assert not set(texts(offers)) & set(GRIDS)


def corners() -> NDArray[np.float32]:
    """Ten rows around each of (+-1, +-1), shifted by 1/64 to the left or the right."""
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    shift = np.where(np.arange(40) % 2, 1 / 64, -1 / 64)[:, None] * [1, 0]
    return (np.repeat(signs, 10, axis=0) + shift).astype(np.float32)


def test_a_joint_candidate_by_hand() -> None:
    found = measured(corners(), [3.0, 2.0])
    assert list(found.joint) == [2]
    [offer] = found.joint[2]  # 16 clusters would be more than the 8 different rows
    assert str(coder_of(offer).part) == "2j2"
    assert offer.bits == 4 * 2 * 16 + 40 * 2
    assert offer.nats == pytest.approx(3 / 64**2, rel=1e-5)
    table = coder_of(offer).values.reshape(4, 2).tolist()
    assert sorted(table) == [[-1, -1], [-1, 1], [1, -1], [1, 1]]


def test_rows_differ_by_more_than_rounding_and_signs_of_zero() -> None:
    rows = [[0, 0], [-0.0, 0], [1, 2], [2, 1], [1, 2.0001], [1e9, 1], [1e8, 1], [-1, 2]]
    assert _count_different(np.array(rows, np.float32)) == 5
    assert _count_different(np.array(rows, np.float32)[:, :1]) == 5


def test_tables_without_joint_candidates() -> None:
    assert measured(corners(), [3.0, 0.01]).joint == {}  # the second axis has hardly any weight
    assert measured(corners()[:31], [3.0, 2.0]).joint == {2: ()}  # 8 rows per cluster at least
    assert measured(corners()[:, :1], [3.0]).joint == {}
    assert measured(corners(), [3.0, 2.0], np.zeros(40)).joint == {}


def test_a_tier_that_never_occurs_gets_no_bits() -> None:
    found = measured(corners(), [3.0, 2.0], np.zeros(40))
    assert [texts(offers) for offers in found.scalar] == [["-"], ["-"]]


def test_no_axes() -> None:
    found = measured(np.empty((40, 0), np.float32), [])
    assert (found.scalar, found.joint) == ((), {})


def test_rows_beyond_float16() -> None:
    # A very rare row may be a million standard deviations away.
    rows = np.array([[-1e6], [0], [1], [2]], np.float32)
    for share in (0.0, 1e-12):
        [offers] = measured(rows, [1.0], np.array([share, 0.3, 0.3, 0.4])).scalar
        for offer in offers:
            assert np.isfinite(coder_of(offer).values).all()
            assert np.isfinite(offer.nats)
        grid = next(offer for offer in offers if coder_of(offer).part.kind == "grid")
        # No float16 grid spans the whole range, but one spans a part of it.
        assert coder_of(grid).values[0] == (0 if share == 0 else pytest.approx(-6e4, rel=0.1))


def ordered(found: TierOffers) -> dict[str, Offer]:
    """Candidates with rows sorted by code, by their parts."""
    return {
        text: offer
        for offers in (*found.scalar[:1], *found.joint.values())
        for offer in offers
        if "o" in (text := " ".join(str(coder.part) for coder in offer.coders))
    }


def test_candidates_sorted_by_code_by_hand() -> None:
    rows = TierRows(FOUR, np.full(4, 1 / 4), 4)
    found = ordered(measure_tier(rows, np.array([2.0]), np.random.default_rng(0), ordered=True))
    assert list(found) == ["o1", "o2", "o3g"]  # at most two codes per row: three bits for four rows
    # Two values and one start: two low bits, and 1 + 1 more, of four rows.
    assert (found["o1"].bits, found["o1"].nats) == (2 * 16 + 8 * (1 + 1), 0.5)
    assert (found["o2"].bits, found["o2"].nats) == (4 * 16 + 8 * 1, 0)
    assert found["o3g"].bits == 2 * 16 + 8 * 2  # 7 + 4 bits of seven starts
    assert found["o3g"].nats == pytest.approx(2 * 2 * (2 / 7) ** 2 / 4, rel=0.01)


def test_candidates_sorted_by_several_codes() -> None:
    rows = TierRows(corners(), np.full(40, 1 / 40), 40)
    found = measure_tier(rows, np.array([3.0, 2.0]), np.random.default_rng(0), ordered=True)
    offers = ordered(found)
    # Two bits of clusters, or one of each axis: the same four corners.
    assert offers["o2j2"].bits == 4 * 2 * 16 + 8 * starts_bytes(3, 40)
    assert offers["o1 o1"].bits == 2 * 2 * 16 + 8 * starts_bytes(3, 40)
    for text in ("o2j2", "o1 o1"):
        assert offers[text].nats == pytest.approx(3 / 64**2, rel=1e-5)
    assert max(sum(coder.part.bits for coder in offer.coders) for offer in offers.values()) == 6
    plain = measured(corners(), [3.0, 2.0])
    kept = [o for o in found.joint[2] if str(o.coders[0].part) == "2j2"]
    assert [offer.bits for offer in kept] == [offer.bits for offer in plain.joint[2]]


def coded_nats(
    offer: Offer, first: int, rows: NDArray[np.float32], shares: NDArray[np.float64], nats: list
) -> float:
    """The loss in nats, by coding and decoding every row."""
    span = slice(first, first + coder_of(offer).part.axes)
    part = rows[:, span]
    scale = np.sqrt(np.array(nats[span]) / nats[first])
    error = coder_of(offer).decode(coder_of(offer).assign(part, scale)) - part.astype(np.float64)
    return float(shares @ np.square(error) @ nats[span])


def test_nats_equal_the_loss_of_coded_rows(rng: np.random.Generator) -> None:
    rows = (rng.standard_t(4, (600, 5))).astype(np.float32)
    shares = rng.permutation(1 / np.arange(1, 601))
    shares /= 2 * shares.sum()
    nats = [5.0, 2.0, 1.0, 0.5, 0.3]
    found = measured(rows, nats, shares)
    assert list(found.joint) == [2, 3, 4]
    checked = 0
    for axis, offers in enumerate(found.scalar):
        for offer in offers:
            expected = coded_nats(offer, axis, rows, shares, nats)
            assert offer.nats == pytest.approx(expected, rel=1e-4, abs=1e-9)
            checked += 1
        tables = [offer for offer in offers if coder_of(offer).part.kind == "table"]
        left = [offer.nats for offer in tables]
        assert left == sorted(left, reverse=True)
    for axes, joint in found.joint.items():
        assert [coder_of(offer).part.axes for offer in joint] == [axes] * len(joint)
        assert [coder_of(offer).part.bits for offer in joint] == [2, 3, 4, 5, 6]
        for offer in joint:
            expected = coded_nats(offer, 0, rows, shares, nats)
            assert offer.nats == pytest.approx(expected, rel=1e-3)
            checked += 1
    assert checked == 5 * (1 + 1 + 5 + 10) + 3 * 5


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_scaled_nats_give_the_same_clusters(scale: float) -> None:
    plain, scaled = measured(corners(), [3.0, 2.0]), measured(corners(), [3 * scale, 2 * scale])
    assert scaled.joint[2][0].nats == pytest.approx(plain.joint[2][0].nats * scale)
    values = [coder_of(found.joint[2][0]).values for found in (plain, scaled)]
    assert np.array_equal(*values)


def test_rows_that_differ_only_by_rounding_are_not_clustered(
    caplog: pytest.LogCaptureFixture, rng: np.random.Generator
) -> None:
    caplog.set_level(logging.DEBUG)
    places = rng.standard_normal((10, 3))[rng.integers(10, size=2000)]
    noise = 1e-7 * rng.standard_normal((2000, 3))
    found = measured((places + noise).astype(np.float32), [1.0, 0.9, 0.8])
    assert {axes: texts(joint) for axes, joint in found.joint.items()} == {2: ["2j2"], 3: ["2j3"]}
    assert not caplog.records


def test_wide_tables_make_the_coders_of_the_chosen_option_only(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are hundreds of options, and 64 axes in each tier of every one of them."""
    made = []
    coder = ColumnOffers._coder
    monkeypatch.setattr(
        ColumnOffers, "_coder", lambda self, number: made.append(1) or coder(self, number)
    )
    rows = rng.standard_normal((300, 64), dtype=np.float32)
    field = saec.Field("user", rows, np.arange(300, 0, -1))
    saec.compress([field], saec.Ratio(8), saec.Axes(), progress=False)
    tiers = 3
    assert 0 < len(made) <= 2 * tiers * 64
