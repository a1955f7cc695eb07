import numpy as np

from saec.util.few_values import numbered, values_of


def test_values_ascend_and_may_be_negative() -> None:
    assert values_of(np.array([3, -2, 3, 0, -2])) == [-2, 0, 3]
    assert values_of(np.array([7, 5, 7], np.int8)) == [5, 7]
    assert values_of(np.zeros(0, np.int64)) == []
    assert values_of(np.array([2**62, -(2**62), 5, 2**62])) == [-(2**62), 5, 2**62]


def test_positions_among_the_different_values() -> None:
    for far in (9, 10**6, 2**62):  # counted, sorted, and a span of nearly all integers
        different, numbers = numbered(np.array([far, -1, 4, far, -1]))
        assert different.tolist() == [-1, 4, far]
        assert numbers.tolist() == [2, 0, 1, 2, 0]
