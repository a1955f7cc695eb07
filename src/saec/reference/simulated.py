"""A simulated click log: heavy tails, planted groups, new features, drift, and a known truth.

The logit of a click is that of a factorization machine (Rendle, Factorization Machines, ICDM 2010,
eq. 1): every feature has an effect, and some fields interact by inner products. Each feature's
vector is the centre of its group plus small noise: what similarity-aware compression looks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.errors import DataError
from saec.reference.log import TEST, TRAIN, VALIDATION, Column, Log, encode

__all__ = ["CROSSES", "Simulation", "best_reachable", "simulate", "simulation"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ROWS_PER_USER = 15
ROWS_PER_ITEM = 40
CITIES = 200
CATEGORIES = 40
DEVICES = 12
HOURS = 24

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

# Zipf exponents and shares of behaviour; together they set the tails.
USER_EXPONENT = 0.9
ITEM_EXPONENT = 1.0
OTHER_EXPONENT = 1.0
OLD_SHARE = 0.7  # users and items there from the first day; the others come evenly later
FAVOURITES = 3
FAVOURITE_SHARE = 0.85
HABIT_SHARE = 0.9  # at home, on one's own device

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
    rows: int = 600_000, days: int = 10, seed: int = 0, *, vocabularies: bool = False
) -> Log:
    """Simulate a click log: the last day for testing, the one before for validation.

    Args:
        rows: examples over all days, at least 100 per day. Users and items grow with it.
        days: at least 3.
        seed: everything follows from it.
        vocabularies: keep the original values.

    Raises:
        DataError: too few rows or days.
    """
    return simulation(rows, days, seed, vocabularies=vocabularies).log


def simulation(
    rows: int = 600_000, days: int = 10, seed: int = 0, *, vocabularies: bool = False
) -> Simulation:
    """The same log as :func:`simulate`, with its planted groups and vectors.

    Raises:
        DataError: too few rows or days.
    """
    if days < 3:
        raise DataError(f"days is {days}; to train, validate and test takes at least 3")
    if rows < MIN_ROWS_PER_DAY * days:
        raise DataError(f"rows is {rows}; {days} days need at least {MIN_ROWS_PER_DAY * days}")
    behaviour_rng, truth_rng, click_rng = np.random.default_rng(seed).spawn(3)
    day = np.arange(rows) * days // rows
    values = _behaviour(day, behaviour_rng)
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


class _Population:
    """Things of Zipf-distributed popularity, some of which come only on a later day."""

    def __init__(self, count: int, exponent: float, days: int, rng: np.random.Generator) -> None:
        # Rank 1 weighs no more than rank 10 in a pure law: nobody is half of all traffic.
        self._weights = 1 / (np.arange(count) + 10.0) ** exponent
        self._born = np.where(rng.random(count) < OLD_SHARE, 0, rng.integers(1, days, count))
        self._rng = rng

    def weights(self, day: int) -> Floats:
        """Popularity on a day, 0 for what is not there yet."""
        return np.where(self._born <= day, self._weights, 0.0)

    def draw(self, day: int, count: int) -> Ints:
        """So many things, by popularity."""
        return _draw(self.weights(day), count, self._rng)


def _behaviour(day: Ints, rng: np.random.Generator) -> dict[str, Ints]:
    """Who saw what, where and when: a value per field and row."""
    rows, days = len(day), int(day[-1]) + 1
    users = _Population(max(2, rows // ROWS_PER_USER), USER_EXPONENT, days, rng)
    items = _Catalogue(max(CATEGORIES, rows // ROWS_PER_ITEM), days, rng)
    user = _daily(day, users.draw)
    known = int(user.max()) + 1
    favourites = _zipf(CATEGORIES, known * FAVOURITES, rng).reshape(known, FAVOURITES)
    favourite = favourites[user, rng.integers(FAVOURITES, size=rows)]
    other = _zipf(CATEGORIES, rows, rng)
    category = np.where(rng.random(rows) < FAVOURITE_SHARE, favourite, other)
    # Most traffic in the evening, least before dawn.
    hours = 1 + 0.8 * np.cos((np.arange(HOURS) - 20) * 2 * np.pi / HOURS)
    return {
        "user": user,
        "item": items.draw(day, category),
        "category": category,
        "city": _habit(user, CITIES, rng),
        "device": _habit(user, DEVICES, rng),
        "hour": _draw(hours, rows, rng),
    }


class _Catalogue:
    """Items, each of one category, drawn within a category by popularity."""

    def __init__(self, count: int, days: int, rng: np.random.Generator) -> None:
        self._items = _Population(count, ITEM_EXPONENT, days, rng)
        category = rng.integers(CATEGORIES, size=count)
        category[:CATEGORIES] = np.arange(CATEGORIES)  # none is empty
        self._order = np.argsort(category, kind="stable")
        self._ends = np.cumsum(np.bincount(category, minlength=CATEGORIES))
        self._rng = rng

    def draw(self, day: Ints, category: Ints) -> Ints:
        """An item of each row's category, there on the row's day."""
        item = np.empty(len(day), np.int64)
        for today in range(int(day[-1]) + 1):
            rows = np.flatnonzero(day == today)
            item[rows] = self._draw_today(today, category[rows])
        return item

    def _draw_today(self, day: int, category: Ints) -> Ints:
        weights = self._items.weights(day)
        # The most popular item of a category is always there, so that a draw cannot fail.
        weights[:CATEGORIES] = np.maximum(weights[:CATEGORIES], weights.max() / 10)
        sums = np.concatenate([[0.0], np.cumsum(weights[self._order])])
        ends = sums[self._ends[category]]
        starts = np.where(category == 0, 0.0, sums[self._ends[category - 1]])
        at = starts + (ends - starts) * self._rng.random(len(category))
        place = np.searchsorted(sums, at, side="right") - 1
        # Rounding may carry a point to the end of its category, where the next one starts.
        return self._order[np.minimum(place, self._ends[category] - 1)]


def _daily(day: Ints, draw: Callable[[int, int], Ints]) -> Ints:
    counts = np.bincount(day)
    return np.concatenate([draw(today, int(count)) for today, count in enumerate(counts)])


def _habit(user: Ints, values: int, rng: np.random.Generator) -> Ints:
    """Each user's usual value, now and then another."""
    usual = _zipf(values, int(user.max()) + 1, rng)[user]
    return np.where(rng.random(len(user)) < HABIT_SHARE, usual, _zipf(values, len(user), rng))


def _zipf(values: int, count: int, rng: np.random.Generator) -> Ints:
    return _draw(1 / np.arange(1, values + 1) ** OTHER_EXPONENT, count, rng)


def _draw(weights: Floats, count: int, rng: np.random.Generator) -> Ints:
    sums = np.cumsum(weights)
    at = sums[-1] * rng.random(count)
    places: Ints = np.searchsorted(sums, at, side="right")
    return np.minimum(places, len(weights) - 1)


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
    """What to add to all logits for the intended click rate, by bisection."""
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
