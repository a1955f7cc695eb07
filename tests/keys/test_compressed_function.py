"""Compressed functions: codes by hand, symbols of keys, sizes against entropy, damaged tensors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from saec.errors import ArtifactError, KeysError
from saec.keys.compressed_function import CompressedFunction
from saec.keys.prefix_code import PrefixCode, code_lengths


def hashes_of(count: int) -> NDArray[np.uint64]:
    return np.random.default_rng(count).integers(0, 2**64, count, dtype=np.uint64)


def entropy(symbols: NDArray[np.int64]) -> float:
    shares = np.unique(symbols, return_counts=True)[1] / len(symbols)
    return float(-(shares * np.log2(shares)).sum())


def test_code_lengths_by_hand() -> None:
    assert code_lengths([]) == []
    assert code_lengths([5]) == [0]
    assert code_lengths([1, 1]) == [1, 1]
    assert code_lengths([8, 4, 2, 1, 1]) == [1, 2, 3, 4, 4]
    assert code_lengths([1, 1, 1, 1]) == [2, 2, 2, 2]


def test_no_codeword_is_longer_than_32_bits() -> None:
    counts = [1, 1]
    while len(counts) < 50:
        counts.append(counts[-1] + counts[-2])  # Fibonacci numbers have the longest codewords
    lengths = code_lengths(counts)
    assert max(lengths) <= 32
    assert sum(2.0**-length for length in lengths) <= 1


def test_code_by_hand() -> None:
    # Canonical codewords 0, 10, 110, 111; stored with the first bit lowest.
    code = PrefixCode.of(np.array([7, 3, 9, 1], np.uint32), np.array([1, 8, 4, 1]))
    assert code.symbols.tolist() == [3, 9, 1, 7]
    assert code.counts == (0, 1, 1, 2)
    assert code.codewords().tolist() == [0b0, 0b01, 0b011, 0b111]
    words = np.array([0b1110, 0b1101, 0b0011, 0b1111], np.uint64)
    assert code.decode(words).tolist() == [3, 9, 1, 7]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=60), st.integers(0, 2**63))
def test_codes_decode_what_follows_them(counts: list[int], noise: int) -> None:
    symbols = np.arange(len(counts), dtype=np.uint32) * 3 + 1
    code = PrefixCode.of(symbols, np.array(counts))
    words = code.codewords() | np.uint64(noise) << code.lengths.astype(np.uint64)
    assert code.decode(words).tolist() == code.symbols.tolist()


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_many_words_decode_as_few(ratio: int) -> None:
    # Codewords of up to 6, 24 and 24 bits: many words are looked up in a table of first bits.
    counts = np.array([ratio**i for i in range(25 if ratio > 1 else 40)], np.int64)
    symbols = np.arange(len(counts), dtype=np.uint32) + 70
    code = PrefixCode.of(symbols, counts)
    rng = np.random.default_rng(0)
    words = np.concatenate([code.codewords(), rng.integers(0, 2**32, 8000, dtype=np.uint64)])
    noise = rng.integers(0, 2**31, len(symbols), dtype=np.uint64)
    words[: len(symbols)] |= noise << code.lengths.astype(np.uint64)
    found = code.decode(words)
    assert found[: len(symbols)].tolist() == code.symbols.tolist()
    few = [int(code.decode(words[i : i + 1])[0]) for i in range(len(words))]
    assert found.tolist() == few


MIXTURES = {
    "one": [1.0],
    "two": [0.5, 0.5],
    "tiers": [0.6, 0.2, 0.1, 0.07, 0.03],
    "skewed": [0.96, 0.02, 0.01, 0.01],
    "even": [1 / 16] * 16,
}


@pytest.mark.parametrize("shares", MIXTURES.values(), ids=MIXTURES.keys())
@pytest.mark.parametrize("count", [0, 1, 2, 500, 20_000])
@pytest.mark.parametrize("fingerprint_bits", [0, 7])
def test_every_key_gets_its_symbol(shares: list[float], count: int, fingerprint_bits: int) -> None:
    symbols = np.random.default_rng(1).choice(len(shares), count, p=shares) + 100
    hashes = hashes_of(count)
    function = CompressedFunction.build(hashes, symbols, fingerprint_bits=fingerprint_bits)
    found, known = function.find(hashes)
    assert np.array_equal(found, symbols)
    assert known.all()
    again = CompressedFunction.from_tensors(function.description, function.tensors)
    assert np.array_equal(again.lookup(hashes), symbols)
    assert again.nbytes == function.nbytes == sum(t.nbytes for t in function.tensors.values())


def test_size_against_entropy() -> None:
    rng = np.random.default_rng(0)
    symbols = np.rint(rng.normal(50, 6, 50_000)).astype(np.int64)
    function = CompressedFunction.build(hashes_of(50_000), symbols)
    assert function.nbytes * 8 < 1.09 * 50_000 * entropy(symbols)


def test_a_filter_saves_where_one_symbol_prevails() -> None:
    symbols = np.random.default_rng(0).choice(4, 30_000, p=[0.96, 0.02, 0.01, 0.01])
    function = CompressedFunction.build(hashes_of(30_000), symbols)
    assert function.others is not None
    assert function.common == 0
    assert function.nbytes * 8 < 0.5 * 30_000  # a codeword takes a bit at least
    exact = CompressedFunction.build(hashes_of(30_000), symbols, fingerprint_bits=8)
    assert exact.others is None


def test_unknown_keys_get_some_symbol() -> None:
    symbols = np.random.default_rng(0).choice([3, 8, 2**32 - 1], 3000, p=[0.7, 0.2, 0.1])
    function = CompressedFunction.build(hashes_of(3000), symbols, fingerprint_bits=6)
    found, known = function.find(hashes_of(50_000))
    assert set(found.tolist()) <= {3, 8, 2**32 - 1}
    assert abs(known.mean() - 1 / 64) < 0.005


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ([1, -1], "symbol -1 at position 1 is outside"),
        ([1, 2**32], "symbol 4294967296 at position 1 is outside"),
        ([1.0, 2.0], "symbols must be integers of one dimension, not float64"),
        ([1], "there are 2 hashes and 1 symbols"),
    ],
)
def test_refused(symbols: list[int], message: str) -> None:
    with pytest.raises(KeysError, match=message):
        CompressedFunction.build(hashes_of(2), symbols)


def test_equal_hashes_are_named() -> None:
    hashes = hashes_of(2000)
    hashes[1500] = hashes[3]
    symbols = np.random.default_rng(0).integers(0, 5, 2000)
    with pytest.raises(KeysError, match="positions 3 and 1500 have the same hash"):
        CompressedFunction.build(hashes, symbols)
    with pytest.raises(KeysError, match="have the same hash"):
        CompressedFunction.build(hashes, symbols // 4)


@pytest.mark.parametrize("role", ["code_counts", "symbols", "bits", "others_bits"])
def test_missing_tensors(role: str) -> None:
    symbols = np.random.default_rng(0).choice(4, 3000, p=[0.96, 0.02, 0.01, 0.01])
    function = CompressedFunction.build(hashes_of(3000), symbols)
    tensors = function.tensors
    del tensors[role]
    with pytest.raises(ArtifactError):
        CompressedFunction.from_tensors(function.description, tensors)


@pytest.mark.parametrize(("largest", "width"), [(255, 1), (256, 2), (65_535, 2), (65_536, 4)])
def test_symbols_take_as_few_bytes_as_the_largest(largest: int, width: int) -> None:
    symbols = np.arange(100) % 2 * largest
    function = CompressedFunction.build(hashes_of(100), symbols)
    assert len(function.tensors["symbols"]) == 2 * width
    assert function.tensors["code_counts"].tolist() == [0, 2]
    again = CompressedFunction.from_tensors(function.description, function.tensors)
    assert again.lookup(hashes_of(100)).tolist() == symbols.tolist()
    for role in ("symbols", "code_counts"):
        tensors = {**function.tensors, role: np.zeros(3 * width, np.uint8)}
        with pytest.raises(ArtifactError, match=f"{role} has {3 * width} bytes"):
            CompressedFunction.from_tensors(function.description, tensors)


@pytest.mark.parametrize("counts", [[], [0, 3], [5], [0, 1, 1], [0] * 40])
def test_codes_that_are_none(counts: list[int]) -> None:
    with pytest.raises(ArtifactError, match="prefix code"):
        PrefixCode(np.arange(3, dtype=np.uint32), tuple(counts))
