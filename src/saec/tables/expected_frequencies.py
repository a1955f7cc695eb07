"""How often the next day is expected to ask for each feature, from how often past days did."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.errors import FieldError, array_of

__all__ = ["ExpectedFrequencies", "expected_frequencies"]

_NEW, _SEEN, _NOT_SEEN = 0, 1, 2  # on the last day: first seen, seen again, not seen
_BANDS = 64  # counts of a band differ by less than a factor of two
_PRIOR = 50.0  # occurrences with the rate of all states, that each state has beside its own
_PRIOR_FEATURES = 20.0  # with the rate of the band below, that each band has beside its own
_BY_RECENCY = 0.2  # of what is expected, in proportion to occurrences that fade
_FADING = 1 / 16  # from one day to the next


class ExpectedFrequencies(NamedTuple):
    """For :class:`saec.Field`.

    frequencies: (rows,) float64, expected occurrences on the next day; unseen_share: of the
    lookups of that day, those of features that no day had before.
    """

    frequencies: NDArray[np.float64]
    unseen_share: float


def expected_frequencies(
    earlier: ArrayLike, yesterday: ArrayLike, today: ArrayLike
) -> ExpectedFrequencies:
    """Frequencies for the day ahead, where features age: news, offers, pairs with a session.

    A count over all days is a bad forecast there: a new article is asked for again at once, and a
    pair of user and article hardly ever. Features are grouped by their count, and by whether the
    last day was their first one, saw them again, or did not see them. What today asked for of each
    group as it stood yesterday is what tomorrow is expected to ask for of the group as it stands
    today; within a group in proportion to counts. This is the idea of Good (1953), by groups.

    A group of few features says little, because features live and die as a whole. So each group of
    a state has beside its own features those of 20 more with the rate of the next lower counts, and
    a fifth of what is expected is spread in proportion to the occurrences of today, a sixteenth of
    yesterday's and a 256th of earlier ones: a feature that was asked for today is never forgotten.

    Args:
        earlier: (rows,) occurrences of each feature on all days before yesterday.
        yesterday: (rows,) on the last day but one.
        today: (rows,) on the last day.

    Raises:
        FieldError: the arrays differ in shape, a count is negative or not finite, today has none,
            or none of a feature that a day before had: then nothing tells what becomes of these.
    """
    before, last, now = _checked(earlier, yesterday, today)
    then = before + last
    groups, known = _groups(before, last), now * (then > 0)
    if not known.any():
        raise FieldError("today has no occurrences of features that earlier or yesterday has")
    asked, counts = (
        np.bincount(groups, own, 3 * _BANDS).reshape(3, _BANDS).astype(np.float64)
        for own in (known, then)
    )
    every = float(known.sum() / then.sum())
    whole = (asked.sum(axis=1) + _PRIOR * every) / (counts.sum(axis=1) + _PRIOR)
    rates = _by_band(asked, counts, whole)
    by_groups = (then + now) * rates.reshape(-1)[_groups(then, now)]
    recent = now + _FADING * (last + _FADING * before)
    scale = float(by_groups.sum() / recent.sum())
    frequencies = (1 - _BY_RECENCY) * by_groups + _BY_RECENCY * scale * recent
    return ExpectedFrequencies(frequencies, float(now[then == 0].sum() / now.sum()))


def _by_band(
    asked: NDArray[np.float64], counts: NDArray[np.float64], whole: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Occurrences today for each one before (states, bands); ``whole``: of each state (states,)."""
    rates, below = np.empty_like(counts), whole
    for band in range(counts.shape[1]):
        prior = _PRIOR_FEATURES * 1.5 * 2.0**band
        below = (asked[:, band] + prior * below) / (counts[:, band] + prior)
        rates[:, band] = below
    return rates


def _groups(before: NDArray[np.float64], last: NDArray[np.float64]) -> NDArray[np.int64]:
    """The group (rows,) of each feature on the evening of the last day."""
    state = np.where(last > 0, np.where(before > 0, _SEEN, _NEW), _NOT_SEEN)
    bands = np.log2(np.maximum(before + last, 1)).astype(np.int64)
    groups: NDArray[np.int64] = state * _BANDS + np.minimum(bands, _BANDS - 1)
    return groups


def _checked(*given: ArrayLike) -> list[NDArray[np.float64]]:
    found = []
    for name, values in zip(("earlier", "yesterday", "today"), given, strict=True):
        own = array_of(values, name, FieldError)
        if own.dtype.kind not in "biuf" or own.ndim != 1:
            raise FieldError(f"{name} is {own.dtype} of shape {own.shape}, not one count a feature")
        counts = own.astype(np.float64)
        if not (np.isfinite(counts) & (counts >= 0)).all():
            raise FieldError(f"{name} holds a count that is negative or not finite")
        found.append(counts)
    if len({len(own) for own in found}) > 1:
        sizes = ", ".join(str(len(own)) for own in found)
        raise FieldError(f"earlier, yesterday and today have {sizes} features, not as many each")
    if not found[2].sum():
        raise FieldError("today has no occurrences")
    return found
