"""Fields with keys: raw keys in, rows out."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from keyed_example import Example, keyed, random_keys
from numpy.typing import NDArray

import saec
from saec.codecs.axes.code_lengths import code_lengths
from saec.errors import KeysError
from saec.format.key_strings import KeyStrings
from saec.format.keyed_field import KeyedField
from saec.format.keyed_layout import KeyedLayout, SymbolPart
from saec.keys.building import build_function
from saec.keys.kinds import KeyKind


@pytest.fixture(scope="module")
def example() -> Example:
    return Example()


@pytest.fixture(scope="module")
def priced(example: Example) -> saec.Priced:
    return saec.measure([example.field()], metrics=example.metrics, progress=False)


@pytest.fixture(scope="module")
def result(priced: saec.Priced) -> saec.Compressed:
    return saec.compress(priced, saec.Ratio(30), progress=False)


def test_codewords_as_long_as_their_counts_say_or_the_harm_of_unknown_keys() -> None:
    nothing = np.zeros(4)
    assert code_lengths(np.array([4.0, 2, 1, 1]), nothing, 1.0).tolist() == [1, 2, 3, 3]
    # 1000 nats x 2^-length + count x length: one bit more saves less than it costs from here on.
    harm = np.full(3, 1000.0)
    assert code_lengths(np.array([9.0, 1, 2]), harm, 1.0).tolist() == [6, 9, 8]
    assert code_lengths(np.array([5.0, 5]), np.zeros(2), 1.0, room=0.25).tolist() == [3, 3]
    assert code_lengths(np.array([5.0]), np.zeros(1), 1.0).tolist() == [0]


# One class: symbol 0 is "0" and stands for 1, symbol 1 is "10" and stands for -2.
AXES = np.array([[1, 2], [0.5, 0.25]], np.float16)  # one axis, and the default row
ROWS = np.array([[1.5, 2.25], [-1.5, -3.75]], np.float32)


def four_keys(keys: NDArray[np.int64], symbols: list[int]) -> KeyedField:
    layout = KeyedLayout(((SymbolPart(2, 1),),))
    lengths, values = np.array([1, 2], np.uint8), np.array([1, -2], np.float16)
    (string,) = KeyStrings(layout, lengths).strings(0, [np.array(symbols)], saec.hash_keys(keys))
    assert string.lengths.tolist() == [symbol + 1 for symbol in symbols]
    function = build_function(string.hashes, string.values, string.lengths)
    shape = (len(keys), layout, lengths, values, AXES, function)
    return KeyedField("f", *shape, "float32", KeyKind.SIGNED, 0)


def test_rows_of_four_keys_by_hand() -> None:
    keys = np.array([7, -1, 1 << 40, 0])
    field = four_keys(keys, [0, 1, 1, 0])
    assert np.array_equal(field.lookup(keys), ROWS[[0, 1, 1, 0]])
    assert np.array_equal(field.lookup(keys.reshape(2, 2))[1], ROWS[[1, 0]])
    assert field.contains(keys).all()
    assert field.false_positive_rate == 0.75
    pooled = field.pool(np.array([7, -1, 0]), np.array([0, 2]))
    assert np.array_equal(pooled, np.stack([ROWS[0] + ROWS[1], ROWS[0]]))
    unknown = field.lookup(random_keys(40_000))
    assert abs((unknown == ROWS[0]).all(axis=1).mean() - 0.5) < 0.02
    assert abs((unknown == ROWS[1]).all(axis=1).mean() - 0.25) < 0.02
    assert abs((unknown == AXES[-1]).all(axis=1).mean() - 0.25) < 0.02


def test_unknown_keys_pass_for_stored_ones_as_often_as_said(result: saec.Compressed) -> None:
    field, keys = keyed(result), random_keys(200_000)
    rate = field.false_positive_rate
    found = field.contains(keys)
    assert abs(found.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / len(keys))
    assert not field.lookup(keys[~found]).any()


def test_forecast_is_what_is_lost_with_unknown_keys(
    example: Example, result: saec.Compressed
) -> None:
    field = keyed(result)
    shares = example.frequencies / example.frequencies.sum()
    seen = 0.7 * (shares @ example.nats(field.lookup(example.keys), example.weights))
    unknown = field.lookup(random_keys(400_000))
    harm = 0.3 * example.nats(unknown, np.zeros_like(unknown)).mean()
    left_out = ~field.contains(example.keys)
    # Rows that are left out have the default row only if they do not pass for others.
    assert harm > 0.02 * seen
    assert left_out.any()
    assert result.predicted_loss_increase == pytest.approx(seen + harm, rel=0.05)


@pytest.mark.parametrize("ratio", [8, 30, 100])
def test_budgets_count_every_byte(example: Example, priced: saec.Priced, ratio: float) -> None:
    result = saec.compress(priced, saec.Ratio(ratio), progress=False)
    original = example.weights.nbytes + 8 * len(example.keys)
    assert result.original_nbytes == original
    assert 0.7 * original / ratio < result.nbytes <= original / ratio
    bill = keyed(result).bill
    assert sum(bill.values()) == keyed(result).nbytes


def test_saved_is_loaded(example: Example, result: saec.Compressed, tmp_path: Path) -> None:
    result.save(tmp_path / "model.saec")
    loaded = saec.load(tmp_path / "model.saec")
    assert (tmp_path / "model.saec").stat().st_size == result.nbytes
    asked = np.concatenate([example.keys, random_keys(5000)])
    assert np.array_equal(loaded["user"].lookup(asked), result["user"].lookup(asked))


@pytest.mark.exhaustive
def test_written_in_a_stream_and_pickled(
    example: Example, result: saec.Compressed, tmp_path: Path
) -> None:
    written = saec.compress(
        [example.field()],
        saec.Ratio(30),
        metrics=example.metrics,
        out=tmp_path / "model.saec",
        progress=False,
    )
    pickled = pickle.loads(pickle.dumps(result["user"]))
    rows = result["user"].lookup(example.keys)
    assert np.array_equal(written["user"].lookup(example.keys), rows)
    assert np.array_equal(pickled.lookup(example.keys), rows)


@pytest.mark.parametrize("offsets", [[1, 2], [0, 3, 2], [0, 5], [-1, 2]])
def test_bad_offsets_are_refused(offsets: list[int]) -> None:
    field = four_keys(np.arange(4), [0, 1, 1, 0])
    with pytest.raises(saec.IdError, match="'f': offsets must ascend from 0 to at most 4"):
        field.pool(np.arange(4), offsets)


KEYS = np.arange(6)
BAD = {
    "float": (KEYS + 0.5, "keys must be integers or strings, not float64"),
    "missing": (["a", None, "c", "d", "e", "f"], "key at position 1 is missing"),
    "mixed": (["a", "b", 3, "d", "e", "f"], "key 3 at position 2 is not a string"),
    "twice": (np.array([1, 2, 3, 2, 5, 6]), "key 2 stands at rows 1 and 3"),
    "text twice": (list("abcdeb"), "key 'b' stands at rows 1 and 5"),
    "few": (KEYS[:5], "weights have 6 rows, keys 5"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_keys_are_refused(case: str) -> None:
    keys, message = BAD[case]
    with pytest.raises(saec.FieldError, match=f"field 'f': .*{message}"):
        saec.Field("f", np.ones((6, 2), np.float32), np.ones(6), keys=keys)


def test_bad_options_are_refused() -> None:
    table = ("f", np.ones((6, 2), np.float32), np.ones(6))
    for options, message in (
        ({"keys": KEYS, "unseen": 6}, r"unseen is row 6, outside \[0, 6\)"),
        ({"keys": KEYS, "unseen": [1.0]}, "unseen is the number of a row or 2 values"),
        ({"keys": KEYS, "unseen_share": 1.5}, "unseen_share is a share from 0 to 1, not 1.5"),
        ({"keys": KEYS, "exact": 41}, "exact is True, False or 1 to 40 bits, not 41"),
        ({"unseen": 0}, "unseen, unseen_share and exact go with keys"),
    ):
        with pytest.raises(saec.FieldError, match=message):
            saec.Field(*table, **options)


def test_negative_keys_where_unsigned_ones_are_meant() -> None:
    field = saec.Field("f", np.eye(6, dtype=np.float32), np.ones(6), keys=KEYS.astype(np.uint64))
    result = saec.compress([field], saec.MaxBytes(5000), progress=False)
    with pytest.raises(KeysError, match="unsigned integers of 64 bits, and -1 at position 1"):
        result["f"].lookup(np.array([3, -1]))
    assert np.array_equal(result["f"].lookup([3]), result["f"].lookup(np.array([3])))


def test_damaged_strings_are_read_and_damaged_numbers_refused(result: saec.Compressed) -> None:
    field, rng = keyed(result), np.random.default_rng(0)
    parts = (field.vocab_size, field.layout, field.lengths, field.values, field.axes)
    for _ in range(20):
        tensors = {
            role: np.where(rng.random(len(own)) < 0.1, rng.integers(0, 256, len(own)), own)
            for role, own in field.function.tensors.items()
            if role != "steps"
        }
        whole = {role: own.astype(np.uint8) for role, own in tensors.items()}
        function = type(field.function).from_tensors(
            field.function.description, {**whole, "steps": field.function.steps}
        )
        damaged = KeyedField("user", *parts, function, "float32", KeyKind.SIGNED, 0)
        assert np.isfinite(damaged.lookup(random_keys(500))).all()
    short = np.ones_like(field.lengths)
    with pytest.raises(saec.ArtifactError, match="no prefix code has codewords"):
        KeyedField(
            "user", *parts[:2], short, *parts[3:], field.function, "float32", KeyKind.SIGNED, 0
        )
    with pytest.raises(saec.ArtifactError, match="lengths are uint8"):
        KeyedField(
            "user", *parts[:2], short[1:], *parts[3:], field.function, "float32", KeyKind.SIGNED, 0
        )


def refused_keys() -> dict[str, tuple[object, str]]:
    """Every kind of key that no field takes, and what the message says of it."""
    long = "x" * (1 << 20)
    return {
        "float": (np.ones(3), "keys must be integers or strings, not float64"),
        "float in list": ([1, 2.5, 3], "key 2.5 at position 1 is neither an integer nor a string"),
        "missing": ([1, None, 3], "key at position 1 is missing"),
        "not a number": ([1, float("nan"), 3], "key at position 1 is missing"),
        "missing text": (["a", "b", None], "key at position 2 is missing"),
        "several kinds": ([1, "b", 3], "key 'b' at position 1 is not an integer"),
        "truth": ([True, False, True], "key True at position 0 is neither"),
        "two dimensions": (np.ones((3, 1), int), "keys must have one dimension"),
        "over 64 bits": ([1, 2, 1 << 64], "needs over 64 bits"),
        "negative beside large": (
            [-1, 2, 1 << 63],
            "needs over 64 bits; negative keys are present",
        ),
        "duplicates": ([5, 6, 5], "key 5 stands at rows 0 and 2"),
        "empty twice": (["", "a", ""], "key '' stands at rows 0 and 2"),
        "long twice": ([long, "a", long], r"key 'x{59}\.\.\. stands at rows 0 and 2"),
        "no UTF-8": ([b"a", b"\xff", b"c"], r"key b'\\xff' at position 1 is no UTF-8"),
        "half a character": (["a", "\ud800", "c"], "at position 1 is no UTF-8"),
        "one string": ("abc", "not the one key 'abc'"),
        "masked": (np.ma.masked_array([1, 2, 3], [0, 1, 0]), "keys cannot be a masked array"),
    }


@pytest.mark.parametrize("case", refused_keys())
def test_keys_that_no_field_takes(case: str) -> None:
    keys, message = refused_keys()[case]
    with pytest.raises(saec.FieldError, match=f"field 'f': .*{message}"):
        saec.Field("f", np.eye(3, dtype=np.float32), np.ones(3), keys=keys)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made_of", "asked", "message"),
    [
        (["a", "b"], [1], "keys are strings, and unsigned integers were given"),
        ([1, 2], ["a"], "keys are unsigned integers, and strings were given"),
        ([-1, 2], np.array([1 << 63], np.uint64), "9223372036854775808 at position 0 is none"),
        ([1, 2], np.array([-5]), "-5 at position 0 is none"),
        ([1, 2], np.array([0.5]), "keys must be integers or strings, not float64"),
        ([1, 2], [None], "key at position 0 is missing"),
        (["a", "b"], [b"\xff"], "is no UTF-8"),
    ],
)
def test_keys_that_a_field_is_not_asked_for(
    made_of: list[object], asked: object, message: str
) -> None:
    own = saec.Field("f", np.eye(2, dtype=np.float32), np.ones(2), keys=made_of)
    field = keyed(saec.compress([own], saec.MaxBytes(2000), progress=False), "f")
    for call in (field.lookup, field.contains, lambda keys: field.pool(keys, [0])):
        with pytest.raises(KeysError, match=f"field 'f': .*{message}"):
            call(asked)  # type: ignore[operator]


def test_all_keys_in_one_class() -> None:
    rows = np.arange(24, dtype=np.float32).reshape(12, 2)
    own = saec.Field("f", rows, np.full(12, 7), keys=np.arange(12), unseen_share=0.1)
    field = keyed(saec.compress([own], saec.MaxBytes(900), progress=False), "f")
    assert len(field.layout.classes) == 1
    assert np.allclose(field.lookup(np.arange(12)), rows, atol=0.5)
