"""Report on compressed models' content: means by hand, charts, tables, invalid files."""

from __future__ import annotations

import re
from typing import Any

import pytest
from results_files import Row, deciles, picture, results, row, tiers

from saec.errors import DataError
from saec.report import render, summarise
from saec.report.charts import short, tier_names
from saec.report.inside import FieldSize, TierSummary
from saec.report.results import Measured
from saec.report.tables import cluster_table, decile_table, field_table, tier_tables


def inside(**fields: tuple[float, float, list[dict[str, Any]]]) -> Row:
    """The parts of a row on fields, of their bytes now, their bytes before, and their tiers."""
    return {
        "field_bytes": {name: now for name, (now, _, _) in fields.items()},
        "field_original_bytes": {name: before for name, (_, before, _) in fields.items()},
        "field_tiers": {name: own for name, (_, _, own) in fields.items()},
    }


TWO = inside(user=(1000, 64_000, tiers(20, 4, 0)), item=(500, 32_000, tiers(12, 2)))


def measured(*rows: Row) -> tuple[Measured, ...]:
    return summarise(results(*rows))[0].measured


def test_means_over_seeds_by_hand() -> None:
    (point,) = measured(
        row(0, **inside(a=(10, 100, tiers(8, 4)), b=(30, 300, tiers(2)))),
        row(1, **inside(b=(50, 500, tiers(4)), a=(20, 100, tiers(6, 2, 1)))),
    )
    # The largest first; a tier that a seed does not have does not count.
    assert point.fields == (
        FieldSize("b", 40, 400, (TierSummary(64, 3),)),
        FieldSize("a", 15, 100, (TierSummary(64, 7), TierSummary(192, 3), TierSummary(768, 1))),
    )


def test_values_that_a_seed_or_an_earlier_version_lacks_stay_missing() -> None:
    (point,) = measured(row(0, field_bytes={"a": 1, "b": 2}), row(1, field_bytes={"b": 4}))
    assert point.fields == (FieldSize("b", 3, None, ()),)
    (point,) = measured(row(0, field_bytes={"a": 1}), row(1))
    assert point.fields == ()
    (point,) = measured(row(0), row(1, pictures=[picture()]))
    assert [one.field for one in point.pictures] == ["movie"]


def charts(page: str) -> dict[str, str]:
    """Drawings by what they show."""
    found = re.findall(r'<svg.*?aria-label="([^"]*)".*?</svg>', page, re.DOTALL)
    bodies = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    return dict(zip(found, bodies, strict=True))


BYTES = "bytes of each field"
BITS = "mean bits per feature by rank of a feature by frequency in its field"


def test_charts_of_fields_and_tiers() -> None:
    found = charts(render(results(row(**TWO), row(method="kmeans", target_ratio=None, **TWO))))
    for word in ("user", "item", "uncompressed", "saec, ratio 25.5", "kmeans, ratio 25.5"):
        assert f">{word}</text>" in found[BYTES]
    for word in ("1\u201364", "65\u2013256", "257\u20131k", "0", "16"):
        assert f">{word}</text>" in found[BITS]
    assert "user" not in found[BITS]


@pytest.mark.exhaustive
def test_long_names_leave_room_for_the_drawing() -> None:
    fields = inside(**{"x" * 23: (1, 2, []), "y" * 22: (1, 2, [])})
    page = render(results(row(**fields)))
    found = charts(page)[BYTES]
    assert f">{'x' * 21}\u2026</text>" in found
    assert f">{'y' * 22}</text>" in found
    assert f"<td>{'x' * 23}</td>" in page


@pytest.mark.exhaustive
def test_tuned_models_have_the_sizes_of_those_that_were_not() -> None:
    tuned = row(method="saec+finetune", finetuned=True, **TWO)
    found = charts(render(results(row(**TWO), tuned)))
    assert "fine-tuned" not in found[BYTES] + found[BITS]
    assert {BYTES, BITS}.isdisjoint(charts(render(results(tuned))))


@pytest.mark.exhaustive
def test_charts_of_what_files_of_earlier_versions_lack() -> None:
    assert {BYTES, BITS}.isdisjoint(charts(render(results(row()))))
    found = charts(render(results(row(field_bytes={"user": 10, "item": 20}))))
    assert BITS not in found
    assert "uncompressed" not in found[BYTES]
    assert "uncompressed" in charts(render(results(row(**TWO))))[BYTES]


@pytest.mark.exhaustive
def test_bits_are_weighted_by_features() -> None:
    def height(own: Row) -> list[float]:
        """Heights of the points of the only line, downwards."""
        found = re.findall(r'<use [^>]*y="([0-9.]+)"', charts(render(results(row(**own))))[BITS])
        return [float(place) for place in found[-3:]]

    # 64 features of 4 bits and 192 of 0 have a mean of 1, as have those of 1.
    many = inside(a=(1, 1, tiers(8, 1, 1)), b=(1, 1, [{"rows": 192, "bits": 0}]))
    one = inside(a=(1, 1, tiers(2, 1, 1)))
    assert height(many) == pytest.approx(height(one), abs=0.01)


def test_names_of_tiers() -> None:
    assert tier_names(5) == [
        "1\u201364",
        "65\u2013256",
        "257\u20131k",
        "1k\u20134.1k",
        "4.1k\u201316k",
    ]
    assert [short(value) for value in (0, 7.5, 999, 1000, 12_345, 6.789e6, 2e9)] == [
        *("0", "7.5", "999", "1k", "12.3k", "6.79M", "2G")
    ]


def test_tables_of_fields_and_tiers_by_hand() -> None:
    points = measured(row(**TWO), row(method="axes", ratio=30.0, **TWO))
    table = field_table(points)
    assert table is not None
    assert table.head == ["field", "uncompressed", "saec, ratio 25.5", "axes, ratio 30.0"]
    assert table.rows == [["user", "64,000", "1,000", "1,000"], ["item", "32,000", "500", "500"]]
    first, second = tier_tables(points)
    assert first.title == "Bits per feature by frequency tier: saec, ratio 25.5"
    assert second.title.endswith("axes, ratio 30.0")
    assert first.head == ["field", "1\u201364", "65\u2013256", "257\u20131k"]
    assert first.rows == [["user", "20", "4", "0"], ["item", "12", "2"]]
    assert first.tints is not None
    assert first.tints[0][2] == 0
    (whole,) = tier_tables(measured(row(**inside(a=(1, 1, tiers(512, 1023))))))
    assert whole.tints == [[pytest.approx(1), 1]]


def test_tables_of_deciles_by_hand() -> None:
    table = decile_table(measured(row(deciles=deciles(0.1, -0.2)), row(1, deciles=deciles(0.1, 0))))
    assert table is not None
    assert table.head == ["rarest feature's frequency", "saec, ratio 25.5"]
    assert table.rows == [
        ["0", "+0.10000 ± 0.00000"],
        ["\u22644", "\u22120.10000 ± 0.14142"],
    ]


def test_tables_of_nothing() -> None:
    points = measured(row())
    assert decile_table(points) is None
    assert field_table(points) is None
    assert list(tier_tables(points)) == []
    assert "<details" not in render(results(row()))


def test_the_largest_clusters_by_hand() -> None:
    (point,) = measured(row(pictures=[picture(names=["Heat", "Ran", "Big", "Toy <Story>"])]))
    table = cluster_table(point.pictures)
    assert table is not None
    assert table.rows == [["movie", "1", "2", "Heat, Toy <Story>"]]
    (point,) = measured(row(pictures=[picture(clusters=[0, 1, 2, 1])]))
    assert cluster_table(point.pictures) is not None
    apart = picture(clusters=[0, 1, 2, 3], centers=[[0, 0]] * 4)
    (point,) = measured(row(pictures=[apart]))
    assert cluster_table(point.pictures) is None
    nine = picture(clusters=[0] * 9, **{name: [1] * 9 for name in ("ids", "frequencies", "x", "y")})
    (point,) = measured(row(pictures=[nine]))
    table = cluster_table(point.pictures)
    assert table is not None
    assert table.rows[0][2:] == ["9", "id 1, id 1, id 1, id 1, id 1, id 1, \u2026"]


@pytest.mark.exhaustive
def test_all_tables_are_on_the_page() -> None:
    rows = row(deciles=deciles(0.1, 0.2), pictures=[picture()], **TWO)
    page = render(results(rows))
    assert re.findall(r"<caption>(.*?)</caption>", page) == [
        "Change of log loss by decile of test rows",
        "Bytes by field",
        "Bits per feature by frequency tier: saec, ratio 25.5",
        "Largest clusters",
    ]
    assert '<td class="heat" style="--share: 49%">20</td>' in page  # log2(21) / log2(513)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"field_bytes": [1]}, r"row 0: 'field_bytes' is \[1\], not an object"),
        ({"field_bytes": {"\ud800": 1}}, "row 0: 'field_bytes' is .*, not text"),
        ({"field_bytes": {"a": "1"}}, "row 0, field_bytes: 'a' is '1', not a finite number"),
        ({"field_original_bytes": {"a": -1}}, "field_original_bytes: 'a' is -1, not a finite"),
        ({"field_tiers": {"a": 1}}, "row 0, tiers of field 'a' are a int, not a list"),
        ({"field_tiers": {"a": [{"rows": 1}]}}, "field 'a', tier 0: 'bits' is missing"),
        ({"field_tiers": {"a": [{"rows": -1, "bits": 1}]}}, "tier 0: 'rows' is -1, not 0 or more"),
        ({"pictures": {}}, r"row 0: 'pictures' is \{\}, not a list"),
        ({"pictures": [1]}, "row 0, picture 0 is a int, not an object"),
        ({"pictures": [{"features": 1}]}, "row 0, picture 0: 'field' is missing"),
        ({"pictures": [picture(), picture(field=1)]}, "picture 1: 'field' is 1, not text"),
        ({"pictures": [picture(features="4")]}, "'features' is '4', not a finite number"),
        ({"pictures": [picture(x=[1, 2])]}, "picture 0: lists differ in length: .*'x': 2"),
        ({"pictures": [picture(x="abcd")]}, "picture 0: 'x' is 'abcd', not a list of finite"),
        ({"pictures": [picture(y=[1, 2, 3, float("nan")])]}, "'y' is .*nan.*, not a list of"),
        ({"pictures": [picture(shares=[1])]}, r"'shares' is \[1\], not two numbers"),
        ({"pictures": [picture(centers=[1])]}, r"'centers' is \[1\], not a list of pairs"),
        ({"pictures": [picture(centers=[[1, 2, 3]])]}, "'centers' is .*, not a list of pairs"),
        ({"pictures": [picture(names=[1, 2, 3, 4])]}, "'names' is .*, not a list of texts"),
        ({"pictures": [picture(names=["a"])]}, "lists differ in length: .*'names': 1"),
        ({"pictures": [picture(clusters=[0, 1, 2, 3])]}, "'clusters' is 3, not a cluster, of wh"),
        ({"pictures": [picture(clusters=[0, 1, 2, -1])]}, "'clusters' is -1, not a cluster"),
        ({"pictures": [picture(clusters=[0, 1, 2, 0.5])]}, "'clusters' is 0.5, not a cluster"),
        ({"pictures": [picture(frequencies=[1, 1, 1, -1])]}, "'frequencies' is -1, not 0 or more"),
        (
            {"pictures": [picture(ids=[], frequencies=[], x=[], y=[], clusters=[])]},
            "picture 0 shows no features",
        ),
    ],
)
def test_wrong_results_are_refused_by_name(changes: Row, message: str) -> None:
    with pytest.raises(DataError, match=message):
        render(results(row(**changes)))
