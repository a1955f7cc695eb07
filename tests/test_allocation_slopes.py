"""Allocation with slopes on unseen rows, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from saec.codecs.protocol import Option, expected_loss
from saec.codecs.slope_noise import SlopeNoise, squared_error_between
from saec.compression.allocation import (
    allocate,
    allocate_confirmed,
    allocate_within,
    expected_of,
)
from saec.tables.unseen_gradients import SlopeShare

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
