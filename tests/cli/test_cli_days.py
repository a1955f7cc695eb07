"""``saec update`` and ``saec compact``, and patches in ``saec info`` and ``saec lookup``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from daily_tables import METRIC, METRICS, Day
from pyarrow import parquet as pq

import saec

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"

Run = Callable[..., tuple[int, str, str]]

DAYS = [Day.first(600)]
DAYS.append(DAYS[0].next(1, 40, 50))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, coarse_prices: None) -> Path:
    """base.saec, and the next day's table, keys, counts and metrics in files."""
    folder = tmp_path_factory.mktemp("days")
    base = saec.compress(
        [DAYS[0].field(unseen=None, unseen_share=None)],
        saec.Ratio(8),
        metrics=METRICS,
        progress=False,
    )
    base.save(folder / "base.saec")
    np.savez(folder / "tables.npz", user=DAYS[1].weights)
    np.savez(folder / "counts.npz", user=DAYS[1].frequencies)
    np.save(folder / "keys.npy", DAYS[1].keys)
    np.save(folder / "gone.npy", DAYS[0].keys[:0])
    saec.save_metrics(saec.LossMetrics(METRICS, 100, {"user": 0.1}), folder / "metrics.safetensors")
    return folder


def updated(run: Run, folder: Path, out: Path, *more: object) -> tuple[int, str, str]:
    tables = ("--frequencies", folder / "counts.npz", "--keys", f"user={folder / 'keys.npy'}")
    known = ("--metrics", folder / "metrics.safetensors", "-o", out)
    return run("update", folder / "base.saec", folder / "tables.npz", *tables, *known, *more)


def test_a_day_from_update_to_compact(folder: Path, tmp_path: Path, run: Run) -> None:
    first, one, base = tmp_path / "1.patch", tmp_path / "one.saec", folder / "base.saec"
    code, told, _ = updated(run, folder, first)
    assert code == 0
    assert f"wrote {first}: " in told
    assert "compressed afresh to the" in told
    told = run("info", base, "--patch", first)[1]
    assert str(first) in told
    assert "the base's codes cost " in told
    found = json.loads(run("info", base, "--patch", first, "--json")[1])
    [patch] = found["patches"]
    assert patch["nbytes"] == first.stat().st_size
    assert found["nbytes"] == base.stat().st_size + first.stat().st_size
    key = int(DAYS[1].keys[3])
    line = run("lookup", base, "user", "--patch", first, "--key", key)[1]
    row = saec.load(base, patches=[first])["user"].lookup([key])
    assert np.array_equal(np.array([line.split()], np.float32), row)
    given = ("--patch", first, "--keys", f"user={folder / 'keys.npy'}", "-o", one)
    code, told, _ = run("compact", base, *given)
    assert code == 0
    assert told.startswith(f"wrote {one}: ")
    assert np.array_equal(saec.load(one)["user"].lookup([key]), row)


def test_the_commands_of_the_docs_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["alice", *map(str, range(len(DAYS[0].weights) - 1))]
    base = saec.Field("users", DAYS[0].weights, DAYS[0].frequencies, keys=names)
    saec.compress([base], saec.Ratio(6), metrics={"users": METRIC}, progress=False).save(
        "base.saec"
    )
    metrics = saec.LossMetrics({"users": METRIC}, 100, {"users": 0.1})
    flat = pa.array((2 * DAYS[0].weights).reshape(-1))
    rows = pa.FixedSizeListArray.from_arrays(flat, DAYS[0].weights.shape[1])
    pq.write_table(pa.table({"user_id": names, "vector": rows}), "users.parquet")
    for number in (1, 2):
        pq.write_table(pa.table({"user_id": names * number}), f"day{number}.parquet")
        saec.save_metrics(metrics, f"day{number}.metrics")
    Path("names.txt").write_text("".join(f"{name}\n" for name in names))
    text = DOCS.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("saec ") and "day1" in line]
    assert len(lines) == 5
    for line in lines:
        code, _, told = run(*shlex.split(line)[1:])
        assert code == 0, (line, told)
    patched = saec.load("base.saec", patches=["day1.patch", "day2.patch"])["users"]
    assert np.array_equal(saec.load("new.saec")["users"].lookup(names), patched.lookup(names))


@pytest.mark.exhaustive
def test_a_day_of_a_field_without_keys(folder: Path, tmp_path: Path, run: Run) -> None:
    base, first, one = (tmp_path / name for name in ("base.saec", "1.patch", "one.saec"))
    then = saec.Field("user", DAYS[0].weights, DAYS[0].frequencies)
    saec.compress([then], saec.Ratio(8), metrics=METRICS, progress=False, out=base)
    tables = (folder / "tables.npz", "--frequencies", folder / "counts.npz")
    known = ("--metrics", folder / "metrics.safetensors", "--no-compare", "-o", first)
    code, told, _ = run("update", base, *tables, *known)
    assert code == 0
    assert "; features: 50 new, " in told
    line = run("lookup", base, "user", "--patch", first, "630")[1]
    row = saec.load(base, patches=[first])["user"].lookup([630])
    assert np.array_equal(np.array([line.split()], np.float32), row)
    assert run("compact", base, "--patch", first, "-o", one)[0] == 0
    assert np.array_equal(saec.load(one)["user"].lookup([630]), row)


def test_limit_and_quiet(folder: Path, tmp_path: Path, run: Run) -> None:
    options = ("--max-bytes", "600", "--no-compare")
    assert "left out to keep the limit: " in updated(run, folder, tmp_path / "a.patch", *options)[1]
    assert (tmp_path / "a.patch").stat().st_size <= 600
    assert updated(run, folder, tmp_path / "b.patch", *options, "-q")[1] == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--removed", "x.npy"), "--removed: give FIELD=FILE"),
        (("--threshold", "-1"), "at least 0, not -1"),
        (("--patch", "missing.patch"), "missing.patch: no such file"),
    ],
)
def test_bad_options(
    folder: Path, tmp_path: Path, run: Run, words: tuple[str, ...], message: str
) -> None:
    code, _, error = updated(run, folder, tmp_path / "no.patch", *words)
    assert code == 2
    assert message in error
    assert not (tmp_path / "no.patch").exists()
