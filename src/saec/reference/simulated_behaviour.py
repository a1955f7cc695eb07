"""Users, items, times and places of the simulated click log."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Ints", "behaviour"]


Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ROWS_PER_USER = 15
ROWS_PER_ITEM = 40
CITIES = 200
CATEGORIES = 40
DEVICES = 12
HOURS = 24
# Zipf exponents and shares of behaviour; together they set the tails.
USER_EXPONENT = 0.9
ITEM_EXPONENT = 1.0
OTHER_EXPONENT = 1.0
OLD_SHARE = 0.7  # users and items there from the first day; the others come evenly later
FAVOURITES = 3
FAVOURITE_SHARE = 0.85
HABIT_SHARE = 0.9  # at home, on one's own device


class _Population:
    """Things of Zipf-distributed popularity, some of which come only on a later day, and some of
    which, the share ``deaths``, are not there until the end."""

    def __init__(
        self, count: int, exponent: float, days: int, deaths: float, rng: np.random.Generator
    ) -> None:
        # In a pure power law one item would have half of all traffic; so rank 1 weighs no more than
        # rank 10.
        self._weights = 1 / (np.arange(count) + 10.0) ** exponent
        self._born = np.where(rng.random(count) < OLD_SHARE, 0, rng.integers(1, days, count))
        self._gone = np.full(count, days)
        if deaths > 0:  # else nothing is drawn, and logs without deaths stay what they are
            dying = rng.random(count) < deaths
            self._gone[dying] = rng.integers(self._born[dying], days) + 1
        self._rng = rng

    def weights(self, day: int) -> Floats:
        """Popularity on a day, 0 before a thing exists and when it is gone."""
        return np.where((self._born <= day) & (day < self._gone), self._weights, 0.0)

    def draw(self, day: int, count: int) -> Ints:
        """So many things, by popularity."""
        return _draw(self.weights(day), count, self._rng)


def behaviour(day: Ints, rng: np.random.Generator, deaths: float = 0.0) -> dict[str, Ints]:
    """The examples of the log: a value per field and row.

    deaths: the share of users and items that disappear on some day.
    """
    rows, days = len(day), int(day[-1]) + 1
    users = _Population(max(2, rows // ROWS_PER_USER), USER_EXPONENT, days, deaths, rng)
    items = _Catalogue(max(CATEGORIES, rows // ROWS_PER_ITEM), days, deaths, rng)
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

    def __init__(self, count: int, days: int, deaths: float, rng: np.random.Generator) -> None:
        self._items = _Population(count, ITEM_EXPONENT, days, deaths, rng)
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
