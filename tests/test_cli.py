"""The command line, end to end on small files."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

import saec
from saec.cli import main

ROWS, DIM = 600, 4
RNG = np.random.default_rng(7)
USER = RNG.normal(size=(ROWS, DIM)).astype(np.float32)
ITEM = RNG.normal(size=(ROWS // 2, DIM)).astype(np.float32)
USER_COUNTS = 1000 // np.arange(1, ROWS + 1)
ITEM_COUNTS = 1000 / np.arange(1, ROWS // 2 + 1)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    yield
    logging.getLogger("saec").setLevel(logging.NOTSET)  # --quiet raises it


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line here: exit code, stdout, stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with tables and frequencies in every kind of file."""
    monkeypatch.chdir(tmp_path)
    np.save("user.npy", USER)
    np.savez("both.npz", user=USER, item=ITEM)
    safetensors.numpy.save_file({"user": USER, "item": ITEM}, "both.safetensors")
    state = {
        "user.weight": torch.from_numpy(USER),
        "item.weight": torch.from_numpy(ITEM),
        "mlp.0.weight": torch.ones(3, 2 * DIM),
        "mlp.0.bias": torch.ones(3),
    }
    torch.save(state, "model.pt")
    np.save("counts.npy", USER_COUNTS)
    np.savez("counts.npz", user=USER_COUNTS, item=ITEM_COUNTS)
    return tmp_path


@pytest.fixture
def artifact(folder: Path) -> Path:
    """Two compressed fields, saved."""
    fields = [saec.Field("user", USER, USER_COUNTS), saec.Field("item", ITEM, ITEM_COUNTS)]
    path = folder / "both.saec"
    saec.compress(fields, saec.Ratio(4), progress=False).save(path)
    return path


def process(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads would only wait for each other
    return subprocess.run(
        [sys.executable, "-m", "saec", *map(str, words)],
        **{"capture_output": True, "text": True, "env": environment, **options},
    )


@pytest.mark.parametrize(
    ("checkpoint", "counts", "options", "names"),
    [
        ("user.npy", "counts.npy", [], ["user"]),
        ("both.npz", "counts.npz", [], ["user", "item"]),
        ("both.safetensors", "counts.npz", [], ["user", "item"]),
        ("model.pt", "counts.npz", ["--only", "user", "--only", "item"], ["user", "item"]),
        ("model.pt", "counts.npz", ["--only", "*er.weight"], ["user"]),
        ("both.npz", "counts.npy", ["--only", "user"], ["user"]),
    ],
)
def test_compress_every_kind_of_checkpoint(
    folder: Path, run: Run, checkpoint: str, counts: str, options: list[str], names: list[str]
) -> None:
    code, out, err = run(
        *("compress", checkpoint, "--frequencies", counts, "--ratio", 4, "-o", "small.saec"),
        *options,
    )
    assert (code, err) == (0, "")
    result = saec.load("small.saec")
    assert sorted(result) == sorted(names)
    assert result.compression_ratio >= 4
    assert Path("small.saec").stat().st_size == result.nbytes
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [*result, "file", "wrote"]
    assert f"{result.compression_ratio:.1f}" == lines[-2].split()[-1]


def test_compress_gives_what_the_library_gives(folder: Path, run: Run, artifact: Path) -> None:
    run("compress", "both.npz", "--frequencies", "counts.npz", "--ratio", 4, "-o", "small.saec")
    assert Path("small.saec").read_bytes() == artifact.read_bytes()


@pytest.mark.parametrize(
    ("budget", "limit"),
    [(["--max-bytes", "2.5kB"], 2500), (["--bits-per-feature", 20], ROWS * 20 // 8)],
)
def test_compress_keeps_within_other_budgets(
    folder: Path, run: Run, budget: list[object], limit: int
) -> None:
    words = ("compress", "user.npy", "--frequencies", "counts.npy", "-o", "small.saec")
    assert run(*words, *budget, "--quiet") == (0, "", "")
    assert limit / 2 < Path("small.saec").stat().st_size <= limit


def test_compress_stores_the_codebook_as_told(folder: Path, run: Run) -> None:
    words = ("compress", "user.npy", "--frequencies", "counts.npy", "--ratio", 4)
    run(*words, "-o", "small.saec", "--codebook", "float16", "--seed", 3)
    field = saec.load("small.saec")["user"]
    assert field.tensors["codebook"].dtype == np.float16


def test_a_compressed_state_dict_goes_into_its_model(folder: Path, run: Run) -> None:
    import saec.torch

    model = torch.nn.ModuleDict({"user": torch.nn.Embedding(ROWS, DIM)})
    torch.save(model.state_dict(), "embeddings.pt")
    words = ("compress", "embeddings.pt", "--frequencies", "counts.npy", "--ratio", 4)
    assert run(*words, "-o", "small.saec")[0] == 0
    result = saec.load("small.saec")
    saec.torch.replace_embeddings_(model, result)
    rows = model["user"](torch.arange(3)).detach().numpy()
    assert np.array_equal(rows, result["user"].lookup([0, 1, 2]))


def test_info(artifact: Path, run: Run) -> None:
    result = saec.load(artifact)
    code, out, err = run("info", artifact)
    assert (code, err) == (0, "")
    user = out.splitlines()[2].split()
    clusters = result["user"].tensors["codebook"].shape[0]
    assert user[:5] == ["user", "600", "4", str(clusters), "clusters"]
    assert out.splitlines()[-1] == "format 1"


def test_info_as_json(artifact: Path, run: Run) -> None:
    result = saec.load(artifact)
    described = json.loads(run("info", artifact, "--json", "--quiet")[1])
    assert described["nbytes"] == artifact.stat().st_size
    assert described["original_nbytes"] == USER.nbytes + ITEM.nbytes
    assert described["compression_ratio"] == result.compression_ratio
    assert described["format"] == 1
    user, item = described["fields"]
    assert (user["name"], user["vocab_size"], user["dim"]) == ("user", ROWS, DIM)
    assert (item["name"], item["codec"], item["dtype"]) == ("item", "clusters", "float32")
    assert user["nbytes"] == result["user"].nbytes
    assert 2 ** (user["code_bits"] - 1) < user["clusters"] <= 2 ** user["code_bits"]


def test_info_shows_a_table_kept_as_it_is(folder: Path, run: Run) -> None:
    tiny = saec.Field("[red]tiny", np.ones((1, 2), np.float32), np.ones(1))
    saec.compress([tiny], saec.MaxBytes(10_000), progress=False).save("tiny.saec")
    assert run("info", "tiny.saec")[1].splitlines()[2].split()[:4] == ["[red]tiny", "1", "2", "raw"]
    assert "clusters" not in json.loads(run("info", "tiny.saec", "--json")[1])["fields"][0]


def test_lookup_as_text_gives_every_digit(artifact: Path, run: Run) -> None:
    code, out, err = run("lookup", artifact, "user", 5, 0, 5)
    rows = np.array([line.split(" ") for line in out.splitlines()], dtype=np.float32)
    assert np.array_equal(rows, saec.load(artifact)["user"].lookup([5, 0, 5]))
    assert (code, err) == (0, "")


def test_lookup_as_json_gives_every_digit(artifact: Path, run: Run) -> None:
    answer = json.loads(run("lookup", artifact, "item", 2, 1, "--json")[1])
    assert (answer["field"], answer["ids"]) == ("item", [2, 1])
    rows = np.array(answer["rows"], dtype=np.float32)
    assert np.array_equal(rows, saec.load(artifact)["item"].lookup([2, 1]))


def test_lookup_of_ids_on_stdin_into_a_file(
    artifact: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("4 5\n6\n"))
    code, out, err = run("lookup", artifact, "user", 3, "-", 7, "-o", "rows.npy")
    assert (code, out, err) == (0, "wrote rows.npy: 5 x 4 float32\n", "")
    rows = np.load("rows.npy")
    assert rows.dtype == np.float32
    assert np.array_equal(rows, saec.load(artifact)["user"].lookup([3, 4, 5, 6, 7]))
    assert run("lookup", artifact, "user", 3, "-o", "rows.npy", "--quiet") == (0, "", "")


def test_lookup_of_no_ids(artifact: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run("lookup", artifact, "user", "-") == (0, "", "")


def compressing(*words: str) -> list[str]:
    return ["compress", "both.npz", "--frequencies", "counts.npz", "-o", "small.saec", *words]


BAD = {
    "no budget": (compressing(), "give one of --ratio, --max-bytes and --bits-per-feature"),
    "two budgets": (compressing("--ratio", "4", "--max-bytes", "9"), "give one of --ratio"),
    "ratio below 1": (compressing("--ratio", "0.5"), "a ratio must be a number of at least 1"),
    "no ratio": (compressing("--ratio", "x"), "Invalid value for '--ratio'"),
    "size": (compressing("--max-bytes", "1 mile"), "cannot read '1 mile' as a size"),
    "impossible": (compressing("--ratio", "9999"), "the smallest possible is"),
    "codebook": (compressing("--ratio", "4", "--codebook", "int3"), "'int3' is not one of"),
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
        "no tables for frequencies item, but user",
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
    "missing option": (["compress", "both.npz"], "Missing option '--frequencies'."),
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
    "seeds": (["bench", "simulated", "--seeds", "0,x"], "--seeds takes numbers apart by commas"),
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


@pytest.fixture
def bad_folder(folder: Path, artifact: Path) -> Path:
    np.savez("one.npz", user=USER)
    np.savez("twice.npz", **{"user": USER, "user.weight": USER})
    np.save("short.npy", np.ones(3))
    np.save("f64.npy", np.ones((3, 2)))
    Path("cut.npz").write_bytes(Path("both.npz").read_bytes()[:500])
    Path("notes.json").write_text("{}")
    return folder


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    bad_folder: Path, run: Run, words: list[str], message: str
) -> None:
    before = {path: path.read_bytes() for path in bad_folder.iterdir()}
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("saec: ")
    assert message in err
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in bad_folder.iterdir()} == before


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


def test_a_reader_who_leaves_early_is_no_traceback(artifact: Path) -> None:
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
    features = rng.zipf(1.3, (600, 26)) % 200
    labels = rng.random(600) < np.where(features[:, 0] % 2, 0.2, 0.6)
    counts = rng.integers(0, 9, (600, 13))
    with path.open("w") as file:
        for label, row, feature in zip(labels, counts, features, strict=True):
            words = [int(label), *row, *(f"{value:08x}" for value in feature)]
            file.write("\t".join(map(str, words)) + "\n")
    return path


def test_bench_and_report(clicks: Path, tmp_path: Path, run: Run) -> None:
    results, page = tmp_path / "results.json", tmp_path / "report.html"
    done = process(
        *("bench", "criteo", "--path", clicks, "--methods", "saec", "--ratios", "1.5,2"),
        *("--seeds", "0,1", "--dim", "8", "--json", results),
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(results.read_text())["rows"]
    assert len(rows) == 2 * 2 * 2
    assert {row["seed"] for row in rows} == {0, 1}
    assert all(row["ratio"] >= row["target_ratio"] for row in rows)
    assert [row["finetuned"] for row in rows[:4]] == [False, True, False, True]
    told, table = done.stderr.splitlines(), done.stdout.splitlines()
    assert len(told) == len(rows)
    assert told[0].startswith("seed 0: saec at ratio 1.")
    assert table[0].strip() == "criteo, deepfm, dim 8"
    starts = ["uncompressed", "saec", "saec, fine-tuned", "saec", "saec, fine-tuned"]
    assert [line[: len(s)] for line, s in zip(table[2:], starts, strict=True)] == starts
    assert "±" in table[3]
    assert run("report", results, "-o", page, "--quiet") == (0, "", "")
    assert "criteo, deepfm, dim 8" in page.read_text()


DOCS = Path(__file__).resolve().parents[1] / "docs" / "cli.md"


def test_the_commands_of_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table, counts = torch.randn(3000, 16), 3000 / np.arange(1, 3001)
    torch.save({"user.weight": table, "item.weight": table, "mlp.weight": table[:8]}, "model.pt")
    np.savez("counts.npz", user=counts, item=counts)
    blocks = re.findall(r"```sh\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    # The others take minutes, data sets or their results.
    quick = [line for line in lines if re.search(r"saec (compress|info|lookup) ", line)]
    assert len(quick) == len(lines) - 3 == 6
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    for line in quick:
        subprocess.run(line, shell=True, check=True, env=environment, capture_output=True)
    assert np.load("rows.npy").shape == (3, 16)
