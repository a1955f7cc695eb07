"""Similarity-aware compression of embedding tables in recommendation models."""

from saec.budget import BitsPerFeature, Budget, MaxBytes, Ratio
from saec.codecs.clusters import Clusters
from saec.compress import compress
from saec.compressed import Compressed, CompressedField, load
from saec.errors import (
    ArtifactError,
    BudgetError,
    CheckpointError,
    DataError,
    FieldError,
    IdError,
    ModuleError,
    OptionalDependencyError,
    OptionError,
    SaecError,
)
from saec.table import Field

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "BitsPerFeature",
    "Budget",
    "BudgetError",
    "CheckpointError",
    "Clusters",
    "Compressed",
    "CompressedField",
    "DataError",
    "Field",
    "FieldError",
    "IdError",
    "MaxBytes",
    "ModuleError",
    "OptionError",
    "OptionalDependencyError",
    "Ratio",
    "SaecError",
    "compress",
    "load",
]
