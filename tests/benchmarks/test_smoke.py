"""The check against slower lookups fails at the right ratios."""

from __future__ import annotations

import smoke


def test_a_loss_of_a_quarter_of_the_speed_passes() -> None:
    assert smoke.fallen({"a": 1.5, "b": 9.0}, {"a": 2.0, "b": 2.0}) == []


def test_a_larger_loss_of_speed_fails_with_both_ratios() -> None:
    assert smoke.fallen({"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 2.0}) == [
        "a: 1.00, which is 50 % below the recorded 2.00"
    ]


def test_the_better_of_two_measurements_counts() -> None:
    assert smoke.better({"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 1.0}) == {"a": 2.0, "b": 3.0}
