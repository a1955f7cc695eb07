"""Plans of tables in an ONNX model: by hand, and compared with decoded rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import clustered, run, tiered
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from saec.format.raw_field import RawField
from saec.onnx.byte_code_store import WholeStore
from saec.onnx.byte_codes import Kind, Whole, whole_plans
from saec.onnx.members import FACTORS, Members
from saec.onnx.node_builder import Builder
from saec.onnx.packed import Packed, packed_plan
from saec.onnx.word_packing import codes_per_word, pack_words, words_for


def test_packed_words_by_hand() -> None:
    # 31 codes of two bits and one more fill a word; the 33rd starts the next.
    codes = np.zeros(33, dtype=np.uint64)
    codes[[0, 1, 31, 32]] = 3, 1, 2, 1
    words = pack_words(codes, 2)
    assert words.tolist() == [0b0111 | 2 << 62, 1]


def test_codes_do_not_span_two_words() -> None:
    assert [codes_per_word(bits) for bits in (1, 3, 13, 21, 33, 63)] == [64, 21, 4, 3, 1, 1]
    assert words_for(9, 13) == 3
    assert pack_words(np.zeros(9, np.uint64), 0).tolist() == [0]  # one word to read


@given(st.integers(1, 63), st.integers(1, 200), st.integers(0, 2**32))
def test_packed_words_hold_every_code(bits: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << bits, count, dtype=np.uint64)
    words, each = pack_words(codes, bits), codes_per_word(bits)
    place = np.arange(count)
    found = words[place // each] >> (place % each * bits).astype(np.uint64)
    np.testing.assert_array_equal(found & np.uint64((1 << bits) - 1), codes)


def read_whole(plan: Whole) -> NDArray[Any]:
    """Rows of a plan, computed one by one as its docstring says."""
    rows = []
    for number in range(plan.count):
        place = number if plan.places is None else int(plan.places[number])
        pair, code = place - plan.cut, place - plan.cut - len(plan.pairs)
        if pair < 0:
            rows.append(plan.rows[place])
        elif code < 0:
            first, second = plan.pairs[pair]
            row = plan.rows[plan.cut + first]
            rows.append(row if second == 0 else row + plan.seconds[second - 1])
        else:
            rows.append(plan.rows[plan.cut + int(plan.codes[code])])
    return np.array(rows)


def read_packed(plan: Packed) -> NDArray[Any]:
    """The same for plans with packed codes."""
    rows = []
    for number in range(plan.count):
        place = number
        if plan.places is not None:
            place = code_at(plan.places, number, plan.place_bits)
        if plan.members is not None:
            found = place_of(plan.members, number)
            place = plan.members_end + number if found is None else found
        segment = plan.segments[plan.segment_of[place // 64]]
        words = plan.words[segment.first_word :]
        code = code_at(words, place - segment.first, segment.bits)
        parts = [
            plan.rows[group.first_row + (code >> group.shift & (1 << group.width) - 1)]
            for group in segment.groups
        ]
        rows.append(np.sum(parts, axis=0))
    return np.array(rows)


def place_of(members: Members, number: int) -> int | None:
    """The place of an id by the docstring of Members; None if it is not a member."""
    for choice, factor in enumerate(FACTORS.tolist()):
        slot, rest = divmod(number * factor % members.space, members.each)
        if members.marks[slot] == 1 + 3 * rest + choice:
            return code_at(members.places, slot, members.place_bits)
    return None


@given(st.integers(1, 3000), st.floats(0, 1), st.integers(0, 2**32))
def test_members_find_their_ids_and_no_others(count: int, share: float, seed: int) -> None:
    ids = np.random.default_rng(seed).permutation(count)[: 1 + int(share * (count - 1))]
    members = Members.of(ids, count)
    found = [place_of(members, number) for number in range(count)]
    assert [found[number] for number in ids.tolist()] == list(range(len(ids)))
    assert sum(place is not None for place in found) == len(ids)


def test_members_take_some_three_bytes_each() -> None:
    members = Members.of(np.arange(0, 1 << 20, 16), 1 << 20)  # 65536 of 2^20 ids
    assert members.marks.dtype == np.uint8
    assert members.nbytes < 3.6 * 65536


def code_at(words: NDArray[Any], place: int, bits: int) -> int:
    word, slot = divmod(place, codes_per_word(bits))
    return int(words[word]) >> slot * bits & (1 << bits) - 1


FIELDS = {
    "axes by rank": lambda: tiered("t", 5000, ranked=True),
    "axes by rank, few bits": lambda: tiered("t", 5000, ratio=60, ranked=True),
    "axes kept": lambda: tiered("t", 5000),
    "axes kept, few bits": lambda: tiered("t", 5000, ratio=50),
    "axes similar": lambda: tiered("t", 5000, order="code"),
    "axes similar, few bits": lambda: tiered("t", 5000, ratio=80, order="code"),
    "one tier": lambda: tiered("t", 50, ratio=1.1, ranked=True),
    "clusters": lambda: clustered("t", 700),
    "many clusters": lambda: clustered("t", 3000, clusters=300, codebook="float16"),
    "raw": lambda: RawField("t", np.ones((4, 16), np.float32)),
}


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("name", FIELDS)
def test_plans_with_whole_codes_give_the_rows(name: str) -> None:
    field = FIELDS[name]()
    for alone in (True, False):
        plans = whole_plans(field, alone)
        assert {Kind(np.dtype(np.int32), most) for most in (0, 1, 2)} <= set(plans)
        for (dtype, most), plan in plans.items():
            assert (plan.codes.dtype, plan.codes[0]) == (dtype, 0)
            assert alone or plan.places is None
            assert most or not len(plan.pairs)
            assert most == 2 or not plan.pairs[:, 1].any()
            near = 1e-6 if plan.pairs[:, 1].any() else 0  # sums of two rows are rounded once more
            np.testing.assert_allclose(read_whole(plan), field.decode(), rtol=near, atol=near)


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("name", FIELDS)
def test_plans_with_packed_codes_give_the_rows(name: str) -> None:
    field = FIELDS[name]()
    for alone in (True, False):
        plan = packed_plan(field, alone)
        assert alone or plan.places is plan.members is None
        assert not plan.rows[:2].any()
        np.testing.assert_allclose(read_packed(plan), field.decode(), rtol=1e-5, atol=1e-6)


@pytest.mark.exhaustive
def test_the_test_fields_cover_all_kinds_of_plans() -> None:
    assert FIELDS["axes by rank"]().index is None
    assert FIELDS["axes kept"]().index is not None
    assert packed_plan(FIELDS["axes by rank"](), True).groups > 1
    assert FIELDS["axes similar"]().layout.any_ordered
    assert FIELDS["axes similar, few bits"]().layout.any_ordered
    assert FIELDS["raw"]().codec == "raw"
    assert packed_plan(FIELDS["axes kept"](), True).places is not None
    assert packed_plan(FIELDS["axes kept, few bits"](), True).members is not None


def test_sums_of_two_rows_take_fewer_bytes() -> None:
    # 1024 pairs and the tail have two codes of 2 bytes; the tail's ids have a byte each.
    plans = whole_plans(FIELDS["axes by rank, few bits"](), True)
    none, one, two = (plans[Kind(np.dtype(np.uint8), most)] for most in (0, 1, 2))
    assert (two.cut, len(two.pairs), len(two.codes)) == (0, 1024, 5000 - 1024)
    assert two.seconds is not None
    assert two.nbytes == 64 * (len(two.rows) + len(two.seconds)) + 4 * 1025 + 5000 - 1024
    assert none.nbytes > one.nbytes > two.nbytes
    assert two.nbytes < 0.55 * none.nbytes


@pytest.mark.parametrize("summed", [True, False])
def test_pairs_by_hand(summed: bool) -> None:
    """Two tables that the same nodes look up; the second has no pairs."""
    rows = np.array([[1, 0], [2, 0], [3, 0], [40, 0], [50, 0]], np.float32)
    pairs = np.array([[2, 1], [2, 2], [0, 0], [1, 2]])
    seconds = np.array([[0, 6], [0, 7]], np.float32)
    codes = np.array([0, 1, 0], np.uint8)
    if not summed:
        pairs[:, 1], seconds = 0, seconds[:0]
    plans = {
        "a": Whole(rows, 2, codes, None, pairs, seconds),
        "b": Whole(np.array([[8, 8], [9, 9]], np.float32), 1, np.zeros(1, np.uint8)),
    }
    wanted = {
        "a": [[1, 0], [2, 0], [50, 6], [50, 7], [3, 0], [40, 7], [3, 0], [40, 0], [3, 0]],
        "b": [[8, 8], [9, 9]],
    }
    if not summed:
        wanted["a"] = [[row, 0] for row, _ in wanted["a"]]
    assert plans["a"].count == 9
    np.testing.assert_array_equal(read_whole(plans["a"]), wanted["a"])
    builder = Builder("t/")
    store = WholeStore(builder, plans, np.float32)
    # Rows; tail codes; entries of ids before the tails and of these; the same again, second rows.
    assert store.nbytes == 8 * (5 + 2) + 4 + (7 + 2) + (7 + 2 + 8 * 3 if summed else 0)
    found = store.rows(builder, "ids", ["b", "a", "b"], 0)
    graph = helper.make_graph(
        builder.taken(),
        "model",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["B", 3])],
        [helper.make_tensor_value_info(found, TensorProto.FLOAT, None)],
        list(builder.initialisers.values()),
    )
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    ids = np.stack([np.arange(9) % 2, np.arange(9), np.ones(9, np.int64)], axis=1)
    (taken,) = run(model, ids=ids)
    both = {name: np.array(rows) for name, rows in wanted.items()}
    expected = np.stack([both["b"][ids[:, 0]], both["a"], both["b"][ids[:, 2]]], axis=1)
    np.testing.assert_array_equal(taken, expected)
    for bad in ([2, 0, 0], [0, 9, 0], [0, -1, 0], [-1, 0, 0], [0, 0, 2]):
        with pytest.raises(Exception, match=r"[Oo]ut of (data bounds|range)"):
            run(model, ids=np.array([bad]))


def test_narrow_codes_take_fewer_bytes() -> None:
    field = clustered("t", 700)
    plans = whole_plans(field, True)
    sizes = [plan.nbytes for kind, plan in plans.items() if kind.most == 0]
    assert sizes == [40 * 64 + 700 * n for n in (1, 2, 4)]
    assert packed_plan(field, True).nbytes == 42 * 64 + 8 * words_for(700, 6) + 11  # 11 blocks
    wide = clustered("t", 3000, clusters=300)
    assert Kind(np.dtype(np.uint8), 0) not in whole_plans(wide, True)
