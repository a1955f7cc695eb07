"""Put together what lies in files: tables, their frequencies, and the metrics of their loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from saec.errors import CheckpointError, did_you_mean
from saec.sources import Source, describe, read_source
from saec.sources.naming import bare_name, plain_names
from saec.streaming.rows import Rows, rows_of
from saec.tables.counting import count_columns
from saec.tables.field import Field
from saec.tables.loss_metric import LossMetrics
from saec.tables.loss_metric_file import load_metrics
from saec.util.messages import listed

__all__ = ["LogColumns", "read_fields", "read_frequencies", "read_tables"]

Arrays = dict[str, Rows]
Value = TypeVar("Value")


@dataclass(frozen=True)
class LogColumns:
    """Frequencies that are to be counted in a log.

    paths: Parquet or CSV files, see :func:`saec.count_columns`.
    columns: by table, the column that holds its features' ids.
    """

    paths: str | Path | Sequence[str | Path]
    columns: Mapping[str, str]


def read_tables(path: str | Path) -> Arrays:
    """Find all two-dimensional floating-point tables of a checkpoint, by name.

    Vectors, integers and tensors of more dimensions are left out. Rows are read only when they are
    used, a part at a time; of packed ``.npz`` files at once. Python objects are never unpickled.

    Args:
        path: a file, a folder or a pattern, see :func:`saec.sources.read_source`.

    Returns:
        ``{name: rows (n, d)}`` of float64, float32, float16 or bfloat16.

    Raises:
        CheckpointError: a file is missing, unreadable, truncated, of another kind, or holds no
            table; says what was found.
        OptionalDependencyError: a package that is needed is not installed.
    """
    return _tables(path, read_source(path))


def read_frequencies(path: str | Path) -> Arrays:
    """Find the frequencies of tables, by the tables' names.

    Args:
        path: as of :func:`read_tables`, with one vector per table. Arrays of other shapes are left
            out. A Parquet dataset has them next to the vectors.

    Returns:
        ``{name: rows (n,)}`` of real numbers.

    Raises:
        CheckpointError: a file is missing, unreadable, truncated, of another kind, or holds no
            vector of numbers; says what was found.
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
    progress: bool = True,
    folder: str | Path | None = None,
) -> tuple[list[Field], LossMetrics | None]:
    """Read tables with their frequencies and, if their file is given, loss metrics.

    A field is named by the path of the module that holds its table, as :mod:`saec.torch` names it:
    a trailing ``.weight`` does not count, nor do the names of wrappers: ``_orig_mod``,
    ``_fsdp_wrapped_module``, and ``module`` before all names. What a ``.npy`` file holds goes with
    the only other.

    Args:
        checkpoint: see :func:`read_tables`.
        frequencies: see :func:`read_frequencies`; or a log in which they are counted; or None if
            the checkpoint, a Parquet dataset, has them next to the vectors.
        metrics: see :func:`saec.load_metrics`.
        only: names or patterns like ``embeddings.*`` of the tables to read; if empty all, or with a
            log those of which it has columns. What is the name of a table is no pattern.
        names: by field, the table in the checkpoint, where the two have different names; its
            frequencies and metrics may have either.
        progress: show a bar of the log's rows.
        folder: where the counts of a log are kept, see :func:`saec.count_columns`.

    Raises:
        CheckpointError: a file is not as it should be, or one has no partner for what another
            holds; tables that no pattern of ``only`` matches need none.
        DataError: the log cannot be read.
        FieldError: table and frequencies do not fit each other.
        IdError: an id of the log is not in its table.
        MetricError: the metrics cannot be read.
    """
    source = read_source(checkpoint)
    tables = _renamed(_by_field(_tables(checkpoint, source)), names, required=True)
    if isinstance(frequencies, LogColumns):
        columns = _for_tables(frequencies.columns, tables, names, source.nameless)
        _check_known(columns, tables, "columns")
        only = only or list(columns)
        tables = _chosen(tables, only)
        columns = _partners(tables, columns, only, "columns")
        counts = _counted(tables, frequencies.paths, columns, progress, folder)
    else:
        tables = _chosen(tables, only)
        counts = _matching(checkpoint, source, frequencies, tables, names)
    partners = _partners(tables, counts, only, "frequencies")
    fields = [Field(name, table, partners[name]) for name, table in tables.items()]
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
    """Those of the tables; a nameless table takes the only one."""
    matrices = _for_tables(loaded, tables, names, nameless)
    errors = _for_tables(loaded.relative_errors, tables, names, nameless)
    matrices = _partners(tables, matrices, only, "metrics")
    unseen = _for_tables(loaded.unseen, tables, names, nameless)
    return LossMetrics(
        matrices,
        loaded.examples,
        {name: errors[name] for name in matrices},
        {name: gradients for name, gradients in unseen.items() if name in matrices},
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
    """Frequencies by field, from a source of their own or from that of the tables."""
    if frequencies is None:
        if not source.counts:
            raise CheckpointError(
                f"{checkpoint}: has no frequencies next to its vectors; give them, or a log in "
                "which to count"
            )
        return _for_tables(source.counts, tables, names, nameless=False)
    other = read_source(frequencies)
    nameless = source.nameless or other.nameless
    return _for_tables(_vectors(frequencies, other), tables, names, nameless)


def _counted(
    tables: Arrays,
    paths: str | Path | Sequence[str | Path],
    columns: Mapping[str, str],
    progress: bool,
    folder: str | Path | None,
) -> Arrays:
    sizes = {name: len(table) for name, table in tables.items()}
    counted = count_columns(paths, columns, sizes, progress, folder)
    return {name: rows_of(counts) for name, counts in counted.items()}


def _partners(
    tables: Arrays, others: Mapping[str, Value], only: Sequence[str], what: str
) -> dict[str, Value]:
    """Of ``others`` those that go with ``tables``; every one of both has its partner."""
    bare = [name for name in tables if name not in others]
    if bare:
        raise CheckpointError(
            f"no {what} for {listed(bare)}, but for {listed(others)}; "
            "name the tables to compress with --only"
        )
    _check_known(_selected(others, only) if only else others, tables, what)
    return {name: others[name] for name in tables}


def _check_known(names: Iterable[str], tables: Arrays, what: str) -> None:
    lost = [name for name in names if name not in tables]
    if lost:
        raise CheckpointError(
            f"no tables for {what} {listed(lost)}; there are {listed(tables)}"
            f"{did_you_mean(lost[0], tables)}"
        )


def _by_field(values: Mapping[str, Value]) -> dict[str, Value]:
    """By the path of the module that holds a weight."""
    plain = plain_names(values)
    named = {plain[name]: value for name, value in values.items()}
    if len(named) < len(values):
        twice = next(name for name in named if name in values and f"{name}.weight" in values)
        raise CheckpointError(f"{twice} and {twice}.weight are the same field")
    return named


def _for_tables(
    values: Mapping[str, Value], tables: Arrays, names: Mapping[str, str], nameless: bool
) -> dict[str, Value]:
    """By the names of the tables that they go with; where one is only the file's, by that one's."""
    named = _renamed(_by_field(values), names)
    if nameless and len(named) == len(tables) == 1:
        return dict(zip(tables, named.values(), strict=True))
    known = {bare_name(name): name for name in tables}
    return {
        name if name in tables else known.get(bare_name(name), name): value
        for name, value in named.items()
    }


def _renamed(
    values: dict[str, Value], names: Mapping[str, str], required: bool = False
) -> dict[str, Value]:
    """By the fields that ``names`` gives to some of them."""
    fields = {}
    for field, table in names.items():
        found = next((name for name in (table, *_spelt(table)) if name in values), None)
        if found is not None and field not in values:
            fields[found] = field
        elif required and field != found:
            raise CheckpointError(
                f"{table} cannot be named {field}: there are {listed(values)}"
                f"{did_you_mean(table, values)}"
            )
    if len(set(fields.values())) < len(fields):
        raise CheckpointError(f"a table is given to two fields: {listed(names)}")
    return {fields.get(name, name): value for name, value in values.items()}


def _chosen(tables: Arrays, only: Sequence[str]) -> Arrays:
    """Those whose name matches one of ``only``; all, if that is empty."""
    for pattern in only:
        if not _selected(tables, [pattern]):
            raise CheckpointError(
                f"no table matches --only {pattern}; there are {listed(tables)}"
                f"{did_you_mean(pattern, tables)}"
            )
    chosen = _selected(tables, only)
    return {name: table for name, table in tables.items() if not only or name in chosen}


def _selected(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Those of ``names`` that are one of ``patterns``, or match one that is no name itself."""
    known = list(names)
    chosen: set[str] = set()
    for pattern in patterns:
        spelt = (pattern, *_spelt(pattern))
        exact = [name for name in spelt if name in known][:1]
        chosen |= set(exact or (name for one in spelt for name in known if fnmatchcase(name, one)))
    return [name for name in known if name in chosen]


def _spelt(name: str) -> tuple[str, str]:
    """Other ways to say a table's name: as in a checkpoint, and as in a wrapped model's."""
    return name.removesuffix(".weight"), bare_name(name)
