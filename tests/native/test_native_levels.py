"""The kernels of symbols: levels of a lattice, lengths of codewords, and invalid arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

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
    # 8 x 1e-6 of one row of 6: 6 times the step^2 of a row that has all occurrences.
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
    wrong = np.zeros((2, 6), np.uint16)
    with pytest.raises(ValueError, match=r"levels must be of shape \(1, 6\)"):
        _native.lattices(VALUES, EVEN, np.ones(1), 6.0, 1.0, 1.0, 9, 1, wrong)


def test_code_lengths_at_powers_of_two_and_at_the_most() -> None:
    def lengths(counts: list[float], harm: list[float], most: int = 56) -> list[int]:
        found = np.zeros(len(counts), np.int64)
        _native.code_lengths(np.array(counts), np.array(harm), 1.0, 1.0, most, found)
        return found.tolist()

    # harm 2^-l + l: from l to l + 1 it saves harm 2^-(l + 1) for 1. At 8: equal, so not worth it.
    assert lengths([1, 1], [8, 8.1]) == [2, 3]
    assert lengths([1, 1], [np.inf, 1e300]) == [56, 56]
    assert lengths([1, 1], [1e9, 1e9], most=5) == [5, 5]


@pytest.mark.parametrize(("harm", "room", "most"), [(3, 2, 56), (2, 3, 56), (2, 2, 64), (2, 2, 0)])
def test_invalid_code_lengths(harm: int, room: int, most: int) -> None:
    lengths = np.zeros(room, np.int64)
    with pytest.raises(ValueError, match=r"differ in length|codewords of at most"):
        _native.code_lengths(np.ones(2), np.ones(harm), 1.0, 1.0, most, lengths)
