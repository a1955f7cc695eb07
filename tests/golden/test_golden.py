"""The golden files: their bytes, and their rows as decoded by saec and by docs/format.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documented import documented_reader
from make_golden import (
    GOLDEN,
    KEYED,
    KEYS,
    ORDERED,
    PATCH,
    RUN,
    SHARDED,
    golden,
    keyed,
    ordered,
    patch_of_keyed,
    save_sharded,
)

import saec
from saec.artifact import write_patch
from saec.keys.hashing import hash_keys

# (10, 20, 30) + x (1, 0, 0.5) + y (0, 2, 0) + z (0, 0, -4); x is -1, -0.5, 0, 0.5 in turn, y and z
# are 1 and 0.25, then -2 and 0.5. The last two rows have x of -5 and 3, y of 0 and z of 0.125.
FREQUENT = [
    [9, 22, 28.5],
    [9.5, 22, 28.75],
    [10, 22, 29],
    [10.5, 22, 29.25],
    [9, 16, 27.5],
    [9.5, 16, 27.75],
    [10, 16, 28],
    [10.5, 16, 28.25],
] * 8
RARE = [[5, 20, 27], [13, 20, 31]]

ROWS = {
    "user": [[3, 0.125], [1, -2], [0.5, 4], [0.5, 4], [1, -2]],
    "item": [
        [0.5, 4],
        [1, -2],
        [1, -2],
        [0.5, 4],
        [0.5, 4],
        [1, -2],
        [0.5, 4],
        [0.5, 4],
        [0.5, 4],
    ],
    # value = step * (0.5, 0.25, 2) + (1, 0, -1)
    "city": [
        [3, 1.5, -11],
        [2, 0.5, 7],
        [1, -2, 5],
        [64.5, 1, 3],
        [-62.5, 0, 1],
        [3, 1.5, -11],
        [1, -2, 5],
    ],
    # (10, 20, 30, 40) + 2 * (0.5, 0.5, -1, 0) + 1 * (0, 2, 0, 1), and with -4 and 0.5
    "user|item": [[11, 23, 28, 41], [8, 19, 34, 40.5], [11, 23, 28, 41]],
    # coordinates 4 * 0.5 + 1 and -2 * 0.5 + 1 times (1, -1), plus (0.25, 0.75)
    "country": [[0.25, 0.75], [3.25, -2.25]],
    "movie": FREQUENT + RARE,
    # Ids 5 and 40 are the rare ones.
    "zip": [*FREQUENT[:5], RARE[0], *FREQUENT[5:39], RARE[1], *FREQUENT[39:]],
    "gender": [[1, 2], [3, 4]],
    "hour": [[0.5], [-0.5], [65504]],
    "gr\u00f6\u00dfe": [[1.5, -3]],
}


@pytest.fixture(scope="module")
def read() -> Callable[[Path], dict[str, np.ndarray]]:
    return documented_reader()


def test_documented_decoder_gives_literal_numbers(
    read: Callable[[Path], dict[str, np.ndarray]],
) -> None:
    tables = read(GOLDEN)
    assert {name: rows.tolist() for name, rows in tables.items()} == ROWS
    assert all(rows.dtype == np.float32 for rows in tables.values())


def test_saec_gives_the_same_numbers() -> None:
    loaded = saec.load(GOLDEN)
    assert {name: field.decode().tolist() for name, field in loaded.items()} == ROWS
    assert loaded.predicted_loss_increase == 0.0015


def test_sharded_gives_literal_numbers(read: Callable[[Path], dict[str, np.ndarray]]) -> None:
    rows = {
        "user": [[1, -2], [0.5, 4], [3, 0.125]] * 90_000,
        "hour": [[1.5, -3], [2, 0.25], [0, 1]],
    }
    assert {name: table.tolist() for name, table in read(SHARDED).items()} == rows
    loaded = saec.load(SHARDED)
    assert {name: field.decode().tolist() for name, field in loaded.items()} == rows
    assert loaded.predicted_loss_increase == 0.25
    assert loaded.shard_count == 3


def test_rows_in_order_give_literal_numbers(
    read: Callable[[Path], dict[str, np.ndarray]],
) -> None:
    # (10, 20, 30) + x (1, 0, 0.5) + y (0, 2, 0) + z (0, 0, -4); x is -1 or -0.5, y 1 or 3, z 0.25
    # and 0.5 in turn; last x and y of 5 and 7, and of 9 and 11.
    rows = [
        *[[9, 22, 28.5], [9, 22, 27.5]] * 5,
        *[[9, 26, 28.5], [9, 26, 27.5]] * 15,
        *[[9.5, 26, 28.75], [9.5, 26, 27.75]] * 12,
        *[[15, 34, 32.5], [19, 42, 34.5]],
    ]
    assert read(ORDERED)["movie"].tolist() == rows
    assert saec.load(ORDERED)["movie"].decode().tolist() == rows


def test_keys_give_literal_numbers(read: Callable[[Path], dict[str, Any]]) -> None:
    # (10, 20, 30) + x (1, 0, 0.5) + y (0, 2, 0) + z (0, 0, -4); x and y are (1, 0.5) or (-2, 4), z
    # -0.75, -1 and 4.75; the last two have x of 0.5 and 3, and y and z of 0.
    rows = [[11, 21, 33.5], [8, 28, 33], [11, 21, 11.5], [10.5, 20, 30.25], [13, 20, 31.5]]
    row = read(KEYED)["user"]
    assert [row(own).tolist() for own in hash_keys(KEYS, seed=3).tolist()] == rows
    loaded = saec.load(KEYED)["user"]
    assert loaded.lookup(KEYS).tolist() == rows
    unknown = [f"nobody {number}" for number in range(500)]
    documented = [row(own) for own in hash_keys(unknown, seed=3).tolist()]
    assert np.array_equal(loaded.lookup(unknown), documented)


def test_keys_are_written_as_ever(tmp_path: Path) -> None:
    keyed().save(tmp_path / "now.saec")
    assert (tmp_path / "now.saec").read_bytes() == KEYED.read_bytes()


def test_patch_gives_literal_numbers() -> None:
    # alice: x and y of -2 and 4, z of 0; dave: x of -5; bob has the default row.
    changed = [[8, 28, 29], [5, 20, 27.5], [10, 20, 30]]
    patched = saec.load(KEYED, patches=[PATCH])
    assert patched["user"].lookup(["alice", "dave", "bob"]).tolist() == changed
    others = ["", "Gr\u00fc\u00dfe", "carol"]
    assert np.array_equal(patched["user"].lookup(others), saec.load(KEYED)["user"].lookup(others))
    assert patched["user"].vocab_size == 6
    assert patched.predicted_loss_increase == 0.25


def test_patch_is_written_as_ever(tmp_path: Path) -> None:
    patch = patch_of_keyed()
    write_patch(tmp_path / "now.patch", patch.head, patch.entries)
    assert (tmp_path / "now.patch").read_bytes() == PATCH.read_bytes()


def test_the_file_is_written_as_ever(tmp_path: Path) -> None:
    golden().save(tmp_path / "now.saec")
    assert (tmp_path / "now.saec").read_bytes() == GOLDEN.read_bytes()


def test_rows_in_order_are_written_as_ever(tmp_path: Path) -> None:
    ordered().save(tmp_path / "now.saec")
    assert (tmp_path / "now.saec").read_bytes() == ORDERED.read_bytes()


def test_shards_are_written_as_ever(tmp_path: Path) -> None:
    save_sharded(tmp_path / SHARDED.name)
    for name in (SHARDED.name, *(f"{SHARDED.name}.{RUN}-0000{number}" for number in (1, 2, 3))):
        assert (tmp_path / name).read_bytes() == SHARDED.with_name(name).read_bytes()
