"""Encoding of columns as ids, and the checks of a log."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saec.errors import DataError
from saec.reference.encode import encode
from saec.reference.log import Log


def small(**options: Any) -> Log:
    """Six training rows, one validation row and two test rows, small enough to count by hand."""
    columns = {
        "city": pl.Series(["b", "a", "b", "c", None, "a", "c", "z", "b"]),
        "user": np.array([7, 7, 7, 9, 9, -4, 9, 1, -4]),
    }
    columns["city|user"] = (columns["city"], columns["user"])
    labels = [1, 0, 0, 0, 1, 0, 0, 1, 0]
    return encode(columns, labels, [0, 0, 0, 0, 0, 0, 1, 2, 2], "small", **options)


def test_encode_gives_hand_computed_ids() -> None:
    log = small()
    # city: a and b twice (tie by value), missing and c once (missing first). user: 7 thrice, 9
    # twice, -4 once.
    assert log.ids[:, 0].tolist() == [2, 1, 2, 4, 3, 1, 4, 0, 2]
    assert log.ids[:, 1].tolist() == [1, 1, 1, 2, 2, 3, 2, 0, 3]
    # cross: b|7 twice; then by the ids of the parts: a|7, a|-4, missing|9, c|9.
    assert log.ids[:, 2].tolist() == [1, 2, 1, 5, 4, 3, 5, 0, 0]
    assert log.ids.dtype == np.int32
    assert log.labels.tolist() == [1, 0, 0, 0, 1, 0, 0, 1, 0]
    assert log.labels.dtype == np.float32
    assert log.vocab_sizes == {"city": 5, "user": 4, "city|user": 6}


def test_frequencies_count_training_rows_and_estimate_the_unseen() -> None:
    log = small()
    # Two cities were seen once, so two occurrences are expected of unseen ones; one user; four
    # combinations.
    assert log.frequencies["city"].tolist() == [2, 2, 2, 1, 1]
    assert log.frequencies["user"].tolist() == [1, 3, 2, 1]
    assert log.frequencies["city|user"].tolist() == [4, 2, 1, 1, 1, 1]


def test_unseen_frequency_is_at_least_one() -> None:
    log = encode({"a": [5, 5, 5]}, [0, 1, 0], [0, 0, 0], "x")
    assert log.frequencies["a"].tolist() == [1, 3]


def test_vocabularies_hold_the_values_by_id() -> None:
    kept = small(vocabularies=True).vocabularies
    assert kept is not None
    assert kept["city"].tolist() == ["<unseen>", "a", "b", "<missing>", "c"]
    assert kept["user"].tolist() == ["<unseen>", "7", "9", "-4"]
    expected = ["<unseen>", "b|7", "a|7", "a|-4", "<missing>|9", "c|9"]
    assert kept["city|user"].tolist() == expected
    assert small().vocabularies is None


def test_rows_are_the_indices_of_a_part() -> None:
    log = small()
    assert log.rows("train").tolist() == [0, 1, 2, 3, 4, 5]
    assert log.rows("validation").tolist() == [6]
    assert log.rows("test").tolist() == [7, 8]
    with pytest.raises(DataError, match="no part 'tests' of a log; there are train, valid"):
        log.rows("tests")


def test_repr_says_what_is_in_it() -> None:
    assert repr(small()) == "Log('small', 9 rows, 3 fields, 15 features)"


@pytest.mark.parametrize(
    "values",
    [
        pl.Series([1.5, None, 1.5, float("nan"), 2.0]),
        pl.Series([True, False, None, True, True]),
        pl.Series(["x", "y", "x", "x", "z"], dtype=pl.Categorical),
        np.array([2**62, -(2**62), 2**62, 0, 5]),
        np.array([2**64 - 1, 0, 2**64 - 1, 3, 3], np.uint64),
        np.array(["2017-10-01", "2017-10-02"] * 2 + ["2017-10-01"], "datetime64[ms]"),
        ["x", "y", "x", "x", "z"],
    ],
    ids=["float", "bool", "categorical", "wide", "uint64", "date", "list"],
)
def test_encode_takes_any_single_values(values: Any) -> None:
    log = encode({"a": values}, [0, 1, 0, 1, 0], [0, 0, 0, 0, 2], "x", vocabularies=True)
    same = [[a == b for b in log.ids[:4, 0]] for a in log.ids[:4, 0]]
    texts = [str(value) for value in values][:4]
    assert same == [[a == b for b in texts] for a in texts]
    assert log.ids[:4].min() == 1


def oracle(rows: list[Any], train: list[bool]) -> list[int]:
    """Ids by a dictionary; a cross is a tuple of ids, by which its ties are ordered."""
    counts = Counter(value for value, seen in zip(rows, train, strict=True) if seen)
    order = sorted(counts, key=lambda value: (-counts[value], value))
    ids = {value: place + 1 for place, value in enumerate(order)}
    return [ids.get(value, 0) for value in rows]


integers = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))
rows = st.tuples(integers, st.text("abé|", max_size=2), st.booleans())


@given(st.lists(rows, min_size=1, max_size=40))
def test_encode_equals_a_dictionary(examples: list[tuple[int, str, bool]]) -> None:
    train = [True, *(seen for _, _, seen in examples[1:])]
    number = np.array([value for value, _, _ in examples], np.int64)
    text = pl.Series([value for _, value, _ in examples], dtype=pl.String)
    split = np.where(train, 0, 2)
    columns = {"number": number, "text": text, "cross": (number, text, number)}
    log = encode(columns, np.zeros(len(train)), split, "x")
    assert log.ids[:, 0].tolist() == oracle(number.tolist(), train)
    assert log.ids[:, 1].tolist() == oracle(text.to_list(), train)
    parts = list(zip(log.ids[:, 0].tolist(), log.ids[:, 1].tolist(), strict=True))
    twice = oracle(parts, train)
    # A pair with an unseen part must be unseen; the dictionary finds that by itself.
    crossed = oracle(list(zip(twice, log.ids[:, 0].tolist(), strict=True)), train)
    assert log.ids[:, 2].tolist() == crossed


def test_order_of_rows_does_not_matter(rng: np.random.Generator) -> None:
    values, other = rng.integers(0, 50, 500) ** 3, rng.integers(0, 5, 500)
    split, order = rng.integers(0, 3, 500), rng.permutation(500)
    log = encode({"a": values, "b": (values, other)}, other > 2, split, "x")
    shuffled = encode(
        {"a": values[order], "b": (values[order], other[order])},
        other[order] > 2,
        split[order],
        "x",
    )
    assert np.array_equal(log.ids[order], shuffled.ids)


def test_encode_leaves_its_input_alone() -> None:
    values, labels, split = np.array([3, 1, 3]), np.array([0.0, 1.0, 0.0]), np.array([0, 0, 2])
    encode({"a": values, "b": (values, values)}, labels, split, "x")
    assert values.tolist() == [3, 1, 3]
    assert labels.tolist() == [0, 1, 0]
    assert split.tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("columns", "labels", "split", "message"),
    [
        ({}, [0], [0], "log 'x': there are no fields"),
        ({"a": []}, [], [], "log 'x' has no rows"),
        ({"a": [1, 2, 3]}, [0, 1], [0, 0], "field 'a' has 3 rows, the labels have 2"),
        ({"a": [1, 2]}, [0, 2], [0, 0], "the label of row 1 is 2.0; it must be 0 or 1"),
        ({"a": [1, 2]}, [0, np.nan], [0, 0], "the label of row 1 is nan; it must be 0 or 1"),
        ({"a": [1, 2]}, ["a", "b"], [0, 0], "labels are <U1 of shape"),
        ({"a": [1, 2]}, [0, 1], [0, 256], "the split of row 1 is 256; it must be 0, 1 or 2"),
        ({"a": [1, 2]}, [0, 1], [0], "split is int64 of shape .* each of 2 rows"),
        ({"a": [1, 2]}, [0, 1], [2, 1], "none of the 2 rows is for training"),
        ({"a": [[1], [2]]}, [0, 1], [0, 0], r"field 'a' holds Array.*, not single values"),
        ({"a": [object(), 1]}, [0, 1], [0, 0], "field 'a' holds Object, not single values"),
        ({"a": ()}, [0, 1], [0, 0], "field 'a': a cross of no columns"),
        ({"a": [[1], [2, 3]]}, [0, 1], [0, 0], "field 'a': its values have no common type"),
    ],
)
def test_encode_refuses(columns: Any, labels: Any, split: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode(columns, labels, split, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"field_names": ("a", "a")}, r"field names are \('a', 'a'\); they must differ"),
        ({"frequencies": {}}, "frequencies are given for , the fields are 'a', 'b'"),
        ({"vocabularies": {"a": np.empty(3, object)}}, "vocabularies are given for 'a'"),
        (
            {"vocabularies": {"a": np.empty(2, object), "b": np.empty(3, object)}},
            "field 'a': 2 values, 3 frequencies",
        ),
        ({"ids": np.zeros((2, 3), np.int32)}, r"ids are int32 of shape \(2, 3\)"),
        ({"ids": np.zeros((2, 2), np.int64)}, "ids are int64 of shape"),
        ({"ids": np.int32([[0, 0], [3, 0]])}, "id in field 'a' of row 1 is 3; .* from 0 to 2"),
        ({"ids": np.int32([[0, -1], [1, 0]])}, "id in field 'b' of row 0 is -1"),
        ({"truth": np.zeros(3, np.float32)}, r"2 rows of ids, truth \(3,\)"),
        ({"truth": np.float32([0, 1.5])}, "the true click probability of row 1 is 1.5"),
        ({"split": np.int8([0, 3])}, "the split of row 1 is 3; it must be 0, 1 or 2"),
    ],
)
def test_log_refuses(change: dict[str, Any], message: str) -> None:
    log = encode({"a": [1, 2], "b": ["x", "y"]}, [0, 1], [0, 0], "x")
    with pytest.raises(DataError, match=message):
        replace(log, **change)
