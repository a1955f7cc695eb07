"""Build fields from files: tables, their frequencies and their loss metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from saec.errors import CheckpointError
from saec.sources import Source, describe, read_source
from saec.streaming.rows import rows_of
from saec.streaming.unit_rows import UnitRows
from saec.tables.count_keys import KeyCounts, count_keys
from saec.tables.counting import count_columns
from saec.tables.field import Field
from saec.tables.key_places import KeyPlaces, keys_of_tables
from saec.tables.loss_metric import LossMetrics
from saec.tables.loss_metric_file import load_metrics
from saec.tables.table_names import (
    Arrays,
    by_field,
    check_known,
    chosen_tables,
    for_tables,
    partners,
    renamed_fields,
)

__all__ = ["KeyPlaces", "LogColumns", "read_fields", "read_frequencies", "read_tables"]


@dataclass(frozen=True)
class LogColumns:
    """Frequencies that are to be counted in a log.

    paths: Parquet or CSV files, see :func:`saec.count_columns`.
    columns: the column with the ids of a table's features, by table name.
    """

    paths: str | Path | Sequence[str | Path]
    columns: Mapping[str, str]


def read_tables(path: str | Path) -> Arrays:
    """Find all two-dimensional floating-point tables of a checkpoint, by name.

    Vectors, integers and tensors of more dimensions are left out. Rows are read in parts and only
    when they are used; packed ``.npz`` files are read as a whole. Python objects are never
    unpickled.

    Args:
        path: a file, a folder or a pattern, see :func:`saec.sources.read_source`.

    Returns:
        ``{name: rows (n, d)}`` of float64, float32, float16 or bfloat16.

    Raises:
        CheckpointError: a file is missing, unreadable, truncated, of another kind, or holds no
            table; the message lists what was found.
        OptionalDependencyError: a package that is needed is not installed.
    """
    return _tables(path, read_source(path))


def read_frequencies(path: str | Path) -> Arrays:
    """Find the frequencies of tables, by the tables' names.

    Args:
        path: as in :func:`read_tables`, with one vector per table. Arrays of other shapes are left
            out. A Parquet dataset has the frequencies in a column beside the vectors.

    Returns:
        ``{name: rows (n,)}`` of real numbers.

    Raises:
        CheckpointError: a file is missing, unreadable, truncated, of another kind, or holds no
            vector of numbers; the message lists what was found.
        OptionalDependencyError: a package that is needed is not installed.
    """
    return _vectors(path, read_source(path))


def read_fields(
    checkpoint: str | Path,
    frequencies: str | Path | LogColumns | None = None,
    metrics: str | Path | None = None,
    only: Sequence[str] = (),
    *,
    names: Mapping[str, str] = MappingProxyType({}),
    keys: KeyPlaces | None = None,
    unit_rows: bool = False,
    progress: bool = True,
    folder: str | Path | None = None,
) -> tuple[list[Field], LossMetrics | None]:
    """Read tables with their frequencies and, if their file is given, loss metrics.

    A field is named by the path of the module that holds its table, as in :mod:`saec.torch`:
    a trailing ``.weight`` is dropped, and so are the names of wrappers: ``_orig_mod``,
    ``_fsdp_wrapped_module``, and ``module`` before all names. The array of a ``.npy`` file has no
    name and matches the only table (or frequencies, or metric) of the other files.

    Args:
        checkpoint: see :func:`read_tables`.
        frequencies: see :func:`read_frequencies`; or a log in which they are counted; or None if
            the checkpoint is a Parquet dataset that has them beside the vectors.
        metrics: see :func:`saec.load_metrics`.
        only: names or patterns like ``embeddings.*`` of the tables to read. If empty, all tables
            are read, or with a log those that have columns in it. An exact name is not a pattern.
        names: the table in the checkpoint by field name, where the two have different names; its
            frequencies and metrics may have either name.
        keys: places of the keys of tables whose lookups take keys; vectors of words already contain
            theirs. The log's columns then hold the keys of such a table.
        unit_rows: scale all rows to length 1, so that squared distances are 2 - 2 cosine.
        progress: show a progress bar for the log's rows.
        folder: where the counts of a log are kept, see :func:`saec.count_columns`.

    Raises:
        CheckpointError: a file is malformed, or an entry of one file has no counterpart in
            another; tables that no pattern of ``only`` matches need none.
        DataError: the log cannot be read.
        FieldError: table and frequencies do not fit each other.
        IdError: an id of the log is not in its table.
        MetricError: the metrics cannot be read.
    """
    source = read_source(checkpoint)
    counted: dict[str, KeyCounts] = {}
    tables = renamed_fields(by_field(_tables(checkpoint, source)), names, required=True)
    if isinstance(frequencies, LogColumns):
        columns = for_tables(frequencies.columns, tables, names, source.nameless)
        check_known(columns, tables, "columns")
        only = only or list(columns)
        tables = chosen_tables(tables, only)
        columns = partners(tables, columns, only, "columns")
        own = keys_of_tables(checkpoint, source, tables, keys, names)
        by_key = {name: column for name, column in columns.items() if name in own}
        by_id = {name: column for name, column in columns.items() if name not in own}
        counts = _counted(tables, frequencies.paths, by_id, progress, folder) if by_id else {}
        counted = count_keys(frequencies.paths, by_key, own, progress) if by_key else {}
        counts |= {name: rows_of(found.counts) for name, found in counted.items()}
    else:
        tables = chosen_tables(tables, only)
        own = keys_of_tables(checkpoint, source, tables, keys, names)
        counts = _matching(checkpoint, source, frequencies, tables, names)
    own_counts = partners(tables, counts, only, "frequencies")
    fields = []
    for name, table in tables.items():
        share = counted[name].unseen_share if name in counted else None
        options = {"keys": own[name], "unseen_share": share} if name in own else {}
        rows = UnitRows(table) if unit_rows else table
        fields.append(Field(name, rows, own_counts[name], **options))
    if metrics is None:
        return fields, None
    return fields, _metrics(load_metrics(metrics), tables, only, names, source.nameless)


def _metrics(
    loaded: LossMetrics,
    tables: Arrays,
    only: Sequence[str],
    names: Mapping[str, str],
    nameless: bool,
) -> LossMetrics:
    """The entries for ``tables``; an entry without a name belongs to the only table."""
    matrices = for_tables(loaded, tables, names, nameless)
    errors = for_tables(loaded.relative_errors, tables, names, nameless)
    matrices = partners(tables, matrices, only, "metrics")
    unseen = for_tables(loaded.unseen, tables, names, nameless)
    unknown = for_tables(loaded.unknown, tables, names, nameless)
    return LossMetrics(
        matrices,
        loaded.examples,
        {name: errors[name] for name in matrices},
        {name: gradients for name, gradients in unseen.items() if name in matrices},
        {name: matrix for name, matrix in unknown.items() if name in matrices},
    )


def _tables(path: str | Path, source: Source) -> Arrays:
    if not source.tables:
        found = describe(source.arrays)
        reason = f"{path}: no two-dimensional floating-point table; it holds {found}"
        raise CheckpointError(source.without_tables or reason)
    return source.tables


def _vectors(path: str | Path, source: Source) -> Arrays:
    if not source.vectors:
        found = describe(source.arrays)
        raise CheckpointError(f"{path}: no vector of frequencies; it holds {found}")
    return source.vectors


def _matching(
    checkpoint: str | Path,
    source: Source,
    frequencies: str | Path | None,
    tables: Arrays,
    names: Mapping[str, str],
) -> Arrays:
    """Frequencies by field, from their own source or from that of the tables."""
    if frequencies is None:
        if not source.counts:
            raise CheckpointError(
                f"{checkpoint}: has no frequencies next to its vectors; give them, or a log in "
                "which to count"
            )
        return for_tables(source.counts, tables, names, nameless=False)
    other = read_source(frequencies)
    nameless = source.nameless or other.nameless
    return for_tables(_vectors(frequencies, other), tables, names, nameless)


def _counted(
    tables: Arrays,
    paths: str | Path | Sequence[str | Path],
    columns: Mapping[str, str],
    progress: bool,
    folder: str | Path | None,
) -> Arrays:
    sizes = {name: len(tables[name]) for name in columns}
    counted = count_columns(paths, columns, sizes, progress, folder)
    return {name: rows_of(counts) for name, counts in counted.items()}
