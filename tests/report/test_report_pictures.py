"""Pictures of clusterings: places and sizes by hand, colours, names, and how many are drawn."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from results_files import picture, results, row

from saec.report import render, summarise
from saec.report.drawing import COLOURS
from saec.report.inside import Picture
from saec.report.pictures import drawn


def read(**changes: Any) -> Picture:
    (point,) = summarise(results(row(pictures=[picture(**changes)])))[0].measured
    return point.pictures[0]


def groups(svg: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter("g"))


def circles(svg: str) -> list[dict[str, float]]:
    return [
        {name: float(circle.attrib[name]) for name in ("cx", "cy", "r")}
        for circle in ElementTree.fromstring(svg).iter("circle")
    ]


def test_places_by_hand() -> None:
    # 360 x 270 with margins of 14 and a foot of 20: x from 14 to 346, y from 236 up to 14.
    shown = circles(drawn(read()))
    # By cluster; coordinates reach from 0 to 4 and from 0 to 2.
    assert [(disc["cx"], disc["cy"]) for disc in shown] == [
        *((14, 236), (346, 14)),
        (97, 14),
        (263, 125),
    ]


def test_areas_are_proportional_to_frequencies() -> None:
    # The least frequent two would be as small as 2: not less than can be seen.
    assert [disc["r"] for disc in circles(drawn(read()))] == [10, 2, 5, 2]
    assert circles(drawn(read(frequencies=[100, 1, 1, 1])))[1]["r"] == 1.8
    assert {disc["r"] for disc in circles(drawn(read(frequencies=[0] * 4)))} == {1.8}


def test_many_discs_leave_room() -> None:
    count = 400
    rng = np.random.default_rng(0)
    shown = read(
        clusters=[0] * count,
        ids=list(range(count)),
        frequencies=[50] * count,
        x=rng.normal(size=count).tolist(),
        y=rng.normal(size=count).tolist(),
    )
    areas = sum(math.pi * disc["r"] ** 2 for disc in circles(drawn(shown)))
    assert areas == pytest.approx(0.15 * 360 * 270, rel=0.05)


def test_lines_lead_to_the_decoded_cluster() -> None:
    shared, *alone = groups(drawn(read()))
    (path,) = shared.iter("path")
    assert path.attrib["d"] == "M14.0 236.0L180.0 125.0M346.0 14.0L180.0 125.0"
    assert shared.attrib["class"] == "k0"
    assert [group.attrib["class"] for group in alone] == ["alone", "alone"]
    assert not [path for group in alone for path in group.iter("path")]
    # Nothing to draw where a feature lies where its cluster does.
    exact, *_ = groups(drawn(read(x=[2, 1, 3, 2], y=[1, 2, 0, 1])))
    assert not list(exact.iter("path"))


def test_names_are_shown_and_escaped() -> None:
    svg = drawn(read(field="<m>", names=["<b>", "&", "Ran", "x"]))
    titles = [title.text for title in ElementTree.fromstring(svg).iter("title")]
    assert titles == [
        "<m> <b>, 100 times, cluster 1 with 1 more",
        "<m> x, 4 times, cluster 1 with 1 more",
        "<m> &, 25 times, cluster 2",
        "<m> Ran, 4 times, cluster 3",
    ]
    assert "movie id 3, 25 times" in drawn(read())


def test_the_footer_gives_the_variance_along_the_axes() -> None:
    assert "across: 80 % of the variance, up: 20 %" in drawn(read())


def test_features_in_one_place() -> None:
    same = drawn(read(x=[3] * 4, y=[1] * 4, clusters=[0] * 4, centers=[[3, 1]]))
    assert {(disc["cx"], disc["cy"]) for disc in circles(same)} == {(14, 236)}


def test_neighbours_differ_in_colour() -> None:
    # A row of clusters of two: no colour comes back among the next seven on either side.
    count = 40
    svg = drawn(
        read(
            ids=list(range(2 * count)),
            frequencies=[1] * 2 * count,
            x=[place // 2 + place % 2 / 4 for place in range(2 * count)],
            y=[0] * 2 * count,
            clusters=[place // 2 for place in range(2 * count)],
            centers=[[place + 0.125, 0] for place in range(count)],
        )
    )
    colours = [group.attrib["class"] for group in groups(svg)]
    assert set(colours) == {f"k{place}" for place in range(len(COLOURS))}
    for start in range(count - len(COLOURS) + 1):
        window = colours[start : start + len(COLOURS)]
        assert len(set(window)) == len(window)


def test_the_page_draws_each_method_and_leaves_out_what_makes_it_large() -> None:
    count = 4000
    many = picture(
        clusters=[0] * count, **{name: [1] * count for name in ("ids", "frequencies", "x", "y")}
    )
    rows = [row(method=f"m{place}", pictures=[many]) for place in range(4)]
    page = render(results(*rows))
    assert re.findall(r"<summary>(m.*?)</summary>", page) == ["m0, ratio 25.5", "m1, ratio 25.5"]
    assert "Not drawn, to keep the page small: m2, m3." in page
    assert page.count("<circle") == 2 * count
    assert len(page) < 2e6
    assert "<details open>" in page
    assert "4000 of 4 features" in page
    assert "Not drawn" not in render(results(row(pictures=[picture()])))
    assert "Which features" not in render(results(row()))
