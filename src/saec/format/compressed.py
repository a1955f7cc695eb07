"""Compressed tables by field name: save, load, and look rows up directly in the packed codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

import saec.artifact as artifact
from saec.errors import ArtifactError, FieldError, did_you_mean
from saec.format.bags import Bags, Mode
from saec.format.cold_tables import ColdTables, ReadCounts
from saec.format.compressed_field import SIZE_HEADING, CompressedField, size_cells
from saec.format.model_size import ModelSize
from saec.format.native_lookup import LookupTable, gather, output_dtype
from saec.format.permutation_file import (
    permutation_path,
    remove_permutations,
    save_permutations,
)
from saec.tables.unseen_gradients import SlopeShare
from saec.util.html_table import html_table
from saec.util.messages import listed
from saec.util.remote_file import as_url

__all__ = ["Compressed"]


class Compressed(Mapping[str, CompressedField]):
    """Compressed tables by field name, and the expected increase of the loss.

    Args:
        fields: names must be unique.
        predicted_loss_increase: increase of the model's loss by compression, in nats; None if
            unknown.

    Attributes:
        model_size: size of the model that :func:`saec.torch.compress_` put the tables into; None
            otherwise, and after loading.
        slope_shares: by field name, the weight of slopes on unseen rows; empty without such rows
            and after loading.

    Raises:
        FieldError: names are not unique.
        ArtifactError: ``predicted_loss_increase`` is negative or not finite.
    """

    def __init__(
        self, fields: Sequence[CompressedField], predicted_loss_increase: float | None = None
    ) -> None:
        self._fields = {field.name: field for field in fields}
        if len(self._fields) != len(fields):
            raise FieldError("field names are not unique")
        self.sharded: Mapping[str, Mapping[str, artifact.ShardedTensor]] = {}  # set by loading
        self.cold: ColdTables | None = None  # set by loading with a limit of memory
        self.model_size: ModelSize | None = None
        self.slope_shares: Mapping[str, SlopeShare] = {}
        self.predicted_loss_increase = (
            None if predicted_loss_increase is None else _checked_loss(predicted_loss_increase)
        )

    def __getitem__(self, name: str) -> CompressedField:
        try:
            return self._fields[name]
        except KeyError:
            raise KeyError(self._unknown(name)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the cache of a file, which only this process can read."""
        return self.__dict__ | {"cold": None}

    @property
    def nbytes(self) -> int:
        """Bytes of the artifact as saved, with everything that decoding needs.

        For an artifact that was loaded from shards, bytes of all its files.
        """
        entries = [
            replace(field.entry, sharded=self.sharded.get(name, {})) for name, field in self.items()
        ]
        return artifact.file_bytes(entries)

    @property
    def shard_count(self) -> int:
        """Number of shards that the artifact was loaded from; 0 if it is one file or was not
        loaded."""
        sharded = (tensor for roles in self.sharded.values() for tensor in roles.values())
        return sum(len(tensor.shards) for tensor in sharded)

    @property
    def read_counts(self) -> ReadCounts | None:
        """What lookups have read from the file; None unless it was opened with a limit of its
        memory."""
        return None if self.cold is None else self.cold.counts

    @property
    def original_nbytes(self) -> int:
        """Bytes of the original tables, in their own dtypes."""
        return sum(field.original_nbytes for field in self.values())

    @property
    def compression_ratio(self) -> float:
        """Original bytes / compressed bytes."""
        return self.original_nbytes / self.nbytes

    def lookup(
        self, ids: Mapping[str, ArrayLike], *, dtype: DTypeLike = np.float32, threads: int = 0
    ) -> NDArray[Any]:
        """Rows of a batch, of several fields in one call: (batch, sum of their dims).

        Args:
            ids: (batch,) integers by field name, or keys for a field with keys; the rows are joined
                in the given order of fields.
            dtype: float32, float16 or bfloat16.
            threads: largest number of threads; 0 for the default.

        Raises:
            FieldError: no fields, an unknown field, or batches of different lengths.
            IdError: an id is outside of its field.
            ArtifactError: the file is damaged.
        """
        bags = {}
        for name, some in ids.items():
            table, whole = self._known(name).asked(some, threads)
            if whole.ndim != 1:
                raise FieldError(f"field {name!r}: ids have shape {whole.shape}, not (batch,)")
            bags[name] = table, Bags(whole)
        return self._gathered(bags, dtype, threads)

    def pool(
        self,
        ids: Mapping[str, ArrayLike],
        offsets: Mapping[str, ArrayLike],
        per_sample_weights: Mapping[str, ArrayLike] | None = None,
        mode: Mode = "sum",
        *,
        dtype: DTypeLike = np.float32,
        threads: int = 0,
    ) -> NDArray[Any]:
        """Reduced bags of a batch, of several fields in one call: (batch, sum of their dims).

        Args:
            ids: (m,) integers or keys by field name; m may differ between fields. The reduced rows
                are joined in the given order of fields.
            offsets: (batch,) by field name; see :meth:`CompressedField.pool`, also for the rest.
            per_sample_weights: (m,) by field name; ids of other fields have the weight 1.
            mode: ``sum``, ``mean`` or ``max``.
            dtype: float32, float16 or bfloat16.
            threads: largest number of threads; 0 for the default.

        Raises:
            FieldError: no fields, a field that is unknown or has no offsets, or batches of
                different lengths.
            IdError: an id or an offset is out of range.
            ValueError: weights with a mode other than sum, or of another length.
            ArtifactError: the file is damaged.
        """
        weights = per_sample_weights or {}
        for name in (*ids, *weights):
            if name not in offsets or name not in ids:
                raise FieldError(f"field {name!r} has no offsets, or no ids")
        bags = {}
        for name, some in ids.items():
            field = self._known(name)
            bags[name] = field.asked_bags(some, offsets[name], weights.get(name), mode, threads)
        return self._gathered(bags, dtype, threads)

    def _known(self, name: str) -> CompressedField:
        if name not in self._fields:
            raise FieldError(self._unknown(name))
        return self._fields[name]

    def _unknown(self, name: str) -> str:
        return (
            f"there is no field {name!r}; there are {listed(sorted(self))}"
            f"{did_you_mean(str(name), self)}"
        )

    def _gathered(
        self, bags: Mapping[str, tuple[LookupTable, Bags]], dtype: DTypeLike, threads: int
    ) -> NDArray[Any]:
        counts = {name: own.count for name, (_, own) in bags.items()}
        if len(set(counts.values())) != 1:
            raise FieldError(f"a batch has as many rows in each field, not {counts}")
        fields = [self._fields[name] for name in bags]
        width = sum(field.dim for field in fields)
        rows = np.empty((next(iter(counts.values())), width), dtype=output_dtype(dtype))
        gather(
            [table for table, _ in bags.values()],
            [own for _, own in bags.values()],
            [field.place for field in fields],
            rows,
            threads,
        )
        return rows

    def save(self, path: str | os.PathLike[str] | BinaryIO) -> None:
        """Write the artifact, one file, atomically (docs/format.md).

        If features were renumbered, their old ids are written to
        ``<path>.permutation.safetensors``, where :func:`saec.load` finds them: without them the ids
        cannot be mapped to features. Such a file of a previous artifact is removed. A renumbered
        artifact that was loaded without that file is saved without it.

        Args:
            path: path of the file; or a URL such as ``s3://bucket/model.saec``, through fsspec; or
                a binary stream, such as ``io.BytesIO``, which cannot hold old ids.

        Raises:
            ArtifactError: a file cannot be written, the old ids cannot be read, or there is no
                place for them.
            OptionalDependencyError: fsspec, or its package for the URL's protocol, is missing.
        """
        known = [name for name, field in self.items() if field.permutation_known]
        entries = [field.entry for field in self.values()]
        if not isinstance(path, str | os.PathLike):
            if known:
                raise ArtifactError(
                    f"features of {listed(known)} were renumbered, and a stream has no place for "
                    "their old ids: save to a path"
                )
            artifact.write(path, entries, self.predicted_loss_increase)
            return
        # The files of old ids are moved to their places first: the artifact is useless without
        # them.
        first = partial(save_permutations, permutation_path(path), self) if known else None
        artifact.write(path, entries, self.predicted_loss_increase, first)
        if not known and as_url(path) is None:
            remove_permutations(path)

    def __repr__(self) -> str:
        return (
            f"Compressed({len(self)} fields, {self.nbytes} bytes, "
            f"ratio {self.compression_ratio:.1f}{self._whole_model})"
        )

    @property
    def _whole_model(self) -> str:
        """The ratio of the whole model, as a suffix to the text on that of the tables."""
        size = self.model_size
        return "" if size is None else f"; the whole model {size.ratio:.1f}, {size.after} bytes"

    def _repr_html_(self) -> str:
        loss = self.predicted_loss_increase
        cost = "" if loss is None else f"predicted log-loss increase {loss:.2g} nats"
        cost = (cost + self._whole_model).removeprefix("; ")
        features = sum(field.vocab_size for field in self.values())
        size = size_cells(self.nbytes, self.original_nbytes, features)
        rows = [
            *(field.size_row() for field in self.values()),
            ("file", f"{features:,}", "", "", *size),
        ]
        return html_table(cost, SIZE_HEADING, rows)


def _checked_loss(loss: float) -> float:
    number = isinstance(loss, float | int) and not isinstance(loss, bool)
    if not number or not 0 <= loss <= sys.float_info.max:
        raise ArtifactError(
            f"predicted_loss_increase is a finite number of at least 0, not {loss!r}"
        )
    return float(loss)
