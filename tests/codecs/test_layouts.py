"""Layouts between those of the sweep, by hand and against one choice after the other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from test_sweep import parts, random_tier, tier

from saec.codecs.axes.lagrangian import Layered, Way, sweep
from saec.codecs.axes.layouts import mixed


def test_a_layout_between_two_spends_their_difference_on_other_tiers() -> None:
    # By falling nats per bit: 6 for 50 bits, 99 for 1000 bits, 5 for 100 bits, each of one tier.
    tiers = [[(0, 6), (50, 0)], [(0, 99), (1000, 0)], [(0, 5), (100, 0)]]
    found = sweep([tier([points]) for points in tiers], 0, 0.0)
    assert [(one.bits, one.nats) for one in found] == [(0, 110), (50, 104), (1050, 5), (1150, 0)]
    # From 50 to 1050 bits, 16 steps of 62.5: two of them reach the 100 bits of the third tier.
    between = mixed(found)
    assert [(one.bits, one.nats) for one in between] == [
        (0, 110),
        (50, 104),
        (150, 99),
        (1050, 5),
        (1150, 0),
    ]
    assert parts(between[2]) == ["1", "", "1"]


def one_after_the_other(found: list[Layered]) -> Iterator[tuple[int, float]]:
    """Bits and nats of the layouts of ``mixed``, each made alone."""
    known = {(place, way) for layered in found for place, way in enumerate(layered.ways)}
    last = found[0]
    yield last.bits, last.nats
    for small, large in pairwise(found):
        step = large.bits - small.bits
        steps = min(int(64 * step / large.bits), 16)
        for number in range(1, steps):
            made = greedily(small, step * number // steps, known)
            if made.nats < last.nats:
                last = made
                yield last.bits, last.nats
        last = large
        yield last.bits, last.nats


def greedily(layout: Layered, left: int, known: set[tuple[int, Way]]) -> Layered:
    while True:
        best, most = layout, 0.0
        for place, way in known:
            ways = [*layout.ways[:place], way, *layout.ways[place + 1 :]]
            changed = Layered(tuple(ways), layout.axis_bits, layout.rest)
            step, saved = changed.bits - layout.bits, layout.ways[place].nats - way.nats
            # An axis that a cheaper way leaves unused counts as used.
            step += layout.axis_bits * max(layout.axes - changed.axes, 0)
            if step <= left and saved > 0 and saved / max(step, 1) > most:
                best, most, spent = changed, saved / max(step, 1), step
        if best is layout:
            return layout
        layout, left = best, left - spent


@pytest.mark.parametrize("seed", range(6))
def test_many_layouts_at_once_are_those_made_one_after_the_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tiers = [random_tier(rng, 2) for _ in range(4 + seed)]
    found = sweep(tiers, int(rng.choice([0, 30])), 0.5)
    made = [(one.bits, one.nats) for one in mixed(found)]
    expected = list(one_after_the_other(found))
    assert len(expected) > len(found)
    assert made == [(bits, pytest.approx(nats)) for bits, nats in expected]
