"""What compression would cost in log loss, for every size, before anything is coded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.codecs.protocol import Codec
from saec.compression.allocation import Optimum, frontier
from saec.compression.plan import Priced
from saec.errors import BudgetError, MetricError
from saec.streaming.map_reduce import Executor
from saec.streaming.scratch import Workspace
from saec.tables.field import Field
from saec.tables.loss_metric import LossMetrics
from saec.util.html_table import html_table

__all__ = ["Forecast", "curve_of", "forecast"]

_POINTS = 64  # of the curve
_SHOWN = 9  # of them, in text

_NO_LOSS = 1e-12  # nats that stand for none where there are logarithms

_LEAST_SHARE = 0.02  # of a forecast that may come true; measurements below are noise

# What the band cannot contain.
_UNKNOWN = "no labels of unseen rows: what is lost on them in first order is not known"

_LEAST_TOLD = 1e-5  # of the largest increase; points of smaller ones need not be told apart


@dataclass(frozen=True, eq=False)
class Forecast:
    """A curve of sizes, smallest first, and the increase of the mean log loss predicted at each.

    :func:`saec.forecast` predicts to second order, from the model's own predictions. The increase
    on rows that the tables have not seen has a part of first order as well, of either sign, which
    only labels of such rows tell: mostly the sum overstates increases of 1e-4 and more, and it may
    understate smaller ones by a factor of ten and more. Metrics measured with labelled ``unseen``
    rows know that part, and the curve contains it; :func:`saec.torch.forecast` also measures.

    Attributes:
        ratios: (m,) compression ratios, descending.
        nbytes: (m,) bytes of the artifact as saved, ascending.
        loss_increases: (m,) nats, descending.
        low, high: (m,) nats, two standard errors below and above: of the second-order sum, as far
            as that of the metrics is known, and of the first-order part, if that is known; or of
            what was measured, if the curve was corrected.
        fields: by field name, (m,) bytes of its codes and tables.
        labelled: whether labels of unseen rows are in the curve. Without, ``low`` and ``high`` do
            not contain the part of first order, of which nothing is known.
    """

    ratios: NDArray[np.float64]
    nbytes: NDArray[np.int64]
    loss_increases: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    fields: Mapping[str, NDArray[np.int64]]
    labelled: bool = False

    def loss_at(self, ratio: float) -> float:
        """Nats expected at a compression ratio, between points of the curve in logarithms.

        Raises:
            BudgetError: the ratio is beyond what can be reached.
        """
        if not self.ratios[-1] <= ratio <= self.ratios[0]:
            raise BudgetError(
                f"ratio {ratio:g} is outside what can be reached, "
                f"{self.ratios[-1]:.2f} to {self.ratios[0]:.1f}"
            )
        return float(np.exp(np.interp(np.log(ratio), self._log_ratios, self._log_losses)))

    def ratio_at(self, loss_increase: float) -> float:
        """The largest ratio at which no more nats than ``loss_increase`` are expected.

        Raises:
            BudgetError: ``loss_increase`` is not positive.
        """
        if not loss_increase > 0:
            raise BudgetError(f"a loss increase must be above 0, not {loss_increase!r}")
        place = np.interp(np.log(loss_increase), self._log_losses, self._log_ratios)
        return float(np.exp(place))

    @property
    def _log_ratios(self) -> NDArray[np.float64]:
        return np.log(self.ratios)[::-1]

    @property
    def _log_losses(self) -> NDArray[np.float64]:
        return np.log(np.maximum(self.loss_increases, _NO_LOSS))[::-1]

    def corrected(
        self,
        ratios: NDArray[np.float64],
        increases: NDArray[np.float64],
        errors: NDArray[np.float64],
    ) -> Forecast:
        """The curve as some measurements say it should be.

        Between the ``ratios`` (k,) at which ``increases`` (k,) with standard ``errors`` (k,), in
        nats, were measured, the share of the forecast that came true is interpolated in log size,
        and beyond them it stays. A larger ratio never costs less. ``low`` and ``high`` are two
        standard errors away; ``low`` may be negative. Below the smallest ratio that was measured
        they reach from 0 to what holds there, as small increases may be many times the forecast.

        Raises:
            BudgetError: a ratio is beyond what can be reached.
        """
        predicted = np.array([self.loss_at(float(ratio)) for ratio in ratios])
        order = np.argsort(ratios)
        sizes, known = np.log(self.ratios), np.log(ratios[order])
        share = np.interp(sizes, known, (increases / predicted)[order])
        error = np.interp(sizes, known, (errors / predicted)[order])
        mean = _never_cheaper(np.maximum(share, _LEAST_SHARE) * self.loss_increases)
        spread = 2 * error * self.loss_increases
        low = np.minimum(share * self.loss_increases, mean) - spread
        high = mean + spread
        beyond = sizes < known[0]
        if beyond.any():
            low[beyond] = np.minimum(low[beyond], 0.0)
            high[beyond] = np.interp(known[0], sizes[::-1], high[::-1])
        return replace(self, loss_increases=mean, low=low, high=high, labelled=True)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One dictionary per point, for tables and files."""
        for place in range(len(self.ratios)):
            yield {
                "ratio": float(self.ratios[place]),
                "nbytes": int(self.nbytes[place]),
                "predicted_loss_increase": float(self.loss_increases[place]),
                "low": float(self.low[place]),
                "high": float(self.high[place]),
            }

    def __repr__(self) -> str:
        lines = [f"Forecast({len(self.ratios)} sizes)", "   ratio       bytes  log loss"]
        for place in self.told_apart(_SHOWN):
            lines.append(
                f"{self.ratios[place]:8.1f} {self.nbytes[place]:11d}  "
                f"+{self.loss_increases[place]:.2e} "
                f"({self.low[place]:.1e} to {self.high[place]:.1e})"
            )
        if not self.labelled:
            lines.append(_UNKNOWN)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        heading = ("ratio", "bytes", "log loss, nats", "low", "high")
        losses = (self.loss_increases, self.low, self.high)
        rows = [
            (
                f"{self.ratios[place]:,.1f}",
                f"{self.nbytes[place]:,}",
                *(f"+{nats[place]:.2e}" for nats in losses),
            )
            for place in self.told_apart(_SHOWN)
        ]
        caption = "expected increase of the log loss"
        return html_table(caption if self.labelled else f"{caption}\n{_UNKNOWN}", heading, rows)

    def told_apart(self, count: int) -> list[int]:
        """Places of up to ``count`` points, both ends among them, that show how the curve bends.

        They are evenly spaced along it, by size and by increase, both in logarithms.
        """
        return _along(self.nbytes, self.loss_increases, count)


def forecast(
    fields: Iterable[Field] | Priced,
    metrics: Mapping[str, ArrayLike] | None = None,
    codec: Codec | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
    executor: Executor | None = None,
) -> Forecast:
    """Forecast the increase of the log loss for every size that compression can reach.

    Each field's options are measured as :func:`saec.compress` measures them; nothing is coded. The
    increase is the second-order sum, sum_f sum_i (w_i / sum w) 1/2 delta_i' G_f delta_i, with the
    part of first order if the metrics were measured with unseen rows, and its range that of the
    standard errors: see :class:`Forecast` for what it cannot know.

    Args:
        fields: tables with frequencies; names must be unique. Or what :func:`saec.measure` gave,
            with its codec, metrics and seed.
        metrics: as of :func:`saec.torch.loss_metrics`; needed unless they were given to
            :func:`saec.measure`.
        codec: ``Axes()`` if None.
        seed: see :func:`saec.compress`.
        progress: show a bar on stderr for work over two seconds.
        executor: see :func:`saec.compress`.

    Raises:
        FieldError: names are not unique, or there are no fields.
        MetricError: a metric is missing or malformed.
        BudgetError: the codec leaves no choice of sizes.
    """
    measured = isinstance(fields, Priced)
    known = fields.given if isinstance(fields, Priced) else metrics
    if known is None:
        where = "saec.measure" if measured else "saec.forecast"
        raise MetricError(f"a forecast is in nats of log loss: give the metrics to {where}")
    space = Workspace(executor=executor)
    priced = Priced.of(fields, codec, metrics, seed=seed, progress=progress, space=space)
    return curve_of(priced, known)


def curve_of(priced: Priced, metrics: Mapping[str, ArrayLike]) -> Forecast:
    """The forecast from options that have been measured; see :func:`forecast`."""
    if priced.codec.has_one_size:
        raise BudgetError(f"{priced.codec} has one size only; there is no curve to forecast")
    checked = priced.fields
    steps = _spaced(list(frontier(priced.options)))
    nbytes = np.array([priced.file_bytes(step.chosen) for step in steps])
    labelled = isinstance(metrics, LossMetrics) and bool(metrics.unseen)
    losses = np.array([step.loss for step in steps])
    errors = np.array([_standard_error(checked, step, metrics) for step in steps])
    original = sum(field.nbytes for field in checked)
    return Forecast(
        ratios=original / nbytes,
        nbytes=nbytes,
        loss_increases=losses,
        low=losses - 2 * errors if labelled else np.maximum(losses - 2 * errors, 0.0),
        high=losses + 2 * errors,
        fields={
            field.name: np.array([step.chosen[place].bits // 8 for step in steps])
            for place, field in enumerate(checked)
        },
        labelled=labelled,
    )


def _never_cheaper(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Losses, largest ratio first, none below that of a smaller ratio."""
    return np.maximum.accumulate(losses[::-1])[::-1]


def _spaced(steps: Sequence[Optimum]) -> list[Optimum]:
    """The first and the last step and some between, see :func:`_along`."""
    bits = np.array([step.bits for step in steps])
    losses = np.array([step.loss for step in steps])
    return [steps[place] for place in _along(bits, losses, _POINTS)]


def _along(sizes: NDArray[Any], losses: NDArray[np.float64], count: int) -> list[int]:
    """Up to ``count`` places evenly spaced along a curve of ascending sizes and falling losses."""
    told = np.log(np.maximum(losses, max(_LEAST_TOLD * float(losses[0]), _NO_LOSS)))
    way = np.zeros(len(sizes))
    for values in (np.log(sizes), told):
        length = abs(float(values[-1] - values[0]))
        way += np.abs(values - values[0]) / length if length else 0.0
    wanted = np.linspace(0.0, way[-1], count)
    return [int(place) for place in np.unique(np.searchsorted(way, wanted - 1e-9))]


def _standard_error(
    fields: Sequence[Field], step: Optimum, metrics: Mapping[str, ArrayLike]
) -> float:
    """Of the sum over fields, from the standard errors of the metrics' traces and of slopes on
    unseen rows, where known."""
    if not isinstance(metrics, LossMetrics):
        return 0.0
    parts = [
        option.loss * min(metrics.relative_errors[field.name], 1.0)
        for field, option in zip(fields, step.chosen, strict=True)
    ]
    parts += [option.error for option in step.chosen]
    return float(np.sqrt(np.sum(np.square(parts))))
