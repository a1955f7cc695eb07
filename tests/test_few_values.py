import numpy as np

from saec.util.few_values import values_of


def test_values_ascend_and_may_be_negative() -> None:
    assert values_of(np.array([3, -2, 3, 0, -2])) == [-2, 0, 3]
    assert values_of(np.array([7, 5, 7], np.int8)) == [5, 7]
    assert values_of(np.zeros(0, np.int64)) == []
