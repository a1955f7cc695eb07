"""Axes in the loss metric, tiers of rows by frequency, and one Lagrangian over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.artifact import Stored
from saec.clustering.rowmap import RowMap
from saec.codecs.axes.candidates import TierRows, measure_tier
from saec.codecs.axes.encode import (
    CODES,
    INDEX,
    PERMUTATION,
    STARTS,
    EncodeTiers,
    keeps_ids,
    order_rows,
)
from saec.codecs.axes.far_rows import FarCosts, FarRows
from saec.codecs.axes.keyed import keyed_options
from saec.codecs.axes.keyed_choice import KeyedChoice, keyed_least
from saec.codecs.axes.keyed_encode import encode_keyed
from saec.codecs.axes.lagrangian import Layered
from saec.codecs.axes.layouts import (
    AxesChoice,
    index_bytes,
    joined_tails,
    layouts,
    placing_of,
    planned_bytes,
    undominated,
    with_tiers,
)
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.slope_costs import FieldSlopes, MeasuredSlopes
from saec.codecs.moments_and_samples import (
    Survey,
    nats_of_far_rows,
    near_survey,
    row_map_of,
    survey_of,
)
from saec.codecs.protocol import Coded, Option, split
from saec.errors import OptionError
from saec.format.compressed_field import CompressedField
from saec.format.tier_index import ORDERS, Order, TierIndex
from saec.format.tier_layout import Layout, tier_bounds
from saec.format.tiered_field import TieredField
from saec.streaming.map_reduce import Advance, passes_over
from saec.streaming.scratch import Workspace
from saec.streaming.strata import ByRank, Placing
from saec.tables.field import Field
from saec.tables.loss_metric import Metric

__all__ = ["Axes"]

_SAMPLED_ROWS = 1 << 17  # of a tier; its tables are learned and measured from these


@dataclass(frozen=True)
class Axes:
    """Codes coordinates on a field's principal axes in the loss metric; frequent rows get more
    bits.

    A row is mean + sum of coordinate x axis. Each tier (rows of similar frequency) codes each axis
    in its own way, from a fine grid to no bits at all, or codes the leading axes jointly by
    clusters; see docs/design.md.

    Args:
        order: ``"keep"`` keeps the ids. Unless they are in order of frequency already, an index
            of the rows' tiers is stored, and its bytes are part of the allocation.

            ``"frequency"`` renumbers features by frequency. Lookups of the result take the new
            ids; a field's ``old_ids`` gives the old id of each new one, and ``new_ids`` the new id
            of each old one.

            ``"code"`` renumbers features by frequency, too, and sorts the rows of a tier by their
            first codes. These then take next to no bytes, since they follow from the new ids. Ids
            change even if they are in order of frequency.

    Raises:
        OptionError: ``order`` is none of these.
    """

    has_one_size = False
    only_copies = False

    order: Order = "keep"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise OptionError(f"order cannot be {self.order!r}; it is one of {', '.join(ORDERS)}")

    @property
    def renumbers(self) -> bool:
        """Whether compression changes the ids."""
        return self.order != "keep"

    def sampled_bytes(self, field: Field) -> int:
        """Bytes of the sampled rows, of their coordinates, and of a sorted copy of these; see
        ``Codec``."""
        rows = np.minimum(np.diff(tier_bounds(field.vocab_size)), _SAMPLED_ROWS).sum()
        return 3 * 4 * field.dim * int(rows)

    def options(
        self, field: Field, metric: Metric | None, rng: np.random.Generator, space: Workspace
    ) -> Sequence[Option]:
        """One option for each layout of the tiers; see :class:`~saec.codecs.protocol.Codec`."""
        if field.keys is not None:
            return keyed_options(field, metric, rng, space)
        placing = placing_of(field, self.order, space)
        seed = int(rng.integers(1 << 63))
        survey = survey_of(field, placing, _SAMPLED_ROWS, seed, space)
        row_map = row_map_of(survey, placing.bounds, None if metric is None else metric.root)
        surveyed = _SurveyedField(field, metric, space, placing, survey, self.order)
        lost = nats_of_far_rows(survey, row_map, field.census.total)
        found, worth = surveyed.at(row_map, lost, rng)
        if (unclipped := row_map.unclipped(lost, worth)) is not None:
            found += surveyed.at(unclipped, 0.0, rng)[0]
            return undominated(found, lambda option: (option.bits, option.distortion))
        return found

    def least(self, field: Field, space: Workspace) -> CompressedField:
        """The field that decodes every row to the mean; see
        :class:`~saec.codecs.protocol.Codec`."""
        if field.keys is not None:
            return keyed_least(field)
        placing = placing_of(field, self.order, space)
        kept = keeps_ids(placing)
        layout = Layout(field.vocab_size, ((),) * (1 if kept else len(placing.bounds) - 1))
        return TieredField(
            field.name,
            layout,
            np.zeros(layout.code_bytes, np.uint8),
            np.zeros(layout.value_count, np.float16),
            np.zeros((1, field.dim), np.float16),
            None,
            field.dtype.name,
            renumbered=isinstance(placing, ByRank) and not kept,
        )

    def encode(
        self,
        field: Field,
        choice: object,
        rng: np.random.Generator,
        advance: Advance,
        space: Workspace,
    ) -> Coded:
        """Code every row as an :class:`AxesChoice` says, or, with keys, a ``KeyedChoice``."""
        if isinstance(choice, KeyedChoice):
            return encode_keyed(field, choice, advance, space)
        assert isinstance(choice, AxesChoice)
        layout, tiers = choice.layout(field.vocab_size), choice.layered.tiers
        frame, placing = choice.frame, choice.placing
        passes = passes_over(field.parts, space)
        ordering = None
        if layout.any_ordered:
            ordering = order_rows(passes, frame, placing, layout, tiers, choice.row_map)
        total = field.census.total
        coding = EncodeTiers(frame, placing, layout, tiers, total, choice.row_map, ordering)
        lost, tensors = passes.lay(
            coding,
            sum,
            _sizes(field, choice),
            counter=placing,
            advance=advance,
            space=space,
        )
        old_ids = tensors.get(PERMUTATION)
        if isinstance(old_ids, np.ndarray):  # a permutation in shards stays as bytes
            old_ids = old_ids.view(np.int64)
        arrays, sharded = split({role: tensors[role] for role in tensors if role != PERMUTATION})
        if ordering is not None:
            arrays[STARTS] = ordering.starts
        return Coded(_stored(field, choice, arrays, old_ids), lost, sharded)


def _sizes(field: Field, choice: AxesChoice) -> dict[str, int]:
    """Sizes in bytes, by role, of the tensors that grow with the number of rows."""
    layout, placing = choice.layout(field.vocab_size), choice.placing
    sizes = {CODES: layout.code_bytes}
    if size := index_bytes(choice, layout.count, len(layout.tiers)):
        sizes[INDEX] = size
    elif not keeps_ids(placing) and (isinstance(placing, ByRank) or layout.any_ordered):
        sizes[PERMUTATION] = 8 * field.vocab_size
    return sizes


def _stored(
    field: Field,
    choice: AxesChoice,
    tensors: Mapping[str, NDArray[Any]],
    permutation: Stored | None,
) -> TieredField:
    """The field made of ``tensors`` and of the values and axes of ``choice``."""
    layout = choice.layout(field.vocab_size)
    values = [coder.values for tier in choice.layered.tiers for coder in tier]
    stored = choice.frame.stored
    index = tensors.get(INDEX)
    return TieredField(
        field.name,
        layout,
        tensors[CODES],
        np.concatenate([np.zeros(0, np.float16), *values]),
        np.concatenate([stored[: layout.rank], stored[-1:]]),
        None if index is None else TierIndex(index, layout.count, len(layout.tiers)),
        field.dtype.name,
        renumbered=permutation is not None,
        permutation=permutation,
        starts=tensors.get(STARTS),
    )


@dataclass(frozen=True, eq=False)
class _SurveyedField:
    """A field with the survey of its rows; options are measured on the survey's samples."""

    field: Field
    metric: Metric | None
    space: Workspace
    placing: Placing
    survey: Survey
    order: Order

    def at(
        self, row_map: RowMap, lost: float, rng: np.random.Generator
    ) -> tuple[list[Option], float]:
        """Options for rows clipped by ``row_map``.

        ``lost`` is the loss in nats from clipping alone. The second result is the loss in nats if
        clipped rows get no bits.
        """
        field, total = self.field, self.field.census.total
        survey = near_survey(field, self.survey, row_map, self.space)
        distance = Metric.euclidean(field.dim) if self.metric is None else self.metric
        frame = Frame.of(survey.moments, distance, field.vocab_size)
        measured = MeasuredSlopes.of(
            field, self.metric, survey, frame, self.placing, row_map, self.space
        )
        slopes = None if measured is None else FieldSlopes.of(measured)
        found = self._layouts(survey, frame, slopes, rng)
        far = None
        if row_map.reach is not None:
            samples = self.survey.samples
            each = [FarRows.of(sample, row_map, frame, total) for sample in samples]
            far = FarCosts(each, frame.nats)
        unit = field.nats_as_distortion(metric=self.metric is not None)
        options = []
        for choice in self._choices(found, frame, row_map):
            layered = choice.layered
            option = Option(
                8 * planned_bytes(field, choice),
                (layered.nats + lost) * unit,
                choice,
                far=0.0 if far is None else far.of(layered) * unit,
            )
            # Only with slopes: these sums make the coders of all candidates.
            options.append(option if slopes is None else slopes.on(option, layered))
        return options, float(frame.nats.sum()) + frame.rest

    def _layouts(
        self, survey: Survey, frame: Frame, slopes: FieldSlopes | None, rng: np.random.Generator
    ) -> list[Layered]:
        counts, total = np.diff(self.placing.bounds), self.field.census.total
        rows = [
            TierRows.of(sample, frame, int(count), total)
            for sample, count in zip(survey.samples, counts, strict=True)
        ]
        tiers = [
            measure_tier(tier, frame.nats, rng, self.order == "code", own)
            for tier, own in zip(rows, slopes.moves if slopes else [None] * len(rows), strict=True)
        ]
        ways = [tiers]
        if keeps_ids(self.placing):
            ways += joined_tails(rows, tiers, frame.nats, rng, slopes)
        if slopes is not None:
            ways = [slopes.priced(way) for way in ways]
        return layouts(self.field, ways, frame, keeps_ids(self.placing))

    def _choices(
        self, found: Sequence[Layered], frame: Frame, row_map: RowMap
    ) -> Iterator[AxesChoice]:
        numbers = {len(layered.ways) for layered in found}
        placings = {number: with_tiers(self.field, self.placing, number) for number in numbers}
        if frame.stored.dtype != np.float16:  # otherwise the mean is in float16 already
            narrow, more = frame.least
            alone = replace(found[0], rest=found[0].rest + more)
            yield AxesChoice(narrow, placings[len(found[0].ways)], alone, row_map)
        for layered in found:
            yield AxesChoice(frame, placings[len(layered.ways)], layered, row_map)
