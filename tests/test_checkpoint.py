"""Tables, frequencies and metrics of the same fields, from files of any kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

import saec
from saec.errors import CheckpointError, DataError, FieldError, IdError
from saec.streaming.rows import FileRows, JoinedRows, Rows
from saec.tables.checkpoint import LogColumns, read_fields, read_frequencies, read_tables

USER = np.arange(6, dtype=np.float32).reshape(3, 2)
ITEM = np.linspace(-1, 1, 8, dtype=np.float16).reshape(2, 4)
COUNTS = np.array([5, 0, 2], np.int64)


def values(rows: Rows) -> list[object]:
    return rows.read(0, len(rows)).tolist()


def save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(path, **arrays)


def save_safetensors(path: Path, arrays: dict[str, np.ndarray]) -> None:
    safetensors.torch.save_file({name: torch.from_numpy(a) for name, a in arrays.items()}, path)


def save_torch(path: Path, arrays: dict[str, np.ndarray]) -> None:
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


WRITERS = {"f.npz": save_npz, "f.safetensors": save_safetensors, "f.pt": save_torch}


@pytest.mark.parametrize("name", WRITERS)
def test_frequencies_by_table(tmp_path: Path, name: str) -> None:
    vectors = {"user": COUNTS, "item": np.array([0.5, 1.5]), "weights": np.ones((2, 2))}
    WRITERS[name](tmp_path / name, vectors)
    frequencies = read_frequencies(tmp_path / name)
    assert set(frequencies) == {"user", "item"}
    assert values(frequencies["user"]) == [5, 0, 2]
    assert values(frequencies["item"]) == [0.5, 1.5]


def test_frequencies_of_one_table(tmp_path: Path) -> None:
    np.save(tmp_path / "user.npy", COUNTS)
    assert values(read_frequencies(tmp_path / "user.npy")["user"]) == [5, 0, 2]


def test_bad_frequencies(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", user=USER, name=np.array(["a"]))
    with pytest.raises(CheckpointError, match=r"no vector of frequencies; it holds user \(3, 2\)"):
        read_frequencies(tmp_path / "f.npz")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A state_dict with two tables and more, and frequencies of the two."""
    state = {"user.weight": USER, "item.weight": ITEM, "mlp.weight": np.ones((2, 2), np.float32)}
    save_torch(tmp_path / "model.pt", state)
    np.savez(tmp_path / "counts.npz", user=COUNTS, item=[1.0, 2.0])
    return tmp_path / "model.pt"


def test_fields_of_a_state_dict(model: Path) -> None:
    fields, metrics = saec.read_fields(model, model.parent / "counts.npz", only=["user", "it*"])
    assert metrics is None
    assert [(field.name, field.vocab_size, field.dim) for field in fields] == [
        ("user", 3, 2),
        ("item", 2, 4),
    ]
    assert isinstance(fields[0].rows, FileRows)
    assert values(fields[0].rows) == USER.tolist()
    assert fields[0].frequencies.tolist() == [5, 0, 2]


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ([], "no frequencies for mlp, but for user, item; name the tables to compress with --only"),
        (["usr"], "no table matches --only usr; there are user, item, mlp"),
    ],
)
def test_tables_without_a_partner(model: Path, only: list[str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_fields(model, model.parent / "counts.npz", only=only)


WRAPPED = {
    "data parallel": "module.{}.weight",
    "compiled": "_orig_mod.{}.weight",
    "compiled in parallel": "module._orig_mod.{}.weight",
    "in parallel, compiled": "_orig_mod.module.{}.weight",
    "sharded": "_fsdp_wrapped_module.{}._fsdp_wrapped_module.weight",
}


@pytest.mark.parametrize("name", WRAPPED)
def test_names_of_wrappers_do_not_count(tmp_path: Path, name: str) -> None:
    names = {field: WRAPPED[name].format(field) for field in ("user", "net.item")}
    save_torch(tmp_path / "model.pt", {names["user"]: USER, names["net.item"]: ITEM})
    np.savez(tmp_path / "plain.npz", **{"user": COUNTS, "net.item": [1.0, 2.0]})
    np.savez(tmp_path / "same.npz", **{names["user"]: COUNTS, names["net.item"]: [1.0, 2.0]})
    for counts in ("plain.npz", "same.npz"):
        fields, _ = read_fields(tmp_path / "model.pt", tmp_path / counts)
        assert [field.name for field in fields] == ["user", "net.item"]
        assert fields[0].frequencies.tolist() == [5, 0, 2]
    for only in ("user", names["user"], names["user"].removesuffix(".weight")):
        (field,), _ = read_fields(tmp_path / "model.pt", tmp_path / "plain.npz", only=[only])
        assert field.name == "user"


def test_counts_of_a_wrapped_model_for_tables_of_a_plain_one(model: Path) -> None:
    counts = model.parent / "wrapped.npz"
    np.savez(counts, **{"module.user": COUNTS, "_orig_mod.item": [1.0, 2.0]})
    fields, _ = read_fields(model, counts, only=["user", "item"])
    assert [field.name for field in fields] == ["user", "item"]


def test_a_module_that_is_called_module_is_no_wrapper(tmp_path: Path) -> None:
    save_torch(tmp_path / "m.pt", {"module.user.weight": USER, "user.weight": 2 * USER})
    np.savez(tmp_path / "counts.npz", **{"module.user": COUNTS, "user": COUNTS + 1})
    fields, _ = read_fields(tmp_path / "m.pt", tmp_path / "counts.npz")
    assert [field.name for field in fields] == ["module.user", "user"]
    assert [field.frequencies.tolist() for field in fields] == [[5, 0, 2], [6, 1, 3]]


def test_tables_that_only_wrappers_tell_apart_keep_their_names(tmp_path: Path) -> None:
    save_torch(tmp_path / "m.pt", {"_orig_mod.user": USER, "user": 2 * USER})
    np.savez(tmp_path / "counts.npz", **{"_orig_mod.user": COUNTS, "user": COUNTS + 1})
    fields, _ = read_fields(tmp_path / "m.pt", tmp_path / "counts.npz")
    assert [field.name for field in fields] == ["_orig_mod.user", "user"]


def test_names_come_before_patterns(tmp_path: Path) -> None:
    tables = {"emb[0]": USER, "emb0": 2 * USER, "emb*": 3 * USER}
    save_torch(tmp_path / "m.pt", {f"{name}.weight": rows for name, rows in tables.items()})
    np.savez(tmp_path / "counts.npz", **dict.fromkeys(tables, COUNTS))

    def names(*only: str) -> list[str]:
        fields, _ = read_fields(tmp_path / "m.pt", tmp_path / "counts.npz", only=only)
        return [field.name for field in fields]

    assert names("emb[0]") == names("emb[0].weight") == ["emb[0]"]
    assert names("emb*") == ["emb*"]
    assert names("em[b]0") == ["emb0"]
    assert names("emb?", "emb[0]") == ["emb[0]", "emb0", "emb*"]
    assert names("e*") == list(tables)


@pytest.mark.parametrize("counted", ["visitor", "user"])
def test_fields_with_other_names_than_their_tables(model: Path, counted: str) -> None:
    np.savez(model.parent / "c.npz", **{counted: COUNTS, "item": [1.0, 2.0]})
    fields, _ = read_fields(
        model, model.parent / "c.npz", only=["visitor", "item"], names={"visitor": "user.weight"}
    )
    assert [field.name for field in fields] == ["visitor", "item"]
    assert fields[0].frequencies.tolist() == [5, 0, 2]
    log = LogColumns(_log(model.parent), {"visitor": "u"})
    (field,), _ = read_fields(model, log, names={"visitor": "user"}, progress=False)
    assert (field.name, field.frequencies.tolist()) == ("visitor", [5, 0, 2])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"visitor": "usr"}, "usr cannot be named visitor: there are .*did you mean 'user'"),
        ({"item": "user"}, "user cannot be named item: there are user, item, mlp"),
    ],
)
def test_names_that_cannot_be_given(model: Path, names: dict[str, str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_fields(model, model.parent / "counts.npz", names=names)


def test_metrics_go_with_their_fields(model: Path) -> None:
    metrics = saec.LossMetrics(
        {"user.weight": np.eye(2), "item": np.eye(4)}, 10, {"user.weight": 0.1, "item": 0.2}
    )
    path = model.parent / "metrics.safetensors"
    saec.save_metrics(metrics, path)
    counts = model.parent / "counts.npz"
    _, known = read_fields(model, counts, path, only=["item", "user"])
    assert known is not None
    assert list(known) == ["user", "item"]
    assert dict(known.relative_errors) == {"user": 0.1, "item": 0.2}
    log = LogColumns(_log(model.parent), {"user": "u"})
    fields, known = read_fields(model, log, path, progress=False)
    assert [field.name for field in fields] == list(known or ()) == ["user"]


@pytest.mark.parametrize("sharded", [False, True])
def test_what_has_no_name_goes_with_the_only_other(tmp_path: Path, sharded: bool) -> None:
    for i, rows in enumerate((slice(0, 2), slice(2, 3)) if sharded else (slice(0, 3),)):
        np.save(tmp_path / f"table-{i}.npy", USER[rows])
        np.save(tmp_path / f"seen-{i}.npy", COUNTS[rows])
    suffix = "-*.npy" if sharded else "-0.npy"
    (field,), _ = read_fields(f"{tmp_path}/table{suffix}", f"{tmp_path}/seen{suffix}")
    assert field.name == ("table" if sharded else "table-0")
    assert isinstance(field.rows, JoinedRows) == sharded
    assert field.frequencies.tolist() == [5, 0, 2]


def test_tables_and_frequencies_may_be_sharded_differently(tmp_path: Path) -> None:
    np.save(tmp_path / "user-0.npy", USER[:1])
    np.save(tmp_path / "user-1.npy", USER[1:])
    save_safetensors(
        tmp_path / "counts.safetensors",
        {"user-00001-of-00002": COUNTS[:2], "user-00002-of-00002": COUNTS[2:]},
    )
    (field,), _ = read_fields(tmp_path / "user-*.npy", tmp_path / "counts.safetensors")
    assert values(field.rows) == USER.tolist()
    assert field.frequencies.tolist() == [5, 0, 2]
    with pytest.raises(FieldError, match="'user-1': weights have 2 rows, frequencies 3"):
        read_fields(tmp_path / "user-1.npy", tmp_path / "counts.safetensors")


def _log(folder: Path) -> Path:
    """A log of two days: user 0 was there five times and user 2 twice, each item once."""
    (folder / "log").mkdir()
    for day, users, items in ((1, [0, 0, 0], [[0], [], [1]]), (2, [2, 0, 2, 0], [None] * 4)):
        log = pa.table({"u": users, "i": pa.array(items, pa.list_(pa.int32()))})
        pq.write_table(log, folder / "log" / f"{day}.parquet")
    return folder / "log"


@pytest.mark.parametrize(
    "paths",
    [
        lambda log: log,
        lambda log: f"{log}/*.parquet",
        lambda log: [log / "1.parquet", log / "2.parquet"],
    ],
)
def test_frequencies_are_counted_in_a_log(model: Path, paths: Callable[[Path], Path]) -> None:
    log = LogColumns(paths(_log(model.parent)), {"item": "i", "user.weight": "u"})
    fields, _ = read_fields(model, log, progress=False)
    assert {field.name: field.frequencies.tolist() for field in fields} == {
        "user": [5, 0, 2],
        "item": [1, 1],
    }


def test_only_some_tables_are_counted(model: Path) -> None:
    log = LogColumns(_log(model.parent), {"item": "i", "user": "u"})
    (field,), _ = read_fields(model, log, only=["us*"], progress=False)
    assert (field.name, field.frequencies.tolist()) == ("user", [5, 0, 2])
    with pytest.raises(CheckpointError, match="no columns for mlp, but for item, user"):
        read_fields(model, log, only=["user", "mlp"], progress=False)


def test_a_nameless_table_takes_the_only_column(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", USER)
    log = LogColumns(_log(tmp_path), {"user": "u"})
    (field,), _ = read_fields(tmp_path / "table.npy", log, progress=False)
    assert (field.name, field.frequencies.tolist()) == ("table", [5, 0, 2])


def test_counts_may_be_kept_in_files(model: Path) -> None:
    log = LogColumns(_log(model.parent), {"user": "u"})
    folder = model.parent / "kept"
    folder.mkdir()
    (field,), _ = read_fields(model, log, progress=False, folder=folder)
    assert isinstance(field.counts, FileRows)
    assert field.counts.path.parent == folder
    assert field.frequencies.tolist() == [5, 0, 2]


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        (
            {"usr": "u"},
            CheckpointError,
            "no tables for columns usr; there are user, item, mlp; did you mean",
        ),
        ({"user": "v"}, DataError, r"1.parquet: no column 'v'; there are u, i"),
        ({"item": "u"}, IdError, "'item': id 2 is out of range; ids go from 0 to 1"),
        ({"user": "u", "user.weight": "u"}, CheckpointError, "user and user.weight are the same"),
    ],
)
def test_bad_columns_of_a_log(
    model: Path, columns: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_fields(model, LogColumns(_log(model.parent), columns), progress=False)


def test_frequencies_must_come_from_somewhere(model: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model.pt: has no frequencies next to its vectors"):
        read_fields(model)


def test_paths_may_be_strings(model: Path) -> None:
    assert set(read_tables(str(model))) == {"user.weight", "item.weight", "mlp.weight"}
