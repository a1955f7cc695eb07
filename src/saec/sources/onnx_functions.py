"""Local functions of ONNX models, which are inlined at their calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saec.errors import CheckpointError, require
from saec.util.messages import first_line

__all__ = ["inlined"]

# Functions that each call two others, and so on, would make any number of nodes.
_MOST_NODES = 1 << 20


def inlined(path: Path, model: Any) -> Any:
    """The model without local functions; the same one if it has none.

    Raises:
        CheckpointError: functions call each other in a circle, or would make too many nodes.
    """
    if not model.functions:
        return model
    inliner = require("onnx.inliner", "onnx")
    try:
        count = _Nodes(model).count(model.graph)
    except RecursionError as error:
        raise CheckpointError(f"{path}: local functions are nested too deeply") from error
    if count > _MOST_NODES:
        raise CheckpointError(
            f"{path}: local functions stand for {count} nodes; at most {_MOST_NODES} are read"
        )
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # a damaged function may raise any error
        raise CheckpointError(
            f"{path}: local functions cannot be inlined: {first_line(error)}"
        ) from error


class _Nodes:
    """Counts the nodes that a graph has once its functions are inlined."""

    def __init__(self, model: Any) -> None:
        self._functions = {(f.domain, f.name): f for f in model.functions}
        self._counts: dict[tuple[str, str], int] = {}

    def count(self, graph: Any) -> int:
        return sum(1 + self._of_call((node.domain, node.op_type)) for node in _nodes(graph))

    def _of_call(self, key: tuple[str, str]) -> int:
        if key not in self._functions:
            return 0
        if key not in self._counts:
            self._counts[key] = 0  # the inliner detects a cycle
            self._counts[key] = self.count(self._functions[key])
        return self._counts[key]


def _nodes(graph: Any) -> Iterator[Any]:
    """Nodes of a graph or function, and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
                yield from _nodes(inner)
