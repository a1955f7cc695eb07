"""Similarity-aware compression of embedding tables in recommendation models."""

from saec.budget import BitsPerFeature, Budget, LossIncrease, MaxBytes, Ratio
from saec.checkpoint import LogColumns, read_fields
from saec.codecs.axes import Axes
from saec.codecs.clusters import Clusters
from saec.compress import compress
from saec.compressed import Compressed, load
from saec.errors import (
    ArtifactError,
    BudgetError,
    CheckpointError,
    ClusterError,
    DataError,
    FieldError,
    IdError,
    MetricError,
    MetricWarning,
    ModuleError,
    ModuleWarning,
    OnnxError,
    OptionalDependencyError,
    OptionError,
    SaecError,
)
from saec.forecast import Forecast, forecast
from saec.inspection import InspectedField, Inspection, inspect
from saec.metric import LossMetrics
from saec.metric_file import load_metrics, save_metrics
from saec.pricing import Priced, measure
from saec.stored.field import CompressedField
from saec.table import Field

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "Axes",
    "BitsPerFeature",
    "Budget",
    "BudgetError",
    "CheckpointError",
    "ClusterError",
    "Clusters",
    "Compressed",
    "CompressedField",
    "DataError",
    "Field",
    "FieldError",
    "Forecast",
    "IdError",
    "InspectedField",
    "Inspection",
    "LogColumns",
    "LossIncrease",
    "LossMetrics",
    "MaxBytes",
    "MetricError",
    "MetricWarning",
    "ModuleError",
    "ModuleWarning",
    "OnnxError",
    "OptionError",
    "OptionalDependencyError",
    "Priced",
    "Ratio",
    "SaecError",
    "compress",
    "forecast",
    "inspect",
    "load",
    "load_metrics",
    "measure",
    "read_fields",
    "save_metrics",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
