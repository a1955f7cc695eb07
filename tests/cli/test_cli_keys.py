"""``saec info`` and ``saec lookup`` of fields with keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import saec

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
    assert "strings" in run("info", artifact)[1]


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
