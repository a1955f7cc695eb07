"""``saec compress`` on a cluster, from the command line; and if it is killed there."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask_driver
import numpy as np
import pytest
from dask_killing import KILLS, wait_until
from distributed import Client

import saec
from saec.cli import main
from saec.distributed.cluster import workers_of

ROWS, DIM = 3001, 4
METRICS = saec.LossMetrics({"rows": np.diag([1.0, 0.5, 0.25, 0.1])}, 1000, {"rows": 0.01})


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("saec.streaming.chunks._PART_VALUES", 4000)
    monkeypatch.setattr("saec.distributed.output_windows._LEAST", 1 << 10)
    np.save("rows.npy", rng.standard_normal((ROWS, DIM), dtype=np.float32))
    np.save("counts.npy", rng.zipf(1.3, ROWS).clip(max=10_000))
    saec.save_metrics(METRICS, "metrics.safetensors")
    return tmp_path


def compress(out: str, *options: str) -> int:
    words = ("compress", "rows.npy", "--frequencies", "counts.npy", "--ratio", "4")
    return main([*words, "--metrics", "metrics.safetensors", "-o", out, *options])


def joined(path: Path) -> bytes:
    """The one file that an artifact in shards would be."""
    whole = path.with_name(f"{path.name}.joined")
    saec.load(path).save(whole)
    return whole.read_bytes()


def test_a_cluster_that_runs_does_what_one_process_does(
    folder: Path, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress("one.saec", "--memory", "64GB") == 0
    assert "dashboard" not in capsys.readouterr().err
    address = client.scheduler_info()["address"]
    assert compress("many.saec", "--cluster", address) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith(f"dashboard: {client.dashboard_link}\n")
    assert shown.out.endswith("wrote many.saec\n")
    assert saec.load("many.saec").shard_count >= 1
    assert joined(folder / "many.saec") == (folder / "one.saec").read_bytes()
    assert len(workers_of(client)) == 2  # it is not ours to end


def test_workers_on_this_machine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compress("one.saec") == 0
    capsys.readouterr()
    assert compress("many.saec", "--workers", "1") == 0
    assert capsys.readouterr().err.startswith("dashboard: http://127.0.0.1:")
    assert joined(folder / "many.saec") == (folder / "one.saec").read_bytes()


def test_no_scheduler_is_an_error_of_the_user(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress("many.saec", "--cluster", "smoke://signal") == 2
    assert "no scheduler answers at smoke://signal: " in capsys.readouterr().err
    assert compress("many.saec", "--cluster", "smoke://signal", "--workers", "2") == 2
    assert "give --cluster or --workers, not both" in capsys.readouterr().err
    assert not list(folder.glob("many*"))


def seconds_taken(folder: Path, limit: float) -> float | None:
    """By a client from when it has workers; None if it was killed because that was too long."""
    command = [sys.executable, dask_driver.__file__, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        start = time.perf_counter()
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            wait_until(lambda: not any(map(runs, workers)))  # they do not outlive it
            return None
    assert process.returncode == 0
    return time.perf_counter() - start


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # that of the dead is empty
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_a_client_that_is_killed_leaves_what_is_finished(tmp_path: Path) -> None:
    dask_driver.write_tables(tmp_path)
    out = tmp_path / "many.saec"
    whole = seconds_taken(tmp_path, 600)
    assert whole is not None
    expected = joined(out)
    moments = random.Random(0)
    kills = 0
    while kills < KILLS:
        if out.exists():
            for file in tmp_path.glob("many.saec*"):
                file.unlink()
        if seconds_taken(tmp_path, moments.uniform(0.1, 0.9) * whole) is None:
            kills += 1
        assert not out.exists() or joined(out) == expected
    assert out.exists() or seconds_taken(tmp_path, 600) is not None
    assert joined(out) == expected
    shards = {file.name for file in tmp_path.glob("many.saec.*-*")}
    assert len(shards) == saec.load(out).shard_count
    assert not (tmp_path / "many.saec.partial").exists()
