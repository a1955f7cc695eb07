"""``saec info`` and ``saec lookup``, end to end on small files."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from artifact_files import save_in_shards

import saec

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tiered(folder: Path, run: Run) -> Path:
    """Two fields on axes, saved."""
    words = ("compress", "both.npz", "--frequencies", "counts.npz", "--ratio", 8, "--quiet")
    assert run(*words, "--metrics", "metrics.safetensors", "-o", "tiered.saec") == (0, "", "")
    return folder / "tiered.saec"


def test_info(artifact: Path, run: Run) -> None:
    result = saec.load(artifact)
    code, out, err = run("info", artifact)
    assert (code, err) == (0, "")
    user = out.splitlines()[2].split()
    clusters = result["user"].tensors["codebook"].shape[0]
    assert user[:5] == ["user", "600", "4", str(clusters), "clusters"]
    assert out.splitlines()[-1] == "format 3"


def test_info_as_json(artifact: Path, run: Run) -> None:
    result = saec.load(artifact)
    described = json.loads(run("info", artifact, "--json", "--quiet")[1])
    assert described["nbytes"] == artifact.stat().st_size
    assert described["original_nbytes"] == 900 * 4 * 4
    assert described["compression_ratio"] == result.compression_ratio
    assert described["format"] == 3
    user, item = described["fields"]
    assert (user["name"], user["vocab_size"], user["dim"]) == ("user", 600, 4)
    assert (item["name"], item["codec"], item["dtype"]) == ("item", "clusters", "float32")
    assert user["nbytes"] == result["user"].nbytes
    assert 2 ** (user["code_bits"] - 1) < user["clusters"] <= 2 ** user["code_bits"]


def test_info_on_shards(artifact: Path, run: Run) -> None:
    save_in_shards(saec.load(artifact), Path("many.saec"), roles=("codes",))
    code, out, err = run("info", "many.saec")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "format 3, shards: 2"
    described = json.loads(run("info", "many.saec", "--json")[1])
    assert described["shards"] == 2
    assert described["nbytes"] == sum(path.stat().st_size for path in Path().glob("many.saec*"))
    assert json.loads(run("info", artifact, "--json")[1])["shards"] == 0


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


def test_info_shows_tiers_and_the_prediction(tiered: Path, run: Run) -> None:
    result = saec.load(tiered)
    code, out, err = run("info", tiered)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    user = next(line for line in lines if line[:2] == ["user", "600"])
    assert user[4] == "axes"
    layout = result["user"].layout
    first = next(line for line in lines if line[:3] == ["user", "0", "64"])
    assert first[3] == str(sum(layout.widths(0)))
    assert first[4:] == layout.texts[0].split()
    assert [line[:2] for line in lines].count(["1", "192"]) == 2  # of both fields
    loss = result.predicted_loss_increase
    assert lines[-2] == f"predicted log-loss increase {loss:.2g} nats".split()


def test_info_of_tiers_as_json(tiered: Path, run: Run) -> None:
    result = saec.load(tiered)
    described = json.loads(run("info", tiered, "--json")[1])
    assert described["predicted_loss_increase"] == result.predicted_loss_increase
    assert described["fields"][0]["tiers"] == result["user"].layout.texts


def test_info_names_the_fields_that_take_new_ids(tiered: Path, run: Run) -> None:
    assert "renumbered" not in run("info", tiered)[1]
    assert "renumbered" not in json.loads(run("info", tiered, "--json")[1])["fields"][0]
    mixed = np.random.default_rng(0).permutation(np.load("counts.npy"))
    np.savez("mixed.npz", user=mixed, item=np.load("counts.npz")["item"])
    words = ("compress", "both.npz", "--frequencies", "mixed.npz", "--ratio", 8, "--quiet")
    options = ("--metrics", "metrics.safetensors", "--order", "frequency", "-o", "new.saec")
    assert run(*words, *options) == (0, "", "")
    line = "renumbered, takes new ids: user (old ids: {}beside the artifact)\n"
    assert line.format("") in run("info", "new.saec")[1]
    Path("new.saec.permutation.safetensors").unlink()
    assert line.format("missing ") in run("info", "new.saec")[1]
    user, item = json.loads(run("info", "new.saec", "--json")[1])["fields"]
    assert user["renumbered"] is True
    assert "renumbered" not in item


def test_info_of_a_tier_without_bits(folder: Path, run: Run) -> None:
    table = np.random.default_rng(0).standard_normal((5000, 2), dtype=np.float32)
    field = saec.Field("f", table, 1000 // np.arange(1, 5001) ** 2 + 1e-9)
    metrics = {"f": np.eye(2)}
    result = saec.compress([field], saec.Ratio(110), metrics=metrics, progress=False)
    result.save("f.saec")
    assert "" in result["f"].layout.texts
    assert re.search(r" 0  mean", run("info", "f.saec")[1])
