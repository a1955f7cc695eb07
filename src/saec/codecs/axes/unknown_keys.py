"""What unknown keys lose that get the row of a known key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saec.codecs.axes.coded_class import KeyedClass
from saec.codecs.axes.principal_axes import Frame
from saec.tables.field import Field
from saec.tables.loss_metric import Metric

__all__ = ["weight_of_unknown_keys"]


def weight_of_unknown_keys(
    field: Field, metric: Metric | None, frame: Frame, classes: Sequence[KeyedClass]
) -> float:
    """The share of all lookups that have unknown keys, times what a wrong row costs in these, in
    units of what it costs in all.

    A wrong row is one of the ``classes``, each equally often. docs/mathematics.md has the formula.
    """
    assert field.keys is not None, "only fields with keys have unknown ones"
    share = field.keys.unseen_share
    if metric is None or metric.unknown is None:
        return share
    axes = frame.stored[:-1].astype(np.float64)
    costs = axes @ metric.unknown @ axes.T / 2  # of coordinates
    in_all = in_unknown = 0.0
    for own in classes:
        rows = own.rows.coordinates.astype(np.float64)
        in_all += own.each * float(np.einsum("ma,a,ma->", rows, frame.nats, rows))
        in_unknown += own.each * float(np.einsum("ma,ab,mb->", rows, costs, rows))
    return share * in_unknown / in_all if in_all > 0 else share
