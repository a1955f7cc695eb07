"""Tables in tiers: decoded by hand, malformed, saved and loaded, and with a wrong index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec import artifact
from saec.bits.elias_fano import pack_starts
from saec.bits.packing import PackedRows
from saec.errors import ArtifactError, IdError
from saec.format.code_part import CodePart
from saec.format.compressed import Compressed
from saec.format.load import load
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout, tier_bounds
from saec.format.tiered_field import TieredField, part_coordinates

AXES = np.array([[1, 0, 0.5], [0, 2, 0], [0, 0, -4], [10, 20, 30]], np.float16)
GRID, JOINT, TABLE, ONE = [-1, 0.5], [1, 0.25, -2, 0.5], [3, -5], [0.125]
VALUES = np.array([*GRID, *JOINT, *TABLE, *ONE], np.float16)


def packed(layout: Layout, codes: list[list[list[int]]]) -> NDArray[np.uint8]:
    """Codes by tier and part."""
    data = np.zeros(layout.code_bytes, dtype=np.uint8)
    for tier, parts in enumerate(codes):
        columns = [np.array(part) for part in parts]
        PackedRows.pack_into(data, layout.first_bytes[tier], columns, layout.widths(tier))
    return data


def two_tiers(index: TierIndex | None = None, **changes: Any) -> TieredField:
    """66 rows of dim 3: 64 of a grid and a joint table, 2 of a table, nothing and one value."""
    layout = Layout.parse(66, ["2g 1j2", "1 - 0"])
    first = [[row % 4 for row in range(64)], [row // 4 % 2 for row in range(64)]]
    second = [[1, 0], [0, 0], [0, 0]]
    given = {
        "name": "user",
        "layout": layout,
        "codes": packed(layout, [first, second]),
        "values": VALUES,
        "axes": AXES,
        "index": index,
        "dtype": "float32",
    }
    return TieredField(**(given | changes))


BY_HAND = {
    0: [9, 22, 28.5],  # mean - 1 a + (1 b + 0.25 c)
    1: [9.5, 22, 28.75],  # mean - 0.5 a + ...
    3: [10.5, 22, 29.25],
    4: [9, 16, 27.5],  # mean - 1 a + (-2 b + 0.5 c)
    7: [10.5, 16, 28.25],
    63: [10.5, 16, 28.25],
    64: [5, 20, 27],  # mean - 5 a + 0.125 c
    65: [13, 20, 31],  # mean + 3 a + 0.125 c
}


def test_decoding_by_hand() -> None:
    field = two_tiers()
    assert (field.vocab_size, field.dim, field.codec) == (66, 3, "axes")
    table = field.decode()
    assert table.dtype == np.float32
    for row, numbers in BY_HAND.items():
        assert table[row].tolist() == numbers
    assert np.array_equal(table[:64], np.tile(table[:8], (8, 1)))


def test_one_lookup_over_both_tiers() -> None:
    ids = [65, 0, 64, 7, 7, 64]
    found = two_tiers().lookup(np.array(ids).reshape(2, 3))
    assert found.shape == (2, 3, 3)
    assert found.reshape(6, 3).tolist() == [BY_HAND[i] for i in ids]
    assert two_tiers().lookup([]).shape == (0, 3)
    assert two_tiers().lookup(3).tolist() == BY_HAND[3]
    assert two_tiers().pool([0, 64, 65], [0, 1]).tolist() == [[9, 22, 28.5], [18, 40, 58]]


def in_order(**changes: Any) -> TieredField:
    """66 rows of dim 3: ten, thirty and 24 with the ordered codes 0, 2 and 3 of a grid and a table,
    each with a bit of its own on the last axis; two in order of a table."""
    layout = Layout.parse(66, ["o1g o1 1", "o1"])
    row = np.arange(64)
    given = {
        "name": "user",
        "layout": layout,
        "codes": packed(layout, [[0 * row, 0 * row, row % 2], [[0, 0]]]),
        "values": np.array([-1, 0.5, 1, 3, 0.25, 0.5, 5, 7], np.float16),
        "axes": AXES,
        "index": None,
        "dtype": "float32",
        "renumbered": True,
        "starts": np.concatenate([pack_starts(np.array([10, 10, 40]), 64), [1, 1]]).astype("u1"),
    }
    return TieredField(**(given | changes))


def test_rows_in_order_by_hand() -> None:
    field = in_order()
    assert field.code_starts.tolist() == [10, 10, 40, 65]
    # mean - 1 a + 1 b + 0.25 c; the next of the same run; the 11th, of code 2: - 1 a + 3 b; ...
    by_hand = {
        0: [9, 22, 28.5],
        9: [9, 22, 27.5],
        10: [9, 26, 28.5],
        39: [9, 26, 27.5],
        40: [9.5, 26, 28.75],
        63: [9.5, 26, 27.75],
        64: [15, 20, 32.5],
        65: [17, 20, 33.5],
    }
    assert field.lookup(list(by_hand)).tolist() == list(by_hand.values())
    assert field.decode()[list(by_hand)].tolist() == list(by_hand.values())
    assert field.tier_codes(0)[[0, 9, 10, 41]].tolist() == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 0],
        [1, 1, 1],
    ]
    # Codes: 64 bits and seven bytes. Starts: four low bits of three and their rest, a bit of one
    # and its rest.
    assert {role: t.shape for role, t in field.tensors.items()} == {
        "codes": (8 + 7,),
        "values": (8,),
        "axes": (4, 3),
        "starts": (2 + 1 + 2,),
    }


def test_tuning_keeps_the_order() -> None:
    field = in_order(permutation=np.arange(66)[::-1])
    tuned = field.tuned(field.values * np.float16(2), field.axes)
    assert np.array_equal(tuned.starts, field.starts)
    assert tuned.permutation is field.permutation
    assert tuned.lookup(0).tolist() == [8, 24, 27]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"renumbered": False}, "rows are in order of their codes, but features keep their ids"),
        ({"starts": None}, r"starts are uint8 \(5,\), not uint8 \(0,\)"),
        ({"starts": np.zeros(6, np.uint8)}, r"starts are uint8 \(5,\), not uint8 \(6,\)"),
        ({"starts": np.zeros(5, np.int8)}, r"starts are uint8 \(5,\), not int8 \(5,\)"),
    ],
)
def test_malformed_order(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        in_order(**changes)


def test_a_file_with_wrong_starts_is_refused(tmp_path: Path) -> None:
    Compressed([in_order(starts=np.zeros(5, np.uint8))]).save(tmp_path / "a.saec")
    field = load(tmp_path / "a.saec")["user"]
    with pytest.raises(ArtifactError, match="field 'user': 0 codes start where 3 should"):
        field.lookup(0)
    with pytest.raises(ArtifactError, match="field 'user': 0 codes start where 3 should"):
        field.decode()


def test_ids_outside() -> None:
    for bad in (-1, 66, 2**40):
        with pytest.raises(IdError, match=rf"field 'user': id {bad} .* outside \[0, 66\)"):
            two_tiers().lookup([0, bad])


def test_the_index_finds_the_rows() -> None:
    tiers = np.zeros(66, np.int8)
    tiers[[5, 40]] = 1
    field = two_tiers(TierIndex.of(tiers))
    assert field.lookup([5, 40, 0, 6, 41]).tolist() == [
        BY_HAND[64],
        BY_HAND[65],
        BY_HAND[0],
        two_tiers().lookup(5).tolist(),
        two_tiers().lookup(39).tolist(),
    ]
    assert sorted(field.decode().tolist()) == sorted(two_tiers().decode().tolist())


def one_row(texts: list[str], codes: list[int], **parts: Any) -> NDArray[np.float32]:
    layout = Layout.parse(1, texts)
    data = packed(layout, [[[code] for code in codes]])
    values = np.array(parts["values"], np.float16)
    return TieredField("f", layout, data, values, parts["axes"], None, "float32").lookup(0)


def test_axes_are_added_one_by_one_in_float32() -> None:
    # 1 + 2**24 is 2**24 in float32; from right to left, or in float64, it would be 1.
    axes = np.array([[2**24], [2**24], [1]], np.float32)
    assert one_row(["0 0"], [0, 0], values=[1, -1], axes=axes).tolist() == [0]
    assert one_row(["0j2"], [0], values=[1, -1], axes=axes).tolist() == [0]


def test_grids_are_rounded_after_each_step() -> None:
    layout = Layout.parse(1, ["12g"])
    values = np.array([0.1, 0.3], np.float16)
    field = TieredField(
        "f", layout, packed(layout, [[[4095]]]), values, np.eye(2, 1, dtype=np.float32), None,
        "float32",
    )  # fmt: skip
    offset, step = values.astype(np.float32)
    assert field.lookup(0).tolist() == [np.float32(offset + np.float32(np.float32(4095) * step))]


def test_a_tier_without_parts_is_the_mean() -> None:
    assert one_row([""], [], values=[], axes=AXES[-1:]).tolist() == [10, 20, 30]


def test_coordinates_of_parts() -> None:
    codes = np.array([0, 3, 1], np.uint32)
    none = part_coordinates(CodePart(), np.empty(0, np.float16), codes)
    assert none.tolist() == [[0], [0], [0]]
    table = part_coordinates(CodePart("table", 2), np.array([5, 6, 7, 8], np.float16), codes)
    assert table.tolist() == [[5], [8], [6]]
    grid = part_coordinates(CodePart("grid", 2), np.array([-1, 0.5], np.float16), codes)
    assert grid.tolist() == [[-1], [0.5], [-0.5]]
    joint = part_coordinates(CodePart("table", 2, 2), np.arange(8, dtype=np.float16), codes)
    assert joint.tolist() == [[0, 1], [6, 7], [2, 3]]
    for found in (none, table, grid, joint):
        assert found.dtype == np.float32


def test_stored_tensors() -> None:
    plain, kept = two_tiers(), two_tiers(TierIndex.of(np.repeat([0, 1], [64, 2])))
    assert {role: t.shape for role, t in plain.tensors.items()} == {
        "codes": (24 + 1 + 7,),
        "values": (9,),
        "axes": (4, 3),
    }
    assert plain.nbytes == 32 + 18 + 24
    assert kept.tensors["tiers"].shape == (75,)
    assert kept.nbytes == plain.nbytes + 75
    assert plain.description["tiers"] == ["2g 1j2", "1 - 0"]
    assert plain.original_nbytes == 66 * 3 * 4


def test_filled_and_tuned_replace_only_their_arrays() -> None:
    order = np.arange(66)[::-1]
    field = two_tiers(renumbered=True, permutation=order)
    filled = field.filled(np.zeros_like(field.codes))
    assert filled.renumbered
    assert filled.permutation is order
    assert filled.lookup(7).tolist() == BY_HAND[0]
    tuned = filled.tuned(field.values * np.float16(2), field.axes)
    assert tuned.renumbered
    assert tuned.permutation is order
    assert tuned.lookup(0).tolist() == [8, 24, 27]
    assert field.decode()[7].tolist() == BY_HAND[7]
    assert not two_tiers().tuned(VALUES, AXES).renumbered


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": np.zeros(31, np.uint8)}, r"codes are uint8 \(32,\), not uint8 \(31,\)"),
        ({"codes": np.zeros(33, np.uint8)}, r"codes are uint8 \(32,\), not uint8 \(33,\)"),
        ({"codes": np.zeros(32, np.int8)}, r"codes are uint8 \(32,\), not int8 \(32,\)"),
        ({"codes": np.zeros((32, 1), np.uint8)}, r"not uint8 \(32, 1\)"),
        ({"values": VALUES[:-1]}, r"values are float16 \(9,\), not float16 \(8,\)"),
        ({"values": VALUES[None]}, r"values are float16 \(9,\), not float16 \(1, 9\)"),
        ({"values": VALUES.astype(np.float32)}, r"values are float16 \(9,\), not float32 \(9,\)"),
        ({"values": np.full(9, np.nan, np.float16)}, "values hold numbers that are not finite"),
        ({"axes": AXES[:3]}, r"axes are float16 \(4, 3\), not float16 \(3, 3\)"),
        ({"axes": AXES[[0, 1, 2, 3, 3]]}, r"axes are float16 \(4, 3\), not float16 \(5, 3\)"),
        ({"axes": AXES.ravel()}, r"axes are \(rank \+ 1, dim\) .*, not float16 \(12,\)"),
        ({"axes": AXES[:, :0]}, r"not float16 \(4, 0\)"),
        ({"axes": AXES[:0]}, r"not float16 \(0, 3\)"),
        ({"axes": AXES.astype(np.float64)}, r"not float64 \(4, 3\)"),
        ({"axes": AXES.astype(ml_dtypes.bfloat16)}, r"not bfloat16 \(4, 3\)"),
        ({"axes": np.full((4, 3), np.inf, np.float16)}, "axes hold numbers that are not finite"),
        ({"dtype": "float64"}, "a table cannot have been 'float64'"),
        ({"name": ""}, "a field's name is a string"),
    ],
)
def test_malformed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        two_tiers(**changes)


def fields() -> list[TieredField]:
    tiers = np.zeros(66, np.int8)
    tiers[[5, 40]] = 1
    layout = Layout.parse(1, [""])
    return [
        two_tiers(),
        two_tiers(TierIndex.of(tiers), name="kept", axes=AXES.astype(np.float32)),
        TieredField("one", layout, np.zeros(7, np.uint8), VALUES[:0], AXES[-1:], None, "float16"),
        two_tiers(name="new", renumbered=True, permutation=np.arange(66)[::-1]),
        in_order(name="code", permutation=np.arange(66)),
    ]


def test_save_and_load(tmp_path: Path) -> None:
    saved = Compressed(fields(), 0.25)
    saved.save(tmp_path / "a.saec")
    loaded = load(tmp_path / "a.saec")
    assert (tmp_path / "a.saec").stat().st_size == saved.nbytes == loaded.nbytes
    for name, field in saved.items():
        other = loaded[name]
        assert isinstance(other, TieredField)
        assert other.description == field.description
        assert other.renumbered == field.renumbered == (name in ("new", "code"))
        assert other.permutation is None
        assert np.array_equal(other.decode(), field.decode())
        assert other.nbytes == field.nbytes
        assert {role: t.dtype for role, t in other.tensors.items()} == {
            role: t.dtype for role, t in field.tensors.items()
        }
    loaded.save(tmp_path / "b.saec")
    assert (tmp_path / "b.saec").read_bytes() == (tmp_path / "a.saec").read_bytes()


@pytest.mark.parametrize("fill", [0, 0x7F, 0xFF])
def test_a_file_with_a_wrong_index_is_refused(fill: int, tmp_path: Path) -> None:
    lying = TierIndex(np.full(75, fill, np.uint8), 66, 2)
    Compressed([two_tiers(lying)]).save(tmp_path / "a.saec")
    field = load(tmp_path / "a.saec")["user"]
    with pytest.raises(ArtifactError, match="field 'user': the tier index contradicts itself"):
        field.lookup(np.arange(66))
    with pytest.raises(ArtifactError, match="field 'user': the tier index contradicts itself"):
        field.decode()


def write(path: Path, changes: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Write :func:`two_tiers` with a changed description; None removes an entry."""
    entry = two_tiers(TierIndex.of(np.repeat([0, 1], [64, 2]))).entry
    held = {role: t for role, t in (entry.tensors | tensors).items() if t is not None}
    artifact.write(path, [replace(entry, tensors=held, **changes)])


# An index; "2g 1j2": a grid of two bits, a table of one for two axes; "1 - 0".
DETAILS = b"\2" + b"\2\x42\x61\2" + b"\3\x21\0\x20"


def test_details() -> None:
    index = TierIndex.of(np.repeat([0, 1], [64, 2]))
    assert two_tiers(index).entry.details == DETAILS
    assert two_tiers().entry.details == b"\0" + DETAILS[1:]
    assert two_tiers(renumbered=True).entry.details == b"\1" + DETAILS[1:]
    # "o" before a part sets the highest bit.
    ordered = Layout.parse(66, ["o1g o1 1", "o1j2"])
    assert ordered.packed() == b"\3\xc1\xa1\x21" + b"\1\xe1\2"


def told(*tiers: bytes, index: int = 2) -> dict[str, Any]:
    return {"details": bytes([index]) + b"".join(tiers)}


FIRST, LAST = DETAILS[1:5], DETAILS[5:]
NO_PART = "no part of a tier has the byte"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"details": b""}, "1 bytes are stated, but only 0 are left"),
        (told(FIRST), "of 66 ids in 1 tiers takes 0 bytes, not uint8"),
        (told(FIRST, LAST[:-1]), "1 bytes are stated, but only 0 are left"),
        (told(FIRST, LAST, b"\0"), "66 rows make 1 to 2 tiers, not 3"),
        (told(*[b"\0"] * 20), "more than 19 tiers"),
        (told(FIRST, LAST, index=3), "the map from ids to rows is of the unknown kind 3"),
        (told(FIRST, LAST, index=0), "axes, codes, tiers, values; its tensors make .* of axes, "),
        (told(FIRST, LAST, index=1), "axes, codes, tiers, values; its tensors make .* of axes, "),
        (told(b"\2\x42\x61\1", LAST), f"{NO_PART} 97 and 1 axes"),
        (told(b"\2\x42\x61\x64", LAST), f"{NO_PART} 97 and 100 axes"),
        (told(b"\1\x40", LAST), f"{NO_PART} 64 and 1 axes"),
        (told(b"\1\x01", LAST), f"{NO_PART} 1 and 1 axes"),
        (told(b"\1\x80", LAST), f"{NO_PART} 128 and 1 axes"),
        (told(b"\1\xa0", LAST), f"{NO_PART} 160 and 1 axes"),
        (told(b"\1\x31", LAST), f"{NO_PART} 49 and 1 axes"),
        (told(FIRST, b"\2\x21\xa1"), "ordered parts must come first, not as in '1 o1'"),
        (told(b"\2\xb0\xa1", LAST), "ordered parts have more than 16 bits in 'o16 o1'"),
        (told(b"\2\xc2\x61\2", LAST), "codes are uint8"),
        (told(FIRST, b"\3\x21\0\x21"), r"values are float16 \(10,\)"),
        (told(b"\2\x43\x61\2", LAST), r"codes are uint8 \(40,\)"),
        (told(FIRST, b"\2\x21\0"), r"values are float16 \(8,\)"),
        (told(FIRST, b"\4\x21\0\x20\0"), r"axes are float16 \(5, 3\)"),
        ({"vocab_size": 74}, "the index of 74 ids|codes are uint8"),
        ({"vocab_size": 64}, "64 rows make 1 to 1 tiers, not 2"),
        ({"vocab_size": 0}, "a field has 1 to 4398046511104 rows, not 0"),
        ({"vocab_size": 2**62}, "a field has 1 to 4398046511104 rows, not 46"),
        ({"dim": 4}, r"its record says float32 \(66, 4\)"),
        ({"dtype": np.dtype(np.int8)}, "a table cannot have been 'int8'"),
    ],
)
def test_malformed_record(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path / "a.saec", changes, {})
    with pytest.raises(ArtifactError, match=message):
        load(tmp_path / "a.saec")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"codes": None}, "damaged field 'user': there is no tensor 'codes'"),
        ({"values": None}, "damaged field 'user': there is no tensor 'values'"),
        ({"axes": None}, "damaged field 'user': there is no tensor 'axes'"),
        ({"tiers": None}, "damaged field 'user': there is no tensor 'tiers'"),
        ({"weights": np.zeros(1, np.uint8)}, "tiers, values, weights; its tensors make"),
        ({"starts": np.zeros(1, np.uint8)}, r"starts are uint8 \(0,\), not uint8 \(1,\)"),
        ({"starts": np.zeros(0, np.uint8)}, "starts, tiers, values; its tensors make"),
        ({"tiers": np.zeros(74, np.uint8)}, "of 66 ids in 2 tiers takes 75 bytes, not uint8"),
        ({"tiers": np.zeros(75, np.int8)}, "of 66 ids in 2 tiers takes 75 bytes, not int8"),
        ({"values": VALUES.view(np.int8)}, r"values are float16 \(9,\), not int8 \(18,\)"),
    ],
)
def test_malformed_tensors(tensors: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path / "a.saec", {}, tensors)
    with pytest.raises(ArtifactError, match=message):
        load(tmp_path / "a.saec")


# "-", "0", "1", "2g", "1j2", "0j2", "3", "16", "1j99", "o1"
PARTS = st.sampled_from(
    [b"\0", b"\x20", b"\x21", b"\x42", b"\x61\2", b"\x60\2", b"\x23", b"\x30", b"\x61\x63", b"\xa1"]
)
TIERS = st.lists(PARTS, max_size=4).map(lambda parts: bytes([len(parts)]) + b"".join(parts))


@pytest.mark.exhaustive
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    index=st.integers(0, 3),
    tiers=st.lists(TIERS, max_size=3).map(b"".join),
    vocab_size=st.sampled_from([1, 64, 65, 66, 67, 255, 2**31, 2**63 - 1]),
    sizes=st.tuples(st.integers(0, 80), st.integers(0, 20), st.integers(0, 5)),
    index_bytes=st.none() | st.sampled_from([0, 74, 75, 120]),
    fill=st.integers(0, 255),
)
def test_any_record_is_used_or_refused(
    index: int,
    tiers: bytes,
    vocab_size: int,
    sizes: tuple[int, int, int],
    index_bytes: int | None,
    fill: int,
    tmp_path: Path,
) -> None:
    codes, values, axes = sizes
    tensors = {
        "codes": np.full(codes, fill, np.uint8),
        "values": np.ones(values, np.float16),
        "axes": np.ones((axes, 3), np.float16),
        "tiers": None if index_bytes is None else np.full(index_bytes, fill, np.uint8),
    }
    write(tmp_path / "a.saec", {"vocab_size": vocab_size} | told(tiers, index=index), tensors)
    try:
        field = load(tmp_path / "a.saec")["user"]
        assert np.isfinite(field.lookup([0, vocab_size - 1, vocab_size // 2])).all()
    except ArtifactError:
        pass


def slowly(field: TieredField, tiers: NDArray[np.int8]) -> NDArray[np.float32]:
    """The table, row by row and code by code."""
    rows = []
    held = [0] * len(field.layout.tiers)
    counts = np.diff(field.layout.bounds).tolist()
    unpacked = [
        PackedRows(field.codes, first, count, field.layout.widths(tier)).unpack()
        for tier, (first, count) in enumerate(zip(field.layout.first_bytes, counts, strict=True))
    ]
    for tier in tiers.tolist():
        row = field.axes[-1].astype(np.float32)
        axis, value = 0, sum(part.values for parts in field.layout.tiers[:tier] for part in parts)
        for part, code in zip(field.layout.tiers[tier], unpacked[tier][held[tier]], strict=True):
            values = field.values[value : value + part.values]
            for coordinate in part_coordinates(part, values, np.array([code]))[0]:
                row = row + coordinate * field.axes[axis].astype(np.float32)
                axis += 1
            value += part.values
        held[tier] += 1
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("axes_dtype", [np.float16, np.float32])
@pytest.mark.parametrize("rows", [1, 64, 300, 1300, 5000])
def test_lookup_equals_row_by_row_decoding(
    rows: int, axes_dtype: type, rng: np.random.Generator
) -> None:
    bounds = tier_bounds(rows)
    texts = ["5g 3 2", "4 2j2", "1", "", "2 - 1"][: len(bounds) - 1]
    layout = Layout.parse(rows, texts)
    codes = rng.integers(256, size=layout.code_bytes, dtype=np.uint8)
    values = rng.standard_normal(layout.value_count).astype(np.float16)
    axes = rng.standard_normal((layout.rank + 1, 5)).astype(axes_dtype)
    in_order = np.repeat(np.arange(len(texts), dtype=np.int8), np.diff(bounds))
    for tiers in (in_order, rng.permutation(in_order)):
        index = None if tiers is in_order else TierIndex.of(tiers)
        field = TieredField("f", layout, codes, values, axes, index, "float32")
        expected = slowly(field, tiers)
        assert np.array_equal(field.decode(), expected)
        ids = rng.integers(rows, size=40)
        assert np.array_equal(field.lookup(ids), expected[ids])
