"""Reports: figures by hand, pages that stand alone, and wrong results files refused by name."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from saec.errors import DataError
from saec.files import whole_file
from saec.report import Spread, read_results, render, summarise, write_report
from saec.report.curves import COLOURS
from saec.report.terminal import results_table

Row = dict[str, Any]


def row(seed: int = 0, **changes: Any) -> Row:
    return {
        "task": "ml-1m",
        "model": "deepfm",
        "dim": 16,
        "seed": seed,
        "method": "saec",
        "target_ratio": 25.0,
        "ratio": 25.5,
        "nbytes": 40_000,
        "original_nbytes": 1_020_000,
        "base_auc": 0.8,
        "base_logloss": 0.5,
        "auc": 0.79,
        "logloss": 0.51,
        "compress_seconds": 2.0,
        "finetuned": False,
    } | changes


def results(*rows: Row) -> dict[str, Any]:
    machine = {"cores": 2, "memory": 8 << 30, "packages": {"saec": "0.1"}, "date": "2025-06-01"}
    return {"command": "saec bench ml-1m", "machine": machine, "rows": list(rows)}


@pytest.fixture
def two_methods() -> dict[str, Any]:
    """Two methods at two ratios over two seeds, with and without fine-tuning."""
    rows = []
    for seed in (0, 1):
        for method, cost in (("saec", 0.001), ("kmeans", 0.003)):
            for ratio in (10.0, 50.0):
                for tuned in (False, True):
                    change = cost * ratio / 10 / (2 if tuned else 1) + 0.0002 * seed
                    rows.append(
                        row(
                            seed,
                            method=method,
                            finetuned=tuned,
                            target_ratio=ratio,
                            ratio=ratio,
                            auc=0.8 - change,
                            logloss=0.5 + change,
                        )
                    )
    return results(*rows)


def test_spread_by_hand() -> None:
    assert Spread.of([1.0, 2.0, 3.0]) == Spread(2.0, 1.0)
    assert Spread.of([5.0]) == Spread(5.0, None)
    assert str(Spread(-0.00123, 0.0004)) == "-0.00123 ± 0.00040"
    assert str(Spread(0.5, None)) == "+0.50000"


def test_means_over_seeds_by_hand() -> None:
    rows = [
        row(0, base_auc=0.80, auc=0.79, base_logloss=0.50, logloss=0.50, ratio=25, nbytes=10),
        row(1, base_auc=0.70, auc=0.67, base_logloss=0.60, logloss=0.64, ratio=27, nbytes=30),
    ]
    (experiment,) = summarise(results(*rows))
    assert experiment.base_auc == pytest.approx(0.75)
    assert experiment.base_logloss == pytest.approx(0.55)
    (point,) = experiment.measured
    assert (point.method, point.finetuned, point.seeds) == ("saec", False, 2)
    assert (point.ratio, point.nbytes, point.compress_seconds) == (26, 20, 2)
    assert point.auc_change.mean == pytest.approx(-0.02)
    assert point.auc_change.deviation == pytest.approx(0.01 * 2**0.5)
    assert point.logloss_change.mean == pytest.approx(0.02)
    assert point.logloss_change.deviation == pytest.approx(0.02 * 2**0.5)


def test_rows_are_grouped_by_experiment_method_size_and_tuning() -> None:
    rows = [
        row(0),
        row(0, target_ratio=50.0),
        row(0, finetuned=True),
        row(0, method="kmeans", target_ratio=None),
        row(0, model="dlrm"),
        row(1),
    ]
    first, second = summarise(results(*rows))
    assert (first.title, second.title) == ("ml-1m, deepfm, dim 16", "ml-1m, dlrm, dim 16")
    assert [(point.label, point.seeds) for point in first.measured] == [
        ("saec", 2),
        ("saec", 1),
        ("saec, fine-tuned", 1),
        ("kmeans", 1),
    ]
    assert len(second.measured) == 1


def test_a_seed_with_more_rows_counts_once_in_the_base() -> None:
    rows = [row(0, base_auc=0.8), row(0, base_auc=0.8, target_ratio=50.0), row(1, base_auc=0.7)]
    assert summarise(results(*rows))[0].base_auc == pytest.approx(0.75)


class _Page(HTMLParser):
    """All tags with their attributes, and all text, by tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append((self._inside, " ".join(data.split())))

    def texts(self, tag: str) -> list[str]:
        return [text for inside, text in self.text if inside == tag]


def test_the_page_stands_alone(two_methods: dict[str, Any]) -> None:
    page = render(two_methods)
    parsed = _Page(page)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    for _, attributes in parsed.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith("#")
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) == {"#"}


def test_the_page_shows_every_figure(two_methods: dict[str, Any]) -> None:
    parsed = _Page(render(two_methods))
    cells = parsed.texts("td")
    table = [cells[start : start + 9] for start in range(0, len(cells), 9)]
    assert len(table) == 8
    assert table[2] == [
        *("saec", "50.0", "40.0 kB", "0.7949"),
        *("−0.00510 ± 0.00014", "0.5051", "+0.00510 ± 0.00014", "2.0", "2"),  # noqa: RUF001
    ]
    assert table[7][0] == "kmeans, fine-tuned"
    assert parsed.texts("code") == ["saec bench ml-1m"]
    assert parsed.texts("dd") == ["2", "8.0 GiB", "saec 0.1", "2025-06-01"]
    assert "Uncompressed: AUC 0.8000, log loss 0.5000, 1.0 MB of tables." in parsed.texts("p")


def test_the_best_reachable_is_said_if_known() -> None:
    known = results(row(best_auc=0.8123, best_logloss=0.4567))
    assert "can reach is known: AUC 0.8123, log loss 0.4567." in " ".join(
        _Page(render(known)).texts("p")
    )
    assert "can reach" not in render(results(row()))


def test_curves_are_text_and_take_on_the_page_s_colours(two_methods: dict[str, Any]) -> None:
    parsed = _Page(render(two_methods))
    labels = parsed.texts("text")
    for name in ("saec", "saec, fine-tuned", "kmeans", "change of AUC", "change of log loss"):
        assert name in labels
    assert labels.count("compression ratio") == 2
    assert {"10", "20", "50"} <= set(labels)  # of the logarithmic axis
    styles = [str(attributes.get("style")) for _, attributes in parsed.tags]
    coloured = {found for style in styles for found in re.findall(r"stroke: (#[0-9a-f]{6})", style)}
    assert coloured == {COLOURS[0], COLOURS[1]}
    assert any("currentColor" in style for style in styles)


def test_fine_tuned_lines_are_dashed(two_methods: dict[str, Any]) -> None:
    def dashed(tuned: bool) -> int:
        rows = [entry for entry in two_methods["rows"] if entry["finetuned"] is tuned]
        return render(results(*rows)).count("stroke-dasharray")

    assert dashed(False) == 0
    assert dashed(True) >= 4  # two methods in two curves


def test_the_spread_of_seeds_is_drawn() -> None:
    def bars(*rows: Row) -> int:
        return render(results(*rows)).count('id="auc-0-LineCollection')

    assert bars(row(0), row(1)) == 0  # no spread
    assert bars(row(0)) == 0
    assert bars(row(0), row(1, auc=0.78)) == 1


def test_ids_in_a_page_are_unique(two_methods: dict[str, Any]) -> None:
    ids = [
        attributes["id"] for _, attributes in _Page(render(two_methods)).tags if "id" in attributes
    ]
    assert len(ids) > 20
    assert len(set(ids)) == len(ids)


def test_the_same_results_give_the_same_page(two_methods: dict[str, Any]) -> None:
    before = copy.deepcopy(two_methods)
    page = render(two_methods)
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True}):  # somebody's own matplotlibrc
        assert render(two_methods) == page
    assert two_methods == before


def test_names_are_escaped() -> None:
    evil = "<b onload='x'>&$\\frac$</b>"
    page = render(results(row(task=evil, method=evil)) | {"command": evil, "machine": {evil: evil}})
    parsed = _Page(page)
    assert "b" not in {tag for tag, _ in parsed.tags}
    assert parsed.texts("td")[0] == evil
    assert evil in parsed.texts("text")
    assert parsed.texts("code") == parsed.texts("dt") == parsed.texts("dd") == [evil]


def test_names_in_any_script(tmp_path: Path) -> None:
    file, page = tmp_path / "results.json", tmp_path / "report.html"
    file.write_text(json.dumps(results(row(method="聚类")) | {"command": "half a \ud800"}))
    write_report(file, page)
    parsed = _Page(page.read_text(encoding="utf-8"))
    assert "聚类" in parsed.texts("text")
    assert parsed.texts("code") == ["half a ?"]


def _contrast(one: str, other: str) -> float:
    """WCAG 2.1, relative luminance and contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_are_legible_on_both_backgrounds() -> None:
    papers = re.findall(r"--paper: (#[0-9a-f]{6})", render(results(row())))
    assert len(papers) == 2
    assert _contrast(*papers) > 15
    for colour in COLOURS:
        assert min(_contrast(colour, paper) for paper in papers) >= 3


def without(name: str) -> Row:
    return {key: value for key, value in row().items() if key != name}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "results are a JSON object, not a list"),
        ({}, "no results: 'command' is missing"),
        ({"command": "x", "machine": {}}, "no results: 'rows' is missing"),
        ({"command": 1, "machine": {}, "rows": [row()]}, "'command' is a int, not a str"),
        ({"command": "x", "machine": {}, "rows": []}, "'rows' is empty"),
        (results(row(), 3), "row 1 is a int, not an object"),  # type: ignore[arg-type]
        *(
            (results(row(), without(name)), f"row 1: '{name}' is missing")
            for name in row()
            if name != "dim"
        ),
        (results(row(auc="0.8")), "row 0: 'auc' is '0.8', not a finite number"),
        (results(row(auc=float("nan"))), "row 0: 'auc' is nan, not a finite number"),
        (results(row(nbytes=10**400)), "'nbytes' is 10+, not a finite number"),
        (results(row(ratio=True)), "row 0: 'ratio' is True, not a finite number"),
        (results(row(ratio=0)), "row 0: 'ratio' is 0, not above 0"),
        (results(row(finetuned=1)), "row 0: 'finetuned' is 1, not a boolean"),
        (results(row(method="\ud800")), "row 0: 'method' is .*, not text"),
        (results(row(task=None)), "row 0: 'task' is None, not text"),
        (results(row(target_ratio="25")), "'target_ratio' is '25', not a finite number or null"),
    ],
)
def test_wrong_results_are_refused_by_name(tmp_path: Path, wrong: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        render(wrong)
    file = tmp_path / "results.json"
    file.write_text(json.dumps(wrong))
    with pytest.raises(DataError, match=rf"results\.json: .*{message}"):
        write_report(file, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not JSON, or damaged"), (b"\xff", "not JSON"), (b"[" * 100_000, "not JSON, or dam")],
    ids=["cut", "bytes", "deep"],
)
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "results.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_results(file)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        read_results(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"cannot read .*: Is a directory"):
        read_results(tmp_path)


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("before")

    def half() -> None:
        with whole_file(target) as stream:
            stream.write(b"after")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half()
    assert target.read_text() == "before"
    with whole_file(target) as stream:
        stream.write(b"after")
    assert target.read_text() == "after"
    with (
        pytest.raises(DataError, match=r"cannot write .*: No such file"),
        whole_file(tmp_path / "x" / "y"),
    ):
        pass
    assert list(tmp_path.iterdir()) == [target]


def test_the_table_for_a_terminal() -> None:
    known = row(best_auc=0.81, best_logloss=0.49)
    (experiment,) = summarise(results(known, known | {"seed": 1}))
    table = results_table(experiment)
    columns = [list(column.cells) for column in table.columns]
    assert columns[0] == ["uncompressed", "saec", "best reachable"]
    assert columns[3] == ["0.8000", "0.7900", "0.8100"]
    assert columns[4] == ["", "-0.01000 ± 0.00000", ""]
    assert columns[8] == ["", "2", ""]
