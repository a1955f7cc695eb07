"""The sweep over prices, compared with all combinations of candidates."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np
import pytest

from saec.codecs.axes.lagrangian import Layered, sweep
from saec.codecs.axes.quantizer import Coder, Offer, TierOffers
from saec.format.code_part import CodePart

Point = tuple[float, float]


def coder(part: CodePart) -> Coder:
    return Coder(part, np.zeros(part.values, np.float16))


def tier(scalar: list[list[Point]], joint: dict[int, list[Point]] | None = None) -> TierOffers:
    """A tier with candidates of (bits, nats); the first of each axis has no bits."""
    alone = [
        tuple(
            Offer(
                int(bits), nats, (Coder.none() if place == 0 else coder(CodePart("table", place)),)
            )
            for place, (bits, nats) in enumerate(points)
        )
        for points in scalar
    ]
    together = {
        axes: tuple(
            Offer(int(bits), nats, (coder(CodePart("table", place, axes)),))
            for place, (bits, nats) in enumerate(points, 2)
        )
        for axes, points in (joint or {}).items()
    }
    return TierOffers(tuple(alone), together)


def ways(one: TierOffers, axes: int) -> Iterator[Point]:
    """Bits and nats of all ways to code the first ``axes`` axes of a tier."""
    unused = sum(offers[0].nats for offers in one.scalar[axes:])
    choices = [one.scalar[:axes]]
    for together, offers in one.joint.items():
        if together <= axes:
            choices.append((offers, *one.scalar[together:axes]))
    for groups in choices:
        for chosen in product(*groups):
            yield sum(o.bits for o in chosen), sum(o.nats for o in chosen) + unused


def all_points(tiers: list[TierOffers], axis_bits: int, rest: float) -> list[Point]:
    return [
        (axes * axis_bits + sum(bits for bits, _ in chosen), rest + sum(nats for _, nats in chosen))
        for axes in range(len(tiers[0].scalar) + 1)
        for chosen in product(*(list(ways(one, axes)) for one in tiers))
    ]


def lower_hull(points: list[Point]) -> list[Point]:
    """Corners of the lower convex hull, with rising bits and falling nats."""
    hull: list[Point] = []
    for x, y in sorted(points):
        if hull and y >= hull[-1][1]:
            continue
        while len(hull) > 1 and slope(hull[-1], (x, y)) >= slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append((x, y))
    return hull


def slope(a: Point, b: Point) -> float:
    return (a[1] - b[1]) / (b[0] - a[0])


def bits_of(found: Layered, tiers: list[TierOffers], axis_bits: int) -> int:
    offered = {
        id(offer.coders[0]): offer.bits
        for one in tiers
        for offers in [*one.scalar, *one.joint.values()]
        for offer in offers
    }
    used = max(sum(c.part.axes for c in coders) for coders in found.tiers)
    return used * axis_bits + sum(offered[id(c)] for coders in found.tiers for c in coders)


def parts(found: Layered) -> list[str]:
    return [" ".join(str(c.part) for c in coders) for coders in found.tiers]


def test_one_tier_by_hand() -> None:
    # From 10 nats: 8 for 10 bits and an axis of 10, then 1 for 10 bits, then 0.1 for 100 bits.
    one = tier([[(0, 10), (10, 2), (20, 1), (120, 0.9)]])
    found = sweep([one], 10, 0.5)
    assert [parts(layered) for layered in found] == [[""], ["1"], ["2"], ["3"]]
    assert [layered.nats for layered in found] == pytest.approx([10.5, 2.5, 1.5, 1.4])


def test_an_axis_that_is_too_expensive_is_used_by_no_tier() -> None:
    # By itself, the second axis saves 1 nat for 10 bits, as much per bit as the first. With 1000
    # bits more for the axis, it pays only at prices below 0.001 nats per bit.
    axes = [[(0.0, 10.0), (100.0, 0.0)], [(0.0, 1.0), (10.0, 0.0)]]
    found = [parts(layered) for layered in sweep([tier(axes), tier(axes)], 1000, 0.0)]
    assert found == [["", ""], ["1", "1"], ["1 1", "1 1"]]


def test_joint_candidates_by_hand() -> None:
    one = tier([[(0, 4), (50, 1)], [(0, 4), (50, 1)]], {2: [(20, 2)]})
    found = sweep([one], 0, 0.0)
    assert [parts(layered) for layered in found] == [[""], ["2j2"]]
    assert [layered.nats for layered in found] == [8, 2]


def test_only_trailing_parts_without_bits_are_left_out() -> None:
    used = tier([[(0, 1), (10, 0)], [(0, 8), (10, 0)]])
    empty = tier([[(0, 0)], [(0, 0)]])
    found = [parts(layered) for layered in sweep([used, empty], 5, 0.0)]
    assert found == [["", ""], ["- 1", ""], ["1 1", ""]]


def test_no_axes() -> None:
    [found] = sweep([tier([]), tier([])], 100, 0.25)
    assert (found.tiers, found.nats) == (((), ()), 0.25)


def test_a_tier_without_candidates() -> None:
    [found] = sweep([tier([[(0, 0)]])], 100, 0.25)
    assert (parts(found), found.nats) == ([""], 0.25)


def random_points(rng: np.random.Generator, start: float, count: int) -> list[Point]:
    bits = np.sort(rng.choice(np.arange(1, 500), count, replace=False))
    return [(int(b), float(n)) for b, n in zip(bits, start * rng.random(count), strict=True)]


def random_tier(rng: np.random.Generator, rank: int) -> TierOffers:
    zero = 10.0 ** rng.uniform(-3, 1, rank)
    scalar = [[(0, float(z)), *random_points(rng, z, 4)] for z in zero]
    joint = {
        axes: random_points(rng, float(zero[:axes].sum()), 3)
        for axes in range(2, rank + 1)
        if rng.random() < 0.8
    }
    return tier(scalar, joint)


@pytest.mark.parametrize("seed", range(30))
def test_results_lie_on_the_hull_of_all_combinations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank, count = ((2, 2), (1, 3), (3, 1))[seed % 3]
    tiers = [random_tier(rng, rank) for _ in range(count)]
    axis_bits, rest = int(rng.choice([0, 30, 1000])), float(rng.random())
    hull = lower_hull(all_points(tiers, axis_bits, rest))
    results = sweep(tiers, axis_bits, rest)
    points = [(bits_of(found, tiers, axis_bits), found.nats) for found in results]

    corners = np.array(hull)
    for bits, nats in points:
        assert nats == pytest.approx(np.interp(bits, *corners.T), rel=1e-9)
    # Cheapest first, and every bit more lowers the nats.
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(points))
    assert points[0] == pytest.approx(hull[0])

    # Each price is a twelfth lower: corners that are best over a wider range are found.
    falling = [slope(a, b) for a, b in pairwise(hull)]
    for corner, before, after in zip(hull, [np.inf, *falling], [*falling, 0.0], strict=True):
        if before > 1.1 * after and before > 1e-6:
            assert corner == pytest.approx(min(points, key=lambda p: abs(p[0] - corner[0])))
