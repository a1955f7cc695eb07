"""Properties of a model's tables, and a plan of their sizes, before anything is coded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.clustering.rowmap import RowMap
from saec.codecs.clusters.judged_rows import field_map, surveyed, usual_norm
from saec.codecs.moments_and_samples import Moments
from saec.codecs.protocol import Option
from saec.compression.allocation import expected_of
from saec.compression.budget import Ratio
from saec.compression.plan import Priced, field_rng
from saec.streaming.chunks import Chunk
from saec.streaming.map_reduce import Executor, passes_over
from saec.streaming.scratch import Workspace
from saec.tables.field import Field
from saec.tables.loss_metric import Metric
from saec.tables.unseen_gradients import SlopeShare
from saec.util.html_table import html_table, text_table

__all__ = ["FarRow", "InspectedField", "Inspection", "inspect"]

_MOST_FAR = 8  # far rows of a field that are listed

_HEADING = (
    *("field", "rows", "dim", "bytes", "rows once", "of occurrences", "directions"),
    *("would take", "bits per feature"),
)


@dataclass(frozen=True)
class FarRow:
    """A row that is much farther from the mean than nearly all others.

    Args:
        row: its id.
        times: its distance from the mean, divided by the distance within which all rows but a few
            lie.
        norm: its norm relative to the median norm of the field's rows; infinite if that is 0.
        share: its share of the field's occurrences.
    """

    row: int
    times: float
    norm: float
    share: float


@dataclass(frozen=True)
class InspectedField:
    """A field and its share of the plan.

    Args:
        name: the field's name.
        vocab_size: rows of the table.
        dim: width of the table.
        nbytes: bytes of the table, in its own dtype.
        rows_once: share of the rows whose frequency is 1.
        occurrences_once: share of all occurrences that belong to these rows.
        directions: effective number of directions in which rows differ, (sum v)^2 / sum v^2 over
            the variances v along the principal axes; 0 if all rows are equal.
        planned_nbytes: approximate bytes of the field after compression.
        far_rows: rows that are much farther from the mean than nearly all others, at most 8 of
            them, the farthest first. int8 codebooks store such rows closer to the others than
            they are, so that the others keep their precision.
        slopes: the weight of slopes on unseen rows; None without such rows.
    """

    name: str
    vocab_size: int
    dim: int
    nbytes: int
    rows_once: float
    occurrences_once: float
    directions: float
    planned_nbytes: int
    far_rows: tuple[FarRow, ...] = ()
    slopes: SlopeShare | None = None

    @property
    def planned_bits_per_feature(self) -> float:
        """Average bits of a row."""
        return 8 * self.planned_nbytes / self.vocab_size


@dataclass(frozen=True)
class Inspection:
    """All fields, and the planned file.

    Args:
        fields: in the order in which they were given.
        in_loss_metric: whether directions and plan use the loss metric, not Euclidean distance.
        planned_nbytes: largest size of the file in bytes.
        planned_loss_increase: nats; None without metrics.
    """

    fields: tuple[InspectedField, ...]
    in_loss_metric: bool
    planned_nbytes: int
    planned_loss_increase: float | None

    @property
    def nbytes(self) -> int:
        """Bytes of the tables, in their own dtypes."""
        return sum(field.nbytes for field in self.fields)

    @property
    def planned_ratio(self) -> float:
        """Compression ratio of the plan."""
        return self.nbytes / self.planned_nbytes

    def __str__(self) -> str:
        return text_table(self._caption, _HEADING, map(_cells, self.fields))

    @property
    def remarks(self) -> tuple[str, ...]:
        """Unusual properties, one line for each field that has some."""
        far = [_remark(field) for field in self.fields if field.far_rows]
        return (*far, *(_of_slopes(f.name, f.slopes) for f in self.fields if f.slopes))

    def _repr_html_(self) -> str:
        return html_table(self._caption, _HEADING, map(_cells, self.fields))

    @property
    def _caption(self) -> str:
        loss = self.planned_loss_increase
        cost = "" if loss is None else f", predicted log-loss increase {loss:.2g} nats"
        size = f"{self.nbytes:,} bytes would become {self.planned_nbytes:,}"
        measured = "in the loss metric" if self.in_loss_metric else "in Euclidean distance"
        lines = (
            f"{size}, ratio {self.planned_ratio:.1f}{cost}",
            f"directions: effective number {measured}",
            *self.remarks,
        )
        return "\n".join(lines)


def _remark(field: InspectedField) -> str:
    rows = ", ".join(
        f"{far.row} (norm {far.norm:,.0f} times the median, {far.share:.2g} of occurrences)"
        for far in field.far_rows
    )
    return f"field {field.name!r}: rows far from nearly all others: {rows}"


def _of_slopes(name: str, share: SlopeShare) -> str:
    undecided = share.value == 0 and share.measured > share.error
    return (
        f"field {name!r}: slopes on unseen rows count {share.value:.0%}: of those that one half of "
        f"the rows shows, {share.measured:.0%} +- {share.error:.0%} come true on the other half"
        + (", but what they would choose is not expected to gain more than its noise" * undecided)
    )


def _cells(field: InspectedField) -> tuple[str, ...]:
    return (
        field.name,
        f"{field.vocab_size:,}",
        str(field.dim),
        f"{field.nbytes:,}",
        f"{field.rows_once:.1%}",
        f"{field.occurrences_once:.1%}",
        f"{field.directions:.2f}",
        f"{field.planned_nbytes:,}",
        f"{field.planned_bits_per_feature:.2f}",
    )


def inspect(
    fields: Iterable[Field] | Priced,
    metrics: Mapping[str, ArrayLike] | None = None,
    ratio: float = 50.0,
    *,
    seed: int = 0,
    progress: bool = True,
    executor: Executor | None = None,
) -> Inspection:
    """Describe tables: the share of rare features, the number of directions in use, and each
    table's planned share of the bytes at a compression ratio.

    Args:
        fields: tables with frequencies; names must be unique. Or a result of :func:`saec.measure`,
            with its codec, metrics and seed.
        metrics: (dim, dim) by field, in nats, as from :func:`saec.torch.loss_metrics`; Euclidean
            distance if None.
        ratio: compression ratio of the plan, which is that of :func:`saec.compress` with its
            default codec.
        seed: see :func:`saec.compress`.
        progress: show a progress bar on stderr for work over two seconds.
        executor: see :func:`saec.compress`.

    Raises:
        BudgetError: the ratio is below 1 or cannot be reached; names the largest possible ratio.
        FieldError: names are not unique, or there are no fields.
        MetricError: a metric is missing or malformed.
    """
    budget = Ratio(ratio)
    space = Workspace(executor=executor)
    priced = Priced.of(
        fields, None, metrics, seed=seed, progress=progress, space=space, budget=budget
    )
    space = Workspace(executor=priced.executor)
    chosen = priced.chosen(budget)
    known = priced.metrics
    return Inspection(
        fields=tuple(
            _inspected(field, None if known is None else known[field.name], option, seed, space)
            for field, option in zip(priced.fields, chosen, strict=True)
        ),
        in_loss_metric=known is not None,
        planned_nbytes=priced.file_bytes(chosen),
        planned_loss_increase=None if known is None else expected_of(chosen),
    )


def _inspected(
    field: Field, metric: Metric | None, option: Option, seed: int, space: Workspace
) -> InspectedField:
    once = field.census.counted(1.0)
    survey = surveyed(field, field_rng(seed, field, 2), space)
    row_map = field_map(field, survey, None if metric is None else metric.root)
    find_far = _FindFar(row_map, usual_norm(field, survey), field.census.total)
    return InspectedField(
        name=field.name,
        vocab_size=field.vocab_size,
        dim=field.dim,
        nbytes=field.nbytes,
        rows_once=once / field.vocab_size,
        occurrences_once=once / field.census.total,
        directions=_directions(
            survey.moments, Metric.euclidean(field.dim) if metric is None else metric
        ),
        planned_nbytes=-(-option.bits // 8),
        far_rows=passes_over(field.parts, space).run(find_far, _farthest),
        slopes=option.share,
    )


@dataclass(frozen=True, eq=False)
class _FindFar:
    """A task that finds the rows of a part that are much farther from the mean than nearly all
    others.

    row_map: as in the codec; median: median norm of a row; total: all occurrences.
    """

    row_map: RowMap
    median: float
    total: float

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> tuple[FarRow, ...]:
        weights, frequencies = part.weights(), part.frequencies()
        far, times = self.row_map.far(weights, frequencies)
        norms = np.linalg.norm(weights[far].astype(np.float64), axis=1)
        with np.errstate(divide="ignore"):
            relative = norms / np.float64(self.median)
        shares = frequencies[far] / self.total
        columns = (part.start + far, times, relative, shares)
        found = zip(*(column.tolist() for column in columns), strict=True)
        return _farthest([tuple(FarRow(*values) for values in found)])


def _farthest(parts: Sequence[tuple[FarRow, ...]]) -> tuple[FarRow, ...]:
    found = [far for part in parts for far in part]
    return tuple(nlargest(_MOST_FAR, found, key=lambda far: far.times))


def _directions(moments: Moments, metric: Metric) -> float:
    """The participation ratio of the variances, computed from two traces without the axes."""
    spread = metric.mapped(metric.mapped(moments.covariance).T)
    total = float(np.trace(spread))
    # If all rows are equal, rounding still leaves a small variance.
    if total <= 1e-24 * float(np.square(metric.mapped(moments.mean)).sum()):
        return 0.0
    return total**2 / float(np.square(spread).sum())
