"""Hashes of keys: test vectors, kinds of input, and what is refused."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import saec

# XXH3-64 with seed 0, as xxhash 0.8 (Python package 4.1.0) gives it.
STRINGS = {
    "": 0x2D06800538D394C2,
    "a": 0xE6C632B61E964E1F,
    "abc": 0x78AF5F94892F3950,
    "saec": 0x747483A1AA561E3C,
    "user-42": 0x50FE4B21CF7B09CD,
    "Grüße": 0xB40C17E2196D97D8,
    "x" * 20: 0xB5063209879672BF,
    "x" * 200: 0x50EF124FB1E4DE53,
    "x" * 1000: 0xC0A4877B962CBA82,
    "x" * 5000: 0x8D8567CBC9EE3D90,
}
INTEGERS = {
    0: 0xC77B3ABB6F87ACD9,
    1: 0x2FBC593564DB792E,
    42: 0xD5A6F8C838DF27C8,
    2**64 - 1: 0x5111C7E47D784413,
}


def test_published_test_vectors() -> None:
    assert saec.hash_keys([*STRINGS]).tolist() == [*STRINGS.values()]
    assert saec.hash_keys([*INTEGERS]).tolist() == [*INTEGERS.values()]


def test_strings_of_every_length_equal_the_reference() -> None:
    # Sums over all lengths up to beyond four blocks of 1,024 bytes, from the package xxhash.
    data = bytes((i * 2654435761 >> 13) & 127 for i in range(4200))
    keys = [data[:size] for size in range(4201)]
    assert int(saec.hash_keys(keys).sum()) == SUM_OF_SEED_0
    assert int(saec.hash_keys(keys, seed=2**63 + 12345).sum()) == SUM_OF_ANOTHER


SUM_OF_SEED_0 = 0x188BA9023455DFAA
SUM_OF_ANOTHER = 0x09B68C62121D80DE


def test_integers_are_hashed_as_their_eight_bytes() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(1, 128, (100, 8), dtype=np.uint8)  # so that they are UTF-8, too
    as_text = saec.hash_keys([key.tobytes() for key in keys], seed=7)
    assert np.array_equal(saec.hash_keys(keys.view("<u8").ravel(), seed=7), as_text)


def test_dtypes_of_equal_numbers_agree() -> None:
    expected = saec.hash_keys([0, 1, 100]).tolist()
    for dtype in (np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64):
        assert saec.hash_keys(np.array([0, 1, 100], dtype)).tolist() == expected
    negative = saec.hash_keys(np.array([-1, -(2**63)], np.int64))
    assert negative.tolist() == saec.hash_keys([2**64 - 1, 2**63]).tolist()
    assert saec.hash_keys(np.array([-1], np.int16)).tolist() == [INTEGERS[2**64 - 1]]
    assert saec.hash_keys(np.arange(6)[::2]).tolist() == saec.hash_keys([0, 2, 4]).tolist()


@pytest.mark.parametrize(
    "of",
    [
        list,
        tuple,
        np.array,
        lambda keys: np.array(keys, object),
        lambda keys: np.array(keys, np.dtypes.StringDType()),
        lambda keys: [key.encode() for key in keys],
        pa.array,
        lambda keys: pa.array(keys, pa.large_string()),
        lambda keys: pa.array(keys, pa.string_view()),
        lambda keys: pa.array(["before", *keys]).slice(1),
        lambda keys: pa.chunked_array([keys[:2], keys[2:]]),
        lambda keys: pa.array(keys).dictionary_encode(),
        pl.Series,
        lambda keys: pl.Series(keys, dtype=pl.Categorical),
    ],
)
def test_strings_of_every_kind_hash_alike(of: object) -> None:
    keys = ["", "a", "Grüße", "x" * 20, "x" * 5000]
    assert saec.hash_keys(of(keys)).tolist() == [STRINGS[key] for key in keys]  # type: ignore[operator]


def test_pandas_series_are_hashed() -> None:
    pandas = pytest.importorskip("pandas")
    assert saec.hash_keys(pandas.Series(["", "a"])).tolist() == [STRINGS[""], STRINGS["a"]]
    assert saec.hash_keys(pandas.Series([0, 1])).tolist() == [*INTEGERS.values()][:2]
    with pytest.raises(saec.KeysError, match="key at position 1 is missing"):
        saec.hash_keys(pandas.Series([1, None], dtype="Int64"))


@pytest.mark.parametrize("of", [pa.array, pl.Series, tuple])
def test_integers_of_every_kind_hash_alike(of: object) -> None:
    assert saec.hash_keys(of([0, 1, 42])).tolist() == [*INTEGERS.values()][:3]  # type: ignore[operator]


@pytest.mark.parametrize("keys", [[], np.array([], "U5"), pa.array([], pa.string()), pl.Series([])])
def test_empty_inputs_give_no_hashes(keys: object) -> None:
    if isinstance(keys, pl.Series):
        keys = keys.cast(pl.Int64)
    assert saec.hash_keys(keys).shape == (0,)  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(), min_size=1), st.integers(0, 2**64 - 1))
def test_lists_and_arrow_agree(keys: list[str], seed: int) -> None:
    hashes = saec.hash_keys(keys, seed=seed)
    assert np.array_equal(hashes, saec.hash_keys(pa.array(keys), seed=seed))
    assert np.array_equal(hashes[::-1], saec.hash_keys(keys[::-1], seed=seed))


def test_threads_change_nothing() -> None:
    keys = np.random.default_rng(0).integers(0, 2**63, 200_000)
    assert np.array_equal(saec.hash_keys(keys, threads=1), saec.hash_keys(keys, threads=2))
    texts = pa.array(keys.astype(str))
    assert np.array_equal(saec.hash_keys(texts, threads=1), saec.hash_keys(texts, threads=2))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            np.array([1.5, 2]),
            r"must be integers or strings, not float64, as .*1\.5.* at position 0",
        ),
        (np.array([True]), "not bool"),
        (np.zeros((2, 2), int), r"one dimension, not the shape \(2, 2\)"),
        (np.array(["2020-01-01"], "M8[D]"), "not datetime64"),
        ("user", "not the one key 'user'"),
        ([1, "a"], "key 'a' at position 1 is not an integer, as the key at position 0 is"),
        (["a", 1], "key 1 at position 1 is not a string, as the key at position 0 is"),
        (["a", None], "key at position 1 is missing"),
        ([1, None, 2], "key at position 1 is missing"),
        ([1, float("nan")], "key at position 1 is missing"),
        ([1, 2.5], r"key 2\.5 at position 1 is neither an integer nor a string"),
        ([True, False], "key True at position 0 is neither"),
        ([0, 2**64], r"key 18446744073709551616 at position 1 needs over 64 bits"),
        ([-1, 2**63], r"key 9223372036854775808 at position 1 .*negative keys are present"),
        ([-(2**63) - 1], r"key -9223372036854775809 at position 0 needs over 64 bits"),
        (pa.array(["a", None]), "key at position 1 is missing"),
        (pl.Series([1, None]), "key at position 1 is missing"),
        (pl.Series([1.5]), "not float64"),
        (pl.DataFrame({"a": [1]}), "one column, not a DataFrame"),
        (np.ma.array([1], mask=[True]), "masked array"),
        ([b"fine", b"\xff\xfe"], r"key b'\\xff\\xfe' at position 1 is no UTF-8"),
        (["fine", "\ud800"], "at position 1 is no UTF-8"),
    ],
)
def test_invalid_keys_are_refused(keys: object, message: str) -> None:
    with pytest.raises(saec.KeysError, match=message):
        saec.hash_keys(keys)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True])
def test_invalid_seeds_are_refused(seed: int) -> None:
    with pytest.raises(saec.KeysError, match="seed must be an integer from 0"):
        saec.hash_keys([1], seed=seed)


@given(st.binary(max_size=12))
def test_utf8_as_python_decodes_it(key: bytes) -> None:
    try:
        key.decode()
    except UnicodeDecodeError:
        with pytest.raises(saec.KeysError, match="position 1 is no UTF-8"):
            saec.hash_keys([b"a", key, b"\xff"])
    else:
        saec.hash_keys([b"a", key])
