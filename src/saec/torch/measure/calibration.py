"""Compress until the measured increase of the loss matches the budget, within its error."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

from saec.compression.budget import LossIncrease
from saec.compression.plan import Priced
from saec.compression.run import compress_chosen
from saec.errors import BudgetError
from saec.format.compressed import Compressed
from saec.torch.measure.judging_rows import JudgingRows
from saec.torch.measure.measured_increase import MeasuredIncrease

__all__ = ["Shares", "calibrated", "expecting"]

logger = logging.getLogger(__name__)

# A forecast in nats is corrected by measurements of the compressed model, until it is this close.
_ROUNDS = 8
_CLOSE = 0.05
_FACTOR = 4.0  # largest factor of the first correction; later ones may be larger

# If noise hides so small an increase, increases larger by these factors are measured, too.
_LARGER = (3.0, 9.0)
# Change of the ratio of measured to forecast increase between a forecast and its double, one
# standard deviation, if there are too few rows to measure it; a guess from one model of ml-1m at
# eight sizes.
_DRIFT = 0.1

# Standard errors relative to the wanted increase: up to the first a measurement is used alone;
# beyond the second there is a warning.
_WELL_KNOWN, _KNOWN = 0.25, 0.5


class Shares:
    """The ratio of measured to forecast increase, from measurements at several sizes.

    The standard error of a small increase may be as large as the increase. For a larger increase it
    is relatively smaller on the same rows, and the ratio may be much the same. Each measurement
    is therefore also used at other sizes, weighted by the inverse of its variance: the square of
    its own error, plus that of the difference between ratios at that distance. This difference is a
    guess, unless the measurements themselves show a larger one: where the first-order part of the
    increase dominates, ratios of neighbouring sizes may be 30 and 2.

    The explained part of a measurement, see :class:`MeasuredIncrease`, has a small error at its own
    size and may jump from one size to the next: ratios are computed without it.
    """

    def __init__(self) -> None:
        self._seen: dict[float, MeasuredIncrease] = {}

    def add(self, predicted: float, measured: MeasuredIncrease) -> None:
        """Add a measurement at a size where ``predicted`` nats, more than 0, had been forecast."""
        self._seen[predicted] = measured

    def expected(self, predicted: float) -> MeasuredIncrease:
        """The expected increase at one of the added forecasts, with its error."""
        own = self._seen[predicted]
        if math.isinf(own.standard_error):
            return own
        weights = {at: 1 / max(self._variance(at, predicted), 1e-12) for at in self._seen}
        total = sum(weights.values())
        share = sum(weight * self._seen[at].rest / at for at, weight in weights.items()) / total
        error = math.hypot(predicted / math.sqrt(total), own.explained_error)
        return replace(own, value=own.explained + predicted * share, standard_error=error)

    def _variance(self, at: float, predicted: float) -> float:
        """Of the share measured ``at`` one forecast, as an estimate of that at another."""
        own, other = self._seen[predicted], self._seen[at]
        noise = (other.rest_error / at) ** 2
        drift = (_DRIFT * math.log2(at / predicted)) ** 2
        shown = (other.rest / at - own.rest / predicted) ** 2
        return noise + max(drift, shown - noise - (own.rest_error / predicted) ** 2)


def calibrated(priced: Priced, wanted: float, rows: JudgingRows) -> Compressed:
    """Compress until the increase by the judging ``rows`` is ``wanted`` nats, within its error.

    Returns:
        The smallest result that was found; its ``predicted_loss_increase`` is the expected one.

    Raises:
        BudgetError: no result was found.
    """
    search, shares = _BudgetSearch(wanted), Shares()
    best, expected = None, MeasuredIncrease(math.nan, math.nan, 0)
    for number in range(_ROUNDS):
        result, measured = _measured(priced, search.asked, rows, shares)
        well_known = measured.standard_error <= _WELL_KNOWN * wanted
        if number == 0 and not well_known:
            for factor in _LARGER:
                _measured(priced, factor * wanted, rows, shares)
        forecast = result.predicted_loss_increase
        expected = measured
        if forecast and not well_known:
            expected = shares.expected(forecast)
        expected = replace(expected, value=rows.believed(expected))
        met = expected.value <= wanted * (1 + _CLOSE)
        if met and (best is None or result.nbytes < best[0].nbytes):
            best = result, expected
        if abs(expected.value - wanted) <= _CLOSE * wanted:
            break
        search.correct(expected.value)
    if best is None:
        raise BudgetError(
            f"a loss increase of {wanted:g} was not met in {_ROUNDS} attempts: the last one "
            f"gave {expected.value:.3g}"
        )
    _warn_of_noise(wanted, best[1])
    return expecting(best[0], best[1].value)


def expecting(result: Compressed, increase: float) -> Compressed:
    """``result`` with another predicted increase, in nats; 0 if that is negative."""
    changed = Compressed(list(result.values()), max(increase, 0.0))
    changed.slope_shares = result.slope_shares
    return changed


class _BudgetSearch:
    """Choose the next forecast, so that the increase becomes the ``wanted`` one.

    The increase grows with the forecast, except for noise, and often by far less than in
    proportion. Corrections get larger until both too small and too large increases have been
    measured; then the next forecast lies between the two.
    """

    def __init__(self, wanted: float) -> None:
        self.asked = wanted
        self._wanted = wanted
        self._tries = 0
        self._least, self._most = 0.0, math.inf

    def correct(self, expected: float) -> None:
        """Record that ``expected`` nats are lost with the last forecast."""
        self._tries += 1
        if expected < self._wanted:
            self._least = max(self._least, self.asked)
        else:
            self._most = min(self._most, self.asked)
        correction = self._wanted / max(expected, 1e-12)
        correction = min(max(correction, 1 / _FACTOR), _FACTOR)
        if not self._least or math.isinf(self._most):
            self.asked *= correction**self._tries
            return
        self.asked *= correction
        if not self._least < self.asked < self._most:
            self.asked = math.sqrt(self._least * self._most)


def _warn_of_noise(wanted: float, expected: MeasuredIncrease) -> None:
    """Warn if there are too few rows for the wanted increase."""
    error = expected.standard_error
    if error <= _KNOWN * wanted or math.isinf(error):
        return
    needed = expected.examples * (error / (_WELL_KNOWN * wanted)) ** 2
    logger.warning(
        "%d rows tell a loss increase of %.2g only to +- %.1g (one standard error); "
        "about %.1g rows would tell it to a quarter of it",
        expected.examples,
        wanted,
        error,
        needed,
    )


def _measured(
    priced: Priced, asked: float, rows: JudgingRows, shares: Shares
) -> tuple[Compressed, MeasuredIncrease]:
    """The measured increase where the forecast is ``asked`` nats; also added to the ratios."""
    chosen = priced.chosen(LossIncrease(asked))
    result = compress_chosen(priced, chosen)
    measured = rows.increase(result, chosen)
    if result.predicted_loss_increase:
        shares.add(result.predicted_loss_increase, measured)
    return result, measured
