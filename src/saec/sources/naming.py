"""Files of a path or pattern, and arrays that are shards of one table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from saec.errors import CheckpointError
from saec.sources.source import Arrays
from saec.streaming.rows import JoinedRows
from saec.util.messages import listed

__all__ = ["bare_name", "in_order", "join_shards", "matches", "natural", "plain_names"]

# Parts that torch.compile, FSDP and activation checkpoints add to the names of a model's
# parameters.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_PARALLEL = "module."  # before all names of a model in DistributedDataParallel or DataParallel

_OF_ALL = re.compile(r"(?P<name>.+)-(?P<number>\d{1,18})-of-(?P<count>\d{1,18})", re.DOTALL)
_NUMBERED = re.compile(r"(?P<name>.+)-(?P<number>\d{1,18})", re.DOTALL)


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """The path of the module that holds a weight, from the weight's name in a checkpoint.

    Names of wrappers are removed; ``module.`` only if all names begin with it, since a model may
    have a module of that name. Names that would become equal are kept.
    """
    plain = {name: _unwrapped(name) for name in names}
    if all(name.startswith(_PARALLEL) for name in plain.values()):
        plain = {name: short.removeprefix(_PARALLEL) for name, short in plain.items()}
    if len(set(plain.values())) < len(plain):
        return {name: name.removesuffix(".weight") for name in plain}
    return plain


def bare_name(name: str) -> str:
    """A module's path without the names of wrappers, including ``module.`` at its beginning."""
    return _unwrapped(name).removeprefix(_PARALLEL)


def _unwrapped(name: str) -> str:
    segments = name.removesuffix(".weight").split(".")
    return ".".join(segment for segment in segments if segment not in _WRAPPERS)


def natural(name: str) -> tuple[object, ...]:
    """A key that sorts ``part-2`` before ``part-10``."""
    pieces = re.split(r"(\d+)", name)
    return tuple(int(piece) if i % 2 else piece for i, piece in enumerate(pieces)), name


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Files sorted by their numbers."""
    return sorted(paths, key=lambda path: [natural(part) for part in path.parts])


def matches(pattern: Path) -> list[Path]:
    """Files that match a path with ``*``, ``?`` or ``[``; none if it has none of them.

    Raises:
        CheckpointError: the pattern is invalid.
    """
    if not set("*?[") & set(str(pattern)):
        return []
    try:
        found = list(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
    except (ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{pattern}: {error}") from error
    return in_order(path for path in found if path.is_file())


def join_shards(where: Path, arrays: Arrays, numbered: bool = False) -> Arrays:
    """Join arrays ``NAME-K-of-N`` to one of this name, its rows in the order of K.

    Args:
        where: for messages.
        arrays: by name.
        numbered: ``NAME-K`` are shards, too.

    Raises:
        CheckpointError: K does not count from 0 or 1 to the last; shards differ in width or dtype.
    """
    shards: dict[str, dict[int, str]] = {}
    counts: dict[str, set[int]] = {}
    for name in arrays:
        found = _OF_ALL.fullmatch(name) or (_NUMBERED.fullmatch(name) if numbered else None)
        if found is not None:
            table, number = found["name"], int(found["number"])
            twice = shards.setdefault(table, {}).setdefault(number, name)
            if twice != name or table in arrays:
                other = twice if twice != name else table
                raise CheckpointError(f"{where}: {other} and {name} are the same rows")
            counts.setdefault(table, set()).add(int(found.groupdict().get("count") or 0))
    for table, members in shards.items():
        _check_complete(where, table, sorted(members), counts[table])
    parts = {name for members in shards.values() for name in members.values()}
    joined = {name: rows for name, rows in arrays.items() if name not in parts}
    for table, members in shards.items():
        try:
            joined[table] = JoinedRows([arrays[members[number]] for number in sorted(members)])
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {table}: {error}") from error
    return joined


def _check_complete(where: Path, table: str, numbers: list[int], counts: set[int]) -> None:
    """Check that numbers run from 0 or 1 without a gap, up to the number in the names, if any."""
    count = max(counts) or len(numbers)
    right = len(counts) == 1 and len(numbers) == count and numbers[0] in (0, 1)
    if not right or numbers[-1] - numbers[0] != count - 1:
        told = f" to the last of {count}" if max(counts) else ""
        raise CheckpointError(
            f"{where}: shards {listed(map(str, numbers))} of {table}; they must count from 0 or 1 "
            f"without a gap{told}"
        )
