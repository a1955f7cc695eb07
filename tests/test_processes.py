"""Processes that fork or end while threads of the native core exist or work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SETUP = """
import multiprocessing, os, sys, threading, time
import numpy as np
import saec

rows = np.random.default_rng(0).standard_normal((40_000, 16)).astype(np.float32)
field = saec.Field("x", rows, 1e5 / np.arange(1, 40_001))
ids = np.random.default_rng(1).integers(0, 40_000, 50_000)  # enough for a second thread to join

def compressed():
    codec = saec.Clusters(clusters=120, iterations=2)
    return saec.compress([field], codec=codec, progress=False)["x"]

def bytes_of_all(_=None):
    return compressed().lookup(ids).tobytes()

coded = compressed()
"""

# The parent used its threads, so the child inherits their locks, but not the threads.
FORKS = """
before = bytes_of_all()
child = os.fork()
if child == 0:
    same = coded.lookup(ids).tobytes() == before and bytes_of_all() == before
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
"""

POOLS = """
before = bytes_of_all()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(bytes_of_all, range(2)) == [before] * 2
"""

# Another thread is inside a lookup, with the pool's locks, most of the time.
FORKS_DURING_LOOKUPS = """
before = bytes_of_all()
ended = threading.Event()
def look_up():
    while not ended.is_set():
        coded.lookup(ids)
thread = threading.Thread(target=look_up)
thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        os._exit(0 if coded.lookup(ids).tobytes() == before else 1)
    assert os.waitpid(child, 0)[1] == 0
ended.set()
thread.join()
"""

ENDS = """
def work():
    while True:
        WORK
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
"""

MODEL = """
import torch
import saec.torch
model = torch.nn.Sequential(torch.nn.Embedding(40_000, 16))
result = saec.compress(saec.torch.fields(model, {"0": field.frequencies}),
                       codec=saec.Clusters(clusters=300, iterations=2), progress=False)
saec.torch.replace_embeddings_(model, result)
"""


def run(script: str) -> str:
    """Standard output of a process that must end well, and soon."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SETUP + script + "print('done')"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_forked_children_look_up_and_compress() -> None:
    assert run(FORKS + POOLS + FORKS_DURING_LOOKUPS) == "done\n"


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize(
    "work",
    ["coded.lookup(ids)", "coded.lookup(ids, threads=1)", "coded.decode()", "compressed()"],
)
def test_process_ends_well_with_daemon_threads_at_work(work: str) -> None:
    assert run(ENDS.replace("WORK", work)) == "done\n"


@pytest.mark.exhaustive
def test_pytorch_modules_in_forked_children_and_in_daemon_threads_at_the_end() -> None:
    """A child has none of the threads of PyTorch's operations, which the parent's lookups use.

    Then the process ends well while daemon threads look up.
    """
    pytest.importorskip("torch")
    lookup = """
coded = result["0"]
def bytes_of_all():
    with torch.inference_mode(): return model(torch.from_numpy(ids)).numpy().tobytes()
"""
    script = """
places = torch.from_numpy(ids[:100])
kept = []  # PyTorch itself aborts there when it frees a tensor
with torch.no_grad(): model(places)
""" + ENDS.replace("WORK", "with torch.no_grad(): kept.append(model(places))")
    assert run(MODEL + lookup + FORKS + script) == "done\n"
