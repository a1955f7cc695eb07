"""Split a budget over fields: which option lowers distortion most per bit?"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np

from saec.codecs.protocol import Option, expected_loss
from saec.codecs.slope_noise import squared_error_between
from saec.errors import BudgetError

__all__ = [
    "Optimum",
    "allocate",
    "allocate_confirmed",
    "allocate_within",
    "confirmed_optima",
    "expected_of",
    "frontier",
]


def allocate(
    options: Sequence[Sequence[Option]], budget_bits: int, names: Sequence[str]
) -> list[Option]:
    """Choose one option per field so that total distortion is small within ``budget_bits``.

    Minimises distortion + lambda * bits for the least lambda that the budget admits (Shoham and
    Gersho, Efficient bit allocation for an arbitrary set of quantizers, IEEE Trans. ASSP 36,
    1988). No bisection is needed, see :func:`frontier`. The rest of the budget is filled
    greedily, also with options off the hull.

    A larger budget never gives more distortion. (The fill takes steps of falling slope. If a
    larger budget leads to a different step, that step is longer than the whole rest of the smaller
    budget, and at least as steep.)

    Args:
        options: for each field, at least one option, in any order.
        budget_bits: bits that all chosen options may take together.
        names: the fields' names, for the error.

    Returns:
        One option per field, in order.

    Raises:
        BudgetError: even the cheapest options exceed the budget; names the smallest possible
            total.
    """
    assert len(options) == len(names), "every field needs a name"
    assert all(options), "every field needs an option"
    hulls = [_lower_hull(field) for field in options]
    spent = sum(hull[0].bits for hull in hulls)
    if spent > budget_bits:
        raise _unmet(budget_bits, spent, hulls, names)
    for step in frontier(options):
        if step.bits > budget_bits:
            break
        best = step
    return _fill(list(best.chosen), options, budget_bits - best.bits)


def allocate_confirmed(
    options: Sequence[Sequence[Option]], budget_bits: int, names: Sequence[str]
) -> list[Option]:
    """:func:`allocate`, with slopes on unseen rows only if they gain more than their noise.

    Among many options those with the luckiest slopes are chosen. So the second-order optimum stays,
    with shares of 0, unless the other choice is expected to lose less than it, by more than one
    standard error of the difference: what both options of a field do along a slope alike is no
    error of it.
    """
    chosen = allocate(options, budget_bits, names)
    if _have_no_slopes(options):
        return chosen
    plain = [[_without_slopes(option) for option in row] for row in options]
    return _confirmed(chosen, _same(allocate(plain, budget_bits, names), plain, options))


def confirmed_optima(
    options: Sequence[Sequence[Option]], optima: Sequence[Optimum]
) -> list[Sequence[Option]]:
    """What :func:`allocate_confirmed` chooses with as many bits as each of ``optima`` takes.

    Args:
        options: for each field, at least one option.
        optima: some of those of :func:`frontier`, in ascending order of bits.
    """
    if _have_no_slopes(options):
        return [optimum.chosen for optimum in optima]
    plain = [[_without_slopes(option) for option in row] for row in options]
    steps = list(frontier(plain))
    bits = [step.bits for step in steps]
    found: list[Sequence[Option]] = []
    for optimum in optima:
        last = steps[bisect_right(bits, optimum.bits) - 1]
        second = _fill(list(last.chosen), plain, optimum.bits - last.bits)
        found.append(_confirmed(list(optimum.chosen), _same(second, plain, options)))
    return found


def _have_no_slopes(options: Sequence[Sequence[Option]]) -> bool:
    return all(option.share is None for row in options for option in row)


def _same(
    chosen: Sequence[Option],
    plain: Sequence[Sequence[Option]],
    options: Sequence[Sequence[Option]],
) -> list[Option]:
    """The ``options`` in the places that those ``chosen`` have among the ``plain`` ones."""
    return [
        row[next(place for place, own in enumerate(others) if own is option)]
        for row, others, option in zip(options, plain, chosen, strict=True)
    ]


def _confirmed(chosen: list[Option], kept: Sequence[Option]) -> list[Option]:
    """``chosen`` if it is expected to lose less than ``kept`` by more than the error of that,
    otherwise ``kept``, with shares of 0."""
    if all(one is other for one, other in zip(kept, chosen, strict=True)):
        return chosen
    gain = _linear(kept) - _linear(chosen)
    variance = sum(
        squared_error_between(one.noise, other.noise)
        for one, other in zip(kept, chosen, strict=True)
    )
    return chosen if gain > variance**0.5 else [_with_no_share(option) for option in kept]


def _linear(chosen: Sequence[Option]) -> float:
    """The sum of the losses of both orders: of differences there is no least one that is left."""
    return sum(option.second_order + option.first_order for option in chosen)


def _without_slopes(option: Option) -> Option:
    return replace(option, distortion=option.distortion - option.by_slopes, by_slopes=0.0)


def _with_no_share(option: Option) -> Option:
    share = option.share
    return option if share is None else replace(option, share=replace(share, value=0.0))


def expected_of(chosen: Sequence[Option]) -> float:
    """The expected loss of the options of all fields."""
    return expected_loss(
        sum(option.second_order for option in chosen),
        sum(option.first_order for option in chosen),
    )


def allocate_within(options: Sequence[Sequence[Option]], loss: float) -> list[Option] | None:
    """Choose one option per field so that the total loss is at most ``loss`` in few bits.

    The first optimum of :func:`frontier` that is good enough; then fields take cheaper options as
    long as the total allows it, in the order of the bits that they save. The total is the expected
    one, see :func:`~saec.codecs.protocol.expected_loss`.

    Args:
        options: for each field, at least one option.
        loss: the largest total loss of all chosen options.

    Returns:
        One option per field, in order; None if all optima lose more.
    """
    step = next((step for step in frontier(options) if step.expected <= loss), None)
    return None if step is None else _thin(list(step.chosen), options, loss)


@dataclass(frozen=True)
class Optimum:
    """An optimum: total bits and distortion, and one option per field."""

    bits: int
    distortion: float
    chosen: tuple[Option, ...]

    @property
    def loss(self) -> float:
        """The whole loss by which options are chosen, with that of far rows."""
        return self.distortion + sum(option.far for option in self.chosen)

    @cached_property
    def expected(self) -> float:
        """The expected loss."""
        second_order = self.loss - sum(option.by_slopes for option in self.chosen)
        return expected_loss(second_order, sum(option.first_order for option in self.chosen))


def frontier(options: Sequence[Sequence[Option]]) -> Iterator[Optimum]:
    """All optima of distortion + lambda * bits, in ascending order of bits.

    As lambda falls, each field moves down the lower convex hull of its options. So the hull
    segments of all fields, steepest first, give the exact sequence.
    """
    hulls = [_lower_hull(field) for field in options]
    segments = _steepest_first(hulls)
    # Summed from the end, where sums are smallest: the last ones may be 1e-9 of the first.
    saved = [before.distortion - after.distortion for _, before, after in reversed(segments)]
    least = sum(hull[-1].distortion for hull in hulls)
    distortions = list(accumulate(saved, initial=least))
    chosen = [hull[0] for hull in hulls]
    bits = sum(option.bits for option in chosen)
    yield Optimum(bits, distortions.pop(), tuple(chosen))
    for field, before, after in segments:
        chosen[field] = after
        bits += after.bits - before.bits
        yield Optimum(bits, distortions.pop(), tuple(chosen))


def _lower_hull(options: Sequence[Option]) -> list[Option]:
    """The corners of the lower convex hull, cheapest first, distortion falling."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda o: (o.bits, o.distortion)):
        if hull and option.distortion >= hull[-1].distortion:
            continue
        while len(hull) > 1 and _slope(hull[-1], option) >= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return hull


def _slope(a: Option, b: Option) -> float:
    """Distortion saved per bit between two options, ``b`` taking more bits."""
    return (a.distortion - b.distortion) / (b.bits - a.bits)


def _steepest_first(hulls: Sequence[Sequence[Option]]) -> list[tuple[int, Option, Option]]:
    """All hull segments: field, start and end; a field's own segments stay in order."""
    segments = [(field, a, b) for field, hull in enumerate(hulls) for a, b in pairwise(hull)]
    return sorted(segments, key=lambda segment: -_slope(*segment[1:]))


def _fill(chosen: list[Option], options: Sequence[Sequence[Option]], left: int) -> list[Option]:
    """Spend ``left`` bits: repeatedly take the option that fits and saves most per bit."""
    candidates = [(field, option) for field, all_ in enumerate(options) for option in all_]
    owner = np.array([field for field, _ in candidates])
    bits = np.array([option.bits for _, option in candidates], np.int64)
    distortion = np.array([option.distortion for _, option in candidates])
    while True:
        step = bits - np.array([option.bits for option in chosen], np.int64)[owner]
        saved = np.array([option.distortion for option in chosen])[owner] - distortion
        usable = (step <= left) & (saved > 0)
        if not usable.any():
            return chosen
        # Of options with equal bits, the one with less distortion comes first.
        slope = np.where(step > 0, saved / np.maximum(step, 1), np.inf)
        best = int(np.argmax(np.where(usable, slope, -np.inf)))
        chosen[owner[best]] = candidates[best][1]
        left -= int(step[best])


def _thin(chosen: list[Option], options: Sequence[Sequence[Option]], loss: float) -> list[Option]:
    """Save bits up to an expected ``loss``: repeatedly take the option that saves most."""
    while True:
        second = sum(option.second_order for option in chosen)
        first = sum(option.first_order for option in chosen)
        saving = [
            (now.bits - option.bits, field, option)
            for field, now in enumerate(chosen)
            for option in options[field]
            if option.bits < now.bits
            and expected_loss(
                second - now.second_order + option.second_order,
                first - now.first_order + option.first_order,
            )
            <= loss
        ]
        if not saving:
            return chosen
        _, field, option = max(saving, key=lambda item: item[0])
        chosen[field] = option


def _unmet(
    budget_bits: int, smallest: int, hulls: Sequence[Sequence[Option]], names: Sequence[str]
) -> BudgetError:
    largest = max(range(len(hulls)), key=lambda field: hulls[field][0].bits)
    return BudgetError(
        f"a budget of {budget_bits} bits ({budget_bits // 8} bytes) cannot be met: the smallest "
        f"possible is {smallest} bits ({-(-smallest // 8)} bytes), "
        f"of which {names[largest]!r} takes {hulls[largest][0].bits} bits"
    )
