"""``saec compress`` on a cluster, from the command line, also when it is killed."""

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
from saec import distributed
from saec.cli import main
from saec.distributed.cluster import workers_of

ROWS, DIM = 2001, 4
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
    """The bytes of an artifact in shards as one file."""
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


@pytest.mark.exhaustive
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


def killed(folder: Path, after: float) -> bool:
    """Whether a client was killed so many seconds after it wrote a shard, before it ended."""
    known = shards(folder)
    command = [sys.executable, dask_driver.__file__, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        (worker,) = map(int, process.stdout.readline().split())
        wait_until(lambda: shards(folder) > known or process.poll() is not None, 120)
        time.sleep(after)
        process.kill()
    wait_until(lambda: not runs(worker))  # it does not outlive the client
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0


def shards(folder: Path) -> set[str]:
    """The names of the finished shards."""
    places = (folder, folder / "many.saec.partial")
    return {file.name for place in places for file in place.glob("many.saec.*-*")}


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # that of the dead is empty
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
@pytest.mark.skipif(KILLS == 1, reason="takes a cluster for each kill: make test-kills")
def test_a_client_that_is_killed_leaves_what_is_finished(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saec.streaming.chunks._PART_VALUES", dask_driver.PART_VALUES)
    monkeypatch.setattr("saec.distributed.output_windows._LEAST", dask_driver.LEAST_WINDOW)
    dask_driver.write_tables(tmp_path)
    fields = dask_driver.fields(tmp_path)
    dask_driver.compress(fields, tmp_path / "one.saec")
    expected, out = (tmp_path / "one.saec").read_bytes(), tmp_path / "many.saec"
    moments = random.Random(0)
    kills = 0
    while kills < KILLS:
        finished = shards(tmp_path)
        if killed(tmp_path, moments.uniform(0, 0.5) if kills else 0):
            kills += 1
            assert finished <= shards(tmp_path)
            assert not out.exists() or joined(out) == expected
        else:
            assert joined(out) == expected
            for file in tmp_path.glob("many.saec*"):
                file.unlink()
    finished = shards(tmp_path)
    assert finished
    dask_driver.compress(fields, out, distributed.DaskExecutor(client))
    assert finished <= shards(tmp_path)
    assert joined(out) == expected
    assert len(list(tmp_path.glob("many.saec.*-*"))) == saec.load(out).shard_count
    assert not (tmp_path / "many.saec.partial").exists()
