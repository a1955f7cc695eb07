"""How often the next day is expected to ask for each feature, from how often past days did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.errors import FieldError, array_of

__all__ = ["ExpectedFrequencies", "expected_frequencies"]

Floats = NDArray[np.float64]

_NEW, _SEEN, _NOT_SEEN = 0, 1, 2  # on the last day: first seen, seen again, not seen
_BANDS = 64  # counts of a band differ by less than a factor of two
_PRIOR = 50.0  # occurrences with the rate of all states, that each state has beside its own
_PRIOR_FEATURES = 20.0  # with the rate of the band below, that each band has beside its own
_FADING = 1 / 16  # of an occurrence, from one day to the next
_PRIOR_SHARE = 0.02  # of all occurrences, that each forecast has beside those it explains
_TINY = np.finfo(np.float64).tiny
_ROUNDS = 60  # of fitting the weights of forecasts
_MOST = 1e100  # occurrences of a feature, whose sums are finite


class ExpectedFrequencies(NamedTuple):
    """For :class:`saec.Field`.

    frequencies: (rows,) float64, expected occurrences on the next day; unseen_share: of the
    lookups of that day, those of features that no day had before.
    """

    frequencies: NDArray[np.float64]
    unseen_share: float


def expected_frequencies(
    earlier: ArrayLike,
    yesterday: ArrayLike,
    today: ArrayLike,
    *,
    late: tuple[ArrayLike, ArrayLike] | None = None,
) -> ExpectedFrequencies:
    """Frequencies for the day ahead, where features age: news, offers, pairs with a session.

    A count over all days is a bad forecast there: a new article is asked for again at once, and a
    pair of user and article hardly ever. So there are three forecasts, or four:

    * by groups: features are grouped by their count, and by whether the last day was their first
      one, saw them again, or did not see them. What today asked for of each group as it stood
      yesterday is what tomorrow is expected to ask for of the group as it stands today; within a
      group in proportion to counts. This is the idea of Good (1953), by groups. A group of few
      features says little, because features live and die as a whole: it has beside its own features
      those of 20 more with the rate of the next lower counts.
    * by recency: in proportion to the occurrences of today, a sixteenth of yesterday's and a 256th
      of earlier ones.
    * by ``late``: in proportion to the occurrences at the end of the day.
    * alike: all features that ever occurred. An old one may come back.

    The result is their weighted mean. Weights are fitted to what today asked for, by the forecasts
    as they stood yesterday (expectation maximisation, Dempster, Laird and Rubin 1977); that by
    groups has rates of today already, which are few. Each forecast has 2 % of all lookups beside
    those that it explains, so that a feature which was asked for today is never forgotten.

    Args:
        earlier: (rows,) occurrences of each feature on all days before yesterday.
        yesterday: (rows,) on the last day but one.
        today: (rows,) on the last day.
        late: (rows,) twice: occurrences of yesterday and of today, each of which counts the less
            the earlier in the day it was, such as ``np.bincount(ids, 0.5**hours_before_midnight)``.
            Give it where interest changes within a day.

    Raises:
        FieldError: the arrays differ in shape, a count is negative or not finite, today has none,
            or none of a feature that a day before had: then nothing tells what becomes of these;
            or ``late`` is no pair, has none of today, or some of a feature on a day without any.
    """
    days = {"earlier": earlier, "yesterday": yesterday, "today": today}
    before, last, now = _checked(days)
    ends = None if late is None else _checked_late(late, last, now)
    then = before + last
    known = now * (then > 0)
    if not known.any():
        raise FieldError("today has no occurrences of features that earlier or yesterday has")
    groups, recent = _by_groups(before, last, now), last + _FADING * before
    forecasts = [
        groups,
        (recent, now + _FADING * recent),
        ((then > 0).astype(np.float64), (then + now > 0).astype(np.float64)),
    ]
    if ends is not None:
        forecasts.append(ends)
    asked = known > 0
    told = np.stack([_shares(yesterdays)[asked] for yesterdays, _ in forecasts])
    weights = _weights(told, known[asked] / known.sum())
    shares = np.zeros(len(now))
    for weight, (_, todays) in zip(weights, forecasts, strict=True):
        shares += weight * _shares(todays)
    return ExpectedFrequencies(groups[1].sum() * shares, float(now[then == 0].sum() / now.sum()))


def _by_groups(before: Floats, last: Floats, now: Floats) -> tuple[Floats, Floats]:
    """The forecast by groups, as of yesterday and as of today (rows,)."""
    then = before + last
    groups, known = _groups(before, last), now * (then > 0)
    asked, counts = (
        np.bincount(groups, own, 3 * _BANDS).reshape(3, _BANDS).astype(np.float64)
        for own in (known, then)
    )
    every = float(known.sum() / then.sum())
    whole = (asked.sum(axis=1) + _PRIOR * every) / (counts.sum(axis=1) + _PRIOR)
    rates = _by_band(asked, counts, whole).reshape(-1)
    return then * rates[groups], (then + now) * rates[_groups(then, now)]


def _shares(counts: Floats) -> Floats:
    """Of all occurrences (rows,); zeros if there are none. Subnormal counts are scaled first."""
    scaled = counts / max(float(counts.max(initial=0.0)), 5e-324)
    shares: Floats = scaled / max(float(scaled.sum()), 1.0)
    return shares


def _weights(forecasts: Floats, asked: Floats) -> Floats:
    """The weights of ``forecasts`` (forecasts, features), shares of lookups, by which they explain
    best the shares (features,) that were ``asked`` for."""
    count = len(forecasts)
    weights: Floats = np.full(count, 1 / count)
    for _ in range(_ROUNDS):
        parts = weights[:, None] * forecasts
        parts /= np.maximum(parts.sum(axis=0), _TINY)
        weights = (parts @ asked + _PRIOR_SHARE) / (1 + count * _PRIOR_SHARE)
    return weights


def _by_band(asked: Floats, counts: Floats, whole: Floats) -> Floats:
    """Occurrences today for each one before (states, bands); ``whole``: of each state (states,)."""
    rates, below = np.empty_like(counts), whole
    for band in range(counts.shape[1]):
        prior = _PRIOR_FEATURES * 1.5 * 2.0**band
        below = (asked[:, band] + prior * below) / (counts[:, band] + prior)
        rates[:, band] = below
    return rates


def _groups(before: Floats, last: Floats) -> NDArray[np.int64]:
    """The group (rows,) of each feature on the evening of the last day."""
    state = np.where(last > 0, np.where(before > 0, _SEEN, _NEW), _NOT_SEEN)
    bands = np.log2(np.maximum(before + last, 1)).astype(np.int64)
    groups: NDArray[np.int64] = state * _BANDS + np.minimum(bands, _BANDS - 1)
    return groups


def _checked_late(late: object, last: Floats, now: Floats) -> tuple[Floats, Floats]:
    if not isinstance(late, (tuple, list)) or len(late) != 2:
        raise FieldError(f"late is a pair, of yesterday and of today, not {type(late).__name__}")
    names = ("late of yesterday", "late of today")
    found = _checked(dict(zip(names, late, strict=True)))
    for name, own, counts in zip(names, found, (last, now), strict=True):
        if own.shape != counts.shape:
            raise FieldError(f"{name} has {len(own)} features, and that day {len(counts)}")
        if (wrong := np.flatnonzero((own > 0) & (counts == 0))).size:
            raise FieldError(f"{name} has occurrences of feature {wrong[0]}, and that day has none")
    return found[0], found[1]


def _checked(given: Mapping[str, ArrayLike]) -> list[Floats]:
    """Counts (rows,), each by its name; the last is of today."""
    found = []
    for name, values in given.items():
        own = array_of(values, name, FieldError)
        if own.dtype.kind not in "biuf" or own.ndim != 1:
            raise FieldError(f"{name} is {own.dtype} of shape {own.shape}, not one count a feature")
        counts = own.astype(np.float64)
        if (wrong := np.flatnonzero(~((counts >= 0) & (counts <= _MOST)))).size:
            raise FieldError(
                f"{name} has {counts[wrong[0]]:g} occurrences of feature {wrong[0]}, which must be "
                f"from 0 to {_MOST:g}"
            )
        found.append(counts)
    if len({len(own) for own in found}) > 1:
        names, sizes = ", ".join(given), ", ".join(str(len(own)) for own in found)
        raise FieldError(f"{names} have {sizes} features, not as many each")
    if not found[-1].sum():
        raise FieldError(f"{list(given)[-1]} has no occurrences")
    return found
