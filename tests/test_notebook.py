"""HTML tables for notebooks: literal tables, then those of every object."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest

import saec
from saec.util.html_table import html_table

NAME = "<b>&amp;'user'\"</b>"  # a field's name comes from a file


def test_a_table_by_hand() -> None:
    assert html_table("a\n<b>", ("field", "rows"), [("<i>", "1,000")]) == (
        '<table><caption style="text-align: left">a<br>&lt;b&gt;</caption>'
        '<thead><tr><th style="text-align: left">field</th>'
        '<th style="text-align: right">rows</th></tr></thead>'
        '<tbody><tr><td style="text-align: left">&lt;i&gt;</td>'
        '<td style="text-align: right">1,000</td></tr></tbody></table>'
    )


@pytest.mark.parametrize(("count", "shown"), [(60, 60), (61, 60), (1000, 60)])
def test_a_long_table_keeps_its_ends(count: int, shown: int) -> None:
    page = html_table("", ("field",), [(f"u{number}",) for number in range(count)])
    assert page.count(">u") == shown
    assert ">u0<" in page
    assert f">u{count - 1}<" in page
    assert (f">and {count - shown:,} more<" in page) == (count > shown)


def test_a_table_without_rows() -> None:
    assert html_table("", ("a",), []).endswith("<tbody></tbody></table>")


class Cells(HTMLParser):
    """The text of each row's cells, of a page whose elements are all closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.caption = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "br":
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1] == "caption":
            self.caption += data
        else:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def fields() -> list[saec.Field]:
    rng = np.random.default_rng(0)
    counts = 1000 // np.arange(1, 401)
    tables = {NAME: rng.normal(size=(400, 4)), "item": rng.normal(size=(400, 8))}
    return [saec.Field(name, table.astype(np.float32), counts) for name, table in tables.items()]


@pytest.fixture(scope="module")
def metrics() -> dict[str, np.ndarray]:
    return {NAME: np.diag([4e-3, 1e-3, 2e-4, 1e-5]), "item": 1e-3 * np.eye(8)}


def test_a_result_and_its_fields(fields: list[saec.Field], metrics: dict[str, np.ndarray]) -> None:
    result = saec.compress(fields, saec.Ratio(4), metrics=metrics, progress=False)
    shown = Cells(result._repr_html_())
    heading, user, item, file = shown.rows
    assert user[:4] == [NAME, "400", "4", "axes"]
    assert item[:3] == ["item", "400", "8"]
    assert file[:2] == ["file", "800"]
    assert file[heading.index("bytes")] == f"{result.nbytes:,}"
    assert file[heading.index("bits per feature")] == f"{8 * result.nbytes / 800:.2f}"
    assert file[heading.index("ratio")] == f"{result.compression_ratio:.1f}"
    assert f"{result.predicted_loss_increase:.2g} nats" in shown.caption
    assert Cells(result[NAME]._repr_html_()).rows == [heading, user]


def test_without_metrics_nothing_is_predicted(fields: list[saec.Field]) -> None:
    result = saec.compress(fields, saec.Ratio(4), progress=False)
    assert Cells(result._repr_html_()).caption == ""


def test_a_forecast(fields: list[saec.Field], metrics: dict[str, np.ndarray]) -> None:
    curve = saec.forecast(fields, metrics, progress=False)
    heading, *points = Cells(curve._repr_html_()).rows
    assert len(points) == 9
    assert points[0][:2] == [f"{curve.ratios[0]:,.1f}", f"{curve.nbytes[0]:,}"]
    assert points[-1][heading.index("high")] == f"+{curve.high[-1]:.2e}"


def test_a_short_curve_shows_no_point_twice(
    fields: list[saec.Field], metrics: dict[str, np.ndarray]
) -> None:
    curve = saec.forecast(fields, metrics, progress=False)
    short = saec.Forecast(
        curve.ratios[:3],
        curve.nbytes[:3],
        curve.loss_increases[:3],
        curve.low[:3],
        curve.high[:3],
        {},
    )
    assert len(Cells(short._repr_html_()).rows) == 1 + 3
    assert len(repr(short).splitlines()) == 2 + 3 + 1  # and what no labels mean


@pytest.mark.parametrize("measured", [True, False])
def test_an_inspection(
    fields: list[saec.Field], metrics: dict[str, np.ndarray], measured: bool
) -> None:
    seen = saec.inspect(fields, metrics if measured else None, 4.0, progress=False)
    shown = Cells(seen._repr_html_())
    assert [row[0] for row in shown.rows[1:]] == [NAME, "item"]
    assert shown.rows[1][shown.rows[0].index("would take")] == f"{seen.fields[0].planned_nbytes:,}"
    assert ("nats" in shown.caption, "loss metric" in shown.caption) == (measured, measured)


CELLS = [
    """
import time
import numpy as np
import saec
from saec.util import progress

counts = 400 // np.arange(1, 401)
table = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
field = saec.Field("user", table, counts)
saec.compress([field], saec.Ratio(4))
""",
    """
progress.DELAY_SECONDS = 0.1
with progress.bar("counting", 3) as rows:
    for _ in range(3):
        rows.advance()
        time.sleep(0.2)
""",
]


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("default")  # of Jupyter's own parts
def test_in_a_notebook(tmp_path: Path) -> None:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    kernel = nbclient.NotebookClient(book, timeout=120, kernel_name="python3")
    kernel.execute(cwd=tmp_path)
    (shown,) = book.cells[0].outputs
    assert Cells(shown.data["text/html"]).rows[1][:3] == ["user", "400", "4"]
    assert shown.data["text/plain"].startswith("Compressed(1 fields, ")
    widgets = book.metadata.widgets["application/vnd.jupyter.widget-state+json"].state.values()
    drawn = [widget.state.outputs for widget in widgets if widget.model_name == "OutputModel"]
    assert "counting" in str(drawn)
    assert not [
        part for cell in book.cells for part in cell.outputs if part.get("name") == "stderr"
    ]
