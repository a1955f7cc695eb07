"""Embedding lookup from an artifact: ids in, rows or pooled bags out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.errors import BudgetError, IdError, KeysError
from saec.format.bags import Bags
from saec.format.cold_tables import ReadCounts
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.keyed_field import KeyedField, KeyKind
from saec.format.load import load
from saec.format.native_lookup import gather_apart
from saec.format.patched import with_following
from saec.serve.model import Model, check_known, check_size
from saec.serve.protocol import DTYPES, InferRequest, TensorSpec, datatype_of, invalid

__all__ = ["LookupModel"]

_OFFSETS = ".offsets"
_ID_TYPES = ("INT64", "INT32")
# Datatypes of keys, the default first.
_KEY_TYPES = {
    KeyKind.UNSIGNED: ("UINT64", "INT64", "UINT32", "INT32"),
    KeyKind.SIGNED: ("INT64", "UINT64", "INT32", "UINT32"),
    KeyKind.TEXT: ("BYTES",),
}
_ROW_TYPES = ("FP32", "FP16")
_MODES = ("sum", "mean", "max")
_THREADS = 1  # of a request, because requests run side by side
_CHECKED_KEYS = 1 << 10
_CHECKED_VALUES = 1 << 20  # of rows that are read at a time
# Rows of 128 values with one bit each have this many.
_CHECKED_VALUES_PER_BYTE = 1 << 10


class LookupModel(Model):
    """Rows of an artifact's fields.

    Input ``f`` has ids of field f, any shape of INT64 or INT32, and output ``f`` their rows. With
    an input ``f.offsets``, the starts of bags among ids of shape [m], output ``f`` has the bags'
    sums. For a field with keys, input ``f`` has keys: UINT64, INT64, or BYTES in UTF-8; unknown
    keys are not an error.
    Parameters of a request: ``datatype`` FP32 or FP16 of the rows, and ``mode`` sum, mean or max.
    """

    platform = "saec_lookup"
    parameters = ("datatype", "mode")

    def __init__(self, tables: Compressed) -> None:
        self._tables = tables
        self.nbytes = tables.nbytes
        self.outputs = [TensorSpec(name, "FP32", (-1, tables[name].dim)) for name in tables]
        # A field with the name of another field's offsets is a field.
        offsets = [name + _OFFSETS for name in tables if name + _OFFSETS not in tables]
        self._types = {name: _types(field) for name, field in tables.items()}
        self.inputs = [
            TensorSpec(name, self._types.get(name, _ID_TYPES)[0], (-1,))
            for name in (*tables, *offsets)
        ]
        self.offsets = {name: name.removesuffix(_OFFSETS) for name in offsets}
        self._known = [spec.name for spec in self.inputs]

    @classmethod
    def open(
        cls,
        path: Path,
        go_on: Callable[[], None] = lambda: None,
        memory: int | None = None,
        patches: Path | None = None,
    ) -> LookupModel:
        """Map an artifact and read its rows once, so that damage is found now and not in use.

        A field may claim any number of rows if they take no bits. So the work is limited in
        proportion to the bytes of the file; further rows are read only in requests.

        Args:
            path: the artifact.
            go_on: called every few milliseconds; an exception from it ends the reading.
            memory: limit of the tables' bytes in memory; rows are then read only in requests, and
                damage is an error of these.
            patches: a folder; its patches that follow the artifact are used.

        Raises:
            ArtifactError: the file or a patch cannot be served.
            BudgetError: the memory is not enough, or the artifact's fields have keys.
        """
        tables = load(path, memory=memory)
        if memory is not None:
            return cls(tables)
        if patches is not None:
            tables = with_following(tables, patches)
        for field in tables.values():
            if isinstance(field, KeyedField):  # any string decodes to a valid row
                field.rows_of_hashes(np.arange(_CHECKED_KEYS, dtype=np.uint64), threads=1)
                continue
            most_values = _CHECKED_VALUES_PER_BYTE * field.nbytes + _CHECKED_VALUES
            rows = min(field.vocab_size, most_values // field.dim)
            step = max(_CHECKED_VALUES // field.dim, 1)
            for first in range(0, rows, step):
                go_on()
                field.lookup(np.arange(first, min(first + step, rows)), threads=1)
        return cls(tables)

    @property
    def read_counts(self) -> ReadCounts | None:  # type: ignore[override]
        """See :class:`Model`."""
        return self._tables.read_counts

    def look_up(self, request: InferRequest, most_bytes: int) -> dict[str, NDArray[Any]]:
        """See :meth:`Model.look_up`."""
        inputs = request.inputs
        dtype, mode = _options(request.parameters)
        check_known("input", list(inputs), self._known)
        check_known("output", request.outputs, list(self._tables))
        names = self._names(request)
        if not names:
            raise invalid("the ids of no field are given")
        for name, values in inputs.items():
            _check_input(name, values, self._types.get(name, _ID_TYPES))
        bags = {name: self._bags(name, inputs) for name in names}
        if mode is not None and not any(starts is not None for starts in bags.values()):
            raise invalid("parameter 'mode' goes with offsets")
        check_size("rows", self._row_bytes(inputs, bags, dtype), most_bytes)
        try:
            return self._rows(inputs, bags, mode or "sum", dtype)
        except (IdError, KeysError, BudgetError) as error:
            raise invalid(str(error)) from error

    def score(self, found: dict[str, NDArray[Any]], most_bytes: int) -> dict[str, NDArray[Any]]:
        """See :meth:`Model.score`: the rows are the outputs."""
        return found

    def output_lengths(self, request: InferRequest) -> dict[str, int] | None:
        """See :meth:`Model.output_lengths`."""
        inputs = request.inputs
        names = self._names(request)
        if not names or not all(values.ndim for values in inputs.values()):
            return None
        lengths = {}
        for name in names:
            starts = inputs.get(name + _OFFSETS) if name + _OFFSETS in self.offsets else None
            if name not in inputs or (starts is not None and not _own_bags(starts, inputs[name])):
                return None
            lengths[name] = len(inputs[name] if starts is None else starts)
        return lengths

    def check_batches(self) -> None:
        """See :meth:`Model.check_batches`: lookups of rows can always be joined."""

    def _names(self, request: InferRequest) -> Sequence[str]:
        """Fields whose rows are requested."""
        return request.outputs or [name for name in self._tables if name in request.inputs]

    def _bags(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
        """Starts of a field's bags; None if single rows are requested."""
        if name not in inputs:
            raise invalid(f"output {name!r} needs ids: input {name!r}")
        starts = inputs.get(name + _OFFSETS) if name + _OFFSETS in self.offsets else None
        if starts is not None and (inputs[name].ndim != 1 or starts.ndim != 1):
            raise invalid(f"inputs {name!r} and {name + _OFFSETS!r} of bags are vectors")
        return starts

    def _rows(
        self,
        inputs: Mapping[str, NDArray[Any]],
        bags: Mapping[str, NDArray[Any] | None],
        mode: Any,
        dtype: np.dtype[Any],
    ) -> dict[str, NDArray[Any]]:
        """Rows of all fields in one call, which reads the pages of all of them at a time."""
        fields = [self._tables[name] for name in bags]
        asked = []
        for field, (name, starts) in zip(fields, bags.items(), strict=True):
            if starts is None:
                table, rows = field.asked(inputs[name], _THREADS)
                asked.append((table, Bags(rows.reshape(-1))))
            else:
                asked.append(field.asked_bags(inputs[name], starts, None, mode, _THREADS))
        outs = [
            np.empty((own.count, field.dim), dtype)
            for field, (_, own) in zip(fields, asked, strict=True)
        ]
        tables, wanted = zip(*asked, strict=True)
        gather_apart(tables, wanted, [field.place for field in fields], outs, _THREADS)
        return {
            name: out if starts is not None else out.reshape(*inputs[name].shape, out.shape[1])
            for out, (name, starts) in zip(outs, bags.items(), strict=True)
        }

    def _row_bytes(
        self,
        inputs: Mapping[str, NDArray[Any]],
        bags: Mapping[str, NDArray[Any] | None],
        dtype: np.dtype[Any],
    ) -> int:
        counts = {
            name: inputs[name].size if starts is None else starts.size
            for name, starts in bags.items()
        }
        values = sum(count * self._tables[name].dim for name, count in counts.items())
        return values * dtype.itemsize


def _own_bags(starts: NDArray[Any], ids: NDArray[Any]) -> bool:
    """Whether bags have all of the request's ids and no others, among those of several requests."""
    if starts.ndim != 1 or starts.dtype.kind not in "iu" or not starts.size:
        return False
    return starts[0] == 0 and starts.min() >= 0 and int(starts.max()) <= len(ids)


def _types(field: CompressedField) -> tuple[str, ...]:
    """Datatypes of a field's input."""
    return _KEY_TYPES[field.key_kind] if isinstance(field, KeyedField) else _ID_TYPES


def _check_input(name: str, values: NDArray[Any], types: tuple[str, ...]) -> None:
    if datatype_of(values) not in types:
        raise invalid(f"input {name!r} is {' or '.join(types)}, not {datatype_of(values)}")
    if not values.ndim:
        raise invalid(f"input {name!r} has shape [n] or [n, k], not []")


def _options(parameters: Mapping[str, Any]) -> tuple[np.dtype[Any], str | None]:
    datatype, mode = parameters.get("datatype", "FP32"), parameters.get("mode")
    if datatype not in _ROW_TYPES:
        raise invalid(f"rows are {' or '.join(_ROW_TYPES)}, not {datatype!r}")
    if "mode" in parameters and mode not in _MODES:
        raise invalid(f"mode is {', '.join(_MODES)}, not {mode!r}")
    return DTYPES[datatype], mode
