"""The expected increase of the log loss for every size, before anything is coded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.codecs.protocol import Codec, Option
from saec.compression.allocation import Optimum, confirmed_optima, expected_of, frontier
from saec.compression.plan import Priced
from saec.errors import BudgetError, MetricError
from saec.streaming.map_reduce import Executor
from saec.streaming.scratch import Workspace
from saec.tables.field import Field
from saec.tables.loss_metric import LossMetrics
from saec.util.html_table import html_table

__all__ = ["Forecast", "curve_of", "forecast"]

_POINTS = 64  # points of the curve
_SHOWN = 9  # points in the text form

_NO_LOSS = 1e-12  # nats that replace 0 in logarithms

_LEAST_SHARE = 0.02  # smallest measured / forecast increase; less is noise

# The part that the band does not contain.
_UNKNOWN = "no labels of unseen rows: what is lost on them in first order is not known"

_LEAST_TOLD = 1e-5  # share of the largest increase; smaller increases need not be distinguished


@dataclass(frozen=True, eq=False)
class Forecast:
    """A curve of sizes, smallest first, and the increase of the mean log loss predicted at each.

    :func:`saec.forecast` predicts to second order, from the model's own predictions. The increase
    on rows that the tables have not seen also has a first-order part, of either sign, which only
    labels of such rows can measure. Mostly the second-order sum overstates increases of 1e-4 and
    more, and it may understate smaller ones by a factor of ten and more. With metrics measured with
    labelled ``unseen`` rows, the curve contains the first-order part; :func:`saec.torch.forecast`
    also measures the increase.

    Attributes:
        ratios: (m,) compression ratios, descending.
        nbytes: (m,) bytes of the artifact as saved, ascending.
        loss_increases: (m,) nats, descending.
        low, high: (m,) nats, two standard errors below and above. The errors are those of the
            second-order sum, as far as those of the metrics are known, and of the first-order part,
            if that is known; or those of the measurements, if the curve was corrected.
        fields: by field name, (m,) bytes of its codes and tables.
        labelled: whether the curve contains labels of unseen rows. Without them, ``low`` and
            ``high`` do not contain the first-order part, which is then unknown.
    """

    ratios: NDArray[np.float64]
    nbytes: NDArray[np.int64]
    loss_increases: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    fields: Mapping[str, NDArray[np.int64]]
    labelled: bool = False

    def loss_at(self, ratio: float) -> float:
        """Nats expected at a compression ratio, interpolated in logarithms.

        Raises:
            BudgetError: the ratio is larger than the largest one of the curve.
        """
        if not self.ratios[-1] <= ratio <= self.ratios[0]:
            raise BudgetError(
                f"ratio {ratio:g} is outside what can be reached, "
                f"{self.ratios[-1]:.2f} to {self.ratios[0]:.1f}"
            )
        return float(np.exp(np.interp(np.log(ratio), self._log_ratios, self._log_losses)))

    def ratio_at(self, loss_increase: float) -> float:
        """The largest ratio with an expected increase of at most ``loss_increase`` nats.

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
        """The curve, corrected by measurements.

        ``increases`` (k,) with standard ``errors`` (k,), in nats, were measured at the ``ratios``
        (k,). The ratio of measured to forecast increase is interpolated in log size, and is
        constant outside of the measured range. A larger ratio never has a smaller increase. ``low``
        and ``high`` are two standard errors away; ``low`` may be negative. Below the smallest
        measured ratio they reach from 0 to the value there, because small increases may be many
        times the forecast.

        Raises:
            BudgetError: a ratio is larger than the largest one of the curve.
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
        """Indices of up to ``count`` points, including both ends, that show the shape of the curve.

        They are evenly spaced along the curve, by size and by increase, both in logarithms.
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

    Each field's options are measured and chosen as in :func:`saec.compress`; nothing is coded. The
    increase is the second-order sum, sum_f sum_i (w_i / sum w) 1/2 delta_i' G_f delta_i, plus the
    first-order part if the metrics were measured with unseen rows. Its range follows from the
    standard errors. :class:`Forecast` describes the limits of the prediction.

    Args:
        fields: tables with frequencies; names must be unique. Or a result of :func:`saec.measure`,
            with its codec, metrics and seed.
        metrics: as from :func:`saec.torch.loss_metrics`; needed unless they were given to
            :func:`saec.measure`.
        codec: ``Axes()`` if None.
        seed: see :func:`saec.compress`.
        progress: show a progress bar on stderr for work over two seconds.
        executor: see :func:`saec.compress`.

    Raises:
        FieldError: names are not unique, or there are no fields.
        MetricError: a metric is missing or malformed.
        BudgetError: the codec has no choice of sizes.
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
    choices = _growing(confirmed_optima(priced.options, steps))
    nbytes = np.array([priced.file_bytes(chosen) for chosen in choices])
    labelled = isinstance(metrics, LossMetrics) and bool(metrics.unseen)
    losses = _never_cheaper(np.array([expected_of(chosen) for chosen in choices]))
    errors = np.array([_standard_error(checked, chosen, metrics) for chosen in choices])
    original = sum(field.nbytes for field in checked)
    return Forecast(
        ratios=original / nbytes,
        nbytes=nbytes,
        loss_increases=losses,
        low=losses - 2 * errors if labelled else np.maximum(losses - 2 * errors, 0.0),
        high=losses + 2 * errors,
        fields={
            field.name: np.array([chosen[place].bits // 8 for chosen in choices])
            for place, field in enumerate(checked)
        },
        labelled=labelled,
    )


def _never_cheaper(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Losses, largest ratio first, made monotone: none is below that of a smaller ratio."""
    return np.maximum.accumulate(losses[::-1])[::-1]


def _growing(choices: Iterable[Sequence[Option]]) -> list[Sequence[Option]]:
    """Those that take more bits than all before them."""
    found: list[Sequence[Option]] = []
    most = -1
    for chosen in choices:
        bits = sum(option.bits for option in chosen)
        if bits > most:
            found.append(chosen)
            most = bits
    return found


def _spaced(steps: Sequence[Optimum]) -> list[Optimum]:
    """The first and the last step and some between, see :func:`_along`."""
    bits = np.array([step.bits for step in steps])
    losses = np.array([step.loss for step in steps])
    return [steps[place] for place in _along(bits, losses, _POINTS)]


def _along(sizes: NDArray[Any], losses: NDArray[np.float64], count: int) -> list[int]:
    """Up to ``count`` indices, evenly spaced along a curve of ascending sizes and falling
    losses."""
    told = np.log(np.maximum(losses, max(_LEAST_TOLD * float(losses[0]), _NO_LOSS)))
    way = np.zeros(len(sizes))
    for values in (np.log(sizes), told):
        length = abs(float(values[-1] - values[0]))
        way += np.abs(values - values[0]) / length if length else 0.0
    wanted = np.linspace(0.0, way[-1], count)
    return [int(place) for place in np.unique(np.searchsorted(way, wanted - 1e-9))]


def _standard_error(
    fields: Sequence[Field], chosen: Sequence[Option], metrics: Mapping[str, ArrayLike]
) -> float:
    """Standard error of the sum over fields, from the standard errors of the metrics' traces and of
    slopes on unseen rows, where known."""
    if not isinstance(metrics, LossMetrics):
        return 0.0
    parts = [
        option.second_order * min(metrics.relative_errors[field.name], 1.0)
        for field, option in zip(fields, chosen, strict=True)
    ]
    parts += [option.error for option in chosen]
    return float(np.sqrt(np.sum(np.square(parts))))
