"""What methods that train small tables see of a field, and the log that asks them by keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saec.errors import DataError
from saec.keys.hashing import hash_keys
from saec.reference.asked_keys import AskedKeys
from saec.reference.log import Log

__all__ = ["FieldFeatures", "asked_by_keys", "table_bytes"]


@dataclass(frozen=True, eq=False)
class FieldFeatures:
    """The features of a field.

    Args:
        name: of the field.
        number: of the field in its log; seeds its hashes, so that equal keys of different fields
            have different ones.
        frequencies: (count,) float64 in the training rows; row 0 stands for unseen features, the
            others are in order of frequency.
        keys: (count + unseen,) uint64, of the features and then of those keys that only
            validation and test rows have.
    """

    name: str
    number: int
    frequencies: NDArray[np.float64]
    keys: NDArray[np.uint64]

    @property
    def count(self) -> int:
        """Rows of the field's uncompressed table."""
        return len(self.frequencies)

    @property
    def rows(self) -> Tensor:
        """(count + unseen,) int64: the row of each id in a table with dense ids, 0 if unseen."""
        ids = np.arange(len(self.keys))
        return torch.from_numpy(np.where(ids < self.count, ids, 0))

    def hashes(self, seed: int) -> NDArray[np.uint64]:
        """(count + unseen,) uint64 hashes of the keys; another seed gives other ones."""
        return hash_keys(self.keys, seed=(self.number << 32) + seed)

    def buckets(self, count: int, seed: int = 0) -> Tensor:
        """(count + unseen,) int64: the bucket of each key, from 0 to ``count`` - 1."""
        return torch.from_numpy((self.hashes(seed) % np.uint64(count)).astype(np.int64))


def asked_by_keys(log: Log) -> tuple[Log, list[FieldFeatures]]:
    """A log with an id of its own for each key that training never saw, and the log's fields.

    These ids lie beyond the vocabulary. Methods that hash give such keys some row; those with a
    vocabulary give them row 0.

    Raises:
        DataError: the log was loaded without keys.
    """
    if log.keys is None:
        raise DataError(f"the log {log.name!r} was loaded without keys, which hashing needs")
    asked = AskedKeys(log)
    fields = [
        FieldFeatures(name, number, log.frequencies[name], asked.all_keys(name))
        for number, name in enumerate(log.field_names)
    ]
    frequencies = {
        field.name: np.pad(field.frequencies, (0, len(field.keys) - field.count))
        for field in fields
    }
    ids = asked.ids.astype(np.int32)
    return replace(log, ids=ids, frequencies=frequencies, vocabularies=None, keys=None), fields


def table_bytes(fields: Sequence[FieldFeatures], dim: int) -> int:
    """Bytes of the uncompressed float32 tables."""
    return sum(4 * dim * field.count for field in fields)
