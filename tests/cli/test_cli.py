"""The command line: bad input, processes, measurements, and the commands of its document."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed.checkpoint as dcp
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

import saec
from saec.cli import main

Run = Callable[..., tuple[int, str, str]]


def process(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads would only wait for each other
    return subprocess.run(
        [sys.executable, "-m", "saec", *map(str, words)],
        **{"capture_output": True, "text": True, "env": environment, **options},
    )


def compressing(*words: str) -> list[str]:
    return ["compress", "both.npz", "--frequencies", "counts.npz", "-o", "small.saec", *words]


def measured(*words: str) -> list[str]:
    return compressing("--metrics", "metrics.safetensors", *words)


def counting(*columns: str, log: str = "log.parquet") -> list[str]:
    given = [word for column in columns for word in ("--column", column)]
    return ["compress", "both.npz", "--log", log, *given, "-o", "small.saec", "--ratio", "4"]


def forecasting(*words: str) -> list[str]:
    known = ["--frequencies", "counts.npz", "--metrics", "metrics.safetensors"]
    return ["forecast", "both.npz", *known, *words]


BAD = {
    "no budget": (
        compressing(),
        "give one of --ratio, --max-bytes, --bits-per-feature and --loss-increase",
    ),
    "two budgets": (
        compressing("--ratio", "4", "--max-bytes", "9"),
        "2 budgets need {} in -o, which stands for the budget, like -o model-{}.saec; "
        "not small.saec",
    ),
    "two budgets of a name": (
        compressing("--ratio", "4", "--max-bytes", "4", "-o", "{}.saec"),
        "two budgets would be written to 4.saec",
    ),
    "memory for two": (
        compressing("--ratio", "4", "--ratio", "5", "-o", "{}.saec", "--memory", "2GB"),
        "--memory goes with one budget: several are compressed in memory",
    ),
    "ratio below 1": (compressing("--ratio", "0.5"), "a ratio must be a number of at least 1"),
    "no ratio": (compressing("--ratio", "x"), "Invalid value for '--ratio'"),
    "size": (compressing("--max-bytes", "1 mile"), "cannot read '1 mile' as a size"),
    "impossible": (compressing("--ratio", "9999"), "the smallest possible is"),
    "codebook": (compressing("--ratio", "4", "--codebook", "int3"), "'int3' is not one of"),
    "loss without metrics": (
        compressing("--loss-increase", "1e-3"),
        "--loss-increase needs --metrics",
    ),
    "negative loss": (measured("--loss-increase", "-1"), "a loss increase must be a number above"),
    "beyond the metrics": (measured("--ratio", "9999"), "the smallest possible is"),
    "codebook of axes": (
        measured("--ratio", "4", "--codebook", "int8"),
        "--codebook goes with --codec clusters",
    ),
    "order of clusters": (
        compressing("--ratio", "4", "--codec", "clusters", "--order", "frequency"),
        "--order goes with --codec axes",
    ),
    "codec": (compressing("--ratio", "4", "--codec", "pca"), "'pca' is not one of"),
    "no metrics file": (
        compressing("--ratio", "4", "--metrics", "no.safetensors"),
        "no.safetensors: no such file",
    ),
    "other tensors": (
        compressing("--ratio", "4", "--metrics", "both.safetensors"),
        "both.safetensors: no loss metrics; it holds item, user",
    ),
    "metrics of another size": (
        compressing("--ratio", "4", "--metrics", "wide.safetensors"),
        "field 'item': the metric is 5 x 5; the table of dim 4 needs 4 x 4",
    ),
    "missing metrics": (
        compressing("--ratio", "4", "--metrics", "lone.safetensors"),
        "no metrics for item, but for user; name the tables to compress with --only",
    ),
    "unknown metrics": (
        [
            *("compress", "user.npy", "--frequencies", "counts.npy", "--ratio", "4"),
            *("--metrics", "metrics.safetensors", "-o", "small.saec"),
        ],
        "no tables for metrics item; there are user",
    ),
    "onto the metrics": (
        measured("--ratio", "4", "-o", "metrics.safetensors"),
        "cannot write metrics.safetensors: it is the input",
    ),
    "forecast without metrics": (
        ["forecast", "both.npz", "--frequencies", "counts.npz"],
        "Missing option '--metrics'.",
    ),
    "forecast onto nothing": (forecasting("--svg", "no/f.svg"), "there is no directory no"),
    "forecast onto itself": (
        forecasting("--json", "both.npz"),
        "cannot write both.npz: it is the input",
    ),
    "inspect out of reach": (
        ["inspect", "both.npz", "--frequencies", "counts.npz", "--ratio", "9999"],
        "the smallest possible is",
    ),
    "inspect at no ratio": (
        ["inspect", "both.npz", "--frequencies", "counts.npz", "--ratio", "0"],
        "a ratio must be a number of at least 1",
    ),
    "only": (
        compressing("--ratio", "4", "--only", "usr"),
        "no table matches --only usr; there are user, item",
    ),
    "unknown table": (
        ["compress", "model.pt", "--frequencies", "counts.npz", "--ratio", "4", "-o", "small.saec"],
        "no frequencies for mlp.0, but for user, item; name the tables to compress with --only",
    ),
    "unknown vector": (
        ["compress", "one.npz", "--frequencies", "counts.npz", "--ratio", "4", "-o", "small.saec"],
        "no tables for frequencies item; there are user",
    ),
    "same field": (
        ["compress", "twice.npz", "--frequencies", "counts.npz", "--ratio", "4", "-o", "o.saec"],
        "user and user.weight are the same field",
    ),
    "lengths": (
        ["compress", "user.npy", "--frequencies", "short.npy", "--ratio", "4", "-o", "small.saec"],
        "field 'user': weights have 600 rows, frequencies 3",
    ),
    "float64": (
        ["compress", "f64.npy", "--frequencies", "short.npy", "--ratio", "4", "-o", "small.saec"],
        "field 'f64': weights are float64; allowed are float32, float16, bfloat16",
    ),
    "no checkpoint": (
        ["compress", "no.npz", "--frequencies", "counts.npz", "--ratio", "4", "-o", "small.saec"],
        "no.npz: no such file",
    ),
    "truncated": (
        ["compress", "cut.npz", "--frequencies", "counts.npz", "--ratio", "4", "-o", "small.saec"],
        "cut.npz: not an .npz file (no zip archive), or truncated",
    ),
    "no directory": (
        [*compressing("--ratio", "4"), "-o", "no/where.saec"],
        "cannot write no/where.saec: there is no directory no",
    ),
    "onto itself": (
        [*compressing("--ratio", "4"), "-o", "both.npz"],
        "cannot write both.npz: it is the input",
    ),
    "onto a directory": ([*compressing("--ratio", "4"), "-o", "."], "cannot write .: it is a dire"),
    "missing option": (["compress", "both.npz"], "Missing option '-o' / '--out'."),
    "no frequencies": (
        ["compress", "both.npz", "-o", "small.saec", "--ratio", "4"],
        "both.npz: has no frequencies next to its vectors; give them, or a log in which to count",
    ),
    "frequencies and a log": (
        compressing("--ratio", "4", "--log", "log.csv", "--column", "user=u"),
        "give --frequencies or --log, not both",
    ),
    "a log without columns": (counting(), "--log and --column FIELD=COLUMN go together"),
    "columns without a log": (
        compressing("--ratio", "4", "--column", "user=u"),
        "--log and --column FIELD=COLUMN go together",
    ),
    "no pair": (counting("user"), "--column user: give FIELD=COLUMN, like --column user=user_id"),
    "pair twice": (counting("user=u", "user=v"), "--column: a field was given twice"),
    "no such column": (counting("user=w"), "log.parquet: no column 'w'; there are u, i"),
    "no such table": (counting("usr=u"), "no tables for columns usr; there are user, item"),
    "no log": (counting("user=u", log="no*.parquet"), "no*.parquet: no such file, or no Parquet"),
    "no such folder": (
        ["inspect", "logs", "--frequencies", "counts.npz"],
        "logs: no kind of file that is known; it holds train.log",
    ),
    "two kinds": (
        ["inspect", "both.*", "--frequencies", "counts.npz"],
        "both.*: files of several kinds, .npz, .saec, .safetensors; name those of one, like '*.n",
    ),
    "info of nothing": (["info", "no.saec"], "no.saec: no such file"),
    "info of another": (["info", "both.safetensors"], "no saec artifact"),
    "field": (["lookup", "both.saec", "usr", "1"], "has no field 'usr'; it has user, item"),
    "id": (["lookup", "both.saec", "user", "600"], "id 600 at position 0 is outside [0, 600)"),
    "negative id": (["lookup", "both.saec", "user", "1", "-1"], "id -1 at position 1 is outside"),
    "huge id": (["lookup", "both.saec", "user", f"-{2**63}"], f"id -{2**63} is outside [0, 600)"),
    "no number": (["lookup", "both.saec", "user", "1.5"], "an id is a whole number, not '1.5'"),
    "json and out": (
        ["lookup", "both.saec", "user", "1", "--json", "-o", "rows.npy"],
        "give --json or --out, not both",
    ),
    "onto the artifact": (
        ["lookup", "both.saec", "user", "1", "-o", "both.saec"],
        "cannot write both.saec: it is the input",
    ),
    "task": (["bench", "ml-2m"], "no task 'ml-2m'; there are simulated, ml-1m"),
    "method": (["bench", "simulated", "--methods", "x"], "no method 'x'; there are saec"),
    "model": (["bench", "simulated", "--model", "x"], "no model is called 'x'; there are"),
    "seeds": (
        ["bench", "simulated", "--seeds", "0,x"],
        "--seeds takes numbers separated by commas",
    ),
    "no seeds": (["bench", "simulated", "--seeds", ","], "bench needs seeds: none were given"),
    "low ratio": (["bench", "simulated", "--ratios", "0"], "a ratio must be a number of at least"),
    "no data": (["bench", "ml-1m", "--path", "no.parquet"], "no.parquet: no such file"),
    "bench onto": (["bench", "simulated", "--json", "no/r.json"], "there is no directory no"),
    "demo onto": (["demo", "-o", "both.npz"], "cannot make the directory both.npz"),
    "results": (["report", "no.json", "-o", "r.html"], "no.json: no such file"),
    "no results": (["report", "notes.json", "-o", "r.html"], "notes.json: no results: 'command'"),
    "command": (["squeeze"], "No such command 'squeeze'."),
    "option": (["info", "both.saec", "--xml"], "No such option: --xml"),
}


@pytest.fixture(scope="module")
def bad_files(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of every test and more, in one folder: bad input changes none of them."""
    folder = tmp_path_factory.mktemp("bad")
    shutil.copytree(files, folder, dirs_exist_ok=True)
    user = np.load(folder / "user.npy")
    np.savez(folder / "one.npz", user=user)
    np.savez(folder / "twice.npz", **{"user": user, "user.weight": user})
    for name, dims in {"wide": {"user": 4, "item": 5}, "lone": {"user": 4}}.items():
        matrices = {field: np.eye(dim) for field, dim in dims.items()}
        metrics = saec.LossMetrics(matrices, 10, dict.fromkeys(dims, 0.1))
        saec.save_metrics(metrics, folder / f"{name}.safetensors")
    np.save(folder / "short.npy", np.ones(3))
    np.save(folder / "f64.npy", np.ones((3, 2)))
    (folder / "cut.npz").write_bytes((folder / "both.npz").read_bytes()[:500])
    (folder / "notes.json").write_text("{}")
    log = pa.table({"u": np.arange(600), "i": np.arange(600) // 2})
    pq.write_table(log, folder / "log.parquet")
    (folder / "logs").mkdir()
    (folder / "logs" / "train.log").touch()
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    bad_files: Path,
    run: Run,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(bad_files)
    before = contents(bad_files)
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("saec: ")
    assert message in err
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert contents(bad_files) == before


def test_an_interrupt_is_exit_code_130(
    artifact: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(io.StringIO):
        def read(self, size: int | None = -1) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Interrupted())
    assert run("lookup", artifact, "user", "-") == (130, "", "")


def test_as_a_process(artifact: Path) -> None:
    good = process("lookup", artifact, "user", "-", input="1\n2\n")
    assert (good.returncode, good.stderr, good.stdout.count("\n")) == (0, "", 2)
    bad = process("info", "no.saec")
    assert (bad.returncode, bad.stdout, bad.stderr) == (2, "", "saec: no.saec: no such file\n")


def test_a_closed_pipe_gives_no_traceback(artifact: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed:  # noqa: PTH123 (a descriptor, not a path)
        left = process(
            "info", artifact, capture_output=False, stdout=closed, stderr=subprocess.PIPE
        )
    assert (left.returncode, left.stderr) == (1, "")


def test_help_and_version_load_nothing_heavy() -> None:
    script = (
        "import sys; from saec.cli import main; main(['compress', '--help']); main(['--version']);"
        "print({'torch', 'polars', 'matplotlib', 'jinja2', 'sklearn'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "Usage: saec compress" in shown.stdout
    assert shown.stdout.endswith(f"saec {saec.__version__}\nset()\n")


def test_without_a_command_it_shows_help(run: Run) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    assert "compress  Compress the tables of a checkpoint to a budget." in out


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small click log in Criteo's format."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("criteo") / "train.txt"
    features = rng.zipf(1.3, (300, 26)) % 200
    labels = rng.random(300) < np.where(features[:, 0] % 2, 0.2, 0.6)
    counts = rng.integers(0, 9, (300, 13))
    with path.open("w") as file:
        for label, row, feature in zip(labels, counts, features, strict=True):
            words = [int(label), *row, *(f"{value:08x}" for value in feature)]
            file.write("\t".join(map(str, words)) + "\n")
    return path


def test_bench_and_report(clicks: Path, tmp_path: Path, run: Run) -> None:
    results, page = tmp_path / "results.json", tmp_path / "report.html"
    code, out, err = run(
        *("bench", "criteo", "--path", clicks, "--methods", "saec,saec+finetune"),
        *("--ratios", "1.5", "--seeds", "0,1", "--dim", "4", "--json", results),
    )
    assert code == 0, err
    rows = json.loads(results.read_text())["rows"]
    assert len(rows) == 2 * 2
    assert {row["seed"] for row in rows} == {0, 1}
    assert all(row["ratio"] >= row["target_ratio"] for row in rows)
    assert [row["finetuned"] for row in rows] == [False, True, False, True]
    told, table = err.splitlines(), out.splitlines()
    assert len(told) == len(rows)
    assert told[0].startswith("seed 0: saec at ratio 1.")
    assert table[0].strip() == "criteo, deepfm, dim 4"
    starts = ["uncompressed", "saec", "saec, fine-tuned"]
    assert [line[: len(s)] for line, s in zip(table[2:], starts, strict=True)] == starts
    assert "±" in table[3]
    assert run("report", results, "-o", page, "--quiet") == (0, "", "")
    assert "criteo, deepfm, dim 4" in page.read_text()


DOCS = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
DOCS_ROWS = 1000


def write_sources(table: np.ndarray, counts: np.ndarray) -> None:
    """The tables "user" and "item" in the places that the document names."""
    for folder in ("tables", "counts", "sharded", "features", "features/user", "log"):
        Path(folder).mkdir()
    halves = {0: slice(0, 400), 1: slice(400, DOCS_ROWS)}
    files = {number: f"model-{number}.safetensors" for number in halves}
    places = {"item.weight": files[1]}
    for number, rows in halves.items():
        np.save(f"tables/user-{number}.npy", table[rows])
        np.save(f"counts/user-{number}.npy", counts[rows])
        name = f"user-{number}-of-2"
        places[name] = files[number]
        save_file({name: table[rows], "item.weight": table}, f"sharded/{files[number]}")
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(table[rows].reshape(-1)), 16)
        feature = pa.table(
            {"id": np.arange(DOCS_ROWS)[rows], "frequency": counts[rows], "vector": vectors}
        )
        pq.write_table(feature, f"features/user/part-{number}.parquet")
        ids = np.arange(DOCS_ROWS)
        pq.write_table(
            pa.table({"user_id": ids, "items": [[i] for i in ids]}), f"log/{number}.parquet"
        )
    index = json.dumps({"weight_map": places})
    Path("sharded/model.safetensors.index.json").write_text(index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that there is but one process
        model = {"user.weight": torch.from_numpy(table), "item.weight": torch.from_numpy(table)}
        dcp.save({"model": model, "optimizer": {"step": 3}}, checkpoint_id="step-1000")


def write_onnx(table: np.ndarray) -> None:
    """A model with the same two tables."""
    names = ("user", "item")
    nodes = [helper.make_node("Gather", [f"{name}.weight", name], [f"{name}s"]) for name in names]
    graph = helper.make_graph(
        nodes,
        "clicks",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n"]) for name in names],
        [helper.make_tensor_value_info(f"{name}s", TensorProto.FLOAT, ["n", 16]) for name in names],
        [numpy_helper.from_array(table, f"{name}.weight") for name in names],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), "clicks.onnx")


@pytest.mark.exhaustive
def test_the_commands_of_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = torch.randn(DOCS_ROWS, 16)
    counts = DOCS_ROWS / np.arange(1, DOCS_ROWS + 1)
    torch.save({"user.weight": table, "item.weight": table, "mlp.weight": table[:8]}, "model.pt")
    np.savez("counts.npz", user=counts, item=counts)
    metrics = saec.LossMetrics(
        {"user": np.eye(16), "item": np.eye(16)}, 1000, {"user": 0.1, "item": 0.1}
    )
    saec.save_metrics(metrics, "metrics.safetensors")
    write_sources(table.numpy(), counts)
    write_onnx(table.numpy())
    keys = ["alice", "bob", *map(str, range(2, DOCS_ROWS))]
    keyed = saec.Field("user", table.numpy(), counts, keys=keys)
    saec.compress([keyed], saec.Ratio(4), progress=False).save("keyed.saec")
    blocks = re.findall(r"```sh\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    # The others take minutes, data sets or their results, or do not end; days have their own test.
    others = r"saec (demo|bench|report|serve)\b|day[12]\."
    quick = [line for line in lines if not re.search(others, line)]
    assert len(quick) == len(lines) - 12 == 16
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    for line in quick:
        if "|" in line:
            subprocess.run(line, shell=True, check=True, env=environment, capture_output=True)
        else:
            assert main(shlex.split(line)[1:]) == 0
    assert np.load("rows.npy").shape == (3, 16)


def test_stdout_is_closed_or_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "t.npz", clé=np.eye(30, 4, dtype=np.float32))
    np.savez(tmp_path / "c.npz", clé=np.ones(30))
    files = [str(tmp_path / name) for name in ("t.npz", "c.npz", "a.saec")]
    counted = [files[0], "--frequencies", files[1], "--ratio", "1.5"]
    for verb, *words in (
        ["compress", *counted, "--out", files[2]],
        ["inspect", *counted],
        ["info", files[2]],
        ["info", files[2], "--json"],
        ["lookup", files[2], "clé", "0"],
        ["--help"],
    ):
        written = io.BytesIO()
        for stdout in (None, io.TextIOWrapper(written, encoding="ascii")):
            monkeypatch.setattr(sys, "stdout", stdout)
            assert main([verb, *words]) == 0
            sys.stdout.flush()
        named = verb in ("compress", "inspect", "info") and "--json" not in words
        assert (b"cl\\xe9" in written.getvalue()) == named
