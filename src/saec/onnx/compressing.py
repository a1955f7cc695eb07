"""The public functions that put compressed tables into an ONNX model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import ArrayLike
from onnx import ModelProto
from onnx.shape_inference import InferenceError

from saec.errors import CheckpointError, FieldError, OnnxError
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.keyed_field import KeyedField
from saec.format.load import load
from saec.onnx.check_graph import check_graph
from saec.onnx.files import save
from saec.onnx.rewriting import Rewriting
from saec.sources.onnx_files import find_tables, open_model, tensor_rows
from saec.sources.onnx_graph import TableUse
from saec.streaming.rows import Rows
from saec.tables.field import Field
from saec.util.messages import first_line, listed
from saec.util.remote_file import local

__all__ = ["Rewritten", "TableReport", "compress", "fields", "tables"]

_OLDEST_OPSET = 13  # first opset in which Squeeze and ReduceSum take axes as an input

# Suffixes that exporters append to the path of the module that holds a table.
_SUFFIXES = (".weight", "/embeddings", ":0", "/ReadVariableOp", "/Read", ".embeddings")


@dataclass(frozen=True)
class TableReport:
    """Result for one table.

    field: name of the field whose compressed rows replace the table.
    table: the table's name in the model.
    lookups: number of nodes that read rows of the table.
    original_nbytes: bytes of the original table.
    kept_for: nodes other than lookups that need the original table. If there are any, the table
        stays in the file.
    """

    field: str
    table: str
    lookups: int
    original_nbytes: int
    kept_for: tuple[str, ...]


@dataclass(frozen=True)
class Rewritten:
    """Result of :func:`compress`.

    tables: a report for each replaced table.
    nbytes: bytes of everything stored in their place, and of tables that had to stay.
    artifact_ratio: the compression ratio of the artifact. It is higher than
        :attr:`compression_ratio`, since standard operators need wider codes.
    """

    tables: tuple[TableReport, ...]
    nbytes: int
    artifact_ratio: float

    @property
    def original_nbytes(self) -> int:
        """Bytes of the original tables."""
        return sum(table.original_nbytes for table in self.tables)

    @property
    def compression_ratio(self) -> float:
        """Original bytes / stored bytes."""
        return self.original_nbytes / self.nbytes


def tables(model: str | os.PathLike[str]) -> dict[str, Rows]:
    """Find the embedding tables of a model: constants whose rows are gathered by ids.

    Args:
        model: an ONNX file.

    Returns:
        ``{name: rows (vocab_size, dim)}`` with the names and dtypes of the model; rows are read
        when they are used.

    Raises:
        CheckpointError: the model cannot be read, or is damaged.
    """
    path = local(model, CheckpointError)
    uses = find_tables(path, open_model(path))
    return {name: tensor_rows(path, use.tensor) for name, use in uses.items()}


def fields(model: str | os.PathLike[str], frequencies: Mapping[str, ArrayLike]) -> list[Field]:
    """Read tables from a model, for compression.

    Args:
        model: an ONNX file.
        frequencies: by table, (vocab_size,) counts of its features in the training log. The keys
            are names of :func:`tables`, with or without suffixes of exporters like ``.weight``.
            Tables without frequencies are left out.

    Returns:
        A field for each of ``frequencies``, in their order and with their names.

    Raises:
        CheckpointError: the model cannot be read, or is damaged.
        OnnxError: the model has no table of such a name.
        FieldError: frequencies do not fit their table, or two names are of the same table.
    """
    found = tables(model)
    named = _matched(frequencies, found, {}, Path(model))
    return [Field(name, found[table], frequencies[name]) for name, table in named.items()]


def compress(
    model: str | os.PathLike[str],
    result: Compressed | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    names: Mapping[str, str] | None = None,
    packed: bool = False,
) -> Rewritten:
    """Write a model whose lookups read compressed tables, with standard operators only.

    The new model computes the scores of the old one with ``result``'s decoded rows in its tables.
    The runtime raises an error for ids outside of a table, and for negative ids, which Gather would
    count from the end.

    Args:
        model: an ONNX file of opset 13 or later; its external data, if any, is read, too.
        result: compressed tables, or the path of their artifact.
        out: the file to write. If it would exceed 2 GiB, tensors are written to ``OUT.data`` beside
            it.
        names: by field, the name of its table in the model. Fields may be left out if the table has
            the field's name, with or without a suffix of exporters like ``.weight``.
        packed: read codes with bit operators where that is smaller. Slower: see docs/onnx.md.

    Raises:
        ArtifactError, CheckpointError: a file cannot be read, or is damaged.
        OnnxError: the model has no such table, or one of another shape, or its opset is too old; a
            field has keys; or the file cannot be written.
        FieldError: two fields have the same table.
    """
    source, target = local(model, CheckpointError), Path(out)
    if not isinstance(result, Compressed):
        result = load(result)
    _check_ids(result)
    loaded = open_model(source)
    _check_opset(loaded, source)
    uses = find_tables(source, loaded)
    matched = _matched(result, uses, names or {}, source)
    chosen = {table: uses[table] for table in matched.values()}
    replaced = {table: result[name] for name, table in matched.items()}
    for table, field in replaced.items():
        _check_shape(chosen[table], field, source)
    rewriting = _run(loaded, chosen, replaced, packed, source)
    report = _report(source, chosen, replaced, rewriting, result.compression_ratio)
    save(loaded, source, target)
    return report


def _check_ids(result: Compressed) -> None:
    for name, field in result.items():
        if isinstance(field, KeyedField):
            raise OnnxError(
                f"field {name!r} has keys, and ONNX has no operator for lookups by key: look up "
                "its rows outside of the model, by saec serve or lookup, and pass them as inputs; "
                "or compress the table without keys"
            )


def _run(
    model: ModelProto,
    uses: Mapping[str, TableUse],
    replaced: Mapping[str, CompressedField],
    packed: bool,
    path: Path,
) -> Rewriting:
    check_graph(path, model)
    try:
        rewriting = Rewriting(model, uses, replaced, packed)
    except InferenceError as error:
        raise OnnxError(f"{path}: a damaged graph: {first_line(error)}") from error
    rewriting.run()
    return rewriting


def _report(
    source: Path,
    uses: Mapping[str, TableUse],
    replaced: Mapping[str, CompressedField],
    rewriting: Rewriting,
    artifact_ratio: float,
) -> Rewritten:
    found = []
    for name, use in uses.items():
        size = tensor_rows(source, use.tensor).nbytes
        field, kept = replaced[name].name, tuple(use.others)
        found.append(TableReport(field, name, len(use.lookups), size, kept))
    stores = {id(store): store for store in rewriting.stores.values()}
    size = sum(store.nbytes for store in stores.values())
    size += sum(table.original_nbytes for table in found if table.kept_for)
    return Rewritten(tuple(found), size, artifact_ratio)


def _matched(
    names: Mapping[str, object], found: Mapping[str, object], given: Mapping[str, str], path: Path
) -> dict[str, str]:
    """The table of each field, by the field's name."""
    if not found:
        raise OnnxError(f"{path}: no table from which rows are gathered by ids")
    short = {_bare(table): table for table in found}
    for name in given:
        if name not in names:
            raise OnnxError(f"there is no field {name!r}; there are {listed(names)}")
    matched = {}
    for name in names:
        table = given.get(name, name)
        table = table if table in found else short.get(_bare(table), table)
        if table not in found:
            raise OnnxError(f"{path}: no table {table!r}; it has {listed(found)}")
        matched[name] = table
    if len(set(matched.values())) < len(matched):
        raise FieldError(f"several fields have the same table: {matched}")
    return matched


def _bare(name: str) -> str:
    while name.endswith(_SUFFIXES):
        name = next(name.removesuffix(end) for end in _SUFFIXES if name.endswith(end))
    return name


def _check_opset(model: ModelProto, path: Path) -> None:
    versions = [one.version for one in model.opset_import if one.domain in ("", "ai.onnx")]
    if not versions or versions[0] < _OLDEST_OPSET:
        found = f"opset {versions[0]}" if versions else "no standard opset"
        raise OnnxError(f"{path}: {found}; export it with opset {_OLDEST_OPSET} or later")


def _check_shape(use: TableUse, field: CompressedField, path: Path) -> None:
    shape = tuple(use.tensor.dims)
    if shape != (field.vocab_size, field.dim):
        raise OnnxError(
            f"{path}: table {use.name!r} is {shape[0]} x {shape[1]}, but field {field.name!r} "
            f"{field.vocab_size} x {field.dim}"
        )
