"""Infers the shapes of a model's values without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx import ModelProto, helper, shape_inference

from saec.sources.onnx_graph import operator
from saec.util.messages import first_line

__all__ = ["Shapes"]

_SMALL = 1024  # elements; constants up to this size determine shapes of other values

Dims = tuple[int | None, ...]


class Shapes:
    """Known dimensions of the values of a model's outermost graph.

    Raises:
        InferenceError: shape inference fails, so that the graph is inconsistent.
    """

    def __init__(self, model: ModelProto) -> None:
        self._dims: dict[str, Dims] = {}
        try:
            graph = shape_inference.infer_shapes(_skeleton(model), data_prop=True).graph
        except ValueError as error:  # numbers out of range, such as those of axes
            raise shape_inference.InferenceError(first_line(error)) from error
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            if value.type.HasField("tensor_type") and kind.HasField("shape"):
                self._dims[value.name] = tuple(
                    dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim
                )

    def dims(self, name: str) -> Dims | None:
        """Sizes of a value's dimensions, None for variable ones; None if their number is
        unknown."""
        return self._dims.get(name)

    def rank(self, name: str) -> int | None:
        """Number of a value's dimensions; None if it is unknown."""
        dims = self._dims.get(name)
        return None if dims is None else len(dims)


def _skeleton(model: ModelProto) -> ModelProto:
    """The model with its larger constants replaced by inputs, since shape inference serialises it
    and a message has at most 2 GiB."""
    bare = ModelProto(ir_version=model.ir_version)
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    for role in ("input", "output", "value_info"):
        getattr(bare.graph, role).extend(getattr(model.graph, role))
    inputs = {value.name for value in bare.graph.input}
    for tensor in model.graph.initializer:
        size = 1
        for dim in tensor.dims:
            size *= dim
        if size <= _SMALL and not tensor.external_data:
            bare.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            bare.graph.input.append(_value(tensor.name, tensor))
    for node in model.graph.node:
        large = _large_constant(node)
        if large is None:
            bare.graph.node.append(node)
        else:
            bare.graph.input.append(_value(node.output[0], large))
    return bare


def _large_constant(node: Any) -> Any:
    if operator(node) != "Constant":
        return None
    tensors = [one.t for one in node.attribute if one.name == "value" and one.HasField("t")]
    return next((one for one in tensors if one.ByteSize() > 8 * _SMALL), None)


def _value(name: str, tensor: Any) -> Any:
    return helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))


def numbers(attributes: Any) -> Mapping[str, Any]:
    """A node's attributes by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in attributes}
