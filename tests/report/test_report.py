"""Reports: figures by hand, pages without external files, and errors for wrong results files."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from legibility import contrast
from results_files import Row, deciles, results, row

from saec.errors import DataError
from saec.report import Spread, read_results, render, summarise, write_report
from saec.report.drawing import COLOURS
from saec.report.methods import METHODS, TUNINGS
from saec.report.terminal import results_table
from saec.util.atomic_file import whole_file


def two_methods_at_two_ratios() -> dict[str, Any]:
    """Over two seeds, with and without fine-tuning."""
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


@pytest.fixture
def two_methods() -> dict[str, Any]:
    return two_methods_at_two_ratios()


@pytest.fixture(scope="module")
def page_of_two() -> str:
    """The page of that."""
    return render(two_methods_at_two_ratios())


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
        row(0, target_ratio=None, target_loss_increase=1e-3),
        row(0, target_ratio=None, target_loss_increase=3e-3),
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
        ("saec", 1),
        ("saec", 1),
    ]
    assert len(second.measured) == 1


def test_names_of_what_was_tuned() -> None:
    rows = [
        row(method="axes"),
        row(method="axes+finetune", finetuned=True),
        row(method="axes+unseen", finetuned=True),
        row(method="axes", finetuned=True),  # as earlier versions wrote it
        row(method="c+more"),
    ]
    points = summarise(results(*rows))[0].measured
    assert [(point.label, point.plain_method) for point in points] == [
        ("axes", "axes"),
        ("axes, fine-tuned", "axes"),
        ("axes, fine-tuned on unseen rows", "axes"),
        ("axes, fine-tuned", "axes"),
        ("c+more", "c"),
    ]


def test_predictions_and_deciles_by_hand() -> None:
    rows = [
        row(0, predicted_loss_increase=0.01, deciles=deciles(0.1, 0.2)),
        row(1, predicted_loss_increase=0.03, deciles=deciles(0.3, 0.2)),
    ]
    rows[1]["deciles"][1]["most"] = 8.0
    (point,) = summarise(results(*rows))[0].measured
    assert point.predicted == pytest.approx(0.02)
    first, second = point.deciles
    assert (first.least, first.most, second.least, second.most) == (0, 0, 2, 6)
    assert first.logloss_change.mean == pytest.approx(0.2)
    assert first.logloss_change.deviation == pytest.approx(0.02**0.5)
    assert second.logloss_change == Spread(0.2, 0.0)


def test_values_that_a_seed_lacks_stay_missing() -> None:
    known = row(0, predicted_loss_increase=0.01, deciles=deciles(0.1, 0.2))
    for other in (row(1), row(1, predicted_loss_increase=None, deciles=deciles(0.1))):
        (point,) = summarise(results(known, other))[0].measured
        assert (point.predicted, point.deciles) == (None, ())


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


def test_the_page_needs_no_other_files(page_of_two: str) -> None:
    parsed = _Page(page_of_two)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    for _, attributes in parsed.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith("#")
    assert "@import" not in page_of_two
    assert set(re.findall(r"url\((.)", page_of_two)) == {"#"}


def test_the_page_shows_every_figure(page_of_two: str) -> None:
    parsed = _Page(page_of_two)
    cells = parsed.texts("td")
    table = [cells[start : start + 9] for start in range(0, len(cells), 9)]
    assert len(table) == 8
    assert table[2] == [
        *("saec", "50.0", "40.0 kB", "0.7949"),
        *("−0.00510 ± 0.00014", "0.5051", "+0.00510 ± 0.00014", "2.0", "2"),  # noqa: RUF001
    ]
    assert table[7][0] == "kmeans, fine-tuned"
    assert parsed.texts("code") == ["saec bench ml-1m"]
    assert parsed.texts("dd")[:4] == ["2", "8.0 GiB", "saec 0.1", "2025-06-01"]
    assert "Uncompressed: AUC 0.8000, log loss 0.5000, 1.0 MB of tables." in parsed.texts("p")


def test_predictions_stand_beside_what_was_measured() -> None:
    page = _Page(render(results(row(predicted_loss_increase=0.0123, method="axes"))))
    headings = page.texts("th")
    assert headings[6:8] == ["change of log loss", "predicted"]
    assert page.texts("td")[6:8] == ["+0.01000", "+0.01230"]


@pytest.mark.exhaustive
def test_the_best_reachable_quality_is_shown_if_known() -> None:
    known = results(row(best_auc=0.8123, best_logloss=0.4567))
    assert "can reach is known: AUC 0.8123, log loss 0.4567." in " ".join(
        _Page(render(known)).texts("p")
    )
    assert "can reach" not in render(results(row()))


def test_curves_are_text_and_take_on_the_page_s_colours(page_of_two: str) -> None:
    parsed = _Page(page_of_two)
    labels = parsed.texts("text")
    for name in ("saec", "saec, fine-tuned", "kmeans", "change of AUC", "change of log loss"):
        assert name in labels
    assert labels.count("compression ratio") == 2
    assert {"10", "20", "50"} <= set(labels)  # of the logarithmic axis
    styles = [str(attributes.get("style")) for _, attributes in parsed.tags]
    coloured = {found for style in styles for found in re.findall(r"stroke: (#[0-9a-f]{6})", style)}
    assert coloured == {COLOURS[0], COLOURS[1]}
    assert any("currentColor" in style for style in styles)


@pytest.mark.exhaustive
def test_fine_tuned_lines_are_dashed(two_methods: dict[str, Any]) -> None:
    def dashed(tuned: bool) -> int:
        rows = [entry for entry in two_methods["rows"] if entry["finetuned"] is tuned]
        return render(results(*rows)).count("stroke-dasharray")

    assert dashed(False) == 0
    assert dashed(True) >= 4  # two methods in two curves


@pytest.mark.exhaustive
def test_the_spread_of_seeds_is_drawn() -> None:
    def bars(*rows: Row) -> int:
        return render(results(*rows)).count('id="auc-0-LineCollection')

    assert bars(row(0), row(1)) == 0  # no spread
    assert bars(row(0)) == 0
    assert bars(row(0), row(1, auc=0.78)) == 1
    rare = [row(0, deciles=deciles(0.1, 0.2)), row(1, deciles=deciles(0.1, 0.3))]
    assert 'id="decile-0-LineCollection' in render(results(*rare))
    assert 'id="decile-0-LineCollection' in render(results(rare[0]))


@pytest.mark.exhaustive
def test_deciles_of_one_seed_without_errors_are_not_drawn() -> None:
    old = deciles(0.1, 0.2)
    for decile in old:
        del decile["logloss_error"]
    assert DECILES not in charts(render(results(row(0, deciles=old))))
    assert DECILES in charts(render(results(row(0, deciles=old), row(1, deciles=old))))
    (experiment,) = summarise(results(row(0, deciles=deciles(0.1, 0.2))))
    changes = [str(decile.logloss_change) for decile in experiment.measured[0].deciles]
    assert changes == ["+0.10000 ± 0.01000", "+0.20000 ± 0.01000"]


def charts(page: str) -> list[str]:
    """The descriptions of all drawings on a page."""
    return [str(attributes["aria-label"]) for tag, attributes in _Page(page).tags if tag == "svg"]


CURVES = ["change of AUC against compression ratio", "change of log loss against compression ratio"]
DECILES = "change of log loss by frequency of a row's rarest feature, by deciles of test rows"
FORECAST = "measured increase, nats against predicted increase of log loss, nats"


@pytest.mark.exhaustive
def test_charts_of_what_files_of_earlier_versions_lack(two_methods: dict[str, Any]) -> None:
    assert charts(render(two_methods)) == CURVES
    for entry in two_methods["rows"]:
        entry["deciles"] = deciles(0.001, 0.002)
    assert charts(render(two_methods)) == [*CURVES, DECILES]
    for entry in two_methods["rows"]:
        entry["predicted_loss_increase"] = 0.002
    assert charts(render(two_methods)) == [*CURVES, DECILES, FORECAST]


def test_deciles_are_compared_at_one_size() -> None:
    rows = [
        row(method=method, target_ratio=ratio, ratio=ratio + off, deciles=deciles(0.1, -0.2, 0.3))
        for method, off in (("saec", 0.3), ("axes", -0.3))
        for ratio in (10.0, 20.0, 40.0, 80.0)
    ]
    rows.append(row(method="kmeans", target_ratio=None, ratio=27.0, deciles=deciles(0, 0, 0)))
    (svg,) = [svg for svg in svgs(render(results(*rows))) if DECILES in svg]
    words = _Page(svg).texts("text")
    # The geometric middle is 28.1, and kmeans nearest to it.
    for name in ("saec, ratio 20.3", "axes, ratio 19.7", "kmeans, ratio 27.0"):
        assert name in words
    assert [word for word in words if word in ("0", "\u22644", "\u22648")][:3] == [
        *("0", "\u22644", "\u22648")
    ]


def svgs(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, re.DOTALL)


@pytest.mark.exhaustive
def test_large_frequencies_are_short() -> None:
    rare = deciles(*[0.001] * 3)
    for decile, most in zip(rare, (999.0, 12_345.0, 6_789_000.0), strict=True):
        decile["most"] = most
    words = _Page(render(results(row(deciles=rare)))).texts("text")
    assert {"\u2264999", "\u226412.3k", "\u22646.79M"} <= set(words)


@pytest.mark.exhaustive
def test_forecasts_beside_what_was_measured() -> None:
    shown = row(target_ratio=1.0, predicted_loss_increase=0.02)
    none = [
        row(target_ratio=2.0, predicted_loss_increase=None),
        row(target_ratio=3.0, predicted_loss_increase=0.0),
    ]
    assert FORECAST not in charts(render(results(shown, *none)))
    other = row(target_ratio=5.0, predicted_loss_increase=0.001, method="axes")
    page = render(results(shown, *none, other))
    assert FORECAST in charts(page)
    words = _Page(svgs(page)[-1]).texts("text")
    assert {"saec", "axes", "as predicted", "0.01"} <= set(words)
    assert not [word for word in words if "$" in word]


def test_a_loss_that_fell_is_drawn_below_zero() -> None:
    better = row(target_ratio=4.0, predicted_loss_increase=0.01, logloss=0.49)
    other = row(target_ratio=5.0, predicted_loss_increase=0.001, method="axes")
    words = _Page(svgs(render(results(better, other)))[-1]).texts("text")
    assert "0" in words
    assert [word for word in words if word.startswith("-0.0")]


def test_the_page_explains_its_methods() -> None:
    page = _Page(render(results(row(), row(method="axes+unseen", finetuned=True), row(method="x"))))
    terms = dict(zip(page.texts("dt"), page.texts("dd"), strict=True))
    assert terms["saec"] == METHODS["saec"]
    assert terms["axes, fine-tuned on unseen rows"] == f"{METHODS['axes']}; {TUNINGS['unseen']}"
    assert "x" not in terms


@pytest.mark.exhaustive
def test_ids_in_a_page_are_unique(two_methods: dict[str, Any]) -> None:
    for place, entry in enumerate(two_methods["rows"]):
        entry |= {"deciles": deciles(0.1, 0.2), "predicted_loss_increase": 0.001 * (place + 1)}
    other = [entry | {"model": "dlrm"} for entry in two_methods["rows"]]
    page = render(results(*two_methods["rows"], *other))
    assert len(charts(page)) == 8
    ids = [attributes["id"] for _, attributes in _Page(page).tags if "id" in attributes]
    assert len(ids) > 20
    assert len(set(ids)) == len(ids)


@pytest.mark.exhaustive
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
    assert parsed.texts("code") == parsed.texts("dt")[:1] == parsed.texts("dd")[:1] == [evil]


def test_names_in_any_script(tmp_path: Path) -> None:
    file, page = tmp_path / "results.json", tmp_path / "report.html"
    file.write_text(json.dumps(results(row(method="聚类")) | {"command": "half a \ud800"}))
    write_report(file, page)
    parsed = _Page(page.read_text(encoding="utf-8"))
    assert "聚类" in parsed.texts("text")
    assert parsed.texts("code") == ["half a ?"]


def test_colours_are_legible_on_both_backgrounds(page_of_two: str) -> None:
    papers = re.findall(r"--paper: (#[0-9a-f]{6})", page_of_two)
    assert len(papers) == 2
    assert contrast(*papers) > 15
    for colour in COLOURS:
        assert min(contrast(colour, paper) for paper in papers) >= 3


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
        (results(row(logloss=1e308)), r"'logloss' is 1e\+308, not a finite number up to 1e30"),
        (results(row(ratio=True)), "row 0: 'ratio' is True, not a finite number"),
        (results(row(ratio=0)), "row 0: 'ratio' is 0, not above 0"),
        (results(row(finetuned=1)), "row 0: 'finetuned' is 1, not a boolean"),
        (results(row(method="\ud800")), "row 0: 'method' is .*, not text"),
        (results(row(task=None)), "row 0: 'task' is None, not text"),
        (results(row(predicted_loss_increase="x")), "'predicted_loss_increase' is 'x', not a f"),
        (results(row(target_loss_increase=[1])), r"'target_loss_increase' is \[1\], not a finite"),
        (
            results(row(divergence=True)),
            "'divergence' is True, not a finite number up to 1e30, or null",
        ),
        (results(row(deciles=None)), "row 0: 'deciles' is None, not a list"),
        (results(row(deciles=[1])), "row 0, decile 0 is a int, not an object"),
        (results(row(deciles=[*deciles(1.0), {}])), "row 0, decile 1: 'least' is missing"),
        (
            results(row(deciles=deciles(float("nan")))),
            "row 0, decile 0: 'logloss_change' is nan, not a finite number",
        ),
        (
            results(row(target_ratio="25")),
            "'target_ratio' is '25', not a finite number up to 1e30, or null",
        ),
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
    known = row(best_auc=0.81, best_logloss=0.49, predicted_loss_increase=0.012)
    unknown = row(method="kmeans+unseen", finetuned=True)
    (experiment,) = summarise(results(known, known | {"seed": 1}, unknown))
    table = results_table(experiment)
    columns = [list(column.cells) for column in table.columns]
    assert columns[0] == ["uncompressed", "saec", "kmeans, fine-tuned on unseen rows"]
    assert columns[3] == ["0.8000", "0.7900", "0.7900"]
    assert columns[4] == ["", "-0.01000 ± 0.00000", "-0.01000"]
    assert columns[6] == ["", "+0.01000 ± 0.00000", "+0.01000"]
    assert columns[7] == ["", "+0.01200", ""]
    assert columns[9] == ["", "2", "1"]


def test_the_best_reachable_in_a_terminal() -> None:
    (experiment,) = summarise(results(row(best_auc=0.81, best_logloss=0.49)))
    columns = [list(column.cells) for column in results_table(experiment).columns]
    assert columns[0] == ["uncompressed", "saec", "best reachable"]
    assert columns[3] == ["0.8000", "0.7900", "0.8100"]
    assert columns[5] == ["0.5000", "0.5100", "0.4900"]
