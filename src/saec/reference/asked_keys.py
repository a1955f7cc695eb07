"""Keys of a log in place of its ids, and tables that are asked by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from saec.format.compressed import Compressed
from saec.reference.log import TRAIN, Log
from saec.reference.models import ClickModel
from saec.tables.field import Field
from saec.torch import TableKeys

__all__ = ["AskedKeys"]


@dataclass(frozen=True, eq=False)
class AskedKeys:
    """A log with keys: what fields are made of, and what validation and test rows ask for.

    An id beyond the vocabulary stands for each key that training never saw.
    """

    log: Log

    def of_ids(self, name: str) -> NDArray[np.uint64]:
        """The key of each id of a field, (vocab_size,); 0 for the id of unseen features."""
        train = self.log.split == TRAIN
        keys = np.zeros(self.log.vocab_sizes[name], np.uint64)
        keys[self._ids(name)[train]] = self._keys(name)[train]
        return keys

    def all_keys(self, name: str) -> NDArray[np.uint64]:
        """The key of each id of a field, those of unseen keys included."""
        return np.concatenate([self.of_ids(name), self._extended[1][name]])

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids (rows, fields) of the log, with those of unseen keys."""
        return self._extended[0]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """How many ids each field has with those of unseen keys."""
        return {
            name: self.log.vocab_sizes[name] + len(self._extended[1][name])
            for name in self.log.field_names
        }

    def fields(self, tables: Sequence[Field], prefix: str) -> list[Field]:
        """Tables with keys; row 0 is that of unknown ones. ``prefix``: of the fields' names."""
        known = self.table_keys(prefix)
        return [
            Field(
                field.name,
                field.weights,
                field.counts,
                keys=own.keys,
                unseen=own.unseen,
                unseen_share=own.unseen_share,
            )
            for field in tables
            for own in [known[field.name]]
        ]

    def table_keys(self, prefix: str) -> dict[str, TableKeys]:
        """The keys of a model's tables, by the fields' names with ``prefix``."""
        return {
            prefix + name: TableKeys(
                self.of_ids(name), unseen=0, unseen_share=self.unseen_share(name)
            )
            for name in self.log.field_names
        }

    def unseen_share(self, name: str) -> float:
        """The share of validation rows that ask a field for a key which training never saw."""
        ids = self.ids[self.log.rows("validation"), self.log.field_names.index(name)]
        return float((ids >= self.log.vocab_sizes[name]).mean())

    def hold(self, model: ClickModel, result: Compressed, prefix: str) -> None:
        """Put the rows that ``result`` has for all of these ids into a model."""
        for name, field in result.items():
            own = name.removeprefix(prefix)
            rows = torch.from_numpy(field.lookup(self.all_keys(own)))
            model.embeddings[own] = nn.Embedding(len(rows), field.dim, _weight=rows)
        model.vocab_sizes = self.sizes

    def _ids(self, name: str) -> NDArray[np.int32]:
        return self.log.ids[:, self.log.field_names.index(name)]

    def _keys(self, name: str) -> NDArray[np.uint64]:
        assert self.log.keys is not None, "the log was loaded with keys"
        return self.log.keys[:, self.log.field_names.index(name)]

    @cached_property
    def _extended(self) -> tuple[NDArray[np.int64], dict[str, NDArray[np.uint64]]]:
        """The ids (rows, fields) with those of unseen keys, and these keys by field."""
        ids, keys = self.log.ids.astype(np.int64), {}
        for column, name in zip(ids.T, self.log.field_names, strict=True):
            unseen = np.flatnonzero(column == 0)
            keys[name], places = np.unique(self._keys(name)[unseen], return_inverse=True)
            column[unseen] = self.log.vocab_sizes[name] + places
        return ids, keys
