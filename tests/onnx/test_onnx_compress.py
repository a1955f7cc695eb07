"""Rewritten models: number of rewrites, the graph, the outputs, and graphs that must not change."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import (
    clustered,
    constants,
    decoded,
    kinds,
    lookup_model,
    make,
    node,
    run,
    stack_model,
    tiered,
)
from onnx import ModelProto, TensorProto, helper, numpy_helper

import saec
import saec.onnx
from saec.errors import FieldError, OnnxError
from saec.format.raw_field import RawField

COUNT, DIM = 3000, 16
TABLE = np.random.default_rng(1).standard_normal((COUNT, DIM)).astype(np.float32)
IDS = np.random.default_rng(2).integers(0, COUNT, 200)

OUTSIDE = "[Oo]ut of (data bounds|range)"  # of Gather, of GatherElements

FIELDS = {
    "by rank": lambda name: tiered(name, COUNT, ranked=True),
    "kept": lambda name: tiered(name, COUNT),
    "kept, few bits": lambda name: tiered(name, COUNT, ratio=60),
    "clusters": lambda name: clustered(name, COUNT),
    "many clusters": lambda name: clustered(name, COUNT, clusters=400),
}


@pytest.fixture
def rewrite(tmp_path: Path):
    """Write, compress and load a model: its path, and the report."""

    def rewrite(model: ModelProto, *fields: Any, **options: Any):
        onnx.save(model, tmp_path / "model.onnx")
        result = saec.Compressed(fields)
        out = tmp_path / "small.onnx"
        report = saec.onnx.compress(tmp_path / "model.onnx", result, out, **options)
        onnx.checker.check_model(str(out), full_check=True)
        return out, report

    return rewrite


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FIELDS)
def test_ids_of_any_shape(name: str, packed: bool, rewrite) -> None:
    field = FIELDS[name]("table")
    for shape, ids in (("B",), IDS), (("B", 4), IDS.reshape(-1, 4)), ((), IDS[0]):
        out, report = rewrite(lookup_model(TABLE, shape), field, packed=packed)
        (rows,) = run(out, ids=np.asarray(ids))
        np.testing.assert_allclose(rows, field.lookup(ids), rtol=1e-5, atol=1e-6)
        assert [table.lookups for table in report.tables] == [1]
        assert report.nbytes <= report.original_nbytes == TABLE.nbytes
        assert report.nbytes < TABLE.nbytes / 1.5 or not packed


@pytest.mark.exhaustive
def test_every_row_and_narrow_ids(rewrite) -> None:
    for name in FIELDS:
        field = FIELDS[name]("table")
        out, _ = rewrite(lookup_model(TABLE, ids=TensorProto.INT32), field)
        (rows,) = run(out, ids=np.arange(COUNT, dtype=np.int32))
        np.testing.assert_array_equal(rows, field.decode())


def sums(path: Path) -> bool:
    """Whether some rows are stored as sums of two."""
    return any(name.startswith("saec/seconds") for name in constants(path))


@pytest.mark.exhaustive
def test_rows_between_head_and_tail_are_sums_of_two(rewrite) -> None:
    count = 20_000
    field = tiered("table", count, ratio=60, ranked=True)
    out, _ = rewrite(lookup_model(np.zeros((count, DIM), np.float32), ("B", 4)), field)
    assert sums(out)
    assert kinds(out)["GatherElements"] == 3
    big = {array.dtype.name for array in constants(out).values() if array.nbytes > 3000}
    assert big == {"float32", "uint16", "uint8"}  # pairs have 16 bits, the tail 8
    ids = np.arange(count).reshape(-1, 4)
    np.testing.assert_allclose(run(out, ids=ids)[0], field.lookup(ids), rtol=1e-6, atol=1e-6)
    for number in (-1, count, 2**62, -(2**63)):
        with pytest.raises(Exception, match=OUTSIDE):
            run(out, ids=np.array([[0, 0, 0, number]]))


def test_clusters_take_one_byte_per_row_and_two_lookups(rewrite) -> None:
    field = clustered("table", COUNT)
    out, report = rewrite(lookup_model(TABLE), field)
    # Codes are looked up in a flat vector. One of the casts is of the ids.
    lookups = {"GatherElements": 1, "Gather": 1, "Cast": 2}
    assert kinds(out) == lookups | {"Shape": 1, "Reshape": 2}
    stored = [array for array in constants(out).values() if array.size > 1]
    found = sorted((array.dtype.name, array.shape) for array in stored)
    assert found == [("float32", (40, DIM)), ("uint8", (COUNT,))]
    assert report.nbytes == COUNT + 40 * DIM * 4
    assert report.artifact_ratio == saec.Compressed([field]).compression_ratio


def test_packed_codes_are_smaller(rewrite) -> None:
    field = tiered("table", COUNT, ranked=True)
    sizes = []
    for packed in (False, True):
        out, report = rewrite(lookup_model(TABLE), field, packed=packed)
        assert ("BitShift" in kinds(out)) == packed
        numbers = sum(array.nbytes for array in constants(out).values())
        assert report.nbytes <= numbers <= report.nbytes + 200  # a few constants of the nodes
        sizes.append(report.nbytes)
    assert 2 * sizes[1] < sizes[0]


def test_only_standard_operators(rewrite) -> None:
    for name in FIELDS:
        out, _ = rewrite(lookup_model(TABLE), FIELDS[name]("table"), packed=True)
        model = onnx.load(out)
        assert [opset.domain for opset in model.opset_import] == [""]
        assert {item.domain for item in model.graph.node} == {""}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("number", [COUNT, COUNT + 40, 2**40, 2**62, -(2**63)])
@pytest.mark.parametrize("name", FIELDS)
def test_ids_out_of_range_are_refused(name: str, number: int, packed: bool, rewrite) -> None:
    out, _ = rewrite(lookup_model(TABLE), FIELDS[name]("table"), packed=packed)
    with pytest.raises(Exception, match=OUTSIDE):
        run(out, ids=np.array([0, number]))


def test_a_table_with_several_lookups_is_stored_once(rewrite) -> None:
    model = make(
        [
            node("Gather", ["table", "a"], ["left"]),
            node("Gather", ["table", "b"], ["right"]),
            node("Identity", ["table"], ["same"]),
            node("Gather", ["same", "a"], ["again"]),
            node("Sub", ["left", "right"], ["difference"]),
        ],
        {"table": TABLE},
        {"a": (TensorProto.INT64, ["B"]), "b": (TensorProto.INT64, ["B"])},
        {"difference": TensorProto.FLOAT, "again": TensorProto.FLOAT},
    )
    field = tiered("table", COUNT, ranked=True)
    out, report = rewrite(model, field)
    assert [table.lookups for table in report.tables] == [3]
    large = [array for array in constants(out).values() if array.size > COUNT / 2]
    assert sum(array.nbytes for array in large) == report.nbytes
    difference, again = run(out, a=IDS, b=IDS[::-1])
    np.testing.assert_array_equal(difference, field.lookup(IDS) - field.lookup(IDS[::-1]))
    np.testing.assert_array_equal(again, field.lookup(IDS))


def test_a_table_with_other_uses_stays_in_the_model(rewrite) -> None:
    model = make(
        [
            node("Gather", ["table", "ids"], ["rows"]),
            node("Transpose", ["table"], ["turned"], perm=[1, 0], name="turn"),
            node("MatMul", ["rows", "turned"], ["scores"]),
        ],
        {"table": TABLE},
        {"ids": (TensorProto.INT64, ["B"])},
        {"scores": TensorProto.FLOAT},
    )
    field = clustered("table", COUNT)
    out, report = rewrite(model, field)
    assert report.tables[0].kept_for == ("turn",)
    assert report.nbytes == TABLE.nbytes + COUNT + 40 * DIM * 4
    np.testing.assert_array_equal(constants(out)["table"], TABLE)
    (scores,) = run(out, ids=IDS)
    np.testing.assert_allclose(scores, field.lookup(IDS) @ TABLE.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("unsqueezed", [True, False])
def test_constant_nodes_and_gather_nd(unsqueezed: bool, rewrite) -> None:
    kind, numbers = ("Unsqueeze", [-1]) if unsqueezed else ("Reshape", [-1, 1])
    model = make(
        [
            node("Constant", [], ["table"], value=numpy_helper.from_array(TABLE)),
            node("Cast", ["ids"], ["whole"], to=TensorProto.INT64),
            node(kind, ["whole", "numbers"], ["tall"]),
            node("GatherND", ["table", "tall"], ["rows"]),
        ],
        {"numbers": np.array(numbers)},
        {"ids": (TensorProto.FLOAT, ["B"])},
        {"rows": TensorProto.FLOAT},
    )
    field = clustered("table", COUNT)
    out, _ = rewrite(model, field)
    assert "GatherND" not in kinds(out)
    assert "Constant" not in kinds(out)
    np.testing.assert_array_equal(run(out, ids=IDS.astype(np.float32))[0], field.lookup(IDS))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("packed", [False, True])
def test_rows_keep_the_dtype_of_the_table(dtype: Any, packed: bool, rewrite) -> None:
    field = tiered("table", COUNT, ranked=True)
    out, _ = rewrite(lookup_model(TABLE.astype(dtype)), field, packed=packed)
    (rows,) = run(out, ids=IDS)
    assert rows.dtype == dtype
    np.testing.assert_allclose(rows, field.lookup(IDS).astype(dtype), rtol=2e-3, atol=1e-3)


# Fused lookups


def stacked_fields() -> dict[str, Any]:
    return {
        "user": tiered("user", 2000, ranked=True),
        "item": tiered("item", 500, ranked=True),
        "shop": tiered("shop", 3000, ratio=60, ranked=True),
        "kept": tiered("kept", 900, ratio=8),
        "city": clustered("city", 300),
        "hour": RawField("hour", TABLE[:24]),
    }


def stack_ids(fields: dict[str, Any], rows: int = 60) -> Any:
    rng = np.random.default_rng(5)
    last = np.array([[field.vocab_size - 1 for field in fields.values()]])
    each = [rng.integers(0, field.vocab_size, rows) for field in fields.values()]
    return np.concatenate([np.stack(each, axis=1), last, 0 * last])


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("unsqueezed", [True, False])
def test_concatenated_lookups_become_one_lookup(unsqueezed: bool, packed: bool, rewrite) -> None:
    fields = stacked_fields()
    tables = {name: np.zeros((f.vocab_size, DIM), np.float32) for name, f in fields.items()}
    model = stack_model(tables, unsqueezed)
    out, report = rewrite(model, *fields.values(), packed=packed)
    found = kinds(out)
    assert not found & Counter(["Slice", "Squeeze", "Unsqueeze", "Concat"]) or packed
    assert found["Gather"] == 1
    assert found["GatherElements"] == (7 if packed else 1)
    assert len(report.tables) == 6
    assert not set(tables) & set(constants(out))
    ids = stack_ids(fields)
    (rows,) = run(out, ids=ids)
    (wanted,) = run(decoded(model, saec.Compressed(list(fields.values()))), ids=ids)
    np.testing.assert_allclose(rows, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_ids_of_a_fused_lookup_must_be_in_range_of_their_table(packed: bool, rewrite) -> None:
    fields = stacked_fields()
    tables = {name: np.zeros((f.vocab_size, DIM), np.float32) for name, f in fields.items()}
    out, _ = rewrite(stack_model(tables), *fields.values(), packed=packed)
    ids = stack_ids(fields)
    for column, field in enumerate(fields.values()):
        for number in (-1, -field.vocab_size, field.vocab_size, 2**62):
            bad = ids.copy()
            bad[3, column] = number
            with pytest.raises(Exception, match=OUTSIDE):
                run(out, ids=bad)


def test_some_inputs_of_a_concat_are_fused(rewrite) -> None:
    """Two runs of lookups around a dense input; ids are some columns; one table has another dim."""
    fields = {name: clustered(name, 100 + n, 8, 5) for n, name in enumerate("abcd")}
    fields["wide"] = clustered("wide", 90, 16, 5)
    order = ["a", "b", "dense", "c", "d", "wide"]
    places = {"a": 3, "b": 1, "c": 0, "d": 4, "wide": 2}
    nodes, numbers = [], {}
    for name, place in places.items():
        numbers |= {f"at_{name}": np.array(place)}
        nodes.append(node("Gather", ["ids", f"at_{name}"], [f"ids_{name}"], axis=1))
        nodes.append(node("Gather", [f"{name}.weight", f"ids_{name}"], [name]))
    nodes.append(node("Concat", order, ["rows"], axis=-1))
    tables = {
        f"{name}.weight": np.zeros((f.vocab_size, f.dim), np.float32) for name, f in fields.items()
    }
    inputs = {"ids": (TensorProto.INT64, ["B", 6]), "dense": (TensorProto.FLOAT, ["B", 3])}
    model = make(nodes, tables | numbers, inputs, {"rows": TensorProto.FLOAT})
    out, _ = rewrite(model, *fields.values())
    assert kinds(out)["Concat"] == 1
    feeds = {
        "ids": np.random.default_rng(0).integers(0, 90, (20, 6)),
        "dense": np.ones((20, 3), np.float32),
    }
    wanted = run(decoded(model, saec.Compressed(list(fields.values()))), **feeds)
    np.testing.assert_array_equal(run(out, **feeds)[0], wanted[0])


def test_separate_inputs_with_an_axis_of_one_are_fused(rewrite) -> None:
    """As Keras models have them: an input (B, 1) per field."""
    fields = {name: clustered(name, 100 + n, 8, 5) for n, name in enumerate("abc")}
    nodes = [node("Gather", [name, f"ids_{name}"], [f"row_{name}"]) for name in fields]
    nodes.append(node("Concat", [f"row_{name}" for name in fields], ["rows"], axis=1))
    tables = {name: np.zeros((f.vocab_size, 8), np.float32) for name, f in fields.items()}
    inputs = {f"ids_{name}": (TensorProto.INT64, ["B", 1]) for name in fields}
    model = make(nodes, tables, inputs, {"rows": TensorProto.FLOAT})
    out, _ = rewrite(model, *fields.values())
    assert kinds(out)["Gather"] == kinds(out)["GatherElements"] == 1
    feeds = {name: np.arange(30).reshape(-1, 1) for name in inputs}
    (rows,) = run(out, **feeds)
    assert rows.shape == (30, 3, 8)
    (wanted,) = run(decoded(model, saec.Compressed(list(fields.values()))), **feeds)
    np.testing.assert_array_equal(rows, wanted)


def test_lookups_with_other_uses_are_not_fused(rewrite) -> None:
    fields = {name: clustered(name, 100, 8, 5) for name in ("a", "b")}
    nodes = [node("Gather", [name, "ids"], [f"row_{name}"]) for name in fields]
    nodes += [
        node("Concat", ["row_a", "row_b"], ["rows"], axis=1),
        node("Relu", ["row_a"], ["high"]),
    ]
    tables = {name: np.zeros((100, 8), np.float32) for name in fields}
    outputs = {"rows": TensorProto.FLOAT, "high": TensorProto.FLOAT}
    model = make(nodes, tables, {"ids": (TensorProto.INT64, ["B"])}, outputs)
    out, _ = rewrite(model, *fields.values())
    assert kinds(out)["Gather"] == kinds(out)["GatherElements"] == 2
    ids = np.arange(100)
    wanted = run(decoded(model, saec.Compressed(list(fields.values()))), ids=ids)
    for found, right in zip(run(out, ids=ids), wanted, strict=True):
        np.testing.assert_array_equal(found, right)


# Graphs that must not change


def test_gathers_that_are_no_embedding_lookups(tmp_path: Path) -> None:
    numbers = {
        "table": TABLE,
        "vector": np.ones(9, np.float32),
        "whole": np.ones((9, 2), np.int64),
        "three": np.ones((4, 2, 2), np.float32),
        "at": np.array([1, 2]),
        "zero": np.array(0),
    }
    nodes = [
        node("Shape", ["ids"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Gather", ["vector", "ids"], ["a"]),
        node("Gather", ["whole", "ids"], ["b"]),
        node("Gather", ["three", "ids"], ["c"]),
        node("Gather", ["table", "at"], ["d"]),
        node("Gather", ["table", "ids"], ["e"], axis=1),
        node("Gather", ["given", "ids"], ["f"]),
        node("GatherND", ["table", "pairs"], ["g"]),
    ]
    inputs = {"ids": (TensorProto.INT64, ["B"]), "given": (TensorProto.FLOAT, [7, 2])}
    inputs["pairs"] = TensorProto.INT64, ["B", 2]
    kinds_of = dict.fromkeys("acdefg", TensorProto.FLOAT)
    outputs = kinds_of | dict.fromkeys(("b", "batch"), TensorProto.INT64)
    onnx.save(make(nodes, numbers, inputs, outputs), tmp_path / "model.onnx")
    assert saec.onnx.tables(tmp_path / "model.onnx") == {}
    with pytest.raises(OnnxError, match="no table from which rows are gathered by ids"):
        saec.onnx.compress(
            tmp_path / "model.onnx",
            saec.Compressed([clustered("table", COUNT)]),
            tmp_path / "small.onnx",
        )
    assert not (tmp_path / "small.onnx").exists()


def test_tables_without_a_field_stay_as_they_are(rewrite) -> None:
    tables = {"a": TABLE[:100], "b": TABLE[:90]}
    out, report = rewrite(stack_model(tables), clustered("a", 100))
    assert [table.table for table in report.tables] == ["a"]
    np.testing.assert_array_equal(constants(out)["b"], TABLE[:90])
    (rows,) = run(out, ids=np.array([[5, 7]]))
    np.testing.assert_array_equal(rows[0, 1], TABLE[7])


# Names and errors


def test_fields_are_matched_to_tables_by_name(rewrite, tmp_path: Path) -> None:
    model = lookup_model(TABLE)
    model.graph.initializer[0].name = "model/user/embeddings/Read/ReadVariableOp:0"
    model.graph.node[0].input[0] = model.graph.initializer[0].name
    field = clustered("model/user", COUNT)
    _, report = rewrite(model, field)
    assert report.tables[0].field == "model/user"
    other = clustered("other", COUNT)
    with pytest.raises(OnnxError, match=r"no table 'other'; it has model/user/embeddings"):
        rewrite(model, other)
    names = {"other": model.graph.initializer[0].name}
    assert rewrite(model, other, names=names)[1].tables[0].field == "other"
    with pytest.raises(OnnxError, match="there is no field 'user'; there are other"):
        rewrite(model, other, names={"user": "x"})
    with pytest.raises(FieldError, match="several fields have the same table"):
        rewrite(model, field, other, names=names)


def test_fields_of_a_model(tmp_path: Path) -> None:
    onnx.save(stack_model({"a.weight": TABLE, "b.weight": TABLE[:9]}), tmp_path / "m.onnx")
    found = saec.onnx.tables(tmp_path / "m.onnx")
    assert {name: rows.shape for name, rows in found.items()} == {
        "a.weight": (COUNT, DIM),
        "b.weight": (9, DIM),
    }
    (field,) = saec.onnx.fields(tmp_path / "m.onnx", {"a": np.ones(COUNT)})
    assert (field.name, field.vocab_size) == ("a", COUNT)
    with pytest.raises(OnnxError, match=r"no table 'c'; it has a\.weight, b\.weight"):
        saec.onnx.fields(tmp_path / "m.onnx", {"c": np.ones(COUNT)})


def test_a_table_of_another_shape_is_refused(rewrite) -> None:
    with pytest.raises(OnnxError, match="'table' is 3000 x 16, but field 'table' 2999 x 16"):
        rewrite(lookup_model(TABLE), clustered("table", COUNT - 1))


def test_an_opset_before_13_is_refused(rewrite) -> None:
    model = lookup_model(TABLE)
    model.opset_import[0].version = 12
    with pytest.raises(OnnxError, match="opset 12; export it with opset 13 or later"):
        rewrite(model, clustered("table", COUNT))


def test_a_rewritten_model_can_be_rewritten_again(rewrite, tmp_path: Path) -> None:
    tables = {"a": TABLE[:100], "b": TABLE[:90]}
    out, _ = rewrite(stack_model(tables), clustered("a", 100))
    fields = clustered("a", 100), clustered("b", 90)
    out, _ = rewrite(onnx.load(out), fields[1])
    (rows,) = run(out, ids=np.array([[5, 7]]))
    np.testing.assert_array_equal(
        rows[0], [f.lookup(i) for f, i in zip(fields, (5, 7), strict=True)]
    )


def test_inputs_are_not_changed(rewrite, tmp_path: Path) -> None:
    model = lookup_model(TABLE)
    out, _ = rewrite(model, clustered("table", COUNT))
    assert onnx.load(tmp_path / "model.onnx") == model
    assert onnx.load(out).graph.input[0] == model.graph.input[0]
    assert onnx.load(out).graph.output[0] == model.graph.output[0]


def test_models_of_several_opsets(rewrite) -> None:
    for opset in (13, 17, 21):
        model = lookup_model(TABLE)
        model.opset_import[0].CopyFrom(helper.make_opsetid("", opset))
        for packed in (False, True):
            field = tiered("table", COUNT, ranked=True)
            out, _ = rewrite(model, field, packed=packed)
            rows = run(out, ids=IDS)[0]
            np.testing.assert_allclose(rows, field.lookup(IDS), rtol=1e-5, atol=1e-6)


DAMAGE = {
    "a Concat without its axis": lambda graph: graph.node[-1].attribute.pop(),
    "a Squeeze without inputs": lambda graph: graph.node[1].ClearField("input"),
    "a constant without its bytes": lambda graph: graph.initializer[2].ClearField("raw_data"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_graph_is_refused(kind: str, tmp_path: Path) -> None:
    model = stack_model({"user": TABLE, "item": TABLE})
    DAMAGE[kind](model.graph)
    onnx.save(model, tmp_path / "damaged.onnx")
    result = saec.Compressed([clustered("user", COUNT), clustered("item", COUNT)])
    with pytest.raises(OnnxError, match=r"damaged\.onnx: a damaged graph: "):
        saec.onnx.compress(tmp_path / "damaged.onnx", result, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_operators_of_other_domains_are_not_fused(rewrite) -> None:
    """Another domain's Unsqueeze may do anything, so its lookup is replaced separately."""
    model = stack_model({"user": TABLE, "item": TABLE})
    model.opset_import.append(helper.make_opsetid("other", 1))
    for item in model.graph.node:
        if item.op_type == "Unsqueeze":
            item.domain = "other"
    path, report = rewrite(model, clustered("user", COUNT), clustered("item", COUNT))
    assert [table.lookups for table in report.tables] == [1, 1]
    assert kinds(path)["Unsqueeze"] >= 2
