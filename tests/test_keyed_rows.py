"""Rows and bags of fields with keys, by all instruction sets, and of damaged fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from documented import documented_reader
from numpy.typing import NDArray

import saec
from saec.format.bags import Bags
from saec.format.key_strings import KeyStrings
from saec.format.keyed_field import KeyedField
from saec.format.keyed_layout import KeyedLayout, SymbolPart
from saec.format.keyed_rows import KeyedRows
from saec.keys.building import build_function
from saec.keys.kinds import KeyKind
from saec.keys.static_function import StaticFunction


def random_field(seed: int) -> tuple[KeyedField, NDArray[np.uint64]]:
    """A field of random parts and codewords, and the hashes of its keys."""
    rng = np.random.default_rng(seed)
    classes, symbols = [], []
    for number in range(rng.integers(1, 5)):
        first = SymbolPart(int(rng.integers(1, 9)), int(rng.integers(0, 4)))
        grids = [SymbolPart(int(rng.integers(1, 40)), 1, int(rng.integers(1, 4)), 0)]
        tables = [SymbolPart(int(rng.integers(2, 99)), int(rng.integers(1, 14))) for _ in range(4)]
        classes.append((first, *(grids + tables)[: rng.integers(0, 6)]))
        rows = int(rng.integers(1, 300))
        symbols.append([rng.integers(0, part.symbols, rows) for part in classes[number]])
    layout = KeyedLayout(tuple(classes), (24, 56)[seed % 2])
    roots = sum(parts[0].symbols for parts in classes)
    own = [roots if part == parts[0] else part.symbols for parts in classes for part in parts]
    bits = [int(count - 1).bit_length() for count in own]
    lengths = np.concatenate(
        [
            np.full(part.stored_lengths, width + rng.integers(0, 5) if width else 1)
            for part, width in zip(layout.parts, bits, strict=True)
        ]
    ).astype(np.uint8)
    strings = KeyStrings(layout, lengths)
    hashes = [rng.integers(0, 1 << 64, len(own[0]), dtype=np.uint64) for own in symbols]
    parts = [
        part
        for number, own in enumerate(symbols)
        for part in strings.strings(number, own, hashes[number])
    ]
    function = build_function(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in STRINGS)
    )
    values = rng.standard_normal(layout.first_values[-1]).astype(np.float16)
    axes = rng.standard_normal((layout.rank + 1, (5, 16, 37)[seed % 3])).astype(np.float32)
    field = KeyedField(
        "f", 9, layout, lengths, values, axes, function, "float32", KeyKind.UNSIGNED, 0
    )
    return field, np.concatenate(hashes)


STRINGS = ("hashes", "values", "lengths")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("windows", [False, True])
def test_native_rows_are_the_documented_ones(
    seed: int, windows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saec.keys.windows._MANY_VARIED", 1 if windows else 1 << 62)
    field, hashes = random_field(seed)
    assert (field.function.spread > 0) == windows
    saec.Compressed([field]).save(tmp_path / "f.saec")
    row = documented_reader()(tmp_path / "f.saec")["f"]
    unknown = np.random.default_rng(seed).integers(0, 1 << 64, 200, dtype=np.uint64)
    asked = np.concatenate([hashes, unknown])
    rows = field.rows_of_hashes(asked)
    assert np.array_equal(rows, [row(own) for own in asked.tolist()])
    many = np.tile(asked, 40)
    assert np.array_equal(field.rows_of_hashes(many, threads=2), np.tile(rows, (40, 1)))


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_bags_are_sums_of_rows(seed: int, windows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bags of frequent and rare keys, over several batches, with an empty bag at either end."""
    monkeypatch.setattr("saec.keys.windows._MANY_VARIED", 1 if windows else 1 << 62)
    field, hashes = random_field(seed)
    rng = np.random.default_rng(seed)
    asked = hashes[(rng.random(9000) ** 4 * len(hashes)).astype(int)]
    asked[::7] = rng.integers(0, 1 << 64, len(asked[::7]), dtype=np.uint64)
    monkeypatch.setattr(KeyedField, "hashes_of", lambda self, keys: keys)
    offsets = np.concatenate([[0, 0], np.sort(rng.integers(0, 9000, 500)), [9000]])
    rows, weights = field.lookup(asked), rng.standard_normal(9000).astype(np.float32)
    sums = field.pool(asked, offsets)
    assert not sums[[0, -1]].any()
    assert_close(sums, bag_sums(rows, offsets))
    assert_close(field.pool(asked, offsets, weights), bag_sums(rows * weights[:, None], offsets))
    sizes = np.maximum(np.diff(offsets, append=9000), 1)[:, None]
    assert_close(field.pool(asked, offsets, mode="mean"), bag_sums(rows, offsets) / sizes)
    assert np.array_equal(
        field.pool(asked, offsets, threads=2), field.pool(asked, offsets, threads=1)
    )
    assert np.array_equal(field.pool(asked[offsets[9] :], offsets[9:] - offsets[9]), sums[9:])
    for mode in ("sum", "mean", "max"):
        assert np.array_equal(field.pool(asked, np.arange(9000), mode=mode), rows)
    bags = Bags(asked.view(np.int64), offsets)
    for isa in ("scalar", "avx2"):
        pooled = field._rows.pooled(asked, bags, isa=isa)
        assert pooled is not None
        assert np.array_equal(pooled, sums)


@pytest.mark.parametrize("isa", ["auto", "avx2", "scalar"])
def test_rows_do_not_depend_on_keys_asked_before(isa: str) -> None:
    """Frequent keys, keys that take each other's places among these, and many that come up once."""
    field, hashes = random_field(3)
    rng = np.random.default_rng(0)
    alike = (hashes ^ np.arange(1, 9, dtype=np.uint64)[:, None] << np.uint64(16)).reshape(-1)
    once = rng.integers(0, 1 << 64, (2, 80_000), dtype=np.uint64)
    often = rng.permutation(np.tile(np.concatenate([hashes, alike[:1000]]), 9))
    asked = np.concatenate([often, once[0], often, alike, once[1, :5000], often])
    keys, positions = np.unique(asked, return_inverse=True)
    pieces = [keys[at : at + 2000] for at in range(0, len(keys), 2000)]  # no key twice in a call
    alone = np.concatenate([field.rows_of_hashes(piece) for piece in pieces])[positions]
    assert np.array_equal(field.rows_of_hashes(asked, threads=1), alone)
    bags = Bags(asked.view(np.int64), np.arange(len(asked)))
    found = field._rows.pooled(asked, bags, 1, isa)
    assert found is not None
    assert np.array_equal(found, alone)


@pytest.mark.parametrize("role", ["bits", "directory"])
def test_damaged_windows_are_read_alike_by_all_instruction_sets(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random starts, ends and seeds of buckets, and bits; some buckets have no room."""
    monkeypatch.setattr("saec.keys.windows._MANY_VARIED", 1)
    monkeypatch.setattr("saec.keys.windows._LEAST_KEYS", 64)
    monkeypatch.setattr("saec.keys.windows._BUCKET_BITS", 1 << 10)
    field, hashes = random_field(1)
    function, rng = field.function, np.random.default_rng(2)
    assert function.blocks > 2
    for _ in range(20):
        damaged = {own: tensor.copy() for own, tensor in function.tensors.items()}
        hit = rng.integers(0, len(damaged[role]), 3)
        damaged[role][hit] = rng.integers(0, 256, 3)
        other = StaticFunction.from_tensors(function.description, damaged)
        read = KeyedRows(
            field.layout, field.strings, field.lengths, field.values, field.axes, other
        )
        bags = Bags(hashes.view(np.int64), np.arange(0, len(hashes), 3))
        found = read.pooled(hashes, bags)
        assert found is not None
        assert np.isfinite(found).all()
        for isa in ("scalar", "avx2"):
            other_found = read.pooled(hashes, bags, isa=isa)
            assert other_found is not None
            assert np.array_equal(found, other_found)


def bag_sums(rows: NDArray[np.float32], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.array([bag.sum(axis=0) for bag in np.split(rows.astype(np.float64), offsets[1:])])


def assert_close(found: NDArray[np.float32], wanted: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)
