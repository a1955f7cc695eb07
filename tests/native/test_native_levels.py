"""The kernels of symbols: levels of a lattice, lengths of codewords, and invalid arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from saec import _native

VALUES = np.array([[-1, 9], [-1, 9], [0, 9], [0, 9], [0, 9], [2, 9]], np.float32)
EVEN = np.full(6, 1 / 6)


def lattices(
    bit_nats: float,
    step_bits: float,
    shares: Any = EVEN,
    values: Any = VALUES,
    axes: int = 1,
    rows: float = 6.0,
    most: int = 2000,
    rounds: int = 3,
    threads: int = 1,
) -> tuple[Any, Any]:
    levels = np.full((axes, len(values)), 77, np.uint16)
    nats = np.ones(axes)
    found = _native.lattices(
        values, shares, nats, rows, bit_nats, step_bits, most, rounds, levels, threads
    )
    told = [(low, step, *(each.tolist() for each in arrays)) for low, step, *arrays in found]
    return told, levels.tolist()


def test_levels_by_hand() -> None:
    # step^2 = 1 x 1/36 x 6 rows / (1 x 1 nat) / (1/6) = 1. A codeword of b bits costs b / 36: less
    # than a value would lose on a level that is not its own.
    told, levels = lattices(1 / 36, 6.0)
    assert told == [(-1, pytest.approx(1), [0, 1, 3], [2, 3, 1], [-1, 0, 2])]
    assert levels == [[0, 0, 1, 1, 1, 2]]


def test_a_level_with_a_long_codeword_is_left() -> None:
    # A bit costs 1/3. At -1: log2(6/2) / 3 = 0.53 beside 1/6 + log2(6/3) / 3 = 0.5 at 0. At 2:
    # log2(6) / 3 = 0.86 beside 4/6 + 1/3 = 1.
    told, levels = lattices(1 / 3, 0.5)
    ((low, step, numbers, counts, means),) = told
    assert (low, step) == (pytest.approx(0), pytest.approx(1))
    assert (numbers, counts) == ([0, 2], [5, 1])
    assert means == pytest.approx([-0.4, 2])
    assert levels == [[0, 0, 0, 0, 0, 1]]
    assert lattices(1 / 3, 0.5, rounds=0)[0][0][2:4] == ([0, 1, 3], [2, 3, 1])


def test_a_last_level_that_is_left() -> None:
    told, levels = lattices(1 / 3, 0.5, values=-VALUES)
    ((low, _, numbers, counts, means),) = told
    assert (low, numbers, counts) == (pytest.approx(-2), [0, 2], [1, 5])
    assert means == pytest.approx([-2, 0.4])
    assert levels == [[1, 1, 1, 1, 1, 0]]


def test_of_levels_that_cost_the_same_the_lower_one_and_the_first_common_one_are_taken() -> None:
    # 1 has no share, so no error counts, and both levels have one row: a tie.
    values = np.array([[0.0], [1.0]], np.float32)
    told, levels = lattices(1.0, 0.5, np.array([1.0, 0.0]), values, rows=2.0)
    assert told == [(0, 1, [0], [2], [0])]
    assert levels == [[0, 0]]


def by_plain_numpy(
    column: NDArray[np.float64], shares: NDArray[np.float64], bit_nats: float
) -> NDArray[np.int64]:
    """The level of each value after two rounds, for nats of 1 and rows that are all sampled."""
    rows = len(column)
    step = (6 * bit_nats * rows / shares.sum()) ** 0.5
    centre = (shares * column).sum() / shares.sum()
    centre = 0.0 if abs(centre) < step / 2 else centre
    levels = np.unique(np.rint((column - centre) / step), return_inverse=True)[1]
    for _ in range(2):
        counts = np.bincount(levels)
        means = np.bincount(levels, shares * column) / np.bincount(levels, shares)
        assert (np.diff(means) > 0).all()
        above = np.searchsorted(means, column)
        choices = np.stack([above - 1, above, np.full(rows, counts.argmax())])
        choices = choices.clip(0, len(means) - 1)
        bits = np.log2(rows / counts)
        costs = shares * (column - means[choices]) ** 2 + bit_nats * bits[choices]
        levels = choices[costs.argmin(0), np.arange(rows)]
        levels = np.unique(levels, return_inverse=True)[1]
    return levels


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bit_nats", [1e-7, 1e-5, 2e-4])
def test_levels_are_those_of_plain_numpy(seed: int, bit_nats: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(0.3, 1.0, (500, 1)).astype(np.float32)
    shares = rng.uniform(1, 4, 500)
    shares /= shares.sum()
    _, levels = lattices(bit_nats, 6.0, shares, values, rows=500.0, rounds=2)
    expected = by_plain_numpy(values[:, 0].astype(np.float64), shares, bit_nats)
    assert levels[0] == expected.tolist()
    assert len(set(levels[0])) > 3


def test_shares_weigh_means_but_for_values_that_never_occur() -> None:
    values = np.array([[0.0], [0.2], [10.0], [10.4], [9.9]], np.float32)
    told, levels = lattices(1 / 36, 6.0, np.array([0.75, 0.25, 0.0, 0.0, 0.0]), values)
    assert levels == [[0, 0, 1, 1, 1]]
    assert told[0][4] == pytest.approx([0.05, 10.1])


def test_the_number_of_levels_is_bounded() -> None:
    values = np.array([[-8.0], [-1.0], [1.0], [8.0]], np.float32)
    told, _ = lattices(1e-9, 6.0, np.full(4, 0.25), values, most=2)
    assert told[0][1] == 4  # the step; -1 and 1 have one point
    assert told[0][2:4] == ([0, 2, 4], [1, 2, 1])


def test_axes_and_threads() -> None:
    values = np.random.default_rng(0).normal(size=(3000, 40)).astype(np.float32)
    shares = np.full(3000, 1 / 3000)
    alone = lattices(1e-6, 8.0, shares, values, axes=30)
    assert lattices(1e-6, 8.0, shares, values, axes=30, threads=3) == alone
    last = lattices(1e-6, 8.0, shares, np.ascontiguousarray(values[:, 29:]))
    assert (alone[0][29], alone[1][29]) == (last[0][0], last[1][0])
    # Of 6 rows that have all occurrences: step^2 = 8 x 1e-6 x 6.
    assert [step for _, step, *_ in alone[0]] == pytest.approx([(6 * 8e-6) ** 0.5] * 30)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shares": np.ones(5)}, "shares and values differ in length"),
        ({"axes": 3}, "3 axes of 2"),
        ({"most": 0}, "0 points on either side"),
        ({"most": 1 << 15}, "32768 points on either side"),
        ({"values": np.zeros((0, 2), np.float32), "shares": np.ones(0)}, "there are no values"),
    ],
)
def test_invalid_lattices(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lattices(1.0, 1.0, **given)


def test_invalid_levels() -> None:
    def into(levels: Any) -> None:
        _native.lattices(VALUES, EVEN, np.ones(1), 6.0, 1.0, 1.0, 9, 1, levels)

    with pytest.raises(ValueError, match=r"levels must be of shape \(1, 6\)"):
        into(np.zeros((2, 6), np.uint16))
    for converted in (np.zeros((1, 6), np.int64), np.zeros((1, 12), np.uint16)[:, ::2]):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            into(converted)


def test_code_lengths_at_powers_of_two_and_at_the_most() -> None:
    def lengths(counts: list[float], harm: list[float], most: int = 56) -> list[int]:
        found = np.zeros(len(counts), np.int64)
        _native.code_lengths(np.array(counts), np.array(harm), 1.0, 1.0, most, found)
        return found.tolist()

    # harm 2^-l + l: from l to l + 1 it saves harm 2^-(l + 1) for 1. At 8: equal, so not worth it.
    assert lengths([1, 1], [8, 8.1]) == [2, 3]
    assert lengths([1, 1], [np.inf, 1e300]) == [56, 56]
    assert lengths([1, 1], [1e9, 1e9], most=5) == [5, 5]


def test_harm_and_room_together() -> None:
    # Without a limit [2, 1, 1] take 1.25 of the code space, where 0.75 are allowed.
    lengths = np.zeros(3, np.int64)
    counts, harm = np.array([1.0, 2.0, 2.0]), np.array([8.0, 0.0, 4.0])
    _native.code_lengths(counts, harm, 1.0, 2.0, 56, lengths)
    assert lengths.tolist() == [2, 1, 1]
    _native.code_lengths(counts, harm, 1.0, 0.75, 56, lengths)
    # A multiplier just above 8 gives [4, 2, 2]; then the first can be shortened once for a gain.
    assert lengths.tolist() == [3, 2, 2]


@pytest.mark.parametrize(
    ("harm", "lengths", "most", "message"),
    [
        (3, 2, 56, "harm and counts differ in length"),
        (2, 3, 56, "lengths and counts differ in length"),
        (2, 2, 64, "codewords of at most 64 bits"),
        (2, 2, 0, "codewords of at most 0 bits"),
    ],
)
def test_invalid_code_lengths(harm: int, lengths: int, most: int, message: str) -> None:
    into = np.zeros(lengths, np.int64)
    with pytest.raises(ValueError, match=message):
        _native.code_lengths(np.ones(2), np.ones(harm), 1.0, 1.0, most, into)
