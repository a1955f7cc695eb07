"""k-means++ seeding: draws equal those of the definition, without a tree."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from saec import _native


def draw(rows: object, weights: object, uniforms: list[float] | NDArray[np.float64]) -> list[int]:
    table = np.asarray(rows, dtype=np.float32)
    table = table if table.ndim == 2 else table[:, None]
    chosen = np.full(len(uniforms), -1, dtype=np.int64)
    drawn = _native.draw_seeds(table, np.asarray(weights, np.float64), np.array(uniforms), chosen)
    assert (chosen[drawn:] == -1).all()
    return chosen[:drawn].tolist()


def masses(
    rows: NDArray[np.float32], weights: NDArray[np.float64], drawn: list[int]
) -> NDArray[np.float64]:
    """Weight x squared distance from the nearest row drawn; at first, the weight."""
    if not drawn:
        return weights
    wide = rows.astype(np.float64)
    apart = ((wide[:, None] - wide[drawn]) ** 2).sum(axis=2)
    return weights * apart.min(axis=1)


def test_by_hand() -> None:
    # The first by weight: of 0, 1, 3 the shares end at 1/3, 2/3, 1.
    assert draw([0, 1, 3], [1, 1, 1], [0.0]) == [0]
    assert draw([0, 1, 3], [1, 1, 1], [0.34]) == [1]
    assert draw([0, 1, 3], [1, 1, 1], [0.99]) == [2]
    # After row 0 the masses are 0, 1, 9: row 1 has the first tenth.
    assert draw([0, 1, 3], [1, 1, 1], [0.0, 0.09]) == [0, 1]
    assert draw([0, 1, 3], [1, 1, 1], [0.0, 0.11]) == [0, 2]
    # With weights 1, 9, 1 they are 0, 9, 9.
    assert draw([0, 1, 3], [1, 9, 1], [0.0, 0.49, 0.5]) == [0, 1, 2]
    assert draw([0, 1, 3], [1, 9, 1], [0.0, 0.51]) == [0, 2]


def test_fewer_different_rows_than_wanted() -> None:
    uniforms = [0.0, 0.5, 0.999, 0.1, 0.2]
    assert draw([7, 7, 7], [1, 2, 3], uniforms) == [0]
    assert sorted(draw([0, 1, 0, 1, 5], [1, 1, 1, 1, 1], uniforms)) in (
        [0, 1, 4],
        [0, 3, 4],
        [1, 2, 4],
        [2, 3, 4],
    )
    assert draw([0.0, -0.0], [1, 1], uniforms) == [0]


def test_rows_that_differ_by_one_ulp_are_distinct() -> None:
    tiny = np.float32(1e-45)
    assert sorted(draw([0, tiny, 1], [1, 1, 1], [0.0, 0.5, 0.5, 0.5])) == [0, 1, 2]


def test_rows_without_weight_are_never_drawn() -> None:
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((200, 3)).astype(np.float32)
    weights = np.where(np.arange(200) % 3 == 0, 0.0, rng.exponential(size=200))
    drawn = draw(rows, weights, rng.random(200))
    assert sorted(drawn) == np.flatnonzero(weights).tolist()
    assert draw(rows, np.zeros(200), [0.5]) == []


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(1.0, 0.0)])
def test_ends_of_the_range(uniform: float) -> None:
    drawn = draw(np.arange(300), np.r_[0.0, np.ones(298), 0.0], [uniform] * 300)
    assert sorted(drawn) == list(range(1, 299))


@pytest.mark.parametrize(
    ("count", "dim", "drawn_before"),
    [
        (4, 1, 0),
        (4, 1, 1),
        (4, 1, 2),
        (65, 2, 1),
        (65, 2, 6),
        (300, 3, 0),
        (300, 3, 2),
        (300, 3, 6),
    ],
)
def test_rows_are_drawn_in_proportion_to_their_share(
    count: int, dim: int, drawn_before: int
) -> None:
    # With the last uniform number on an even grid, each row is drawn in proportion to its mass,
    # within one draw. 300 rows are five leaves; after six rows are drawn, most are ruled out.
    rng = np.random.default_rng(count)
    rows = rng.integers(-20, 20, (count, dim)).astype(np.float32)
    weights = rng.integers(0, 4, count).astype(np.float64)
    weights[0] = 1
    before = rng.random(drawn_before)
    steps = 2000
    times = np.zeros(count)
    for step in range(steps):
        *first, last = draw(rows, weights, [*before, (step + 0.5) / steps])
        times[last] += 1
    mass = masses(rows, weights, first)
    assert np.abs(times - steps * mass / mass.sum()).max() < 1 + 1e-6


def test_draws_follow_the_distribution() -> None:
    rng = np.random.default_rng(8)
    uniforms = rng.random((6000, 2))
    pairs = [tuple(draw([0, 1, 3], [1, 1, 1], pair)) for pair in uniforms]
    shares = {(0, 1): 1 / 10, (0, 2): 9 / 10, (1, 0): 1 / 5, (1, 2): 4 / 5}
    shares |= {(2, 0): 9 / 13, (2, 1): 4 / 13}
    expected = {pair: 2000 * share for pair, share in shares.items()}
    statistic = sum((pairs.count(pair) - e) ** 2 / e for pair, e in expected.items())
    assert statistic < 20.5  # chi-square, five degrees of freedom: exceeded once in a thousand


def test_inputs_are_not_changed() -> None:
    rng = np.random.default_rng(6)
    rows, weights = rng.random((200, 2)).astype(np.float32), rng.random(200)
    copies = rows.copy(), weights.copy()
    draw(rows, weights, rng.random(50))
    assert np.array_equal(rows, copies[0])
    assert np.array_equal(weights, copies[1])


@pytest.mark.parametrize("scale", [1e-30, 1e30, float(np.finfo(np.float32).max)])
def test_extreme_scales(scale: float) -> None:
    rng = np.random.default_rng(7)
    rows = (scale * rng.uniform(-1, 1, (200, 2))).astype(np.float32)
    assert sorted(draw(rows, np.ones(200), rng.random(200))) == list(range(200))


def test_invalid_arguments_are_refused() -> None:
    rows, weights, chosen = np.ones((3, 2), np.float32), np.ones(3), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="rows and weights differ in length"):
        _native.draw_seeds(rows, weights[:2], np.zeros(2), chosen)
    with pytest.raises(ValueError, match="uniforms and chosen differ in length"):
        _native.draw_seeds(rows, weights, np.zeros(3), chosen)
    with pytest.raises(ValueError, match="there are 0 rows, not 1 to"):
        _native.draw_seeds(rows[:0], weights[:0], np.zeros(2), chosen)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _native.draw_seeds(rows, weights, np.zeros(2), np.zeros(2, np.int32))  # type: ignore[arg-type]
