"""``saec inspect`` and ``saec forecast``, end to end on small files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import saec

Run = Callable[..., tuple[int, str, str]]

MODEL = ("both.npz", "--frequencies", "counts.npz")
METRICS = ("--metrics", "metrics.safetensors")


@pytest.fixture
def fields(folder: Path) -> list[saec.Field]:
    """The fields of the files."""
    tables, counts = np.load("both.npz"), np.load("counts.npz")
    return [saec.Field(name, tables[name], counts[name]) for name in ("user", "item")]


def test_forecast_prints_some_points_of_the_curve(fields: list[saec.Field], run: Run) -> None:
    code, out, err = run("forecast", *MODEL, *METRICS)
    assert (code, err) == (0, "")
    curve = saec.forecast(fields, saec.load_metrics("metrics.safetensors"), progress=False)
    assert "predicted to second order" in out.splitlines()[-1]
    lines = [line.split() for line in out.splitlines()[2:-1]]
    assert len(lines) == 12
    assert lines[0][0] == f"{curve.ratios[0]:.1f}"
    assert lines[-1][0] == f"{curve.ratios[-1]:.1f}"
    assert [float(word) for word in lines[0][-3:]] == pytest.approx(
        [curve.loss_increases[0], curve.low[0], curve.high[0]], rel=0.05
    )
    losses = [float(line[-3]) for line in lines]
    assert losses == sorted(losses, reverse=True)


def test_forecast_writes_the_curve(fields: list[saec.Field], run: Run) -> None:
    code, out, err = run("forecast", *MODEL, *METRICS, "--json", "f.json", "--svg", "f.svg")
    assert (code, err) == (0, "")
    assert out.endswith("wrote f.json\nwrote f.svg\n")
    written = json.loads(Path("f.json").read_text())
    curve = saec.forecast(fields, saec.load_metrics("metrics.safetensors"), progress=False)
    assert written["points"] == list(curve.rows())
    assert written["fields"]["item"] == curve.fields["item"].tolist()
    texts = [element.text for element in ElementTree.parse("f.svg").iter() if element.text]
    for text in ("predicted", "two standard errors", "compression ratio", "20"):
        assert text in texts
    assert run("forecast", *MODEL, *METRICS, "--svg", "f.svg", "--quiet") == (0, "", "")


@pytest.mark.exhaustive
def test_forecast_of_tables_with_keys(fields: list[saec.Field], run: Run) -> None:
    user, item = fields
    keys = 7 * np.arange(len(user.weights)) - 3
    np.save("keys.npy", keys)
    words = ("forecast", *MODEL, *METRICS, "--keys", "user=keys.npy", "--json", "f.json")
    assert run(*words)[0] == 0
    keyed = saec.Field("user", user.weights, user.frequencies, keys=keys)
    metrics = saec.load_metrics("metrics.safetensors")
    points = json.loads(Path("f.json").read_text())["points"]
    assert points == list(saec.forecast([keyed, item], metrics, progress=False).rows())
    assert points != list(saec.forecast(fields, metrics, progress=False).rows())


NEAR = 1e-4  # nats


def test_forecast_of_renumbered_features(fields: list[saec.Field], run: Run) -> None:
    rng = np.random.default_rng(0)
    counts = {field.name: rng.permutation(field.frequencies) for field in fields}
    np.savez("counts.npz", **counts)
    sizes = {}
    for order in ("keep", "frequency", "code"):
        assert run("forecast", *MODEL, *METRICS, "--order", order, "--json", "f.json")[0] == 0
        points = json.loads(Path("f.json").read_text())["points"]
        near = [one["nbytes"] for one in points if one["predicted_loss_increase"] <= NEAR]
        sizes[order] = min(near)
    assert sizes["frequency"] < sizes["keep"]
    assert sizes["code"] < sizes["keep"]


def test_forecast_of_one_table(folder: Path, run: Run) -> None:
    words = ("--only", "item", "--json", "f.json", "--quiet")
    assert run("forecast", *MODEL, *METRICS, *words) == (0, "", "")
    assert list(json.loads(Path("f.json").read_text())["fields"]) == ["item"]


def test_inspect_in_the_loss_metric(fields: list[saec.Field], run: Run) -> None:
    code, out, err = run("inspect", *MODEL, *METRICS, "--ratio", 12)
    assert (code, err) == (0, "")
    metrics = saec.load_metrics("metrics.safetensors")
    inspection = saec.inspect(fields, metrics, 12, progress=False)
    lines = out.splitlines()
    user = inspection.fields[0]
    words = next(line for line in lines if line.startswith("user")).split()
    assert words[:3] == ["user", "600", "4"]
    assert f"{100 * user.rows_once:.1f}" in words
    assert words.index(f"{user.directions:.2f}") > words.index("%")
    assert words[-1] == f"{user.planned_bits_per_feature:.2f}"
    assert lines[-2] == "directions: effective number in the loss metric"
    assert f"ratio {inspection.planned_ratio:.1f}, predicted log-loss increase" in lines[-1]


def test_inspect_without_metrics_says_so(folder: Path, run: Run) -> None:
    code, out, err = run("inspect", *MODEL, "--ratio", 5, "--quiet")
    assert (code, err) == (0, "")
    assert "directions: effective number in Euclidean distance" in out
    assert "predicted" not in out
