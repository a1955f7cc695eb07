"""Latency of ``saec serve`` under load, while its file is swapped, and whether any request fails.

    python benchmarks/serve.py --json serve.json
    python benchmarks/serve.py --seconds 10 --swap-every 1 --rows 20000
    python benchmarks/serve.py --folder . --json serve.json

First rows of an artifact, then scores of an ONNX model. Half of the clients ask by HTTP and half by
gRPC, each in a process of its own and by the real client (tritonclient), one request after the
other, as fast as they are answered. Every answer is compared with what the two files in turn would
say; anything else counts as a failure. All run on one machine: clients take their share of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import saec

DIM = 16
FIELDS = 10  # of the whole model
BATCHES = 8  # different requests


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


def write_tables(folder: Path, rows: int) -> list[Path]:
    """Two artifacts of the same fields, other tables."""
    files = [folder / f"{seed}-{rows}.saec" for seed in range(2)]
    for seed, file in enumerate(files):
        if file.exists():
            continue
        rng = np.random.default_rng(seed)
        fields = []
        for name, count in (("user", rows), ("item", max(rows // 10, 1))):
            kinds = rng.standard_normal((max(count // 100, 1), DIM), dtype=np.float32)
            table = kinds[rng.integers(0, len(kinds), count)]
            table += 0.1 * rng.standard_normal(table.shape, dtype=np.float32)
            fields.append(saec.Field(name, table, 10_000_000 // np.arange(1, count + 1)))
        saec.compress(fields, saec.Ratio(20), progress=False).save(file)
    return files


def write_models(folder: Path, rows: int) -> list[Path]:
    """Two click models: rows of ten fields, and three layers over them."""
    files = [folder / f"{seed}-{rows}.onnx" for seed in range(2)]
    for seed, file in enumerate(files):
        if file.exists():
            continue
        rng = np.random.default_rng(seed)
        widths = (FIELDS * DIM, 128, 64, 1)
        constants = {"table": rng.standard_normal((rows, DIM), dtype=np.float32)}
        nodes = [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("Flatten", ["rows"], ["x0"], axis=1),
        ]
        for layer, (wide, narrow) in enumerate(pairwise(widths)):
            weights = rng.standard_normal((wide, narrow), dtype=np.float32) / np.sqrt(wide)
            constants[f"w{layer}"] = weights.astype(np.float32)
            last = layer == len(widths) - 2
            nodes += [
                helper.make_node("MatMul", [f"x{layer}", f"w{layer}"], [f"y{layer}"]),
                helper.make_node(
                    "Sigmoid" if last else "Relu",
                    [f"y{layer}"],
                    ["score" if last else f"x{layer + 1}"],
                ),
            ]
        tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
        graph = helper.make_graph(
            nodes,
            "clicks",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", FIELDS])],
            [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])],
            tensors,
        )
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), str(file))
    return files


def lookup_asks(files: Sequence[Path], batch: int) -> list[Ask]:
    """Ids of two fields; the user's rows are what is compared."""
    tables = [saec.load(file) for file in files]
    rng = np.random.default_rng(7)
    asks = []
    for _ in range(BATCHES):
        inputs = {
            name: rng.integers(0, tables[0][name].vocab_size, batch) for name in ("user", "item")
        }
        right = tuple(table["user"].lookup(inputs["user"]) for table in tables)
        asks.append(Ask(inputs, "user", right))
    return asks


def score_asks(files: Sequence[Path], batch: int, rows: int) -> list[Ask]:
    """Ids of ten fields."""
    sessions = [onnxruntime.InferenceSession(str(file)) for file in files]
    rng = np.random.default_rng(7)
    asks = []
    for _ in range(BATCHES):
        inputs = {"ids": rng.integers(0, rows, (batch, FIELDS))}
        right = tuple(session.run(["score"], inputs)[0] for session in sessions)
        asks.append(Ask(inputs, "score", right))
    return asks


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
def served(model: Path, *options: str) -> Iterator[dict[str, str]]:
    """Addresses of a server by protocol."""
    words = [sys.executable, "-m", "saec", "serve", str(model), "--http-port", "0"]
    with subprocess.Popen(
        [*words, "--grpc-port", "0", *options], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline().split()
            yield {"http": said[1].removeprefix("http://").rstrip(","), "grpc": said[3]}
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


def measure(
    files: Sequence[Path], asks: Sequence[Ask], options: argparse.Namespace
) -> dict[str, Any]:
    """Serve the first file, ask, swap, and say how it went."""
    model = files[0].with_name("model" + files[0].suffix)
    put(files[0], model)
    context = multiprocessing.get_context("spawn")
    together = (context.Barrier(options.clients),)
    with (
        served(model) as at,
        ProcessPoolExecutor(options.clients, context, start_together, together) as pool,
    ):
        clients = [
            pool.submit(ask_for, options.seconds, protocol, at[protocol], asks)
            for protocol in (("http", "grpc")[number % 2] for number in range(options.clients))
        ]
        swaps = swap_until(model, files, options.swap_every, clients)
        with urllib.request.urlopen(f"http://{at['http']}/v2/models/model", timeout=60) as answer:
            version = int(json.load(answer)["versions"][0])
    return {"file_bytes": files[0].stat().st_size, "swaps": swaps, "version": version} | told(
        [client.result() for client in clients], options.seconds
    )


def told(seen: Sequence[Seen], seconds: float) -> dict[str, Any]:
    """Sums over clients, and latencies by protocol in milliseconds."""
    failures = [failure for client in seen for failure in client.failures]
    requests = sum(len(client.seconds) for client in seen)
    return {
        "requests": requests,
        "requests_per_second": requests / seconds,
        "failures": len(failures),
        "first_failures": failures[:5],
        "milliseconds": {
            protocol: percentiles(
                [took for client in seen if client.protocol == protocol for took in client.seconds]
            )
            for protocol in sorted({client.protocol for client in seen})
        },
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Of latencies, in milliseconds."""
    points = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9, "max": 100}
    return {name: 1e3 * float(np.percentile(seconds, point)) for name, point in points.items()}


def show(kind: str, result: Mapping[str, Any]) -> None:
    print(
        f"{kind}: {result['requests']:,} requests, {result['failures']} failed, "
        f"{result['swaps']} swaps, version {result['version']} at the end"
    )
    for protocol, points in result["milliseconds"].items():
        shown = ", ".join(f"{name} {value:.2f} ms" for name, value in points.items())
        print(f"  {protocol}: {shown}")
    for failure in result["first_failures"]:
        print(f"  {failure}")


def main() -> int:
    """Measure both kinds; 1 if any request failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--swap-every", type=float, default=5, help="seconds")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--batch", type=int, default=512, help="ids of each field in a lookup")
    parser.add_argument("--examples", type=int, default=128, help="in a request for scores")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="keep files here, and find them here again")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    load_before = os.getloadavg()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        files = write_tables(folder, options.rows)
        results["lookups"] = measure(files, lookup_asks(files, options.batch), options)
        show("lookups", results["lookups"])
        files = write_models(folder, options.rows)
        asks = score_asks(files, options.examples, options.rows)
        results["scores"] = measure(files, asks, options)
        show("scores", results["scores"])
    if options.json:
        # Here, because every client's process imports this file.
        from saec.reference.experiment import write_json
        from saec.reference.machine import machine

        words = {key: str(value) for key, value in vars(options).items()}
        about = {"machine": machine(), "load_before": load_before, "options": words}
        write_json(options.json, {"command": " ".join(sys.argv), **about, **results})
    return int(any(result["failures"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
