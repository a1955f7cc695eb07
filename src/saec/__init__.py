"""Similarity-aware compression of embedding tables in recommendation models."""

from saec.codecs.axes.codec import Axes
from saec.codecs.clusters.codec import Clusters
from saec.compression.budget import BitsPerFeature, Budget, LossIncrease, MaxBytes, Ratio
from saec.compression.compact import compact
from saec.compression.forecast import Forecast, forecast
from saec.compression.inspect import FarRow, InspectedField, Inspection, inspect
from saec.compression.plan import Priced, measure
from saec.compression.run import compress
from saec.compression.update import Update, update
from saec.errors import (
    ArtifactError,
    BudgetError,
    CheckpointError,
    ClusterError,
    DataError,
    FieldError,
    IdError,
    KeysError,
    MetricError,
    MetricWarning,
    ModuleError,
    ModuleWarning,
    OnnxError,
    OptionalDependencyError,
    OptionError,
    PatchError,
    SaecError,
)
from saec.format.cold_tables import ReadCounts
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.load import load
from saec.format.pipelined import pipelined
from saec.keys.hashing import hash_keys
from saec.tables.checkpoint import LogColumns, read_fields
from saec.tables.counting import count_batches, count_columns, count_ids, unseen_frequency
from saec.tables.expected_frequencies import ExpectedFrequencies, expected_frequencies
from saec.tables.field import Field
from saec.tables.loss_metric import LossMetrics
from saec.tables.loss_metric_file import load_metrics, save_metrics

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
    "ExpectedFrequencies",
    "FarRow",
    "Field",
    "FieldError",
    "Forecast",
    "IdError",
    "InspectedField",
    "Inspection",
    "KeysError",
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
    "PatchError",
    "Priced",
    "Ratio",
    "ReadCounts",
    "SaecError",
    "Update",
    "compact",
    "compress",
    "count_batches",
    "count_columns",
    "count_ids",
    "expected_frequencies",
    "forecast",
    "hash_keys",
    "inspect",
    "load",
    "load_metrics",
    "measure",
    "pipelined",
    "read_fields",
    "save_metrics",
    "unseen_frequency",
    "update",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
