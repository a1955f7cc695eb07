"""Progress bars: silent unless at a terminal and the work takes long."""

from __future__ import annotations

import io
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from saec.util import progress
from saec.util.progress import bar, track


@contextmanager
def terminal() -> Iterator[Callable[[], str]]:
    """Make stderr a pseudo-terminal; the value reads what was drawn on it since the last call."""
    # Not a fixture: pytest puts its own stderr back between a fixture and the test.
    master, slave = os.openpty()

    def drawn() -> str:
        text = b""
        while select.select([master], [], [], 0.05)[0]:
            text += os.read(master, 65536)
        return text.decode()

    with pytest.MonkeyPatch.context() as patch, os.fdopen(slave, "w") as stream:
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stderr", stream)
        progress._console.cache_clear()  # it remembers the kind of terminal
        yield drawn
    os.close(master)
    progress._console.cache_clear()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY_SECONDS", 0.01)


def long_work(show: bool = True) -> None:
    with bar("counting [user]", 3, show) as rows:
        rows.advance(2)
        time.sleep(0.3)
        rows.advance()
        time.sleep(0.3)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("at_once")
def test_long_work_draws_its_description_and_count() -> None:
    with terminal() as drawn:
        long_work()
        text = drawn()
    assert "counting [user]" in text
    assert "2/3" in text
    assert "3/3" in text


def test_short_work_leaves_no_trace() -> None:
    with terminal() as drawn:
        assert list(track(range(1000), description="short")) == list(range(1000))
        with bar("short", 10) as rows:
            rows.advance(10)
        assert drawn() == ""


@pytest.mark.usefixtures("at_once")
def test_first_step_may_take_long() -> None:
    with terminal() as drawn, bar("first step", 2):
        time.sleep(0.5)
        assert "first step" in drawn()


@pytest.mark.usefixtures("at_once")
def test_show_false_is_silent() -> None:
    with terminal() as drawn:
        long_work(show=False)
        assert drawn() == ""


@pytest.mark.usefixtures("at_once")
def test_silent_when_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", stream)
    long_work()
    assert stream.getvalue() == ""


def test_silent_without_a_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert list(track([1, 2])) == [1, 2]


@pytest.mark.usefixtures("at_once")
def test_piped_stdout_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal() as drawn:
        with bar("work", 1):
            time.sleep(0.2)
            sys.stdout.write("a result\n")
        assert "a result" not in drawn()
    assert capsys.readouterr().out == "a result\n"


@pytest.mark.usefixtures("at_once")
def test_terminal_is_restored_after_an_error() -> None:
    def fail() -> None:
        with bar("work", 1):
            time.sleep(0.2)
            raise KeyError("inside")

    with terminal() as drawn:
        before = sys.stderr
        with pytest.raises(KeyError, match="inside"):
            fail()
        assert sys.stderr is before
        assert drawn().rfind("\x1b[?25h") > 0  # the cursor shows again


@pytest.mark.exhaustive
@pytest.mark.usefixtures("at_once")
def test_bars_nest() -> None:
    with terminal() as drawn:
        with bar("outer", 2) as outer:
            time.sleep(0.1)
            for _ in range(2):
                with bar("inner", 1) as inner:
                    time.sleep(0.4)
                    inner.advance()
                outer.advance()
        text = drawn()
    assert "outer" in text
    assert "inner" in text


def test_track_is_lazy_and_takes_any_iterable() -> None:
    numbers = track(iter([1, 2, 3]), description="lazy")
    assert next(numbers) == 1
    assert list(numbers) == [2, 3]


@pytest.mark.usefixtures("at_once")
def test_without_rich_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    progress._has_rich.cache_clear()
    with terminal() as drawn:
        long_work()
        assert drawn() == ""
    progress._has_rich.cache_clear()
