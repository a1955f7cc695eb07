"""Allocation with slopes on unseen rows, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sloped_tables import tables

import saec
from saec.codecs.protocol import Option, expected_loss
from saec.codecs.slope_noise import SlopeNoise, squared_error_between
from saec.compression.allocation import (
    allocate,
    allocate_confirmed,
    allocate_within,
    confirmed_optima,
    expected_of,
    frontier,
)
from saec.tables.loss_metric import LossMetrics
from saec.tables.unseen_gradients import RowSums, SlopeShare, UnseenGradients

SLOPES = object()  # of which all options are


def sloped(bits: int, second_order: float, by_slopes: float, *errors: float) -> Option:
    share = SlopeShare(0.8, 0.8, 0.1)
    return Option(
        bits,
        second_order + by_slopes,
        bits,
        SlopeNoise.of(SLOPES, np.array(errors)),
        share,
        by_slopes=by_slopes,
        first_order=by_slopes,
    )


@pytest.mark.parametrize(
    ("error", "bits", "share", "lost"), [(5.0, (0, 2), 0.8, 10), (6.0, (2, 0), 0.0, 16)]
)
def test_slopes_decide_only_if_they_gain_more_than_their_noise(
    error: float, bits: tuple[int, int], share: float, lost: float
) -> None:
    # Two bits save 10 of user or 8 of item to second order, and with slopes 16 of item.
    user = [sloped(0, 10, 0, 0), sloped(2, 0, 0, 0)]
    item = [sloped(0, 8, 8, error), sloped(2, 0, 0, 0)]
    chosen = allocate_confirmed([user, item], 2, ["user", "item"])
    assert tuple(option.choice for option in chosen) == bits
    assert {option.share.value for option in chosen if option.share is not None} == {share}
    assert expected_of(chosen) == lost


@pytest.mark.parametrize(
    ("before", "after", "bits"),
    # Both options of item are wrong by 5. By slopes item gains 6: that is in doubt by 0 if both are
    # wrong by the same slope in the same way, by 10 in opposite ways, and by 7.1 by two slopes.
    [((5, 0), (5, 0), (0, 2)), ((5, 0), (-5, 0), (2, 0)), ((5, 0), (0, 5), (2, 0))],
)
def test_what_two_options_do_along_different_slopes_is_in_doubt(
    before: tuple[float, float], after: tuple[float, float], bits: tuple[int, int]
) -> None:
    user = [sloped(0, 10, 0, 0, 0), sloped(2, 0, 0, 0, 0)]
    item = [sloped(0, 8, 8, *before), sloped(2, 0, 0, *after)]
    assert item[0].error == item[1].error == 5
    chosen = allocate_confirmed([user, item], 2, ["user", "item"])
    assert tuple(option.choice for option in chosen) == bits


def test_errors_of_differences_by_hand() -> None:
    one, other = (SlopeNoise.of(SLOPES, np.array(own)) for own in ([3.0, 4.0], [1.0, 4.0]))
    assert one.error == 5
    assert squared_error_between(one, one) == 0
    assert squared_error_between(one, other) == 2**2
    assert squared_error_between(one, None) == squared_error_between(None, one) == 5**2
    assert squared_error_between(None, None) == 0
    # Of another measurement: nothing is known to be common.
    elsewhere = SlopeNoise.of(object(), np.array([3.0, 4.0]))
    assert squared_error_between(one, elsewhere) == 2 * 5**2


def test_shares_stay_where_both_choices_are_the_same() -> None:
    # Two bits save 10 of user or 8 of item, with slopes as without: options were made with slopes.
    user = [sloped(0, 10, 1, 9), sloped(2, 0, 0, 0)]
    item = [sloped(0, 8, -1, 9), sloped(2, 0, 0, 0)]
    chosen = allocate_confirmed([user, item], 2, ["user", "item"])
    assert [option.choice for option in chosen] == [2, 0]
    assert [option.share.value for option in chosen if option.share is not None] == [0.8, 0.8]


def test_without_slopes_they_decide_nothing() -> None:
    user = [Option(0, 20, None), Option(2, 8, None), Option(4, 4, None)]
    item = [Option(1, 10, None), Option(3, 8, None), Option(3, 4, None), Option(5, 2, None)]
    for budget in range(1, 10):
        chosen = allocate_confirmed([user, item], budget, ["user", "item"])
        assert chosen == allocate([user, item], budget, ["user", "item"])


@pytest.mark.parametrize(
    ("second_order", "first_order", "expected"),
    [(4, 2, 6), (4, -3, 1), (4, -3.8, 0.4), (4, -9, 0.4)],
)
def test_a_tenth_of_the_second_order_is_left(
    second_order: float, first_order: float, expected: float
) -> None:
    assert expected_loss(second_order, first_order) == pytest.approx(expected)


def test_within_an_expected_loss_with_slopes() -> None:
    # Of 6 to second order the slopes of two options leave 5 and 2.
    field = [
        Option(1, 5.5, "a", by_slopes=-0.5, first_order=-1.0),
        Option(2, 4.0, "b", by_slopes=-2.0, first_order=-4.0),
        Option(9, 0.0, "c"),
    ]
    chosen = {limit: allocate_within([field], limit)[0].choice for limit in (1.9, 2, 4.9, 5)}
    assert chosen == {1.9: "c", 2: "b", 4.9: "b", 5: "a"}


def test_what_is_left_of_gains_does_not_hide_which_choice_gains_more() -> None:
    # Both lose a tenth of the second order, but by slopes the larger one is 0.5 better.
    share = SlopeShare(1.0, 1.0, 0.1)
    one = Option(1, 0.5, "one", share=share, by_slopes=-0.5, first_order=-1.0)
    other = Option(1, 0.35, "other", share=share, by_slopes=-0.85, first_order=-1.7)
    (chosen,) = allocate_confirmed([[one, other]], 1, ["user"])
    assert chosen is other
    assert expected_of([one]) == pytest.approx(0.1)
    assert expected_of([other]) == pytest.approx(0.12)


def test_optima_are_confirmed_as_budgets_of_their_size() -> None:
    # Two bits for user gain 10, for item 8 and by slopes 16; in doubt by 5 they decide, by 9 not.
    for error, first in ((5.0, (0, 2)), (9.0, (2, 0))):
        user = [sloped(0, 10, 0, 0), sloped(2, 0, 0, 0)]
        item = [sloped(0, 8, 8, error), sloped(2, 0, 0, 0)]
        optima = list(frontier([user, item]))
        assert [optimum.bits for optimum in optima] == [0, 2, 4]
        found = confirmed_optima([user, item], optima)
        assert [tuple(option.choice for option in chosen) for chosen in found] == [
            (0, 0),
            first,
            (2, 2),
        ]
        for optimum, chosen in zip(optima, found, strict=True):
            told = allocate_confirmed([user, item], optimum.bits, ["user", "item"])
            assert [(own.choice, own.share) for own in told] == [
                (own.choice, own.share) for own in chosen
            ]


def test_a_curve_forecasts_what_budgets_choose() -> None:
    # Halves that say different things, so that slopes decide at some sizes only.
    fields, metrics = tables({"keeps": -1.0, "by heart": 0.4})
    rng = np.random.default_rng(3)
    unseen = {}
    for name, own in metrics.unseen.items():
        sums = own.halves[0].sums
        noise = rng.normal(scale=2.1 * np.abs(sums).max(), size=sums.shape).astype(np.float32)
        one, other = (RowSums(np.arange(1000), sums + sign * noise) for sign in (1, -1))
        unseen[name] = UnseenGradients((one, other), own.examples)
    known = LossMetrics(dict(metrics), 1000, metrics.relative_errors, unseen)
    measured = saec.measure(fields, metrics=known, progress=False)
    curve = saec.forecast(measured)
    chosen = [measured.chosen(saec.MaxBytes(int(nbytes))) for nbytes in curve.nbytes]
    decided = {option.share.value > 0 for own in chosen for option in own if option.share}
    assert decided == {False, True}
    losses = np.array([expected_of(own) for own in chosen])
    never_cheaper = np.maximum.accumulate(losses[::-1])[::-1]
    np.testing.assert_allclose(curve.loss_increases, never_cheaper, rtol=1e-9, atol=1e-15)
