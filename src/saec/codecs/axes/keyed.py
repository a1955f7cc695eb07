"""Options for a field with keys: one or more for each price of a bit.

Rows of similar frequency form a class. For a given price per bit, three things are chosen:

* the symbols of each class (:mod:`.keyed_class`);
* for each row, whether it is stored; the other rows are decoded to the default row;
* the lengths of the codewords (:mod:`.code_lengths`), which also determine how often an unknown key
  is decoded to a symbol instead of the default row.

All three minimise one objective:

    sum over stored rows (w/N nats of its error + price x bits)
    + sum over other rows w/N nats from the default row
    + u x sum over symbols 2^-length x nats between symbol and default row

w is the frequency of a row, N the number of all lookups, those with unknown keys included, and u
the share of lookups whose key is not stored: keys that were never seen, weighted by what a wrong
row costs them (:mod:`.unknown_keys`), and rows that are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.clustering.rowmap import RowMap
from saec.codecs.axes.coded_class import KeyedClass, keyed_class
from saec.codecs.axes.keyed_choice import stored_bytes
from saec.codecs.axes.keyed_class import class_coder
from saec.codecs.axes.keyed_pricing import Coder, Pricing
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.row_slopes import RowGradient, RowNats, RowSlopes
from saec.codecs.axes.slope_costs import MeasuredSlopes
from saec.codecs.axes.unknown_keys import weight_of_unknown_keys
from saec.codecs.moments_and_samples import (
    Moments,
    Survey,
    nats_of_far_rows,
    near_survey,
    row_map_of,
    survey_of,
)
from saec.codecs.protocol import Option
from saec.codecs.slope_noise import SlopeNoise
from saec.streaming.frequency_histogram import Census
from saec.streaming.scratch import Workspace
from saec.streaming.strata import ByRank, InOrder, Placing
from saec.tables.field import Field
from saec.tables.loss_metric import Metric

__all__ = ["keyed_options"]

Floats = NDArray[np.float64]

_SAMPLED_ROWS = 1 << 15  # of a class
_BAND = 4.0  # frequencies of a class differ by less than this factor
_PRICES_PER_DECADE = 3
_MOST_DECADES = 12
_LEAST_LEFT = 1e-5  # stop at this share of the nats that are lost without any bits
_SMALL_BYTES = 1 << 12  # bytes by which a field may exceed its uncompressed rows


def keyed_options(
    field: Field,
    metric: Metric | None,
    rng: np.random.Generator,
    space: Workspace,
    coder: Coder = class_coder,
    sampled_rows: int = _SAMPLED_ROWS,
) -> list[Option]:
    """Ways to store a field with keys; see :class:`~saec.codecs.protocol.Codec`.

    Args:
        field: has keys.
        metric: the loss metric; None for squared errors.
        rng: draws the sample.
        space: place of temporary files.
        coder: chooses the symbols of a class.
        sampled_rows: the most rows of a class that are read into the sample.
    """
    placing = _bands(field.census)
    survey = survey_of(field, placing, sampled_rows, int(rng.integers(1 << 63)), space)
    row_map = row_map_of(survey, placing.bounds, None if metric is None else metric.root)
    keyed = _SurveyedKeys(field, metric, space, placing, survey, coder)
    lost = nats_of_far_rows(survey, row_map, field.lookups)
    found, worth = keyed.at(row_map, lost)
    if (unclipped := row_map.unclipped(lost, worth)) is not None:
        found += keyed.at(unclipped, 0.0)[0]
    return found


@dataclass(frozen=True, eq=False)
class _SurveyedKeys:
    """A field with keys and the survey of its rows, from which options are priced."""

    field: Field
    metric: Metric | None
    space: Workspace
    placing: Placing
    survey: Survey
    coder: Coder

    def at(self, row_map: RowMap, lost: float) -> tuple[list[Option], float]:
        """Options with rows clipped by ``row_map``, and the nats that clipped rows lose without
        any bits.

        lost: the nats that clipping loses, whatever the codes are.
        """
        field, total = self.field, self.field.lookups
        assert field.keys is not None, "fields without keys have other options"
        survey = near_survey(field, self.survey, row_map, self.space)
        moments = _about(survey.moments, _default_row(field, survey))
        distance = Metric.euclidean(field.dim) if self.metric is None else self.metric
        frame = Frame.of(moments, distance)
        measured = MeasuredSlopes.of(
            field, self.metric, survey, frame, self.placing, row_map, self.space
        )
        slopes = None if measured is None else RowSlopes.of(measured, survey, frame, total)
        flat = RowGradient.none(frame.rank)
        gradients = [flat] * len(survey.samples) if slopes is None else slopes.tiers
        classes = tuple(
            keyed_class(sample, frame, int(count), total, RowNats(frame.nats, gradient))
            for sample, count, gradient in zip(
                survey.samples, np.diff(self.placing.bounds), gradients, strict=True
            )
        )
        unknown = weight_of_unknown_keys(field, self.metric, frame, classes)
        room = field.keys.room
        pricing = Pricing(field, frame, self.placing, row_map, classes, unknown, room, self.coder)
        unit = field.nats_as_distortion(metric=self.metric is not None)
        options = []
        share = None if slopes is None else slopes.share
        everything = sum(float(own.unstored.lost.sum()) for own in classes)
        for price in _prices(classes):
            for own in pricing.at(price):
                nats = (own.nats + lost, own.by_slopes, own.first_order)
                left, by_slopes, first = (unit * each for each in nats)
                noise = None if slopes is None else SlopeNoise.of(slopes, unit * own.doubts)
                size = stored_bytes(field, own.choice)
                options.append(
                    Option(8 * size, left, own.choice, noise, share, 0.0, by_slopes, first)
                )
            least_bits = 8 * (field.nbytes + _SMALL_BYTES)
            if options[-1].bits > least_bits or own.nats - frame.rest < _LEAST_LEFT * everything:
                break
        return options, everything + frame.rest


def _bands(census: Census) -> Placing:
    """Classes of rows whose frequencies differ by less than a factor of ``_BAND``."""
    seen = census.values[census.values > 0]
    bands = np.floor(np.log(seen / seen[-1]) / np.log(_BAND) + 1e-9)
    ends = np.flatnonzero(np.r_[np.diff(bands) != 0, True])
    cuts = np.cumsum(census.counts)[ends]
    bounds = np.unique(np.r_[0, cuts, census.rows])
    return InOrder(bounds) if census.descending else ByRank.of(census, bounds, "keep")


def _default_row(field: Field, survey: Survey) -> Floats:
    """The row of unknown keys: the model's own, or the mean of the rarest rows that occur."""
    assert field.keys is not None
    if field.keys.unseen.vector is not None:
        return field.keys.unseen.vector
    rarest = [sample for sample in survey.samples if sample.blocks and sample.weight > 0][-1]
    mean: Floats = np.average(rarest.rows.astype(np.float64), axis=0, weights=rarest.frequencies)
    return mean


def _about(moments: Moments, row: Floats) -> Moments:
    """The moments about ``row`` in place of the mean."""
    away = moments.mean - row
    return Moments(moments.weight, row, moments.scatter + moments.weight * np.outer(away, away))


def _prices(classes: Sequence[KeyedClass]) -> Iterator[float]:
    """Prices in nats per bit, descending; at the first, no row is worth a bit."""
    highest = max(float(np.abs(own.unstored.lost / own.each).max()) for own in classes)
    for step in range(_PRICES_PER_DECADE * _MOST_DECADES):
        yield highest * 10.0 ** (-step / _PRICES_PER_DECADE)
