"""Keys of a checkpoint's tables, from files and columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from saec.errors import CheckpointError
from saec.sources import Source
from saec.sources.key_files import key_column, read_key_file
from saec.tables.table_names import Arrays, check_known, for_tables
from saec.util.messages import listed

__all__ = ["KeyPlaces", "keys_of_tables"]

Value = TypeVar("Value")


@dataclass(frozen=True)
class KeyPlaces:
    """The places of the keys of tables; the name "" stands for the only table.

    columns: by table, the column of its Parquet files.
    files: by table, a file of keys, see :func:`saec.sources.key_files.read_key_file`.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str | Path] = field(default_factory=dict)


def keys_of_tables(
    checkpoint: str | Path,
    source: Source,
    tables: Arrays,
    places: KeyPlaces | None,
    names: Mapping[str, str],
) -> dict[str, Any]:
    """The keys of tables, by field."""
    found = for_tables(dict(source.keys), tables, names, source.nameless)
    files = for_tables(dict(source.files), tables, names, source.nameless)
    places = places or KeyPlaces()
    for name, column in _of_tables(places.columns, tables, names).items():
        if name not in files:
            raise CheckpointError(
                f"{checkpoint}: is no Parquet table, and has no column {column!r} of keys; give "
                "a file of keys"
            )
        found[name] = key_column(files[name], column)
    for name, path in _of_tables(places.files, tables, names).items():
        found[name] = read_key_file(Path(path))
    return {name: keys for name, keys in found.items() if name in tables}


def _of_tables(
    given: Mapping[str, Value], tables: Arrays, names: Mapping[str, str]
) -> dict[str, Value]:
    """By field name; the name "" stands for the only table."""
    if "" in given and len(tables) > 1:
        raise CheckpointError(f"name the table of these keys; there are {listed(tables)}")
    known = {next(iter(tables)) if name == "" else name: value for name, value in given.items()}
    own = for_tables(known, tables, names, nameless=False)
    check_known(own, tables, "keys")
    return own
