"""Files that are mapped: what counts as memory of the process."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from saec.streaming.scratch import Workspace, _resident_bytes
from saec.util.atomic_file import let_go

SIZE = 64 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is looked up in /proc")


def test_pages_of_a_file_are_let_go_and_come_back(tmp_path: Path) -> None:
    array = Workspace(tmp_path).zeros(SIZE)
    before = _resident_bytes()
    array[:] = 7
    assert _resident_bytes() - before > 0.9 * SIZE
    let_go(array[SIZE // 2 :])
    assert _resident_bytes() - before == pytest.approx(SIZE / 2, rel=0.1)
    let_go(array.view(np.int64).reshape(-1, 2))
    assert _resident_bytes() - before < 0.1 * SIZE
    assert array.min() == array.max() == 7


def test_a_part_of_a_mapped_file_is_let_go(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(SIZE, np.uint8))
    array = np.load(tmp_path / "a.npy", mmap_mode="r")
    before = _resident_bytes()
    assert array[:-5].sum() == SIZE - 5
    assert _resident_bytes() - before > 0.9 * SIZE
    let_go(array[5:-5])
    assert _resident_bytes() - before < 0.1 * SIZE


def test_changes_that_no_file_gets_stay(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(1 << 16))
    copied = np.load(tmp_path / "a.npy", mmap_mode="c")
    copied[:] = 3
    in_memory = np.full(1 << 16, 3.0)
    for array in (copied, copied[5:], in_memory, in_memory[::2], np.zeros(0)):
        let_go(array)
        assert (array == 3).all()
