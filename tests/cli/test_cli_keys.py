"""``saec info`` and ``saec lookup`` of fields with keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import saec

pytestmark = pytest.mark.usefixtures("coarse_prices")

Run = Callable[..., tuple[int, str, str]]

ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)
NAMES = ["alice", "bob", "carol", "dan", "eve", "frank"]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "model.saec"
    fields = [
        saec.Field("user", ROWS, np.ones(6), keys=NAMES),
        saec.Field("item", ROWS, np.ones(6), keys=np.arange(-3, 3)),
        saec.Field("plain", ROWS, np.ones(6)),
    ]
    saec.compress(fields, saec.MaxBytes(3000), progress=False).save(path)
    return path


def test_rows_by_keys(artifact: Path, run: Run) -> None:
    rows = saec.load(artifact)["user"].lookup(["bob", "alice"])
    lines = run("lookup", artifact, "user", "--key", "bob", "--key", "alice")[1].splitlines()
    assert np.array_equal(np.array([line.split() for line in lines], np.float32), rows)
    told = json.loads(run("lookup", artifact, "item", "--key=-3", "--json")[1])
    assert told["keys"] == [-3]
    assert np.array_equal(
        np.array(told["rows"], np.float32), saec.load(artifact)["item"].lookup([-3])
    )


def test_info_shows_the_bill(artifact: Path, run: Run) -> None:
    fields = json.loads(run("info", artifact, "--json")[1])["fields"]
    user = next(field for field in fields if field["name"] == "user")
    assert user["keys"] == "strings"
    assert sum(user["bill"].values()) == user["nbytes"]
    assert user["original_nbytes"] == ROWS.nbytes + 6 * 8
    assert "fingerprints" in run("info", artifact)[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("user", "0"), "has keys: give --key"),
        (("plain", "--key", "0"), "has ids: give row numbers"),
        (("plain",), "has ids: give row numbers"),
        (("item", "--key", "x"), "its keys are whole numbers"),
    ],
)
def test_ids_and_keys_are_not_mixed(
    artifact: Path, run: Run, words: tuple[str, ...], message: str
) -> None:
    code, out, err = run("lookup", artifact, *words)
    assert code != 0
    assert message in " ".join(err.split())
    assert out == ""


def test_keys_from_files_and_columns(tmp_path: Path, run: Run) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    np.savez(tmp_path / "tables.npz", user=ROWS, item=ROWS[:4])
    np.savez(tmp_path / "counts.npz", user=np.ones(6), item=np.ones(4))
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    np.save(tmp_path / "items.npy", np.array([5, -6, 7, 8]))
    out = tmp_path / "model.saec"
    common = (tmp_path / "tables.npz", "--frequencies", tmp_path / "counts.npz", "-o", out)
    keys = ("--keys", f"user={tmp_path / 'names.txt'}", "--keys", f"item={tmp_path / 'items.npy'}")
    code, told, err = run("compress", *common, *keys, "--max-bytes", "3kB")
    assert code == 0, err
    assert "fingerprints" in told
    result = saec.load(out)
    assert np.allclose(result["user"].lookup(NAMES), ROWS, atol=0.1)
    assert np.allclose(result["item"].lookup([5, -6, 7, 8]), ROWS[:4], atol=0.1)

    columns = {
        "vector": pa.array(ROWS.tolist(), pa.list_(pa.float32())),
        "frequency": np.ones(6),
        "name": NAMES,
    }
    pq.write_table(pa.table(columns), tmp_path / "user.parquet")
    again = tmp_path / "again.saec"
    words = ("compress", tmp_path / "user.parquet", "-o", again, "--max-bytes", "3kB")
    code, _, err = run(*words, "--key", "name", "-q")
    assert code == 0, err
    assert np.allclose(saec.load(again)["user"].lookup(NAMES), ROWS, atol=0.1)
    pq.write_table(pa.table({"user": [*NAMES, *NAMES, "zoe"]}), tmp_path / "log.parquet")
    log = ("--log", tmp_path / "log.parquet", "--column", "user=user")
    assert run(*words, "--keys", tmp_path / "names.txt", *log, "-q")[0] == 0
    assert np.allclose(saec.load(again)["user"].lookup(NAMES), ROWS, atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--keys", "names.txt"), "name the table of these keys; there are user, item"),
        (("--keys", "users=names.txt"), "no tables for keys users; there are user, item"),
        (("--keys", "user=names.csv"), "keys are read from .npy, .txt and .parquet files"),
        (("--keys", "user=floats.npy"), "keys are integers (n,), not float64"),
        (("--keys", "user=few.txt"), "weights have 6 rows, keys 2"),
        (("--keys", "user=twice.txt"), "key b'a' stands at rows 0 and 1"),
        (("--keys", "user=missing.npy"), "missing.npy"),
        (("--key", "user=name"), "is no Parquet table, and has no column 'name' of keys"),
        (("--key", "user="), "give [FIELD=]VALUE"),
    ],
)
def test_keys_that_cannot_be_read(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, options: tuple[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("tables.npz", user=ROWS, item=ROWS)
    np.savez("counts.npz", user=np.ones(6), item=np.ones(6))
    np.save("floats.npy", np.ones(6))
    Path("names.txt").write_text("\n".join(NAMES))
    Path("few.txt").write_text("a\nb\n")
    Path("twice.txt").write_text("a\na\nb\nc\nd\ne")
    words = ("tables.npz", "--frequencies", "counts.npz", "-o", "m.saec", "--ratio", "2")
    code, _, err = run("compress", *words, *options)
    assert code != 0
    assert message in " ".join(err.replace("│", " ").split())
    assert not Path("m.saec").exists()


def test_words_to_rows_in_two_commands(tmp_path: Path, run: Run) -> None:
    lines = [
        f"{name} {' '.join(map(str, row + 1))}\n" for name, row in zip(NAMES, ROWS, strict=True)
    ]
    (tmp_path / "glove.txt").write_text("".join(lines))
    out = tmp_path / "words.saec"
    assert (
        run("compress", tmp_path / "glove.txt", "-o", out, "--max-bytes", "2kB", "--cosine")[0] == 0
    )
    told = run("lookup", out, "glove", "--key", "carol")[1].split()
    row = ROWS[2] + 1
    assert np.allclose(np.array(told, np.float32), row / np.linalg.norm(row), atol=0.02)
