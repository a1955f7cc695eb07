"""Valid files of every kind, from which damaged ones are made."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from artifact_files import all_kinds, save_in_shards  # noqa: E402
from fuzz_graphs import write_graphs  # noqa: E402

from saec.artifact import write_patch  # noqa: E402
from saec.format.compressed_field import CompressedField  # noqa: E402
from saec.format.id_patch import CodedIds, IdPatch, PlainField, tier_widths  # noqa: E402
from saec.format.merged_ids import tiers_of_ids  # noqa: E402
from saec.format.patched import next_patch  # noqa: E402
from saec.format.raw_field import RawField  # noqa: E402
from saec.tables.loss_metric import LossMetrics  # noqa: E402
from saec.tables.loss_metric_file import save_metrics  # noqa: E402

USER = np.arange(48, dtype=np.float32).reshape(12, 4)
ITEM = np.linspace(-1, 1, 8, dtype=np.float16).reshape(2, 4)


def write_seeds(folder: Path) -> None:
    """Write valid files into new folders of ``folder``, one for each kind."""
    for kind, write in WRITERS.items():
        (folder / kind).mkdir(parents=True)
        write(folder / kind)


def _artifacts(folder: Path) -> None:
    all_kinds().save(folder / "all.saec")
    for name in ("golden", "ordered", "keyed"):
        shutil.copy(TESTS / "golden" / f"{name}.saec", folder)


def _shards(folder: Path) -> None:
    save_in_shards(all_kinds(), folder / "a.saec")


def _patches(folder: Path) -> None:
    """Each of the artifact with its name."""
    shutil.copy(TESTS / "golden" / "keyed.patch", folder)
    base = all_kinds()
    patch = next_patch(base, {name: _grown(field) for name, field in base.items()}, None, None)
    write_patch(folder / "all.patch", patch.head, patch.entries)


def _grown(field: CompressedField) -> IdPatch:
    """The first row changed, and two new ones, of which one has codes of its own."""
    assert isinstance(field, PlainField)
    rows, first = field.vocab_size, int(tiers_of_ids(field)[0])
    widths = tier_widths(field)
    raw = isinstance(field, RawField)
    empty = [
        np.zeros((0, field.dim), field.dtype) if raw else np.zeros((0, len(own)), np.uint32)
        for own in widths
    ]
    ids: list[list[int]] = [[] for _ in widths]
    ids[first].append(0)
    ids[-1].append(rows)
    tiers = [
        CodedIds(np.array(own, np.int64), np.resize(none, (len(own), none.shape[1])))
        for own, none in zip(ids, empty, strict=True)
    ]
    return IdPatch(
        field, rows, rows + 2, tuple(tiers), np.resize(empty[-1], (1, empty[-1].shape[1]))
    )


def _torch(folder: Path) -> None:
    import torch

    base = torch.arange(24.0).reshape(6, 4)
    tensors = {"user": torch.from_numpy(USER), "turned": base.T, "bf": base.to(torch.bfloat16)}
    tensors |= {"ids": torch.ones(3, dtype=torch.int64), "rows": base[::2]}
    torch.save(tensors, folder / "model.pt")
    torch.save({"epoch": 3, "state_dict": tensors, "sizes": {1, 2}}, folder / "nested.pt")
    torch.save({"w": torch.nn.Parameter(base), "s": base.to_sparse()}, folder / "other.pt")


def _old_torch(folder: Path) -> None:
    import torch

    tensors = {"user": torch.from_numpy(USER), "ids": torch.ones(3, dtype=torch.int64)}
    torch.save(tensors, folder / "model.bin", _use_new_zipfile_serialization=False)


def _dcp(folder: Path) -> None:
    import torch
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that there is but one process
        state = {"user": torch.from_numpy(USER), "item": torch.from_numpy(ITEM)}
        dcp.save(state, checkpoint_id=folder / "step")


def _numpy(folder: Path) -> None:
    np.save(folder / "user.npy", USER)
    np.save(folder / "turned.npy", np.asfortranarray(USER))
    np.savez(folder / "plain.npz", user=USER, item=ITEM, one=np.float32(2))
    np.savez_compressed(folder / "packed.npz", user=USER, turned=np.asfortranarray(USER))


def _safetensors(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"user": USER, "item-0-of-2": ITEM, "item-1-of-2": ITEM}, folder / "a.safetensors")
    save_file({"one": np.array(1.0)}, folder / "b.safetensors", {"format": "np"})
    metrics = LossMetrics({"user": np.eye(3)}, 5, {"user": 0.25})
    save_metrics(metrics, folder / "metrics.safetensors")


def _indices(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"user": USER}, folder / "a.safetensors")
    index = {"metadata": {}, "weight_map": {"user": "a.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _parquet(folder: Path) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    ids, counts = arrow.array(range(12)), arrow.array(range(12, 0, -1))
    lists = arrow.FixedSizeListArray.from_arrays(arrow.array(USER.reshape(-1)), 4)
    for name, vector in (("lists", lists.cast(arrow.list_(arrow.float32()))), ("fixed", lists)):
        table = arrow.table({"id": ids, "frequency": counts, "vector": vector})
        parquet.write_table(table, folder / f"{name}.parquet", row_group_size=5)
    columns = {f"v{i}": USER[:, i] for i in range(4)}
    parquet.write_table(arrow.table(columns), folder / "columns.parquet", compression="none")


def _onnx(folder: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Identity", ["table"], ["same"]),
        helper.make_node("Gather", ["same", "ids"], ["rows"], name="look"),
        helper.make_node("Unsqueeze", ["ids", "axis"], ["each"]),
        helper.make_node("GatherND", ["half", "each"], ["more"]),
    ]
    constants = {"table": USER, "half": ITEM, "axis": np.array([-1])}
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, folder / "inside.onnx")
    onnx.save(
        model, folder / "outside.onnx", save_as_external_data=True, location="w", size_threshold=0
    )


def _requests(folder: Path) -> None:
    from saec.serve.grpc_messages import message

    ids = np.array([3, 2, 1])
    inputs = [
        {
            "name": "a",
            "datatype": "INT64",
            "shape": [3],
            "parameters": {"binary_data_size": ids.nbytes},
        },
        {"name": "c", "datatype": "INT32", "shape": [1, 2], "data": [[1, 2]]},
    ]
    said = {"id": "1", "inputs": inputs, "parameters": {"binary_data_output": True}}
    text = json.dumps(said).encode()
    (folder / f"{len(text)}.rest").write_bytes(text + ids.tobytes())
    bags = [
        {"name": "a", "datatype": "INT64", "shape": [3], "data": [0, 1, 2]},
        {"name": "a.offsets", "datatype": "INT64", "shape": [2], "data": [0, 1]},
    ]
    text = json.dumps({"inputs": bags, "parameters": {"mode": "max"}}).encode()
    (folder / "json.rest").write_bytes(text)
    request = message("ModelInferRequest")(model_name="all")
    request.inputs.add(name="a", datatype="INT64", shape=[3])
    request.raw_input_contents.append(ids.tobytes())
    (folder / "raw.grpc").write_bytes(request.SerializeToString())
    typed = message("ModelInferRequest")(model_name="all")
    typed.inputs.add(name="a", datatype="INT64", shape=[3]).contents.int64_contents.extend(
        [1, 2, 3]
    )
    (folder / "typed.grpc").write_bytes(typed.SerializeToString())


WRITERS = {
    "artifact": _artifacts,
    "shards": _shards,
    "patch": _patches,
    "torch": _torch,
    "old_torch": _old_torch,
    "dcp": _dcp,
    "numpy": _numpy,
    "safetensors": _safetensors,
    "index": _indices,
    "parquet": _parquet,
    "onnx": _onnx,
    "graph": write_graphs,
    "request": _requests,
}
