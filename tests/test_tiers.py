"""Cuts, parts and the arithmetic of layouts, all by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest

from saec.errors import ArtifactError
from saec.format.code_part import CodePart
from saec.format.tier_layout import Layout, tier_bounds


@pytest.mark.parametrize(
    ("count", "bounds"),
    [
        (1, [0, 1]),
        (64, [0, 64]),
        (65, [0, 64, 65]),
        (256, [0, 64, 256]),
        (257, [0, 64, 256, 257]),
        (1024, [0, 64, 256, 1024]),
        (5000, [0, 64, 256, 1024, 4096, 5000]),
    ],
)
def test_bounds(count: int, bounds: list[int]) -> None:
    found = tier_bounds(count)
    assert found.dtype == np.int64
    assert found.tolist() == bounds


PARTS = {
    "-": (CodePart("none", 0, 1), 0),
    "0": (CodePart("table", 0, 1), 1),
    "1": (CodePart("table", 1, 1), 2),
    "16": (CodePart("table", 16, 1), 65536),
    "1g": (CodePart("grid", 1, 1), 2),
    "12g": (CodePart("grid", 12, 1), 2),
    "0j2": (CodePart("table", 0, 2), 2),
    "6j3": (CodePart("table", 6, 3), 192),
    "10j12": (CodePart("table", 10, 12), 12288),
    "o5": (CodePart("table", 5, 1, ordered=True), 32),
    "o5g": (CodePart("grid", 5, 1, ordered=True), 2),
    "o5j3": (CodePart("table", 5, 3, ordered=True), 96),
}


@pytest.mark.parametrize("text", PARTS)
def test_parts_and_their_texts(text: str) -> None:
    part, values = PARTS[text]
    assert str(part) == text
    assert CodePart.parse(text) == part
    assert part.values == values


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "--", "-1", "+1", "1.0", "a", "g", "j", "j2", "g1", "1x", "1 ", " 1", "1\n"),
        *("00", "01", "01g", "1j02", "17", "17g", "17j2", "100", "999"),
        *("o", "o0", "oo1", "O1", "1o", "o-", "o17", "o1o1", " o1", "o 1", "o0j2"),
        *("0g", "1gg", "1g2", "1gj2", "1j2g", "1j", "1j0", "1j1", "1j-2", "1j100", "1jj2"),
        *("\u0661", "\u00b2", "1\u00a0", "1_0", "0x1", "1G", "1J2"),
    ],
)
def test_text_that_describes_no_part(text: str) -> None:
    with pytest.raises(ArtifactError, match=re.escape(f"{text!r} describes no part of a tier")):
        CodePart.parse(text)


def hand_made() -> Layout:
    """300 rows: 64, 192 and 44. Rows of 7 + 0 + 3 bits, of 2 bits, of none."""
    return Layout.parse(300, ["7g - 3j2", "2 0", ""])


def test_layout_by_hand() -> None:
    layout = hand_made()
    assert layout.tiers == (
        (CodePart("grid", 7), CodePart(), CodePart("table", 3, 2)),
        (CodePart("table", 2), CodePart("table", 0)),
        (),
    )
    assert layout.rank == 4
    assert [layout.widths(tier) for tier in range(3)] == [(7, 0, 3), (2, 0), ()]
    assert layout.first_bytes == (0, 80, 128)  # 64 x 10 bits, 192 x 2 bits
    assert layout.code_bytes == 128 + 7
    # 2 values of the grid, none, 8 clusters x 2 axes; 4 and 1; nothing.
    assert layout.value_count == 23
    assert layout.first_values == ((0, 2, 2), (18, 22), ())
    assert layout.texts == ["7g - 3j2", "2 0", ""]
    assert Layout.parse(300, layout.texts) == layout


def test_a_layout_in_order_of_codes_by_hand() -> None:
    layout = Layout.parse(300, ["o2g o1j2 5", "2", "o3"])
    assert [layout.widths(tier) for tier in range(3)] == [(0, 0, 5), (2,), (0,)]
    assert [layout.bits(tier) for tier in range(3)] == [(2, 1, 5), (2,), (3,)]
    assert [layout.ordered_bits(tier) for tier in range(3)] == [3, 0, 3]
    assert layout.any_ordered
    assert not hand_made().any_ordered
    assert layout.first_starts == (0, 7, 7, 14)
    # 64 rows: three low bits of each of seven starts, and 7 + 8 more; 44 rows: two, and 7 + 11.
    assert layout.first_start_bytes == (0, 3 + 2, 5, 5 + 2 + 3)
    assert layout.first_bytes == (0, 40, 88)
    assert layout.code_bytes == 88 + 7
    assert layout.texts == ["o2g o1j2 5", "2", "o3"]


def test_ordered_codes_by_hand() -> None:
    layout = Layout.parse(66, ["o2 o1", "o1"])
    starts = np.array([10, 10, 10, 20, 40, 40, 64, 65])
    first, second = layout.ordered_codes(0, np.array([0, 9, 10, 19, 20, 39, 40, 63]), starts)
    # Codes 0, 3, 4 and 6: the lowest two bits are the first part's.
    assert first.tolist() == [0, 0, 3, 3, 0, 0, 2, 2]
    assert second.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [codes.tolist() for codes in layout.ordered_codes(1, np.array([64, 65]), starts)] == [
        [0, 1]
    ]


def test_tiers_start_at_whole_bytes() -> None:
    layout = Layout.parse(66, ["1", "3"])
    assert layout.first_bytes == (0, 8)
    assert layout.code_bytes == 8 + 1 + 7  # 2 rows of 3 bits
    assert Layout.parse(1, ["5"]).code_bytes == 1 + 7
    assert Layout.parse(1, [""]).code_bytes == 7
    assert Layout.parse(1, [""]).rank == 0


def test_tier_of_a_rank() -> None:
    ranks = np.array([0, 63, 64, 255, 256, 299, 64, 0])
    assert hand_made().tier_of(ranks).tolist() == [0, 0, 1, 1, 2, 2, 1, 0]
    assert Layout.parse(64, ["1"]).tier_of(np.array([0, 63])).tolist() == [0, 0]
    assert Layout.parse(65, ["1", "1"]).tier_of(np.array([63, 64])).tolist() == [0, 1]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 256, 257, 1000, 5000])
def test_tiers_of_all_ranks_have_the_sizes_of_the_cuts(count: int) -> None:
    bounds = tier_bounds(count)
    layout = Layout(count, tuple((CodePart("table", 1),) for _ in bounds[1:]))
    tiers = layout.tier_of(np.arange(count))
    assert np.bincount(tiers).tolist() == np.diff(bounds).tolist()
    assert np.all(np.diff(tiers) >= 0)


@pytest.mark.parametrize(
    ("count", "texts", "message"),
    [
        (300, ["1"] * 4, "300 rows make 1 to 3 tiers, not 4"),
        (64, ["1", "1"], "64 rows make 1 to 1 tiers, not 2"),
        (64, [], "64 rows make 1 to 1 tiers, not 0"),
        (64, [1], "a tier is described by text, not by 1"),
        (64, [None], "a tier is described by text, not by None"),
        (64, ["1 x"], "'x' describes no part of a tier"),
        (0, [""], "a field has 1 to 4398046511104 rows, not 0"),
        (-5, [""], "a field has 1 to 4398046511104 rows, not -5"),
        (64.0, [""], "a field has 1 to 4398046511104 rows, not 64.0"),
        (True, [""], "a field has 1 to 4398046511104 rows, not True"),
        ("64", [""], "a field has 1 to 4398046511104 rows, not '64'"),
        (None, [""], "a field has 1 to 4398046511104 rows, not None"),
        (64, ["1 o1"], "ordered parts must come first, not as in '1 o1'"),
        (64, ["o1 - o1"], "ordered parts must come first, not as in 'o1 - o1'"),
        (64, ["o9 o8"], "ordered parts have more than 16 bits in 'o9 o8'"),
    ],
)
def test_layout_that_cannot_be(count: int, texts: list[str], message: str) -> None:
    with pytest.raises(ArtifactError, match=re.escape(message)):
        Layout.parse(count, texts)
