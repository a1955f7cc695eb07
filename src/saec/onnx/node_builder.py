"""Nodes and initialisers of a rewritten lookup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from saec.sources.onnx_graph import scopes_of

__all__ = ["Builder"]


@dataclass(eq=False)
class Builder:
    """Collects nodes and initialisers for a model, under names that the model does not use.

    prefix: of all names.
    nodes: since the last :meth:`taken`.
    """

    prefix: str
    initialisers: dict[str, TensorProto] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    _count: int = 0
    _known: dict[tuple[bytes, str, tuple[int, ...]], str] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; returns its name."""
        output = self._name(kind)
        node = helper.make_node(kind, list(inputs), [output], name=output, **attributes)
        self.nodes.append(node)
        return output

    def array(self, what: str, values: NDArray[Any]) -> str:
        """Add an initialiser; returns its name."""
        name = self._name(what)
        tensor = numpy_helper.from_array(np.asarray(values, order="C"), name)
        self.initialisers[name] = tensor
        return name

    def number(self, values: ArrayLike, dtype: DTypeLike = np.int64) -> str:
        """A small initialiser; equal ones are added once."""
        array = np.asarray(values, dtype=dtype)
        key = array.tobytes(), array.dtype.str, array.shape
        if key not in self._known:
            self._known[key] = self.array("number", array)
        return self._known[key]

    def cast(self, value: str, to: int) -> str:
        """``value`` as another dtype."""
        return self.op("Cast", value, to=to)

    def plus(self, value: str, amounts: NDArray[np.int64]) -> str:
        """``value`` and ``amounts``; itself, if there is nothing to add."""
        return self.op("Add", value, self.number(amounts)) if amounts.any() else value

    def taken(self) -> list[NodeProto]:
        """The nodes so far; the list is then empty."""
        nodes, self.nodes = self.nodes, []
        return nodes

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{self.prefix}{what}_{self._count}"


def spread(values: Sequence[int], rank_after: int) -> NDArray[np.int64]:
    """One number per slot, to go along an axis with ``rank_after`` axes after it; or one alone."""
    array = np.array(values, dtype=np.int64)
    return array.reshape(()) if len(values) == 1 else array.reshape(-1, *[1] * rank_after)


def free_prefix(graph: Any) -> str:
    """A prefix with which no name of the graph starts."""
    names = {
        name
        for scope in scopes_of(graph)
        for node in scope.graph.node
        for name in (*node.output, node.name)
    } | {tensor.name for scope in scopes_of(graph) for tensor in scope.graph.initializer}
    prefix = "saec/"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix
