"""Cores that a process may use: affinity, and quotas of control groups."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from native_alone import LOAD

from saec import _native
from saec.util.cores import usable_cores


def groups(root: Path, process: str, files: dict[str, str]) -> str:
    """A directory with the files of /proc/self/cgroup and /sys/fs/cgroup of a system."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(process)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return str(root)


V1 = "12:pids:/a\n4:cpu,cpuacct:/a/b\n1:name=systemd:/a\n"
HYBRID = "2:cpuacct:/a\n1:cpu:/a\n0::/a\n"


@pytest.mark.parametrize(
    ("process", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/a/b\n", {"a/b/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000\n", "a/cpu.max": "400000 100000\n"}, 2),
        # The path is the one outside the container, which sees its own group at the mount.
        ("0::/docker/0123\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/../..\n", {"cpu.max": "200000 100000\n"}, 2),
        (V1, {"cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n"}, math.inf),
        (
            V1,
            {
                "cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "40000\n", "cpu/cpu.cfs_period_us": "20000\n"}, 2),
        (HYBRID, {"cpu/a/cpu.cfs_quota_us": "9\n", "cpu/a/cpu.cfs_period_us": "3\n"}, 3),
        (
            HYBRID,
            {"cpuacct/a/cpu.cfs_quota_us": "9\n", "cpuacct/a/cpu.cfs_period_us": "3\n"},
            math.inf,
        ),
        ("", {}, math.inf),
        ("nonsense\n:\n::\n0::\n0::a\n", {"cpu.max": "nonsense"}, math.inf),
        ("0::/\n", {"cpu.max": "0 100000"}, math.inf),
        ("0::/\n", {"cpu.max": "100000"}, math.inf),
    ],
)
def test_quota(tmp_path: Path, process: str, files: dict[str, str], cores: float) -> None:
    assert _native.quota_cores(groups(tmp_path, process, files)) == cores


def test_no_control_groups(tmp_path: Path) -> None:
    assert _native.quota_cores(str(tmp_path)) == math.inf


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity")
def test_affinity_counts_at_every_call() -> None:
    before = os.sched_getaffinity(0)
    limit = math.ceil(min(_native.quota_cores(), len(before)))
    assert usable_cores() == limit
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


THREADS = f"""
import os
import numpy as np
{LOAD}
rows = np.zeros((100_000, 16), np.float32)
before = len(os.listdir("/proc/self/task"))
_native.NearestCentroid(rows[:60]).search(rows, np.empty(len(rows), np.int32))
print(len(os.listdir("/proc/self/task")) - before, _native.default_threads())
"""

CALLING_THREAD = f"""
import os, threading, time
import numpy as np
{LOAD}
rows = np.zeros((100_000, 16), np.float32)
alone = len(os.listdir("/proc/self/task"))
def search():
    _native.use_calling_thread()
    before = len(os.listdir("/proc/self/task"))
    _native.NearestCentroid(rows[:60]).search(rows, np.empty(len(rows), np.int32), threads=4)
    print(len(os.listdir("/proc/self/task")) - before)
thread = threading.Thread(target=search)
thread.start()
thread.join()
while len(os.listdir("/proc/self/task")) > alone:  # the system ends a thread some time later
    time.sleep(0.001)
_native.NearestCentroid(rows[:60]).search(rows, np.empty(len(rows), np.int32), threads=4)
print(len(os.listdir("/proc/self/task")) - alone)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
@pytest.mark.parametrize(
    ("wanted", "started"),
    [("1", 0), ("4", 3), ("3,2", 2), (None, None), ("", None), ("nonsense", None), ("-2", None)],
)
def test_default_number_of_threads(wanted: str | None, started: int | None) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"OPENBLAS_NUM_THREADS": "1"}
    if wanted is not None:
        environment["OMP_NUM_THREADS"] = wanted
    command = [sys.executable, "-c", THREADS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    more = usable_cores() - 1 if started is None else started
    assert done.stdout.split() == [str(more), str(more + 1)]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_a_thread_may_do_all_of_its_calls() -> None:
    """It starts no threads where the main thread starts three."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CALLING_THREAD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "3"]
