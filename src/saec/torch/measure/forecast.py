"""Forecasts corrected by the losses of compressed models on unseen rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from saec.codecs.protocol import Codec
from saec.compression.budget import LossIncrease
from saec.compression.forecast import Forecast, curve_of
from saec.compression.run import compress_priced
from saec.errors import DataError
from saec.torch.measure.labels import check_loss_fn
from saec.torch.measure.loss_increase import Comparison
from saec.torch.measure.plan_tables import priced_tables
from saec.torch.model.call import Batches, Loss, check_repeatable
from saec.torch.model.count_lookups import count_lookups, with_unseen
from saec.torch.model.find_tables import Ranges, named_tables
from saec.torch.model.table_keys import KeysByField

__all__ = ["forecast"]

# Predicted increases, in nats, at which compressed models are measured.
_LOOKED_AT = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


def forecast(
    model: nn.Module,
    batches: Batches,
    loss_fn: Loss | None = None,
    *,
    calibration: Batches | None = None,
    unseen: Batches | None = None,
    keys: KeysByField | None = None,
    frequencies: Mapping[str, ArrayLike] | None = None,
    codec: Codec | None = None,
    ranges: Ranges | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Forecast:
    """Forecast the increase of the loss for every size, corrected by a few measurements.

    The second-order forecast assumes that the model's predictions are right. On rows that the
    tables have not seen they are not: losing overfitted details does not increase the loss, and
    where tables are undertrained, the increase is larger, by many times if it is small. So the
    tables are compressed to a few sizes, and the increase is measured on the labelled
    ``calibration`` rows. Between those sizes the ratio of measured to forecast increase is
    interpolated. Features that are clearly more frequent in the ``calibration`` rows than in
    training get their counts from these. The model is not changed.

    Other arguments are those of :func:`saec.torch.compress_`.

    Args:
        calibration: labelled batches of rows that the tables have not seen, for more than one
            iteration. If None, nothing is measured on compressed models.
        unseen: see :func:`saec.torch.compress_`; one of the two is needed.

    Returns:
        The curve, in bytes and nats. Its range is two standard errors of the measurement, or of
        the prediction if nothing is measured. Below the smallest measured size, a predicted
        increase of 1e-5, the range ends at the value there.

    Raises:
        BudgetError, DataError, FieldError, MetricError, ModuleError: see
            :func:`saec.torch.compress_` and :func:`saec.forecast`.
    """
    check_loss_fn(loss_fn)
    if frequencies is None:
        check_repeatable(batches, "batches")
    if calibration is None and unseen is None:
        raise DataError(
            "a forecast for unseen rows needs labels of such rows: give calibration or unseen"
        )
    tables = named_tables(model, None if frequencies is None else set(frequencies), ranges or {})
    known = None
    if calibration is not None:
        known = Comparison(model, tables, calibration, loss_fn, labelled=True, keys=keys)
    if frequencies is None:
        frequencies = count_lookups(model, tables, batches, progress=progress)
    for labelled, name in ((calibration, "calibration"), (unseen, "unseen")):
        if labelled is not None:
            check_repeatable(labelled, name)
            frequencies = with_unseen(frequencies, model, tables, labelled)
    options: Any = {"seed": seed, "progress": progress, "unseen": unseen, "keys": keys}
    options["calibration"] = calibration
    priced, metrics = priced_tables(model, tables, batches, loss_fn, frequencies, codec, **options)
    if known is not None:
        known.unknown_keys(priced.fields, metrics)
    curve = curve_of(priced, metrics)
    if known is None:
        return curve
    largest = float(curve.loss_increases[0])
    wanted = [value for value in _LOOKED_AT if value < largest]
    if not wanted:
        raise DataError(
            f"the largest loss increase that is predicted, {largest:.2g}, is too small to measure"
        )
    results = [compress_priced(priced, LossIncrease(value)) for value in wanted]
    found = [known.of(result) for result in results]
    # Tables with keys may turn out smaller than planned.
    ratios = np.array([result.compression_ratio for result in results])
    return curve.corrected(
        ratios.clip(curve.ratios[-1], curve.ratios[0]),
        np.array([increase.value for increase in found]),
        np.array([increase.standard_error for increase in found]),
    )
