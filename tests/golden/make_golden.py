"""Writes golden.saec: every kind of tensor of format 3, with numbers chosen by hand.

It also writes sharded.saec and its shards (one tensor has two of them); ordered.saec, whose rows
are sorted by code; and keyed.saec, whose field has keys, with its patch keyed.patch.

Run it only when the format gets a new number: old files must stay readable, bit for bit.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np

from saec.artifact import GRAIN, ShardedTensor, write, write_patch, write_shard
from saec.bits.elias_fano import pack_starts
from saec.bits.packing import PackedCodes, PackedRows
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.compressed import Compressed
from saec.format.key_prefixes import KeyPrefixes
from saec.format.key_strings import KeyStrings, function_of
from saec.format.keyed_field import KeyedField
from saec.format.keyed_layout import KeyedLayout, SymbolPart
from saec.format.keyed_patch import KeyedPatch, PatchCounts, PatchLayout
from saec.format.patched import Patch, next_patch
from saec.format.raw_field import RawField
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout
from saec.format.tiered_field import TieredField
from saec.keys.building import build_function
from saec.keys.hashing import hash_keys
from saec.keys.kinds import KeyKind

GOLDEN = Path(__file__).with_name("golden.saec")
SHARDED = Path(__file__).with_name("sharded.saec")
ORDERED = Path(__file__).with_name("ordered.saec")
KEYED = Path(__file__).with_name("keyed.saec")
PATCH = Path(__file__).with_name("keyed.patch")
RUN = "0123456789abcdef"


def clustered(name: str, codes: list[int], bits: int, codebook: Codebook) -> ClusteredField:
    return ClusteredField(name, PackedCodes.pack(np.array(codes), bits), codebook, "float32")


def tiered(name: str, dtype: type[np.floating], index: TierIndex | None) -> TieredField:
    """Rows 0 to 63: a grid on the first axis, a joint table on two; 64 and 65: a table on the
    first, nothing on the second, one value on the third."""
    layout = Layout.parse(66, ["2g 1j2", "1 - 0"])
    row = np.arange(64)
    tiers = [[row % 4, row // 4 % 2], [np.array([1, 0]), np.zeros(2, int), np.zeros(2, int)]]
    codes = np.zeros(layout.code_bytes, np.uint8)
    for tier, columns in enumerate(tiers):
        PackedRows.pack_into(codes, layout.first_bytes[tier], columns, layout.widths(tier))
    values = np.array([-1, 0.5, 1, 0.25, -2, 0.5, 3, -5, 0.125], np.float16)
    axes = np.array([[1, 0, 0.5], [0, 2, 0], [0, 0, -4], [10, 20, 30]], dtype)
    return TieredField(name, layout, codes, values, axes, index, "float32")


def golden() -> Compressed:
    """Five fields with codes of 1, 2, 3 and 12 bits and all codebooks, two in tiers, three raw."""
    thirds = np.array([[1, -2], [0.5, 4], [3, 0.125]], np.float32)
    grid = np.array([[0.5, 0.25, 2], [1, 0, -1]], np.float32)
    steps = np.array([[-127, 0, 1], [127, 4, 2], [0, -8, 3], [2, 2, 4], [4, 6, -5]], np.int8)
    axes = np.array([[0.5, 0.5, -1, 0], [0, 2, 0, 1], [10, 20, 30, 40]], np.float16)
    spread = np.array([[2, 1], [-4, 0.5]], np.float32)
    bytes_on_axes = Codebook(
        np.array([[4], [-2]], np.int8),
        np.array([[0.5], [1]], np.float32),
        np.array([[1, -1], [0.25, 0.75]], np.float16),
    )
    tiers = np.zeros(66, np.int8)
    tiers[[5, 40]] = 1
    return Compressed(
        [
            clustered("user", [2, 0, 1, 1, 0], 2, Codebook(thirds)),
            clustered("item", [1, 0, 0, 1, 1, 0, 1, 1, 1], 1, Codebook(thirds.astype(np.float16))),
            clustered("city", [4, 3, 2, 1, 0, 4, 2], 3, Codebook(steps, grid)),
            clustered("user|item", [0, 1, 0], 12, Codebook(spread, None, axes)),
            clustered("country", [1, 0], 1, bytes_on_axes),
            tiered("movie", np.float16, None),
            tiered("zip", np.float32, TierIndex.of(tiers)),
            RawField("gender", np.array([[1, 2], [3, 4]], np.float32)),
            RawField("hour", np.array([[0.5], [-0.5], [65504]], np.float16)),
            RawField("gr\u00f6\u00dfe", np.array([[1.5, -3]], ml_dtypes.bfloat16)),
        ],
        predicted_loss_increase=0.0015,
    )


def ordered() -> Compressed:
    """Rows 0 to 9, 10 to 39 and 40 to 63 have the ordered codes 0, 2 and 3 of a grid and a table,
    and a bit each for a third axis; 64 and 65 the two codes of a joint table."""
    layout = Layout.parse(66, ["o1g o1 1", "o1j2"])
    row = np.arange(64)
    codes = np.zeros(layout.code_bytes, np.uint8)
    PackedRows.pack_into(codes, 0, [row % 2], [1])
    starts = [pack_starts(np.array([10, 10, 40]), 64), pack_starts(np.array([1]), 2)]
    field = TieredField(
        "movie",
        layout,
        codes,
        np.array([-1, 0.5, 1, 3, 0.25, 0.5, 5, 7, 9, 11], np.float16),
        np.array([[1, 0, 0.5], [0, 2, 0], [0, 0, -4], [10, 20, 30]], np.float16),
        None,
        "float32",
        renumbered=True,
        starts=np.concatenate(starts),
    )
    return Compressed([field])


KEYS = ["alice", "bob", "", "Gr\u00fc\u00dfe", "carol"]


def keyed() -> Compressed:
    """Five keys in two classes: a table of two axes, with a grid behind it whose codewords need a
    second string; and a symbol that only tells the class, with a table behind it."""
    grid = SymbolPart(24, 1, 0, 1)
    layout = KeyedLayout(((SymbolPart(2, 2), grid), (SymbolPart(1, 0), SymbolPart(3, 1))))
    lengths = np.array([2, 4, 3, 1, 2, 2], np.uint8)
    values = np.array([1, 0.5, -2, 4, -1, 0.25, 3, -5, 0.5], np.float16)
    strings, hashes = KeyStrings(layout, lengths), hash_keys(KEYS, seed=3)
    rows = [[0, 1, 2], [3, 4]]
    symbols = [[[0, 1, 0], [1, 0, 23]], [[0, 0], [2, 0]]]
    parts = [
        string
        for number, own in enumerate(rows)
        for string in strings.strings(number, [*map(np.array, symbols[number])], hashes[own])
    ]
    function = build_function(
        np.concatenate([part.hashes for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.lengths for part in parts]),
    )
    axes = np.array([[1, 0, 0.5], [0, 2, 0], [0, 0, -4], [10, 20, 30]], np.float16)
    stored = (layout, lengths, values, axes, function)
    return Compressed([KeyedField("user", 5, *stored, "float32", KeyKind.TEXT, 3)])


def patch_of_keyed() -> Patch:
    """A changed row and a new one, and a key that has the default row from now on."""
    base = keyed()
    field = base["user"]
    assert isinstance(field, KeyedField)
    layout = PatchLayout(field, np.array([0, 1, 2, 2], np.uint8), 24)
    rows = [(0, [0, 4], "alice"), (1, [0, 1], "dave"), (2, [0], "bob")]
    function = function_of(
        [
            string
            for number, symbols, key in rows
            for string in layout.strings.strings(
                number, [np.array([symbol]) for symbol in symbols], hash_keys([key], seed=3)
            )
        ]
    )
    keys = KeyPrefixes.of(hash_keys([key for *_, key in rows], seed=3), 16)
    changed = KeyedPatch(field, 6, layout, keys, function, PatchCounts(1, 1, 1, 2))
    return next_patch(base, {"user": changed}, 0.25, 0.125)


def sharded() -> tuple[ClusteredField, RawField]:
    """Codes that do not fit into one shard of the smallest size, and three rows."""
    thirds = Codebook(np.array([[1, -2], [0.5, 4], [3, 0.125]], np.float32))
    hours = np.array([[1.5, -3], [2, 0.25], [0, 1]], ml_dtypes.bfloat16)
    return clustered("user", [0, 1, 2] * 90_000, 2, thirds), RawField("hour", hours)


def save_sharded(path: Path) -> None:
    """The first 65536 bytes of codes and the rest of them; the second field is a shard, too."""
    user, hour = sharded()
    codes = user.tensors["codes"]
    first = write_shard(path, RUN, 1, [codes[:GRAIN]])
    second = write_shard(path, RUN, 2, [codes[GRAIN:]])
    third = write_shard(path, RUN, 3, [hour.weights])
    held = ShardedTensor(codes.dtype, codes.shape, path.name, RUN, (first, second))
    rows = ShardedTensor(hour.weights.dtype, (3, 2), path.name, RUN, (third,))
    entries = [
        replace(user.entry, sharded={"codes": held}),
        replace(hour.entry, sharded={"weights": rows}),
    ]
    write(path, entries, 0.25)


if __name__ == "__main__":
    golden().save(GOLDEN)
    save_sharded(SHARDED)
    ordered().save(ORDERED)
    keyed().save(KEYED)
    patch = patch_of_keyed()
    write_patch(PATCH, patch.head, patch.entries)
