"""Storages: the numbers behind PyTorch's tensors, as named in a pickle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import ml_dtypes
import numpy as np

from saec.sources.pickles import StandIn

__all__ = ["NUMBERS", "Storage"]

NUMBERS: dict[str, np.dtype[Any]] = {
    f"torch.{name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Double": np.float64,
        "Float": np.float32,
        "Half": np.float16,
        "BFloat16": ml_dtypes.bfloat16,
        "Long": np.int64,
        "Int": np.int32,
        "Short": np.int16,
        "Char": np.int8,
        "Byte": np.uint8,
        "Bool": np.bool_,
    }.items()
}

# Bytes of numbers that are skipped.
_OTHER_SIZES = {
    "torch.UntypedStorage": 1,
    "torch.storage.UntypedStorage": 1,
    "torch.QInt8Storage": 1,
    "torch.QUInt8Storage": 1,
    "torch.QInt32Storage": 4,
    "torch.ComplexFloatStorage": 8,
    "torch.ComplexDoubleStorage": 16,
}


@dataclass(frozen=True)
class Storage:
    """A storage in a tensor's record: ``count`` values of a kind like ``"torch.FloatStorage"``."""

    kind: str
    key: str
    count: int

    @classmethod
    def of(cls, given: Any) -> Self:
        """From a persistent id ``("storage", kind, key, place, count)``; raises ValueError."""
        if not isinstance(given, tuple) or len(given) != 5:
            raise ValueError("a persistent id that is no storage's")
        _, kind, key, _, count = given
        named = isinstance(kind, type) and issubclass(kind, StandIn) and isinstance(key, str)
        if not named or type(count) is not int or count < 0:
            raise ValueError("a persistent id that is no storage's")
        return cls(kind.kind, key, count)

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        if self.kind in NUMBERS:
            return NUMBERS[self.kind].itemsize
        if self.kind not in _OTHER_SIZES:
            raise ValueError(f"values of {self.kind}")
        return _OTHER_SIZES[self.kind]
