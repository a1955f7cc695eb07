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
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from serve_clients import Ask, Seen, ask_for, put, served, start_together, swap_until


def measure(
    files: Sequence[Path], asks: Sequence[Ask], options: argparse.Namespace
) -> dict[str, Any]:
    """Serve the first file, ask, swap, and say how it went."""
    model = files[0].with_name("model" + files[0].suffix)
    put(files[0], model)
    context = multiprocessing.get_context("spawn")
    together = (context.Barrier(options.clients),)
    with (
        served(model) as (_, at),
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
        # Here, because every client's process imports this file.
        from serve_models import lookup_asks, score_asks, write_models, write_tables

        files = write_tables(folder, options.rows)
        results["lookups"] = measure(files, lookup_asks(files, options.batch), options)
        show("lookups", results["lookups"])
        files = write_models(folder, options.rows)
        asks = score_asks(files, options.examples, options.rows)
        results["scores"] = measure(files, asks, options)
        show("scores", results["scores"])
    if options.json:
        from saec.reference.experiment import write_json
        from saec.reference.machine import machine

        words = {key: str(value) for key, value in vars(options).items()}
        about = {"machine": machine(), "load_before": load_before, "options": words}
        write_json(options.json, {"command": " ".join(sys.argv), **about, **results})
    return int(any(result["failures"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
