"""Fixtures that all tests share, which tests run, and locks for several processes at once."""

from __future__ import annotations

import fcntl
import gc
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before NumPy and PyTorch are imported, which read it then. Threads of several workers would
    # wait for one another's cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from covering import first_cases
from hypothesis import settings

# Machines differ in speed; a slow example is no failure. `make fuzz` tries far more examples.
settings.register_profile("first", deadline=None, max_examples=30)
settings.register_profile("all", settings.get_profile("first"), max_examples=60)
settings.load_profile("all")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cases", choices=("all", "first", "rest"), default="all", help="see tests/covering.py"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("cases") == "first":
        settings.load_profile("first")


def pytest_collection(session: pytest.Session) -> None:
    gc.disable()  # most of what collection makes stays


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave modules and tests out of later garbage collections: each would take half a second."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that ``--cases`` does not name, and put last those that run alone.

    Earlier, they would wait for the lint that runs beside, and all workers with them.
    """
    items.sort(key=is_alone)
    which = config.getoption("cases")
    if which == "all":
        return
    first = first_cases(items)
    config.hook.pytest_deselected(
        items=[item for item in items if (item in first) != (which == "first")]
    )
    items[:] = [item for item in items if (item in first) == (which == "first")]


def is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@contextmanager
def turn(alone: bool) -> Iterator[None]:
    """Hold the locks of one test: a test marked ``alone`` runs beside no other test.

    While a worker waits to be alone it holds the first lock, so that the others start no test.
    """
    here = Path(__file__)
    first, second = os.open(here, os.O_RDONLY), os.open(here.parent, os.O_RDONLY)
    try:
        fcntl.flock(first, fcntl.LOCK_EX)
        fcntl.flock(second, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(first, fcntl.LOCK_UN)
        yield
        fcntl.flock(second, fcntl.LOCK_UN)  # a forked process may still hold it open
    finally:
        os.close(first)
        os.close(second)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test within its turn, so that tests marked ``alone`` run beside no other.

    A pytest that a test has started runs within the turn of that test.
    """
    if not hasattr(item.config, "workerinput"):  # no worker of pytest-xdist
        return (yield)
    with turn(is_alone(item)):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Start PyTorch's generator anew, so that no test's numbers depend on the tests before it."""
    torch = sys.modules.get("torch")  # not for tests that do without
    if torch is not None:
        # torch.manual_seed would also queue, for each test, a call that seeds GPUs once they start.
        torch.default_generator.manual_seed(2020)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data sets: SAEC_DATA or, if not set, shared/data in the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("SAEC_DATA", beside))
    if not path.is_dir():
        pytest.skip(f"no real data sets in {path}; set SAEC_DATA to their directory")
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed, fresh for every test."""
    return np.random.default_rng(2020)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch computes with one thread: with small tables, threads only wait for each other."""
    import torch  # not for tests that do without

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def coarse_prices() -> Iterator[None]:
    """Measures fields with keys at a third of the prices, which takes a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saec.codecs.axes.keyed._PRICES_PER_DECADE", 1)
        yield
