"""Checks of a graph before it is rewritten, so that its nodes have the expected form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto, checker, numpy_helper

from saec.errors import OnnxError
from saec.sources.onnx_graph import operator, scopes_of
from saec.util.messages import first_line

__all__ = ["check_graph"]

_HOLD_GRAPHS = ("If", "Loop", "Scan")
_CHECKED_BYTES = 1 << 16  # larger constants are tables, which are checked when they are read


def check_graph(path: Path, model: ModelProto) -> None:
    """Reject nodes of standard operators without required inputs or attributes, and
    constants with fewer bytes than their shape requires.

    Operators of other domains are ignored. The requirements of nodes that contain graphs are left
    to the runtime; the nodes inside are checked.

    Raises:
        OnnxError: names the first such node or constant.
    """
    context = checker.C.CheckerContext()
    context.ir_version = model.ir_version
    context.opset_imports = {one.domain: one.version for one in model.opset_import}
    for scope in scopes_of(model.graph):
        for node in scope.graph.node:
            if operator(node) and not (operator(node) in _HOLD_GRAPHS and _holds_graphs(node)):
                what = f"node {node.name or node.op_type!r}"
                _check(path, what, partial(checker.check_node, node, context))
                for attribute in node.attribute:
                    if attribute.HasField("t"):
                        _check(path, what, partial(_check_values, attribute.t))
        for tensor in scope.graph.initializer:
            _check(path, f"constant {tensor.name!r}", partial(_check_values, tensor))


def _check_values(tensor: TensorProto) -> None:
    if tensor.data_location != TensorProto.EXTERNAL and tensor.ByteSize() <= _CHECKED_BYTES:
        checker.check_tensor(tensor)
        numpy_helper.to_array(tensor)


def _holds_graphs(node: NodeProto) -> bool:
    return any(one.HasField("g") or one.graphs for one in node.attribute)


def _check(path: Path, what: str, check: Callable[[], None]) -> None:
    try:
        check()
    except (checker.ValidationError, ValueError, TypeError, KeyError) as error:
        raise OnnxError(f"{path}: a damaged graph: {what}: {first_line(error)}") from error
