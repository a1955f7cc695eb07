"""Embedding tables in an ONNX graph: constants from which rows are gathered by ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = [
    "GatherNode",
    "Scope",
    "TableUse",
    "embedding_tables",
    "operator",
    "quantised_tables",
    "scopes_of",
]

# Enums of ONNX's TensorProto, which is not imported here.
_FLOATS = (1, 10, 11, 16)  # float32, float16, float64, bfloat16
_INT64 = 7
_STANDARD = ("", "ai.onnx")

_MOST_SHAPE_BYTES = 512  # of a constant that is a shape


@dataclass(eq=False)
class Scope:
    """A graph, the graph around it, and the node that contains it."""

    graph: Any
    parent: Scope | None = None
    holder: Any = None
    producers: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    _inputs: frozenset[str] = frozenset()
    _constants: dict[str, tuple[str, Any] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.producers = {name: node for node in self.graph.node for name in node.output if name}
        self.tensors = {tensor.name: tensor for tensor in self.graph.initializer}
        described = (*self.graph.value_info, *self.graph.input)
        self.values = {value.name: value for value in described}
        self._inputs = frozenset(value.name for value in self.graph.input)

    def producer(self, name: str) -> Any:
        """The node that makes a value, in this or an outer graph; None for inputs and
        initialisers."""
        scope = self.owner(name)
        return None if scope is None else scope.producers.get(name)

    def owner(self, name: str) -> Scope | None:
        """The scope in which a name gets its value."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.producers or name in scope.tensors or name in scope._inputs:
                return scope
            scope = scope.parent
        return None

    def constant(self, name: str) -> tuple[str, Any] | None:
        """The initialiser or constant behind ``name``, and its own name."""
        scope, passed = self.owner(name), list[tuple[Scope, str]]()
        found = None
        while scope is not None and name:
            if name in scope._constants:
                found = scope._constants[name]
                break
            # Cached for the whole chain: a graph may have long ones, and look up each of their
            # names.
            scope._constants[name] = None  # which ends a cyclic chain
            passed.append((scope, name))
            node = scope.producers.get(name)
            if name in scope.tensors or node is None or not _is_identity(node):
                found = scope._own_constant(name)
                break
            name = node.input[0]
            scope = scope.owner(name)
        for where, one in passed:
            where._constants[one] = found
        return found

    def _own_constant(self, name: str) -> tuple[str, Any] | None:
        """An initialiser, or the value of a constant node of this graph."""
        if name in self.tensors:
            return name, self.tensors[name]
        node = self.producers.get(name)
        if node is None or operator(node) != "Constant":
            return None
        value = [a.t for a in node.attribute if a.name == "value" and a.HasField("t")]
        return (name, value[0]) if value else None


@dataclass(frozen=True, eq=False)
class GatherNode:
    """A node that gathers rows of a table."""

    scope: Scope
    node: Any


@dataclass(frozen=True, eq=False)
class TableUse:
    """A table, the nodes that look up its rows, and whether it has other uses."""

    name: str
    tensor: Any
    lookups: list[GatherNode]
    others: list[str]


def operator(node: Any) -> str:
    """The name of a node's standard operator; empty if it is of another domain."""
    return str(node.op_type) if node.domain in _STANDARD else ""


def scopes_of(graph: Any, parent: Scope | None = None, holder: Any = None) -> Iterator[Scope]:
    """A graph and those inside it, for loops and branches."""
    scope = Scope(graph, parent, holder)
    yield scope
    for node in graph.node:
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            for graph_inside in inner:
                yield from scopes_of(graph_inside, scope, node)


def embedding_tables(graph: Any) -> dict[str, TableUse]:
    """Constant tables (n, d) of floats whose rows are gathered by ids, by name.

    A constant that is gathered by constant indices or along another axis, and a vector, is not an
    embedding table.
    """
    found: dict[str, TableUse] = {}
    scopes = list(scopes_of(graph))
    for scope in scopes:
        for node in scope.graph.node:
            table = scope.constant(node.input[0]) if _gathers(scope, node) else None
            if table is not None and _is_table(table[1]):
                name, tensor = table
                found.setdefault(name, TableUse(name, tensor, [], []))
                found[name].lookups.append(GatherNode(scope, node))
    if found:
        _note_others(scopes, found)
    return found


def quantised_tables(graph: Any) -> list[str]:
    """Names of constants (n, d) whose rows are gathered by ids and converted to floats by a
    scale."""
    found: dict[str, None] = {}
    for scope in scopes_of(graph):
        for node in scope.graph.node:
            table = scope.constant(_quantised_input(scope, node))
            if table is not None and len(table[1].dims) == 2:
                found[table[0]] = None
    return list(found)


def _quantised_input(scope: Scope, node: Any) -> str:
    """The name of the integers that a node gathers, or makes floats of, one with the other."""
    if not node.input:
        return ""
    name = str(node.input[0])
    if node.op_type == "GatherBlockQuantized":
        return name
    before = scope.producer(name)
    if before is None or not before.input:
        return ""
    pairs = (node, before) if before.op_type == "DequantizeLinear" else (before, node)
    gather, scaled = pairs
    both = scaled.op_type == "DequantizeLinear" and _gathers(scope, gather)
    return str(before.input[0]) if both else ""


def _is_identity(node: Any) -> bool:
    return operator(node) == "Identity" and bool(node.input)


def _is_table(tensor: Any) -> bool:
    return len(tensor.dims) == 2 and min(tensor.dims) > 0 and tensor.data_type in _FLOATS


def _gathers(scope: Scope, node: Any) -> bool:
    if len(node.input) != 2 or scope.constant(node.input[1]):
        return False
    numbers: dict[str, int] = {attribute.name: attribute.i for attribute in node.attribute}
    if operator(node) == "Gather":
        return numbers.get("axis", 0) in (0, -2)
    by_one = operator(node) == "GatherND" and not numbers.get("batch_dims", 0)
    return by_one and _ends_in_one(scope, node.input[1])


def _ends_in_one(scope: Scope, name: str) -> bool:
    """Whether a value is known to have a last axis of one: GatherND then takes whole rows."""
    node = scope.producer(name)
    if node is not None and operator(node) in ("Reshape", "Unsqueeze") and len(node.input) == 2:
        found = scope.constant(node.input[1])
        last = _whole_numbers(found[1])[-1:] if found else []
        return last == ([1] if operator(node) == "Reshape" else [-1])
    owner = scope.owner(name)
    value = None if owner is None else owner.values.get(name)
    dims = [] if value is None else value.type.tensor_type.shape.dim
    return bool(dims) and dims[-1].dim_value == 1


def _whole_numbers(tensor: Any) -> list[int]:
    """Of a small int64 tensor."""
    if tensor.data_type != _INT64 or tensor.external_data or len(tensor.raw_data) % 8:
        return []
    if max(len(tensor.raw_data), len(tensor.int64_data)) > _MOST_SHAPE_BYTES:
        return []
    stored = np.frombuffer(tensor.raw_data, "<i8").tolist()
    return stored or list(tensor.int64_data)


def _note_others(scopes: list[Scope], found: dict[str, TableUse]) -> None:
    """Uses of tables other than lookups; Identity nodes are ignored."""
    looked = {id(lookup.node) for use in found.values() for lookup in use.lookups}
    for scope in scopes:
        for node in scope.graph.node:
            for place, value in enumerate(node.input):
                own = id(node) in looked and place == 0
                table = None if own or operator(node) == "Identity" else scope.constant(value)
                if table is not None and table[0] in found:
                    found[table[0]].others.append(node.name or node.op_type)
        for output in scope.graph.output:
            table = scope.constant(output.name)
            if table is not None and table[0] in found:
                found[table[0]].others.append(f"output {output.name}")
