"""Allocation over fields against hand-computed cases and all combinations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saec.codecs.protocol import Option
from saec.compression import allocation
from saec.compression.allocation import allocate, allocate_within, frontier
from saec.errors import BudgetError

Fields = list[list[Option]]


def options(*pairs: tuple[int, float]) -> list[Option]:
    return [Option(bits, distortion, bits) for bits, distortion in pairs]


# user saves 6 then 2 per bit; item saves 3, then 1; (3, 8) is above item's hull.
USER = options((0, 20), (2, 8), (4, 4))
ITEM = options((1, 10), (3, 8), (3, 4), (5, 2))


def total(chosen: Sequence[Option]) -> tuple[int, float]:
    return sum(o.bits for o in chosen), sum(o.distortion for o in chosen)


@pytest.mark.parametrize(
    ("budget", "bits"),
    [
        (1, (0, 1)),
        (2, (0, 1)),  # one bit left, and nothing costs one bit
        (3, (2, 1)),
        (5, (2, 3)),
        (7, (4, 3)),
        (8, (4, 3)),
        (9, (4, 5)),
        (10**9, (4, 5)),
    ],
)
def test_takes_the_steepest_steps_first(budget: int, bits: tuple[int, int]) -> None:
    chosen = allocate([USER, ITEM], budget, ["user", "item"])
    assert tuple(option.choice for option in chosen) == bits


def test_order_of_options_does_not_matter() -> None:
    for budget in range(1, 10):
        forward = allocate([USER, ITEM], budget, ["user", "item"])
        backward = allocate([USER[::-1], ITEM[::-1]], budget, ["user", "item"])
        assert forward == backward


def test_fill_uses_options_above_the_hull() -> None:
    # The hull goes from (0, 10) straight to (10, 0); (4, 8) lies above it.
    field = options((0, 10), (4, 8), (10, 0))
    assert [allocate([field], b, ["user"])[0].bits for b in (3, 4, 9, 10)] == [0, 4, 4, 10]


def test_fill_passes_over_a_step_that_is_too_long() -> None:
    # After user's first step 3 bits are left: its second does not fit, item's does.
    user, item = options((0, 100), (2, 50), (6, 0)), options((0, 10), (3, 1))
    assert total(allocate([user, item], 5, ["user", "item"])) == (5, 51)


def test_more_bits_for_nothing_are_not_spent() -> None:
    field = options((1, 5), (2, 5), (3, 6))
    assert allocate([field], 100, ["user"])[0].bits == 1


def test_a_budget_too_small_names_the_smallest() -> None:
    message = (
        r"a budget of 12 bits \(1 bytes\) cannot be met: the smallest possible is 13 bits "
        r"\(2 bytes\), of which 'item' takes 9 bits"
    )
    with pytest.raises(BudgetError, match=message):
        allocate([options((4, 1)), options((10, 0), (9, 1))], 12, ["user", "item"])


def small_fields(bits: int = 30, most_fields: int = 4) -> st.SearchStrategy[Fields]:
    # Whole distortions: sums and comparisons are exact.
    option = st.builds(Option, st.integers(0, bits), st.integers(0, 100).map(float), st.none())
    return st.lists(st.lists(option, min_size=1, max_size=5), min_size=1, max_size=most_fields)


def all_totals(fields: Fields) -> list[tuple[int, float]]:
    return [total(chosen) for chosen in product(*fields)]


def lagrangian_optimum(totals: list[tuple[int, float]], budget: int) -> float:
    """Least distortion of a corner of all combinations' lower convex hull within the budget."""
    corners = allocation._lower_hull([Option(b, d, None) for b, d in totals])
    return min(corner.distortion for corner in corners if corner.bits <= budget)


@given(small_fields(), st.data())
def test_against_all_combinations(fields: Fields, data: st.DataObject) -> None:
    totals = all_totals(fields)
    smallest = min(bits for bits, _ in totals)
    budget = data.draw(st.integers(smallest, smallest + 100))
    bits, distortion = total(allocate(fields, budget, [str(i) for i in range(len(fields))]))
    best = min(d for b, d in totals if b <= budget)
    assert bits <= budget
    assert best <= distortion <= lagrangian_optimum(totals, budget)


@given(small_fields(), st.data())
def test_hull_solution_is_on_the_hull_of_all_combinations(
    fields: Fields, data: st.DataObject
) -> None:
    totals = all_totals(fields)
    corners = allocation._lower_hull([Option(b, d, None) for b, d in totals])
    corner = data.draw(st.sampled_from(corners))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocation, "_fill", lambda chosen, options, left: chosen)
        chosen = allocate(fields, corner.bits, [str(i) for i in range(len(fields))])
    assert total(chosen) == (corner.bits, corner.distortion)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20).map(float)), min_size=1))
def test_lower_hull_against_its_definition(pairs: list[tuple[int, float]]) -> None:
    hull = allocation._lower_hull(options(*pairs))
    bits = np.array([o.bits for o in hull])
    distortion = np.array([o.distortion for o in hull])
    assert bits[0] == min(b for b, _ in pairs)
    assert distortion[-1] == min(d for _, d in pairs)
    assert (np.diff(bits) > 0).all()
    assert (np.diff(np.diff(distortion) / np.diff(bits)) > 0).all()  # strictly convex
    for b, d in pairs:  # nothing lies below it
        assert d >= np.interp(b, bits, distortion) - 1e-9


@given(small_fields(bits=12, most_fields=3))
def test_monotone_in_the_budget(fields: Fields) -> None:
    smallest = sum(min(o.bits for o in field) for field in fields)
    names = [str(i) for i in range(len(fields))]
    distortions = [
        total(allocate(fields, budget, names))[1] for budget in range(smallest, smallest + 40)
    ]
    assert distortions == sorted(distortions, reverse=True)


@pytest.mark.exhaustive
def test_many_fields_with_many_options(rng: np.random.Generator) -> None:
    fields = [
        [Option(64 * k, float(w) / (1 + k) ** 1.5, k) for k in range(40)]
        for w in rng.pareto(1.2, 300)
    ]
    budget = 300 * 64 * 10
    bits, distortion = total(allocate(fields, budget, [str(i) for i in range(300)]))
    same_for_all = sum(field[10].distortion for field in fields)
    assert bits == budget  # all steps are of 64 bits, so nothing is left
    assert distortion < 0.8 * same_for_all


def test_frontier_by_hand() -> None:
    # Slopes 6 and 2 of user, 3 and 1 of item; (3, 8) is above item's hull.
    steps = list(frontier([USER, ITEM]))
    assert [(step.bits, step.distortion) for step in steps] == [
        (1, 30),
        (3, 18),
        (5, 12),
        (7, 8),
        (9, 6),
    ]
    assert [tuple(o.choice for o in step.chosen) for step in steps] == [
        (0, 1),
        (2, 1),
        (2, 3),
        (4, 3),
        (4, 5),
    ]


def test_the_end_of_a_frontier_is_exact() -> None:
    # 0.1 + 0.2 - 0.1 - 0.2 is not zero.
    fields = [options((0, 0.1), (8, 0)), options((0, 0.2), (9, 0)), options((0, 1e9), (1, 0))]
    assert [step.distortion for step in frontier(fields)][1:] == [0.1 + 0.2, 0.1, 0]


@given(small_fields())
def test_frontier_is_the_lower_hull_of_all_combinations(fields: Fields) -> None:
    corners = allocation._lower_hull([Option(b, d, None) for b, d in all_totals(fields)])
    bits, distortion = [c.bits for c in corners], [c.distortion for c in corners]
    steps = list(frontier(fields))
    assert {(c.bits, c.distortion) for c in corners} <= {(s.bits, s.distortion) for s in steps}
    for step in steps:  # of equal slopes, the points between corners too
        assert total(step.chosen) == (step.bits, step.distortion)
        assert step.distortion == pytest.approx(np.interp(step.bits, bits, distortion))
    assert [step.bits for step in steps] == sorted({step.bits for step in steps})


def test_within_a_distortion_by_hand() -> None:
    # At 17 the first optimum is (2, 3) with 12; user's first option would add 12, item's 6.
    chosen = {
        limit: total(allocate_within([USER, ITEM], limit)) for limit in (6, 7, 12, 17, 18, 29, 30)
    }
    assert chosen == {
        6: (9, 6),
        7: (9, 6),
        12: (5, 12),
        17: (5, 12),
        18: (3, 18),
        29: (3, 18),
        30: (1, 30),
    }


def test_within_a_distortion_uses_options_above_the_hull() -> None:
    # The hull goes from (0, 10) straight to (10, 0); (4, 8) lies above it.
    field = options((0, 10), (4, 8), (10, 0))
    assert [allocate_within([field], d)[0].bits for d in (7.9, 8, 9.9, 10)] == [10, 4, 4, 0]


def test_within_a_distortion_saves_most_bits_first() -> None:
    # Options between the ends lie above the hulls, so the first optimum within 50 is (10, 10) with
    # 0; of it, user can save 1 bit for 20 or item 4 bits for 50, but not both.
    fields = [options((0, 100), (9, 20), (10, 0)), options((0, 100), (6, 50), (10, 0))]
    assert [o.bits for o in allocate_within(fields, 50)] == [10, 6]
    assert [o.bits for o in allocate_within(fields, 49)] == [9, 10]
    assert [o.bits for o in allocate_within(fields, 70)] == [9, 6]


@given(small_fields(), st.integers(0, 150))
def test_within_a_distortion_against_all_combinations(fields: Fields, limit: int) -> None:
    fields = [[*field, Option(31, 0.0, None)] for field in fields]
    chosen = allocate_within(fields, limit)
    bits, distortion = total(chosen)
    first = next(step for step in frontier(fields) if step.distortion <= limit)
    assert distortion <= limit
    assert min(b for b, d in all_totals(fields) if d <= limit) <= bits <= first.bits
    for now, field in zip(chosen, fields, strict=True):
        for option in field:
            if option.bits < now.bits:
                assert distortion - now.distortion + option.distortion > limit
