"""Keys of several patches that are decoded together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from saec.format.bags import Bags
from saec.format.key_prefixes import KeyPrefixes
from saec.format.key_strings import KeyStrings
from saec.format.keyed_layout import KeyedLayout, SymbolPart
from saec.format.keyed_rows import KeyedRows
from saec.keys.building import build_function

AXES = np.array([[1, 0], [0, 10], [100, 200]], np.float32)  # the last one is the default row
ISAS = ["auto", "avx2", "scalar"]
Codes = Mapping[int, tuple[int, int]]  # symbols by hash


def hash_of(key: int) -> int:
    return (key + 1) * 0x9E3779B97F4A7C15 % 2**64


def made(codes: Codes, first: list[float], second: list[float], bits: int = 20) -> KeyedRows:
    """Rows (100 + first[a], 200 + 10 second[b]) of keys with symbols (a, b).

    bits: of each codeword; with 20, the second symbol is in a second string of 24 bits.
    """
    layout = KeyedLayout(((SymbolPart(len(first)), SymbolPart(len(second))),), 24)
    lengths = np.full(len(first) + len(second), bits, np.uint8)
    strings = KeyStrings(layout, lengths)
    symbols = np.array(list(codes.values()), np.int64).reshape(-1, 2)
    hashes = np.array([hash_of(key) for key in codes], np.uint64)
    parts = strings.strings(0, [symbols[:, 0], symbols[:, 1]], hashes)
    function = build_function(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("hashes", "values", "lengths")
        )
    )
    return KeyedRows(layout, strings, lengths, np.array(first + second, np.float16), AXES, function)


def behind(base: KeyedRows, chain: list[tuple[KeyedRows, Codes]]) -> KeyedRows:
    """Rows of the base and its patches, the newest first, with the keys of each."""
    changed = [
        KeyPrefixes.of(np.array([hash_of(key) for key in codes], np.uint64), 40)
        for _, codes in chain
    ]
    return base.behind([rows for rows, _ in chain], changed)


def rows_by(rows: KeyedRows, keys: list[int], isa: str) -> NDArray[np.float32]:
    hashes = np.array([hash_of(key) for key in keys], np.uint64)
    bags = Bags(np.arange(len(keys)), np.arange(len(keys)), None, "sum")
    found = rows.pooled(hashes, bags, 1, isa)
    assert found is not None
    assert np.array_equal(rows.rows(hashes, 2), found)
    return found


@pytest.mark.parametrize("isa", ISAS)
def test_each_key_has_the_row_of_the_newest_patch_that_has_it(isa: str) -> None:
    base = made({0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (1, 1)}, [1, 2], [3, 4])
    newest: Codes = {0: (1, 1)}
    second: Codes = {1: (0, 0), 0: (0, 0)}  # the class is that of the newest, with other symbols
    third: Codes = {2: (0, 1), 4: (1, 0)}  # other values of the second symbol
    oldest: Codes = {5: (1, 1), 6: (0, 0)}  # the second symbol in the first string
    rows = behind(
        base,
        [
            (made(newest, [5, 6], [3, 4]), newest),
            (made(second, [7, 8], [3, 4]), second),
            (made(third, [1, 2], [9, 8]), third),
            (made(oldest, [1, 11], [3, 4], bits=10), oldest),
        ],
    )
    assert rows_by(rows, [0, 1, 2, 3, 4, 5, 6, 0], isa).tolist() == [
        [106, 240],
        [107, 230],
        [101, 280],
        [102, 240],
        [102, 290],
        [111, 240],
        [101, 230],
        [106, 240],
    ]


@pytest.mark.parametrize("isa", ISAS)
def test_a_patch_without_classes_gives_the_default_row(isa: str) -> None:
    codes: Codes = {key: (key % 2, 0) for key in range(8)}
    empty = KeyedLayout((), 24)
    strings = KeyStrings(empty, np.zeros(0, np.uint8))
    none = build_function(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.uint8))
    removed = KeyedRows(empty, strings, np.zeros(0, np.uint8), np.zeros(0, np.float16), AXES, none)
    moved: Codes = {1: (0, 0), 2: (1, 0)}
    rows = behind(
        made(codes, [1, 2], [3]),
        [(removed, {0: (0, 0), 1: (0, 0)}), (made(moved, [5, 6], [3]), moved)],
    )
    expected = [[100, 200], [100, 200], [106, 230], [102, 230]]
    assert rows_by(rows, [0, 1, 2, 3], isa).tolist() == expected
    assert rows_by(
        behind(made(codes, [1, 2], [3]), [(removed, {0: (0, 0)})]), [0, 2], isa
    ).tolist() == [
        [100, 200],
        [101, 230],
    ]


@pytest.mark.parametrize("isa", ISAS)
def test_batches_of_several_patches_have_the_rows_of_each_patch_alone(isa: str) -> None:
    """5,000 keys in three batches; every second patch has the same values of second symbols."""
    rng = np.random.default_rng(0)
    codes: list[Codes] = [
        {int(key): (int(key) % 3, int(key) % 5) for key in rng.choice(4_000, size, replace=False)}
        for size in (4_000, 1_000, 3, 200, 700)
    ]
    tables = [
        made(own, [number, 20 + number, 40 + number], [number % 2, 2, 3, 4, 5])
        for number, own in enumerate(codes)
    ]
    chain = list(zip(tables[1:], codes[1:], strict=True))
    keys = rng.permutation(5_000).tolist()
    expected = rows_by(tables[0], keys, isa)
    for table, own in reversed(chain):
        here = [place for place, key in enumerate(keys) if key in own]
        expected[here] = rows_by(table, [keys[place] for place in here], isa)
    assert np.array_equal(rows_by(behind(tables[0], chain), keys, isa), expected)
