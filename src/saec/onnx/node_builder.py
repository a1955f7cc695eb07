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

    prefix: the start of all names.
    initialisers: by name.
    nodes: added since the last :meth:`taken`.
    """

    prefix: str
    initialisers: dict[str, TensorProto] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    _count: int = 0
    _known: dict[tuple[bytes, str, tuple[int, ...]], str] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of operator ``kind`` with one output; returns the output's name."""
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
        """Add a small initialiser; returns its name. Equal initialisers are added once."""
        array = np.asarray(values, dtype=dtype)
        key = array.tobytes(), array.dtype.str, array.shape
        if key not in self._known:
            self._known[key] = self.array("number", array)
        return self._known[key]

    def cast(self, value: str, to: int) -> str:
        """Cast ``value`` to the ONNX data type ``to``."""
        return self.op("Cast", value, to=to)

    def plus(self, value: str, amounts: NDArray[np.int64]) -> str:
        """``value`` + ``amounts``; ``value`` itself if all amounts are 0."""
        return self.op("Add", value, self.number(amounts)) if amounts.any() else value

    def taken(self) -> list[NodeProto]:
        """Return the collected nodes and empty the list."""
        nodes, self.nodes = self.nodes, []
        return nodes

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{self.prefix}{what}_{self._count}"


def spread(values: Sequence[int], rank_after: int) -> NDArray[np.int64]:
    """``values`` (slots,) shaped to be broadcast along an axis that ``rank_after`` axes follow; a
    scalar if there is one value."""
    array = np.array(values, dtype=np.int64)
    return array.reshape(()) if len(values) == 1 else array.reshape(-1, *[1] * rank_after)


def free_prefix(graph: Any) -> str:
    """A prefix that no name of the graph starts with."""
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
