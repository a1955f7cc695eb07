"""Comparisons with other methods: points by hand, their tables, and the page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparison_runs import RUNS, Run, impossible, run
from legibility import contrast
from matplotlib.figure import Figure

from saec.errors import DataError
from saec.report import write_report
from saec.report.comparison import CLASSES, EVERY, Point, least_lead, points, with_changes
from saec.report.comparison_chart import MARKS, limits, panel
from saec.report.comparison_page import comparisons, render_comparison
from saec.report.comparison_tables import beside_rivals, class_tables, least_difference
from saec.report.drawing import INK
from saec.report.methods import METHODS, SMALL_METHODS
from saec.report.rival_runs import read_runs


def points_of(rows: list[dict[str, Any]]) -> list[Point]:
    return points(list(with_changes(rows)))


def file_of(folder: Path, *rows: Run) -> Path:
    path = folder / "runs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_validation_rows_choose_and_seeds_are_averaged() -> None:
    base, axes, hashed = points_of(RUNS)
    assert (base.method, axes.method, hashed.method) == ("float32", "axes", "hash")
    assert (hashed.mean("auc"), hashed.spread("auc")) == pytest.approx((0.75, 0.05))
    # Each seed by its own uncompressed model: 0.80 - 0.82 and 0.70 - 0.76.
    assert (hashed.mean("d_auc"), hashed.spread("d_auc")) == pytest.approx((-0.04, 0.02))
    assert (hashed.trials, axes.trials) == (2, 1)
    assert axes.mean("d_auc") == pytest.approx(-0.01)


def test_the_best_that_fits_stands_beside_the_best_rival() -> None:
    """Of 1,800 bytes: hashing takes 180; our table of 200 loses less than that of 181, but does not
    fit at ratio 10, whereas 181 bytes count as 180."""
    rows = [
        run("float32", 0, 0, 0.5, 0.82, 1800),
        run("axes", 0, 0, 0.5, 0.815, 200),
        run("saec", 0, 0, 0.5, 0.81, 181),
        run("axes-keyed", 0, 0, 0.5, 0.79, 60),
        run("hash", 0, 0, 0.5, 0.80),
    ]
    found = {row[0]: row[2:] for row in beside_rivals(points_of(rows)).rows}
    assert found["7"] == [
        "axes at 9, one seed",
        "-0.0050",
        "hash at 10, one seed",
        "-0.0200",
        "+0.0150",
    ]
    assert found["10"] == [
        "saec at 9.94, one seed",
        "-0.0100",
        "hash at 10, one seed",
        "-0.0200",
        "+0.0100",
    ]
    assert found["15"] == ["axes-keyed at 30, one seed", "-0.0300", "-", "-", "-"]
    assert found["50"] == ["-"] * 5
    told = "Least difference, here and at the sizes of rivals between: +0.0100, in 0.18 KB."
    assert least_difference(points_of(rows)) == told
    assert least_difference(points_of(rows[:-1])) == ""


def test_the_least_lead_is_at_the_size_of_a_rival_or_a_line_of_the_table() -> None:
    """In 170 bytes hashing loses 0.02, and ours only fit with a loss of 0.03: so from there to 180,
    where a table of ours is as large. In 50 bytes there are neither."""
    base = run("float32", 0, 0, 0.5, 0.82, 1800)
    ours = [run("axes", 0, 0, 0.5, 0.81, 180), run("axes-keyed", 0, 0, 0.5, 0.79, 60)]
    found = points_of([base, *ours, run("hash", 0, 0, 0.5, 0.80, 170)])
    assert least_lead(found, [50, 1000]) == pytest.approx((-0.01, 170))
    assert least_lead(found, [175, 1000]) == pytest.approx((-0.01, 175))
    assert least_lead(found, [180, 1000]) == pytest.approx((0.01, 180))
    assert least_lead(found, [50, 60]) is None
    alone = points_of([base, run("hash", 0, 0, 0.5, 0.80, 170)])
    assert least_lead(alone, [50, 1000]) == (-math.inf, 170)
    assert least_difference(alone) == "In 0.17 KB, where a rival fits, no table of ours does."


def test_the_least_difference_is_none_above_a_line() -> None:
    """A rival that is smaller than the smallest size of the table is the best one there."""
    base = run("float32", 0, 0, 0.5, 0.82, 1800)
    found = points_of([base, run("axes", 0, 0, 0.5, 0.7, 3), run("robe", 0, 0, 0.5, 0.8, 2)])
    cells = [float(row[-1]) for row in beside_rivals(found).rows if row[-1] != "-"]
    told = "Least difference, here and at the sizes of rivals between: -0.1000, in 0.0036 KB."
    assert (min(cells), least_difference(found)) == (-0.1, told)


def test_other_seeds_have_the_settings_that_the_first_one_chose() -> None:
    """Not their own best ones, which were trials of an earlier choice; of seeds without these
    settings nothing is known yet."""
    rates = {"rate": 1.0}, {"rate": 2.0}
    rows = [run("float32", seed, 0, 0.5, 0.8, 1800) for seed in range(3)]
    rows += [run("hash", 0, trial, 0.52 - trial / 100, 0.7) for trial in (0, 1)]
    rows += [run("hash", 1, trial, 0.5 + trial / 100, 0.6 + trial / 100) for trial in (0, 1)]
    rows += [run("hash", 2, 0, 0.4, 0.75)]
    for row in rows[3:]:
        row["settings"] = rates[row["trial"]]
    hashed = points_of(rows)[-1]
    assert [(one["seed"], one["auc"]) for one in hashed.runs] == [(0, 0.7), (1, 0.61)]
    assert hashed.trials == 2


def test_a_table_for_each_class_and_for_unknown_methods() -> None:
    """Methods of a later version have a class of their own."""
    first, shared, other = class_tables(points_of([*RUNS, run("new", 1, 0, 0.5, 0.75)]))
    assert (first.title, shared.title, other.title) == (
        "After training",
        "Weight sharing",
        "Other methods",
    )
    start = ["10", "10.0", "10.0", "0.18"]
    assert [row[0] for row in first.rows] == ["float32", "axes"]
    assert first.rows[1][1:] == [
        *start,
        *("0.8100", "-0.0100", "-", "+0.0000", "-", "1", "9", "1,234"),
    ]
    assert shared.rows == [
        ["hash", *start, "0.7500", "-0.0400", "0.0200", "+0.0000", "2", "2", "9", "1,234"]
    ]
    assert other.rows[0][6] == "-0.0100"


def test_what_was_not_measured_is_a_dash() -> None:
    old = {name: value for name, value in RUNS[5].items() if not name.endswith(("seconds", "ns"))}
    for run_of_axes in (old, RUNS[5] | {"train_seconds": None, "lookup_ns": None}):
        (table,) = class_tables(points_of([RUNS[0], run_of_axes]))
        assert table.rows[1][-2:] == ["-", "-"]


def test_trainings_that_failed_are_told() -> None:
    """Also that of an uncompressed model; methods of one size aim at no ratio."""
    failed = impossible("float32", "training diverged") | {"seed": 1, "target_ratio": None}
    again = impossible("qr", "too big") | {"seed": 1, "trial": None}
    diverged = impossible("hash", "diverged"), RUNS[2]  # in one trial of two
    (one,) = comparisons([RUNS[0], failed, impossible("qr", "big"), again, *diverged])
    assert one.impossible == ["float32: training diverged", "qr at 10: big"]
    assert [point.method for point in one.points] == ["float32", "hash"]
    assert one.machine == []


def test_every_method_has_a_class_a_mark_and_a_meaning() -> None:
    assert list(MARKS) == list(EVERY)
    # k-means is a control of the clustering, no method to compare with.
    known = {name for name in METHODS if "kmeans" not in name} | set(SMALL_METHODS)
    assert {"float32", *EVERY} == known
    assert sum(map(len, CLASSES.values())) == len(set(EVERY))


def test_colours_are_legible_on_both_backgrounds() -> None:
    for name, (_, colour, _) in MARKS.items():
        if colour != INK:  # which becomes that of the text
            assert min(contrast(colour, paper) for paper in ("#ffffff", "#16191d")) >= 3, name


def test_drawings_end_where_losses_are_too_large() -> None:
    """Gains and small losses are all drawn; margins are a twentieth of the height."""
    base = run("float32", 0, 0, 0.5, 0.8, 1800)
    found = points_of([base, run("axes", 0, 0, 0.5, 0.82), run("hash", 0, 0, 0.5, 0.79)])
    assert limits(found, "auc") == pytest.approx((-0.01 - 0.0015, 0.02 + 0.0015))
    found = points_of([base, run("hash", 0, 0, 0.5, 0.6)])
    assert limits(found, "auc") == pytest.approx((-0.03 - 0.0015, 0.0015))
    assert limits(points_of([base]), "logloss") == pytest.approx((-5e-6, 5e-6))


def test_lines_are_thick_for_ours_and_broken_for_small_tables() -> None:
    axes = Figure().subplots()
    panel(axes, points_of([*RUNS, run("new", 1, 0, 0.5, 0.75)]), "auc", "change")
    drawn = {container.get_label(): container.lines[0] for container in axes.containers}
    styles = {name: (line.get_linewidth(), line.get_linestyle()) for name, line in drawn.items()}
    assert styles == {"axes": (2.2, "-"), "hashing trick": (1.0, "--"), "new": (1.0, "-")}


def test_tasks_and_models_are_apart() -> None:
    other = [{**row, "task": "u", "dim": 8} for row in RUNS]
    alone = [{**RUNS[3], "task": "v"}]  # without its uncompressed model
    found = list(comparisons([*other, *RUNS, *alone]))
    assert [one.title for one in found] == ["t, deepfm, dim 4", "u, deepfm, dim 8"]
    assert [len(one.points) for one in found] == [3, 3]
    assert found[0].impossible == ["qr at 10: big & <wide>"]


def test_a_page_is_written_and_the_same_runs_give_the_same(tmp_path: Path) -> None:
    path, page = file_of(tmp_path, *RUNS), tmp_path / "page.html"
    write_report(path, page)
    text = page.read_text()
    assert text == render_comparison(RUNS, "")
    assert text.count("<svg") == 2
    assert "qr at 10: big &amp; &lt;wide&gt;" in text
    assert f"<dt>hash</dt><dd>{SMALL_METHODS['hash']}" in text
    assert "<td>hash at 10</td>" in text
    assert "<td>axes at 10, one seed</td>" in text


def test_runs_without_the_uncompressed_model_have_no_page(tmp_path: Path) -> None:
    path, page = file_of(tmp_path, RUNS[3]), tmp_path / "page.html"
    with pytest.raises(DataError, match=r"runs\.jsonl has no run of 'float32'"):
        write_report(path, page)
    assert not page.exists()


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    path = file_of(tmp_path, *RUNS)
    with path.open("a") as stream:
        stream.write('{"task": "t", "mod')
    before = path.read_bytes()
    assert read_runs(path) == RUNS
    assert path.read_bytes() == before


def changed(**values: Any) -> str:
    return json.dumps(RUNS[2] | values)


def without(name: str) -> str:
    return json.dumps({key: value for key, value in RUNS[2].items() if key != name})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is no JSON"),
        ("3", "is a int, not an object"),
        (" " * (1 << 20) + "1", "has 1,048,577 bytes; a finished run has up to 1,048,576"),
        (without("task"), "'task' is None, not text"),
        (without("auc"), "'auc' is missing"),
        (without("target_ratio"), "'target_ratio' is missing"),
        (changed(settings=3), "'settings' is 3, not an object"),
        (changed(target_ratio="10"), "'target_ratio' is '10', not a number, or null"),
        (changed(lookup_ns=math.nan), "'lookup_ns' is nan, not a number, or null"),
        (changed(auc=math.inf), "'auc' is inf, not a finite number"),
        (changed(bytes_all_in=0), "'bytes_all_in' is 0, not above 0"),
        (json.dumps(impossible("qr", "big") | {"impossible": 1}), "'impossible' is 1, not text"),
    ],
)
def test_other_lines_are_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(f"{json.dumps(RUNS[0])}\n{line}\n")
    with pytest.raises(DataError) as caught:
        read_runs(path)
    assert f"line 2 of {path}" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [(Path.touch, "has no run of"), (Path.mkdir, "cannot read"), (lambda _: None, "no such file")],
)
def test_files_without_runs_are_refused(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "runs.jsonl"
    make(path)
    with pytest.raises(DataError, match=message):
        write_report(path, tmp_path / "page.html")
