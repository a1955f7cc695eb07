"""Names of tables in a checkpoint, and matching of other files' entries to these names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from saec.errors import CheckpointError, did_you_mean
from saec.sources.naming import bare_name, plain_names
from saec.streaming.rows import Rows
from saec.util.messages import listed

__all__ = [
    "Arrays",
    "by_field",
    "check_known",
    "chosen_tables",
    "for_tables",
    "partners",
    "renamed_fields",
    "selected",
]

Arrays = dict[str, Rows]
Value = TypeVar("Value")


def partners(
    tables: Arrays, others: Mapping[str, Value], only: Sequence[str], what: str
) -> dict[str, Value]:
    """The entries of ``others`` that belong to ``tables``; each table and each entry has a
    partner."""
    bare = [name for name in tables if name not in others]
    if bare:
        raise CheckpointError(
            f"no {what} for {listed(bare)}, but for {listed(others)}; "
            "name the tables to compress with --only"
        )
    check_known(selected(others, only) if only else others, tables, what)
    return {name: others[name] for name in tables}


def check_known(names: Iterable[str], tables: Arrays, what: str) -> None:
    lost = [name for name in names if name not in tables]
    if lost:
        raise CheckpointError(
            f"no tables for {what} {listed(lost)}; there are {listed(tables)}"
            f"{did_you_mean(lost[0], tables)}"
        )


def by_field(values: Mapping[str, Value]) -> dict[str, Value]:
    """By the path of the module that holds a weight."""
    plain = plain_names(values)
    named = {plain[name]: value for name, value in values.items()}
    if len(named) < len(values):
        twice = next(name for name in named if name in values and f"{name}.weight" in values)
        raise CheckpointError(f"{twice} and {twice}.weight are the same field")
    return named


def for_tables(
    values: Mapping[str, Value], tables: Arrays, names: Mapping[str, str], nameless: bool
) -> dict[str, Value]:
    """By the names of the matching tables; a name without a table is kept."""
    named = renamed_fields(by_field(values), names)
    if nameless and len(named) == len(tables) == 1:
        return dict(zip(tables, named.values(), strict=True))
    known = {bare_name(name): name for name in tables}
    return {
        name if name in tables else known.get(bare_name(name), name): value
        for name, value in named.items()
    }


def renamed_fields(
    values: dict[str, Value], names: Mapping[str, str], required: bool = False
) -> dict[str, Value]:
    """By field names, which ``names`` gives to some tables."""
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


def chosen_tables(tables: Arrays, only: Sequence[str]) -> Arrays:
    """The entries whose name matches one of ``only``; all entries if that is empty."""
    for pattern in only:
        if not selected(tables, [pattern]):
            raise CheckpointError(
                f"no table matches --only {pattern}; there are {listed(tables)}"
                f"{did_you_mean(pattern, tables)}"
            )
    chosen = selected(tables, only)
    return {name: table for name, table in tables.items() if not only or name in chosen}


def selected(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Those of ``names`` that equal one of ``patterns`` or match one that is not itself a name."""
    known = list(names)
    chosen: set[str] = set()
    for pattern in patterns:
        spelt = (pattern, *_spelt(pattern))
        exact = [name for name in spelt if name in known][:1]
        chosen |= set(exact or (name for one in spelt for name in known if fnmatchcase(name, one)))
    return [name for name in known if name in chosen]


def _spelt(name: str) -> tuple[str, str]:
    """Other forms of a table's name: as in a checkpoint, and as in a wrapped model."""
    return name.removesuffix(".weight"), bare_name(name)
