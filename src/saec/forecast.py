"""What compression would cost in log loss, for every size, before anything is coded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.allocation import Step, frontier
from saec.codecs.codec import Codec
from saec.errors import BudgetError
from saec.metric import LossMetrics
from saec.notebook import html_table
from saec.pricing import Priced
from saec.table import Field

__all__ = ["Forecast", "curve_of", "forecast"]

_POINTS = 64  # of the curve, evenly spaced in log size

_NO_LOSS = 1e-12  # nats that stand for none where there are logarithms

_LEAST_SHARE = 0.02  # of a forecast that may come true; measurements below are noise

# The second-order sum takes the model's predictions for the truth: where rows have learned their
# labels by heart, what is lost was worth less. In eight of ten measurements the forecast was
# between 1.05 and 4.1 times what came (docs/results.md, benchmarks/forecast.py).
OVERSTATES = 5.0
UNDERSTATES = 1.25


@dataclass(frozen=True, eq=False)
class Forecast:
    """A curve of sizes, smallest first, and the increase of the mean log loss expected at each.

    Attributes:
        ratios: (m,) compression ratios, descending.
        nbytes: (m,) bytes of the artifact as saved, ascending.
        loss_increases: (m,) nats, descending.
        low, high: (m,) nats; where the increase lies in most cases.
        fields: by field name, (m,) bytes of its codes and tables.
    """

    ratios: NDArray[np.float64]
    nbytes: NDArray[np.int64]
    loss_increases: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    fields: Mapping[str, NDArray[np.int64]]

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
        standard errors away.

        Raises:
            BudgetError: a ratio is beyond what can be reached.
        """
        predicted = np.array([self.loss_at(float(ratio)) for ratio in ratios])
        order = np.argsort(ratios)
        sizes, known = np.log(self.ratios), np.log(ratios[order])
        share = np.interp(sizes, known, np.maximum(increases / predicted, _LEAST_SHARE)[order])
        error = np.interp(sizes, known, (errors / predicted)[order])
        mean = _never_cheaper(share * self.loss_increases)
        spread = 2 * error * self.loss_increases
        return replace(
            self, loss_increases=mean, low=np.maximum(mean - spread, 0.0), high=mean + spread
        )

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
        for place in self._shown:
            lines.append(
                f"{self.ratios[place]:8.1f} {self.nbytes[place]:11d}  "
                f"+{self.loss_increases[place]:.2e} "
                f"({self.low[place]:.1e} to {self.high[place]:.1e})"
            )
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
            for place in self._shown
        ]
        return html_table("expected increase of the log loss", heading, rows)

    @property
    def _shown(self) -> NDArray[np.intp]:
        """Places of the points that a reader sees."""
        return np.unique(np.linspace(0, len(self.ratios) - 1, 9).astype(np.intp))


def forecast(
    fields: Iterable[Field],
    metrics: Mapping[str, ArrayLike],
    codec: Codec | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Forecast:
    """Forecast the increase of the log loss for every size that compression can reach.

    Each field's options are measured as :func:`saec.compress` measures them; nothing is coded. The
    increase is the second-order sum, sum_f sum_i (w_i / sum w) 1/2 delta_i' G_f
    delta_i. Its uncertainty joins the metric's standard error and how far such sums were off in
    experiments.

    Args:
        fields: tables with frequencies; names must be unique.
        metrics: as of :func:`saec.torch.loss_metrics`.
        codec: ``Axes()`` if None.
        seed: see :func:`saec.compress`.
        progress: show a bar on stderr for work over two seconds.

    Raises:
        FieldError: names are not unique, or there are no fields.
        MetricError: a metric is missing or malformed.
        BudgetError: the codec leaves no choice of sizes.
    """
    return curve_of(Priced.of(fields, codec, metrics, seed=seed, progress=progress), metrics)


def curve_of(priced: Priced, metrics: Mapping[str, ArrayLike]) -> Forecast:
    """The forecast from options that have been measured; see :func:`forecast`."""
    if priced.has_one_size:
        raise BudgetError(f"{priced.codec} has one size only; there is no curve to forecast")
    checked = priced.fields
    steps, nbytes = _cheaper_than_later(priced, _spaced(list(frontier(priced.options))))
    losses = np.array([step.distortion for step in steps])
    errors = np.array([_standard_error(checked, step, metrics) for step in steps])
    original = sum(field.nbytes for field in checked)
    return Forecast(
        ratios=original / nbytes,
        nbytes=nbytes,
        loss_increases=losses,
        low=np.maximum(losses / OVERSTATES - 2 * errors, 0.0),
        high=losses * UNDERSTATES + 2 * errors,
        fields={
            field.name: np.array([step.chosen[place].bits // 8 for step in steps])
            for place, field in enumerate(checked)
        },
    )


def _never_cheaper(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Losses, largest ratio first, none below that of a smaller ratio."""
    return np.maximum.accumulate(losses[::-1])[::-1]


def _spaced(steps: Sequence[Step]) -> list[Step]:
    """The first and the last step and some between, evenly spaced in log size."""
    sizes = np.log([step.bits for step in steps])
    wanted = np.linspace(sizes[0], sizes[-1], _POINTS)
    return [steps[place] for place in np.unique(np.searchsorted(sizes, wanted - 1e-9))]


def _cheaper_than_later(
    priced: Priced, steps: Sequence[Step]
) -> tuple[list[Step], NDArray[np.int64]]:
    """Steps with the bytes of their files, without those that cost as much as a better one.

    Packing the description may take more for a smaller field than for a larger one.
    """
    nbytes = np.array([priced.file_bytes(step.chosen) for step in steps])
    later = np.append(np.minimum.accumulate(nbytes[::-1])[-2::-1], np.iinfo(np.int64).max)
    kept = np.flatnonzero(nbytes < later)
    return [steps[place] for place in kept.tolist()], nbytes[kept]


def _standard_error(fields: Sequence[Field], step: Step, metrics: Mapping[str, ArrayLike]) -> float:
    """Of the sum over fields, from the standard errors of the metrics' traces, where known."""
    if not isinstance(metrics, LossMetrics):
        return 0.0
    parts = [
        option.distortion * min(metrics.relative_errors[field.name], 1.0)
        for field, option in zip(fields, step.chosen, strict=True)
    ]
    return float(np.sqrt(np.sum(np.square(parts))))
