"""A disk that does not answer: other requests, the time limit, batches and shutdown."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import serving
from serving import Server, tensor

from saec.format.compressed import Compressed
from saec.format.raw_field import RawField

ROWS = np.random.default_rng(0).standard_normal((50_000, 16)).astype(np.float32)
# Rows in the slow part of the file, each in another page: more reads than threads for them.
SLOW = [[*range(first, first + 6400, 64)] for first in (17_000, 24_000, 31_000)]

Serve = Callable[..., AbstractContextManager[Server]]

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler for slow reads")


@pytest.fixture(scope="module")
def slow_reads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes reads slow."""
    library = tmp_path_factory.mktemp("slow") / "slow_reads.so"
    source = Path(__file__).with_name("slow_reads.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file; while it exists, reads are slow."""
    path = tmp_path / "gate"
    path.touch()
    return path


@pytest.fixture
def served(tmp_path: Path, slow_reads: Path, gate: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A server with a limit of memory, whose disk does not answer from row 15,600 or so on."""
    Compressed([RawField("item", ROWS)]).save(tmp_path / "a.saec")

    @contextmanager
    def start(*options: str) -> Iterator[Server]:
        monkeypatch.setenv("LD_PRELOAD", str(slow_reads))
        monkeypatch.setenv("SAEC_READS", "threads")  # those of io_uring pass the library by
        monkeypatch.setenv("SLOW_FROM", "1000000")
        monkeypatch.setenv("SLOW_GATE", str(gate))
        with serving.served(tmp_path / "a.saec", "--memory", "3MB", *options) as server:
            monkeypatch.delenv("LD_PRELOAD")
            yield server

    return start


def asked(server: Server, *ids: int) -> tuple[int, object]:
    status, answer = server.infer({"inputs": [tensor("item", list(ids))]})
    if status != 200:
        return status, answer["error"]
    return status, np.array(answer["outputs"][0]["data"], np.float32).reshape(len(ids), -1)


def wait_for(server: Server, metric: str, value: float) -> None:
    deadline = time.monotonic() + serving.SECONDS
    while server.metric(metric) != value:
        assert time.monotonic() < deadline


def check_fast_rows(server: Server, first: int) -> None:
    ids = [first, first + 5000, first + 10_000]
    status, rows = asked(server, *ids)
    assert status == 200
    assert np.array_equal(rows, ROWS[ids])


@pytest.mark.exhaustive
@pytest.mark.parametrize("together", [False, True])
def test_a_slow_read_delays_only_its_own_request(served: Serve, gate: Path, together: bool) -> None:
    options = ("--batch-wait", "1") if together else ()
    with served(*options) as server, ThreadPoolExecutor(3) as pool:
        check_fast_rows(server, 5)
        slow = [pool.submit(asked, server, *ids) for ids in SLOW]
        wait_for(server, 'saec_requests_in_flight{model="a",protocol="http"}', 3)
        if together:  # those that wait for others would take the next one with them
            wait_for(server, "saec_batch_wait_seconds_count", 4)
        check_fast_rows(server, 5)
        check_fast_rows(server, 1000)
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        assert not any(each.done() for each in slow)
        gate.unlink()
        for each, ids in zip(slow, SLOW, strict=True):
            status, rows = each.result(serving.SECONDS)
            assert status == 200
            assert np.array_equal(rows, ROWS[ids])


@pytest.mark.exhaustive
def test_a_slow_read_reaches_the_time_limit_and_does_not_delay_shutdown(served: Serve) -> None:
    with served("--timeout", "3", "--grace", "0.2", "--batch-wait", "1") as server:
        assert asked(server, *SLOW[0]) == (504, "it took more than 3 seconds")
        check_fast_rows(server, 5)
        assert server.stop() == 1  # a thread still waits for the disk
        assert "stopped with requests unanswered" in server.log.read_text()
