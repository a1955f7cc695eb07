"""Parts worked on by several threads: order, bounds, errors, early ends; the same patches."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from daily_tables import METRICS, Day
from numpy.typing import NDArray

import saec
from saec.compression import changed_rows, id_plan
from saec.sources.parquet_rows import Column, ParquetRows
from saec.streaming import chunks
from saec.util.in_threads import in_threads

SECONDS = 60


def test_results_come_in_the_order_of_items() -> None:
    """The first item is done after the second."""
    second = threading.Event()

    def square(item: int) -> int:
        if item == 1:
            second.set()
        if item == 0:
            assert second.wait(SECONDS)
        return item * item

    assert list(in_threads(square, range(6), 2)) == [0, 1, 4, 9, 16, 25]


def test_at_most_so_many_items_at_a_time() -> None:
    """Four items meet in pairs: two are worked on at a time, and never three."""
    meeting, lock = threading.Barrier(2, timeout=SECONDS), threading.Lock()
    now, most = 0, 0

    def meet(item: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        meeting.wait()
        with lock:
            now -= 1
        meeting.wait()
        return item

    assert list(in_threads(meet, range(4), 2)) == [0, 1, 2, 3]
    assert most == 2


def test_items_are_begun_only_shortly_before_they_are_needed() -> None:
    """Two threads: four items are begun at first, and one more for each result."""
    begun: list[int] = []
    found = in_threads(lambda item: begun.append(item), range(100), 2)
    for _ in range(3):
        next(found)
    found.close()
    assert len(begun) <= 4 + 3


@pytest.mark.parametrize(("threads", "items"), [(1, 5), (8, 1), (2, 0)])
def test_one_thread_or_item_is_left_to_the_caller(threads: int, items: int) -> None:
    names = list(in_threads(lambda _: threading.current_thread(), range(items), threads))
    assert names == [threading.current_thread()] * items


def test_errors_come_in_their_place_and_no_thread_stays() -> None:
    """Items 2 and 3 fail; the error of 2 is raised, after the results before it."""
    before = set(threading.enumerate())

    def inverse(item: int) -> float:
        if item == 3:
            raise KeyError(item)
        return 1 / (item - 2)

    found = in_threads(inverse, range(50), 2)
    assert [next(found), next(found)] == [-0.5, -1.0]
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert set(threading.enumerate()) == before


def test_an_interrupt_waits_for_items_under_way_and_begins_no_more() -> None:
    begun: list[int] = []
    done: list[int] = []

    def noted(item: int) -> int:
        begun.append(item)
        done.append(item)
        return item

    def interrupted() -> None:
        for _ in in_threads(noted, range(1000), 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    so_far = list(begun)
    assert sorted(done) == sorted(so_far)
    assert len(so_far) <= 5
    assert begun == so_far


def in_small_parts(monkeypatch: pytest.MonkeyPatch, rows: int, dim: int) -> None:
    """Fields in parts of so many rows."""
    monkeypatch.setattr(chunks, "_PART_VALUES", rows * dim)


def with_threads(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr("saec.util.in_threads.default_threads", lambda: threads)


def compressed(day: Day, keyed: bool, base: Path) -> saec.Field:
    """The day's field, compressed to ``base``."""
    field = day.either(keyed)
    saec.compress([field], saec.Ratio(6), metrics=METRICS, progress=False, out=base)
    return field


@pytest.mark.parametrize("keyed", [True, False])
def test_patches_are_the_same_by_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyed: bool
) -> None:
    """Tables of 600 rows in six parts, and of 650 in seven; a second patch behind a first."""
    in_small_parts(monkeypatch, 100, 4)
    monkeypatch.setattr("saec.compression.patch_plan._MANY_ROWS", 1)
    days = [Day.first(600)]
    days += [days[0].next(1, new=50), days[0].next(1, new=50).next(2)]
    base = tmp_path / "base.saec"
    fields = [compressed(days[0], keyed, base), *(day.either(keyed) for day in days[1:])]
    patches: dict[int, list[bytes]] = {}
    for threads in (1, 3):
        with_threads(monkeypatch, threads)
        paths = [tmp_path / f"{threads}-{number}.patch" for number in (1, 2)]
        for number, path in enumerate(paths):
            saec.update(
                base,
                [fields[1 + number]],
                out=path,
                patches=paths[:number],
                metrics=METRICS,
                threshold=0.0,
                whole_rows=0,
                compare=False,
                progress=False,
            )
        patches[threads] = [path.read_bytes() for path in paths]
    assert len(fields[1].parts) == 7
    assert patches[1] == patches[3]


@pytest.mark.parametrize("keyed", [True, False])
def test_errors_of_parts_reach_the_caller_and_leave_no_patch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyed: bool
) -> None:
    """Two parts have wrong rows after the field was checked; the first of them is named."""
    in_small_parts(monkeypatch, 100, 4)
    with_threads(monkeypatch, 2)
    day, base = Day.first(600), tmp_path / "base.saec"
    field = compressed(day, keyed, base)
    day.weights[234, 2] = np.nan
    day.weights[345, 1] = np.nan
    with pytest.raises(saec.FieldError, match="nan at row 234, column 2"):
        saec.update(base, [field], out=tmp_path / "1.patch", metrics=METRICS, compare=False)
    assert [path.name for path in tmp_path.iterdir()] == ["base.saec"]


@pytest.mark.parametrize("keyed", [True, False])
def test_rows_of_a_parquet_file_are_read_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyed: bool
) -> None:
    """A part out of order would decode its row group from the start."""
    day, path = Day.first(600), tmp_path / "rows.parquet"
    columns = {f"v{place}": own for place, own in enumerate(day.weights.T)}
    pq.write_table(pa.table(columns), path)
    rows = ParquetRows(path, Column(tuple(columns), np.dtype(np.float32), 4), [600], None)
    keys = {"keys": day.keys} if keyed else {}
    plain = saec.Field("user", day.weights, day.frequencies, **keys)
    base = tmp_path / "base.saec"
    saec.compress([plain], saec.Ratio(6), metrics=METRICS, progress=False, out=base)
    in_small_parts(monkeypatch, 100, 4)
    with_threads(monkeypatch, 3)
    starts: list[int] = []
    readers = set()
    read = ParquetRows._read_group

    def noted(self: ParquetRows, group: int, start: int, out: NDArray[Any]) -> None:
        starts.append(start)
        readers.add(threading.current_thread())
        read(self, group, start, out)

    monkeypatch.setattr(ParquetRows, "_read_group", noted)
    fields = [saec.Field("user", rows, day.frequencies, **keys)]
    out = tmp_path / "1.patch"
    saec.update(base, fields, out=out, metrics=METRICS, threshold=0.0, whole_rows=0, compare=False)
    assert len(fields[0].parts) == 6
    assert starts[:6] == [0, 100, 200, 300, 400, 500]
    assert readers == {threading.main_thread()}


@pytest.mark.parametrize("keyed", [True, False])
def test_an_interrupt_leaves_neither_patch_nor_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyed: bool
) -> None:
    in_small_parts(monkeypatch, 100, 4)
    with_threads(monkeypatch, 2)
    day, base = Day.first(600), tmp_path / "base.saec"
    field = compressed(day, keyed, base)
    before, begun = set(threading.enumerate()), []
    surveyed = changed_rows.DayField if keyed else id_plan.IdDay
    plain = surveyed._lost_now

    def interrupted(self: object, *given: object) -> object:
        begun.append(threading.current_thread())
        if len(begun) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(surveyed, "_lost_now", interrupted)
    # A shell without job control ignores interrupts of what it starts in the background.
    before_test = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            saec.update(base, [field], out=tmp_path / "1.patch", metrics=METRICS, compare=False)
    finally:
        signal.signal(signal.SIGINT, before_test)
    assert [path.name for path in tmp_path.iterdir()] == ["base.saec"]
    # A thread that was just being started is not waited for, and ends by itself.
    deadline = time.monotonic() + 30
    while any(own.is_alive() for own in set(threading.enumerate()) - before):
        assert time.monotonic() < deadline
        time.sleep(0.01)
