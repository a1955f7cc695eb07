"""Replaces lookups in a graph by lookups in compressed tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from saec.format.compressed_field import CompressedField
from saec.format.tiered_field import TieredField
from saec.onnx.byte_code_store import WholeStore
from saec.onnx.byte_codes import KINDS, Whole, whole_plans
from saec.onnx.fused_lookups import Stack, columns_of, find_stacks
from saec.onnx.initializers import Store
from saec.onnx.node_builder import Builder, free_prefix
from saec.onnx.packed import Packed, packed_plan
from saec.onnx.packed_store import PackedStore
from saec.onnx.shapes import Shapes
from saec.sources.onnx_graph import GatherNode, Scope, TableUse, operator, scopes_of

__all__ = ["Rewriting"]

# A table shares arrays with others if that takes at most so many times the bytes of a separate
# table: one lookup for several tables is faster (docs/onnx.md).
_MOST_FOR_SHARING = 1.25

# Plans with ids between head and tail, and those that add two rows for these, must be smaller by
# these factors to be chosen: their lookups take longer, a tenth of the time of a small click model
# (docs/onnx.md).
_MORE_FOR_BETWEEN = 1.15
_MORE_FOR_SUMS = 1.6


@dataclass(eq=False)
class Rewriting:
    """Rewrites a model in place.

    Args:
        model: the model, with lookups in the tables of ``uses``.
        uses: by name of the table.
        fields: the compressed replacement of each table, by the table's name.
        packed: whether to read codes by bit operators where that is smaller.
    """

    model: ModelProto
    uses: Mapping[str, TableUse]
    fields: Mapping[str, CompressedField]
    packed: bool
    stores: dict[str, Store] = field(default_factory=dict)
    _plans: dict[tuple[str, bool], tuple[dict[Any, Whole], Packed | None]] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        self.builder = Builder(free_prefix(self.model.graph))
        self.shapes = Shapes(self.model)
        self._used_at_first = _used(self.model.graph)

    def run(self) -> None:
        """Make the stores, replace all lookups, and remove unused parts."""
        tables = {
            id(lookup.node): name for name, use in self.uses.items() for lookup in use.lookups
        }
        alike = {
            name: (use.tensor.dims[1], use.tensor.data_type, self._apart(name))
            for name, use in self.uses.items()
        }
        stacks = find_stacks(self.model.graph, tables, alike, self.shapes)
        for names in _components(self.uses, stacks):
            store = self._store(names)
            self.stores |= dict.fromkeys(names, store)
        stacked = {value for stack in stacks for value in _replaced(self.model.graph, stack)}
        for stack in reversed(stacks):  # last first: positions of earlier runs stay valid
            self._replace_stack(stack)
        for name, use in self.uses.items():
            for lookup in use.lookups:
                if lookup.node.output[0] not in stacked:
                    self._replace(name, lookup)
        self._drop_unused()
        self.model.graph.initializer.extend(self.builder.initialisers.values())

    def _apart(self, name: str) -> str | None:
        """The table's name if it must not share arrays with others, as that takes too many bytes.

        A table whose ids are not ranks is smaller with an array of places, which cannot be shared.
        """
        field_ = self.fields[name]
        if not isinstance(field_, TieredField) or field_.index is None:
            return None
        shared, own = (self._smallest([name], alone) for alone in (False, True))
        return name if _bytes_of(shared) > _MOST_FOR_SHARING * _bytes_of(own) else None

    def _store(self, names: list[str]) -> Store:
        kind = self.uses[names[0]].tensor.data_type
        plans = self._smallest(names, len(names) == 1)
        if isinstance(plans[names[0]], Packed):
            return PackedStore(self.builder, plans, kind)
        return WholeStore(self.builder, plans, helper.tensor_dtype_to_np_dtype(kind))

    def _smallest(self, names: list[str], alone: bool) -> dict[str, Any]:
        """The plans of the kind with the least weighted bytes, by table."""
        for name in names:
            if (name, alone) not in self._plans:
                field_ = self.fields[name]
                packed = packed_plan(field_, alone) if self.packed else None
                self._plans[name, alone] = whole_plans(field_, alone), packed
        each = {name: self._plans[name, alone] for name in names}
        ways: list[dict[str, Any]] = [
            {name: whole[kind] for name, (whole, _) in each.items()}
            for kind in KINDS
            if all(kind in whole for whole, _ in each.values())
        ]
        if self.packed:
            ways.append({name: packed for name, (_, packed) in each.items()})
        return min(ways, key=_weighed)

    def _replace(self, name: str, lookup: GatherNode) -> None:
        """Replace one lookup that is in no stack."""
        scope, node = lookup.scope, lookup.node
        hoisted = _sliced_outside(scope, node)
        if hoisted is not None:
            self._hoist(name, lookup, hoisted)
            return
        ids = node.input[1]
        if operator(node) == "GatherND":
            ids = self.builder.op("Squeeze", ids, self.builder.number([-1]))
        rows = self._rows([name], self.builder.cast(ids, TensorProto.INT64), 0)
        self._put(scope.graph, node, rows)

    def _hoist(self, name: str, lookup: GatherNode, slicing: NodeProto) -> None:
        """Look up the rows of all ids before the loop; each iteration then takes a slice of them.

        PyTorch exports EmbeddingBag as a loop over bags with a lookup in it.
        """
        holder, outer = lookup.scope.holder, lookup.scope.parent
        assert outer is not None, "a loop lies in a graph"
        rows = self._rows([name], self.builder.cast(slicing.input[0], TensorProto.INT64), 0)
        _insert(outer.graph, holder, self.builder.taken())
        part = self.builder.op("Slice", rows, *slicing.input[1:])
        self._put(lookup.scope.graph, lookup.node, part)

    def _replace_stack(self, stack: Stack) -> None:
        graph, builder = self.model.graph, self.builder
        ids = builder.cast(self._side_by_side(stack), TensorProto.INT64)
        rows = self._rows(stack.tables, ids, stack.rank_after)
        if stack.flat:
            dim = self.uses[stack.tables[0]].tensor.dims[1]
            shape = builder.number([0] * stack.rank + [len(stack.ids) * dim])
            rows = builder.op("Reshape", rows, shape)
        if len(stack.ids) == len(stack.concat.input):
            self._put(graph, stack.concat, rows)
            return
        _insert(graph, stack.concat, builder.taken())
        values = list(stack.concat.input)
        values[stack.first : stack.first + len(stack.ids)] = [rows]
        del stack.concat.input[:]
        stack.concat.input.extend(values)

    def _side_by_side(self, stack: Stack) -> str:
        """The ids of a stack as one value; if they are columns of a value, that one is reused."""
        builder = self.builder
        if not stack.adds_axis:
            return builder.op("Concat", *stack.ids, axis=stack.axis)
        columns = (
            columns_of(self.model.graph, stack.ids, self.shapes)
            if (stack.rank, stack.axis) == (1, 1)
            else None
        )
        if columns is not None:
            source, chosen = columns
            dims = self.shapes.dims(source)
            if dims is not None and chosen == list(range(dims[1] or 0)):
                return source
            return builder.op("Gather", source, builder.number(chosen), axis=1)
        axis = builder.number([stack.axis])
        single = [builder.op("Unsqueeze", ids, axis) for ids in stack.ids]
        return builder.op("Concat", *single, axis=stack.axis)

    def _rows(self, names: list[str], ids: str, rank_after: int) -> str:
        return self.stores[names[0]].rows(self.builder, ids, names, rank_after)

    def _put(self, graph: Any, node: NodeProto, value: str) -> None:
        """Insert the builder's nodes in place of ``node``; ``value`` gets the name of its
        output."""
        nodes = self.builder.taken()
        for made in nodes:
            for place, output in enumerate(made.output):
                if output == value:
                    made.output[place] = node.output[0]
        _insert(graph, node, nodes)
        graph.node.remove(node)

    def _drop_unused(self) -> None:
        """Remove nodes that only served lookups, and tables that nothing else uses."""
        graph = self.model.graph
        while True:
            used = _used(graph)
            idle = [node for node in graph.node if not any(name in used for name in node.output)]
            if not idle:
                break
            for node in idle:
                graph.node.remove(node)
        for scope in scopes_of(graph):
            _drop_tensors(scope, self._used_at_first - used)
        for value in [v for v in graph.value_info if v.name not in used]:
            graph.value_info.remove(value)


def _drop_tensors(scope: Scope, idle: set[str]) -> None:
    graph = scope.graph
    for tensor in [tensor for tensor in graph.initializer if tensor.name in idle]:
        # Models before IR version 4 list initialisers among their inputs, too.
        for value in [value for value in graph.input if value.name == tensor.name]:
            graph.input.remove(value)
        graph.initializer.remove(tensor)


def _used(graph: Any) -> set[str]:
    """Names that some node or output uses, in any scope."""
    return {
        name
        for scope in scopes_of(graph)
        for names in (
            *(node.input for node in scope.graph.node),
            [output.name for output in scope.graph.output],
        )
        for name in names
    }


def _insert(graph: Any, before: NodeProto, nodes: Iterable[NodeProto]) -> None:
    place = next(i for i, node in enumerate(graph.node) if node is before)
    for offset, node in enumerate(nodes):
        graph.node.insert(place + offset, node)


def _sliced_outside(scope: Scope, node: NodeProto) -> NodeProto | None:
    """The Slice, inside a loop and along the first axis, of ids from the graph around it; None if
    ``node`` has no such input."""
    slicing = scope.producers.get(node.input[1])
    if scope.parent is None or operator(node) != "Gather" or slicing is None:
        return None
    if operator(slicing) != "Slice" or len(slicing.input) != 4:
        return None
    axes = scope.constant(slicing.input[3])
    if axes is None or _numbers_in(axes[1]) != [0] or operator(scope.holder) != "Loop":
        return None
    return slicing if scope.owner(slicing.input[0]) is scope.parent else None


def _numbers_in(tensor: TensorProto) -> list[int]:
    """The values of a small tensor."""
    return [int(number) for number in np.ravel(numpy_helper.to_array(tensor))]


def _replaced(graph: Any, stack: Stack) -> list[str]:
    """Names of the outputs of a stack's lookups."""
    scope = Scope(graph)
    outputs = []
    for place in range(stack.first, stack.first + len(stack.ids)):
        node = scope.producers[stack.concat.input[place]]
        outputs.append(node.input[0] if operator(node) == "Unsqueeze" else node.output[0])
    return outputs


def _components(names: Iterable[str], stacks: Iterable[Stack]) -> list[list[str]]:
    """Groups of tables that share a store, since they are together in a stack, directly or through
    other tables."""
    groups = {name: [name] for name in names}
    for stack in stacks:
        for name in stack.tables[1:]:
            one, other = groups[stack.tables[0]], groups[name]
            if one is not other:
                one += other
                groups |= dict.fromkeys(other, one)
    return list({id(group): group for group in groups.values()}.values())


def _bytes_of(plans: Mapping[str, Any]) -> int:
    return sum(plan.nbytes for plan in plans.values())


def _weighed(plans: Mapping[str, Any]) -> float:
    """Bytes, multiplied by a factor for plans whose lookups take longer."""
    whole = [plan for plan in plans.values() if isinstance(plan, Whole) and len(plan.pairs)]
    summed = any(plan.seconds is not None and len(plan.seconds) for plan in whole)
    more = _MORE_FOR_SUMS if summed else _MORE_FOR_BETWEEN if whole else 1.0
    return more * _bytes_of(plans)
