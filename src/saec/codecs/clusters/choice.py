"""The option that allocation chose for a field of clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saec.clustering.rowmap import RowMap
from saec.tables.field import Field
from saec.tables.loss_metric import Metric

__all__ = ["ClustersChoice", "of_size_one"]


@dataclass(frozen=True)
class ClustersChoice:
    """The option that allocation chose: the number of clusters, and of axes of their centroids.

    The metric is that in which rows are near, None for Euclidean distance. A unit of distortion
    among points, weighted by frequency, costs ``unit`` in nats, or without a metric in squares of
    the table's values. ``row_map`` takes rows to points.
    """

    clusters: int
    rank: int
    metric: Metric | None
    unit: float
    row_map: RowMap


def of_size_one(field: Field, metric: Metric | None) -> tuple[Metric | None, float]:
    """The metric without its scale, which could take float32 squares out of range, and the nats
    of one unit of the field's distortion in it; no metric, and 1.
    """
    if metric is None:
        return None, 1.0
    scale = float(np.trace(metric.matrix)) / metric.dim
    return Metric(metric.matrix / scale), scale / (2 * field.census.total)
