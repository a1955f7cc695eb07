"""Finds lookups in several tables whose rows are concatenated, so that they can become one lookup.

A model with a table per field looks up each field and concatenates the rows. One lookup for all
fields needs as many operators as one for a single field. At small batches these operators take most
of a model's time (docs/onnx.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto, numpy_helper

from saec.onnx.shapes import Shapes, numbers
from saec.sources.onnx_graph import Scope, operator, scopes_of

__all__ = ["Stack", "columns_of", "find_stacks"]


@dataclass(frozen=True, eq=False)
class Stack:
    """Consecutive inputs of a Concat, each of which is the result of one lookup.

    concat: the Concat node.
    first: index of the first of these inputs.
    tables, ids: name of the table and of the ids of each lookup.
    axis: the axis along which the ids are to be concatenated.
    adds_axis: whether the ids lack that axis, so that it has to be inserted.
    flat: whether rows are concatenated to one long row.
    rank: number of axes of the ids.
    """

    concat: NodeProto
    first: int
    tables: list[str]
    ids: list[str]
    axis: int
    adds_axis: bool
    flat: bool
    rank: int

    @property
    def rank_after(self) -> int:
        """Number of axes that follow the concatenated one."""
        return self.rank - self.axis if self.adds_axis else self.rank - self.axis - 1


def find_stacks(
    graph: Any, tables: Mapping[int, str], dims: Mapping[str, object], shapes: Shapes
) -> list[Stack]:
    """Find runs of at least two lookups among the inputs of each Concat.

    Args:
        graph: the outermost graph.
        tables: the table of each lookup, by ``id()`` of its node.
        dims: by table, properties that must be equal for tables to be looked up together.
        shapes: of the graph's values.
    """
    scope = Scope(graph)
    used = _uses(graph)
    found = []
    for node in graph.node:
        if operator(node) != "Concat":
            continue
        axis, rank = numbers(node.attribute)["axis"], shapes.rank(node.output[0])
        if not rank:
            continue
        members = [_member(scope, value, axis % rank, tables, used, shapes) for value in node.input]
        found += _runs(node, members, dims)
    return found


@dataclass(frozen=True)
class _Member:
    table: str
    ids: str
    kind: tuple[int, bool, bool, int]  # axis, adds_axis, flat and rank of Stack


def _member(
    scope: Scope,
    value: str,
    axis: int,
    tables: Mapping[int, str],
    used: Counter[str],
    shapes: Shapes,
) -> _Member | None:
    """The lookup whose only use is ``value``, an input of a Concat along ``axis``; None if there is
    none."""
    node = scope.producers.get(value)
    unsqueezed = node is not None and operator(node) == "Unsqueeze" and len(node.input) == 2
    if node is None or used[value] != 1:
        return None
    if unsqueezed:
        axes = _constant(scope, node.input[1])
        lookup = scope.producers.get(node.input[0])
        if used[node.input[0]] != 1:
            return None
    else:
        axes, lookup = None, node
    if lookup is None or id(lookup) not in tables or operator(lookup) != "Gather":
        return None
    ids, table = lookup.input[1], tables[id(lookup)]
    ids_dims = shapes.dims(ids)
    if ids_dims is None:
        return None
    rank = len(ids_dims)
    if unsqueezed:
        right = axes is not None and [a % (rank + 2) for a in axes] == [axis] and axis <= rank
        return _Member(table, ids, (axis, True, False, rank)) if right else None
    if axis == rank:
        return _Member(table, ids, (rank, True, True, rank))
    return _Member(table, ids, (axis, False, False, rank)) if ids_dims[axis] == 1 else None


def _runs(
    node: NodeProto, members: Sequence[_Member | None], dims: Mapping[str, object]
) -> list[Stack]:
    runs: list[list[int]] = []
    for place, member in enumerate(members):
        before = members[place - 1] if place else None
        if member is None:
            continue
        if before is not None and _alike(before, member, dims):
            runs[-1].append(place)
        else:
            runs.append([place])
    stacks = []
    for run in runs:
        some = [member for member in (members[place] for place in run) if member is not None]
        if len(some) > 1:
            names, ids = [m.table for m in some], [m.ids for m in some]
            stacks.append(Stack(node, run[0], names, ids, *some[0].kind))
    return stacks


def _alike(one: _Member, other: _Member, dims: Mapping[str, object]) -> bool:
    return one.kind == other.kind and dims[one.table] == dims[other.table]


def _uses(graph: Any) -> Counter[str]:
    """The number of nodes and outputs that use each value."""
    used: Counter[str] = Counter()
    for scope in scopes_of(graph):
        for node in scope.graph.node:
            used.update(node.input)
        used.update(output.name for output in scope.graph.output)
    return used


def columns_of(graph: Any, ids: Sequence[str], shapes: Shapes) -> tuple[str, list[int]] | None:
    """The value (B, columns) whose columns ``ids``, each (B,), are, and their column numbers.

    None if they are not columns of one value.
    """
    scope = Scope(graph)
    found = [_column(scope, value, shapes) for value in ids]
    sources = {column[0] for column in found if column is not None}
    if None in found or len(sources) != 1:
        return None
    return sources.pop(), [column[1] for column in found if column is not None]


def _column(scope: Scope, value: str, shapes: Shapes) -> tuple[str, int] | None:
    node = scope.producers.get(value)
    if node is None or shapes.rank(value) != 1:
        return None
    if operator(node) == "Gather" and shapes.rank(node.input[0]) == 2:
        chosen = _constant(scope, node.input[1])
        along = numbers(node.attribute).get("axis", 0) % 2
        return (node.input[0], chosen[0]) if chosen and along == 1 and chosen[0] >= 0 else None
    if operator(node) != "Squeeze" or len(node.input) != 2:
        return None
    axes, cut = _constant(scope, node.input[1]), scope.producers.get(node.input[0])
    if axes not in ([1], [-1]) or cut is None or shapes.rank(cut.input[0]) != 2:
        return None
    if operator(cut) == "Split":
        return _split_column(cut, node.input[0], shapes)
    if operator(cut) == "Slice" and len(cut.input) >= 4:
        first, stop, along, step = ([_constant(scope, name) for name in cut.input[1:]] + [[1]])[:4]
        if not first or not stop or along not in ([1], [-1]) or step != [1]:
            return None
        return (cut.input[0], first[0]) if 0 <= first[0] == stop[0] - 1 else None
    return None


def _split_column(cut: NodeProto, value: str, shapes: Shapes) -> tuple[str, int] | None:
    """The column that is output ``value`` of a Split into single columns; None if it is not."""
    dims = shapes.dims(cut.input[0])
    along = numbers(cut.attribute).get("axis", 0) % 2
    whole = dims is not None and dims[1] == len(cut.output)
    sizes = [shapes.dims(output) for output in cut.output]
    ones = all(size is not None and size[1] == 1 for size in sizes)
    right = along == 1 and whole and ones
    return (cut.input[0], list(cut.output).index(value)) if right else None


def _constant(scope: Scope, name: str) -> list[int] | None:
    """The integers of a small constant; None if it is not one."""
    found = scope.constant(name)
    if found is None or found[1].external_data:
        return None
    array = numpy_helper.to_array(found[1])
    return [int(number) for number in array.reshape(-1)] if array.dtype.kind in "iu" else None
