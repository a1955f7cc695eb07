"""Compression until the model itself loses what it may, as far as its rows can tell."""

from __future__ import annotations

import math

from saec.budget import LossIncrease
from saec.compress import compress_priced
from saec.compressed import Compressed
from saec.errors import BudgetError
from saec.pricing import Priced
from saec.torch.comparison import Comparison, Increase

__all__ = ["Shares", "calibrated"]

# A forecast in nats is corrected by what the compressed model shows, until it is this close.
_ROUNDS = 8
_CLOSE = 0.05

# Where so small an increase drowns in the noise of the rows, increases so many times as large help.
_LARGER = (3.0, 9.0)
# By how much the share of a forecast that comes true differs where the forecast is twice as large,
# one standard deviation; a guess from one model of ml-1m at eight sizes.
_DRIFT = 0.1


class Shares:
    """Which share of a forecast comes true, from measurements at several sizes.

    A small increase is a small difference of two losses, and noisy; its share of the forecast is
    much like that of a larger one, of which the same rows tell more. Each measurement therefore
    counts for the others, by the inverse of its variance: the square of its own error and of what
    shares differ by at that distance.
    """

    def __init__(self) -> None:
        self._seen: dict[float, Increase] = {}

    def add(self, predicted: float, measured: Increase) -> None:
        """Add what was measured where ``predicted`` nats, more than 0, had been forecast."""
        self._seen[predicted] = measured

    def expected(self, predicted: float) -> float:
        """The increase to expect where ``predicted`` nats are forecast."""
        total, weights = 0.0, 0.0
        for at, measured in self._seen.items():
            drift = _DRIFT * math.log2(at / predicted)
            weight = 1.0 / max((measured.error / at) ** 2 + drift**2, 1e-12)
            total += weight * measured.mean / at
            weights += weight
        return predicted * total / weights


def calibrated(priced: Priced, wanted: float, known: Comparison) -> Compressed:
    """Compress until ``wanted`` nats are lost on the rows of ``known``, as far as these can tell.

    The increase grows with what is asked for, but for noise: once too little and too much have
    been asked for, the next try lies between the two.

    Returns:
        The smallest result that was found, whose ``predicted_loss_increase`` is the expected one.

    Raises:
        BudgetError: no result was found.
    """
    shares = Shares()
    asked, least, most = wanted, 0.0, math.inf
    best, expected = None, math.nan
    for number in range(_ROUNDS):
        result, measured = _measured(priced, asked, known, shares)
        if number == 0 and measured.error > _CLOSE * wanted:
            for factor in _LARGER:
                _measured(priced, factor * wanted, known, shares)
        forecast = result.predicted_loss_increase
        expected = shares.expected(forecast) if forecast else measured.mean
        result = Compressed(list(result.values()), max(expected, 0.0))
        if expected <= wanted * (1 + _CLOSE) and (best is None or result.nbytes < best.nbytes):
            best = result
        if abs(expected - wanted) <= _CLOSE * wanted:
            break
        if expected < wanted:
            least = max(least, asked)
        else:
            most = min(most, asked)
        # A quarter to four times at once, should the measure be noise or the curve be steep.
        asked *= min(max(wanted / max(expected, 1e-12), 0.25), 4.0)
        if least and not least < asked < most:
            asked = math.sqrt(least * most) if most < math.inf else 4.0 * least
    if best is None:
        raise BudgetError(
            f"a loss increase of {wanted:g} was not met in {_ROUNDS} attempts: the last one "
            f"gave {expected:.3g} on the calibration rows"
        )
    return best


def _measured(
    priced: Priced, asked: float, known: Comparison, shares: Shares
) -> tuple[Compressed, Increase]:
    """What losing ``asked`` nats by the forecast really loses; the shares hear of it."""
    result = compress_priced(priced, LossIncrease(asked))
    measured = known.of(result)
    if result.predicted_loss_increase:
        shares.add(result.predicted_loss_increase, measured)
    return result, measured
