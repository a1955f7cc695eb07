"""Clients for the benchmarks of ``saec serve``, the server itself, and swaps of its file."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ask:
    """What a client sends, and the two answers that are right."""

    inputs: dict[str, np.ndarray]
    output: str
    right: tuple[np.ndarray, ...]


@dataclass
class Seen:
    """What a client saw: seconds of each request, and what went wrong."""

    protocol: str
    seconds: list[float]
    failures: list[str]


def start_together(clients: Any) -> None:
    """Wait until every client has imported what it needs."""
    for protocol in ("http", "grpc"):
        import_module(f"tritonclient.{protocol}")
    clients.wait()


def ask_for(seconds: float, protocol: str, address: str, asks: Sequence[Ask]) -> Seen:
    """One client, in a process of its own."""
    triton: Any = import_module(f"tritonclient.{protocol}")
    requests = []
    for ask in asks:
        inputs = []
        for name, values in ask.inputs.items():
            put = triton.InferInput(name, values.shape, "INT64")
            put.set_data_from_numpy(values)
            inputs.append(put)
        requests.append(inputs)
    seen = Seen(protocol, [], [])
    deadline = time.monotonic() + seconds
    with triton.InferenceServerClient(address) as client:
        while time.monotonic() < deadline:
            number = len(seen.seconds) % len(asks)
            ask = asks[number]
            start = time.perf_counter()
            try:
                answer = client.infer("model", requests[number])
            except Exception as error:  # whatever it is, a request failed
                seen.failures.append(repr(error))
                continue
            finally:
                seen.seconds.append(time.perf_counter() - start)
            values = answer.as_numpy(ask.output)
            if not any(np.allclose(values, right, atol=1e-5) for right in ask.right):
                seen.failures.append("an answer of neither file")
    return seen


@contextlib.contextmanager
def served(model: Path, *options: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The process of a server, and its addresses by protocol."""
    words = [sys.executable, "-m", "saec", "serve", str(model), "--http-port", "0"]
    with subprocess.Popen(
        [*words, "--grpc-port", "0", *options], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline().split()
            yield (
                process.pid,
                {"http": said[1].removeprefix("http://").rstrip(","), "grpc": said[3]},
            )
            process.send_signal(signal.SIGTERM)
            if process.wait(60):
                raise RuntimeError("the server did not end well")
        finally:
            if process.poll() is None:
                process.kill()


def swap_until(
    model: Path, files: Sequence[Path], every: float, clients: Sequence[Future[Seen]]
) -> int:
    """Put the files in the model's place by turns, as long as clients ask; gives how often."""
    swaps, due = 0, time.monotonic() + every
    while not all(client.done() for client in clients):
        time.sleep(0.05)
        if time.monotonic() >= due:
            swaps, due = swaps + 1, due + every
            put(files[swaps % len(files)], model)
    return swaps


def put(file: Path, model: Path) -> None:
    """Whole or not at all."""
    beside = model.with_name("next")
    shutil.copyfile(file, beside)
    beside.replace(model)
