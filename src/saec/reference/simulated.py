"""A simulated click log: heavy tails, planted groups, new features, drift, and a known truth.

The logit of a click is that of a factorization machine (Rendle, Factorization Machines, ICDM 2010,
eq. 1): every feature has an effect, and some fields interact by inner products. Each feature's
vector is the centre of its group plus small noise: what similarity-aware compression looks for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.errors import DataError
from saec.reference.encode import encode
from saec.reference.log import TEST, TRAIN, VALIDATION, Column, Log
from saec.reference.simulated_behaviour import Floats, Ints, behaviour

__all__ = ["CROSSES", "Simulation", "best_reachable", "simulate", "simulation"]


CROSSES = {"user|category": ("user", "category"), "item|city": ("item", "city")}

# Field to number of groups and spread of the effects of their centres.
GROUPS = {
    "user": (40, 0.7),
    "item": (40, 0.9),
    "category": (8, 0.5),
    "city": (10, 0.4),
    "device": (3, 0.4),
    "hour": (4, 0.3),
    "user|category": (20, 0.3),
    "item|city": (20, 0.3),
}
INTERACTIONS = (("user", "item"), ("user", "category"), ("city", "item"), ("hour", "item"))
FACTORS = 3
FACTOR_SPREAD = 0.4
NOISE = 0.2  # of a feature around its group, relative to the spread of the centres
DAILY_DRIFT = 0.08


LOGIT_SPREAD = 1.3
CLICK_RATE = 0.2

MIN_ROWS_PER_DAY = 100


@dataclass(frozen=True, eq=False)
class Simulation:
    """A simulated log with what was planted in it.

    Attributes:
        log: the log, its truth included.
        groups: per field ``(vocab_size,)`` int64 group of each feature by id; -1 for id 0.
        vectors: per field ``(vocab_size, 1 + factors)`` float64: effect (on the first day) and
            factors by id, in the units of the logit before it is scaled; NaN for id 0.
    """

    log: Log
    groups: dict[str, Ints]
    vectors: dict[str, Floats]


def simulate(
    rows: int = 600_000,
    days: int = 10,
    seed: int = 0,
    *,
    deaths: float = 0.0,
    vocabularies: bool = False,
    keys: bool = False,
) -> Log:
    """Simulate a click log: the last day for testing, the one before for validation.

    Args:
        rows: examples over all days, at least 100 per day. Users and items grow with it.
        days: at least 3.
        seed: everything follows from it.
        deaths: the share of users and items that disappear on some day after their first one.
        vocabularies: keep the original values.
        keys: keep them as keys.

    Raises:
        DataError: too few rows or days, or ``deaths`` is not a share.
    """
    return simulation(rows, days, seed, deaths=deaths, vocabularies=vocabularies, keys=keys).log


def simulation(
    rows: int = 600_000,
    days: int = 10,
    seed: int = 0,
    *,
    deaths: float = 0.0,
    vocabularies: bool = False,
    keys: bool = False,
) -> Simulation:
    """The same log as :func:`simulate`, with its planted groups and vectors.

    Raises:
        DataError: too few rows or days, or ``deaths`` is not a share.
    """
    if not 0 <= deaths < 1:
        raise DataError(f"deaths is {deaths}; it must be a share from 0 to below 1")
    if days < 3:
        raise DataError(f"days is {days}; to train, validate and test takes at least 3")
    if rows < MIN_ROWS_PER_DAY * days:
        raise DataError(f"rows is {rows}; {days} days need at least {MIN_ROWS_PER_DAY * days}")
    behaviour_rng, truth_rng, click_rng = np.random.default_rng(seed).spawn(3)
    day = np.arange(rows) * days // rows
    values = behaviour(day, behaviour_rng, deaths)
    columns: dict[str, Column] = {**values}
    columns |= {name: (values[a], values[b]) for name, (a, b) in CROSSES.items()}
    for name, (a, b) in CROSSES.items():
        pairs = values[a] * (values[b].max() + 1) + values[b]
        values[name] = np.unique(pairs, return_inverse=True)[1]
    planted = {name: _Planted.draw(name, values[name], truth_rng) for name in columns}
    truth = _truth(values, planted, day, truth_rng)
    log = encode(
        columns,
        click_rng.random(rows) < truth,
        np.select([day == days - 1, day == days - 2], [TEST, VALIDATION], TRAIN),
        "simulated",
        truth=truth,
        vocabularies=vocabularies,
        keys=keys,
    )
    by_id = {
        name: _by_id(log, place, values[name], planted[name])
        for place, name in enumerate(log.field_names)
    }
    return Simulation(
        log,
        {name: groups for name, (groups, _) in by_id.items()},
        {name: vectors for name, (_, vectors) in by_id.items()},
    )


def best_reachable(log: Log, rows: NDArray[np.intp]) -> tuple[float, float]:
    """AUC and log loss that the true probabilities themselves reach on ``rows``, expected.

    Labels are drawn from the truth p, so a pair i, j is one of a click and a non-click with
    probability p_i (1 - p_j), and in the right order if p_i > p_j. The log loss is the mean
    entropy, in nats.

    Args:
        log: with a truth.
        rows: indices, such as ``log.rows("test")``.

    Returns:
        The AUC (a ratio of expectations) and the log loss.

    Raises:
        DataError: the log has no truth, or fewer than two rows are given.
    """
    if log.truth is None:
        raise DataError(f"the true click probabilities of {log.name!r} are not known")
    if len(rows) < 2:
        raise DataError(f"the best AUC needs 2 rows, not {len(rows)}")
    p = np.sort(log.truth[rows].astype(np.float64))
    _, first, ties = np.unique(p, return_index=True, return_counts=True)
    before = np.concatenate([[0.0], np.cumsum(1 - p)])
    below, through = np.repeat(before[first], ties), np.repeat(before[first + ties], ties)
    itself = p * (1 - p)  # a row makes no pair with itself
    right = p * (below + through) / 2 - itself / 2
    pairs = p * before[-1] - itself
    # Probabilities of exactly 0 and 1 have no entropy.
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nan_to_num(p * np.log(p)) - np.nan_to_num((1 - p) * np.log1p(-p))
    return float(right.sum() / pairs.sum()), float(entropy.mean())


@dataclass(frozen=True, eq=False)
class _Planted:
    """Groups and vectors of one field, by value."""

    groups: Ints
    vectors: Floats

    @classmethod
    def draw(cls, name: str, values: Ints, rng: np.random.Generator) -> _Planted:
        count, spread = GROUPS[name]
        scale = np.array([spread] + [FACTOR_SPREAD] * FACTORS)
        centres = rng.normal(size=(count, 1 + FACTORS))
        groups = rng.integers(count, size=int(values.max()) + 1)
        noise = NOISE * rng.normal(size=(len(groups), 1 + FACTORS))
        return cls(groups, (centres[groups] + noise) * scale)


def _truth(
    values: dict[str, Ints],
    planted: dict[str, _Planted],
    day: Ints,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """True click probabilities, of the intended mean and spread."""
    rows = {name: planted[name].vectors[values[name]] for name in planted}
    logit = np.sum([vectors[:, 0] for vectors in rows.values()], axis=0)
    for a, b in INTERACTIONS:
        logit += np.einsum("nf,nf->n", rows[a][:, 1:], rows[b][:, 1:])
    steps = DAILY_DRIFT * rng.normal(size=(int(day[-1]) + 1, len(planted["item"].vectors)))
    steps[0] = 0.0
    logit += np.cumsum(steps, axis=0)[day, values["item"]]
    logit = LOGIT_SPREAD * (logit - logit.mean()) / logit.std()
    return _sigmoid(logit + _bias(logit)).astype(np.float32)


def _bias(logit: Floats) -> float:
    """The constant to add to all logits for the intended click rate, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        if _sigmoid(logit + middle).mean() < CLICK_RATE:
            low = middle
        else:
            high = middle
    return low


def _sigmoid(logit: Floats) -> Floats:
    result: Floats = 1 / (1 + np.exp(-logit))
    return result


def _by_id(log: Log, place: int, values: Ints, planted: _Planted) -> tuple[Ints, Floats]:
    ids, size = log.ids[:, place], len(log.frequencies[log.field_names[place]])
    groups = np.full(size, -1, np.int64)
    vectors = np.full((size, 1 + FACTORS), np.nan)
    groups[ids] = planted.groups[values]
    vectors[ids] = planted.vectors[values]
    groups[0], vectors[0] = -1, np.nan
    return groups, vectors
