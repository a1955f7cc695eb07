"""Servers to test with: real processes on free ports, and small models for them."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from forked import Forked, warm_process
from onnx import TensorProto, helper, numpy_helper

import saec

SECONDS = 60  # until a server has started or ended, on a machine that does much else
ADDRESS = re.compile(r"(\S+): http://[\d.]+:(\d+), gRPC [\d.]+:(\d+)\n")


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: Forked | subprocess.Popen[bytes]
    name: str
    http: str
    grpc: str
    log: Path

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """One HTTP request on a connection of its own: status, headers, body."""
        connection = http.client.HTTPConnection(self.http, timeout=SECONDS)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def infer(self, body: Any, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """An inference request by JSON: status, and the answer's JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, _, answer = self.ask("POST", f"/v2/models/{self.name}/infer", content, headers)
        return status, json.loads(answer)

    def metric(self, name: str) -> float:
        """A sample of /metrics; ``name`` with its labels."""
        text = self.ask("GET", "/metrics")[2].decode()
        return float(next(line for line in text.splitlines() if line.startswith(name)).split()[-1])

    def stop(self) -> int:
        """Send SIGTERM and wait; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


@contextmanager
def served(
    path: Path, *options: str, token: str | None = None, descriptors: int = 1024
) -> Iterator[Server]:
    """Run a server on free ports. ``descriptors``: the most files that it may open."""
    log, out = path.parent / "serve.log", path.parent / "serve.out"
    words = ["serve", str(path), "--http-port", "0", "--grpc-port", "0", *options]
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    environment |= {} if token is None else {"SAEC_TOKEN": token}
    out.write_text("")
    process = _start(words, environment, descriptors, out, log)
    try:
        name, http_port, grpc_port = _address(process, out, log)
        yield Server(process, name, f"127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", log)
        if process.poll() is None:
            process.terminate()
            assert process.wait(SECONDS) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(SECONDS)


def _start(
    words: list[str], environment: Mapping[str, str], descriptors: int, out: Path, errors: Path
) -> Forked | subprocess.Popen[bytes]:
    """Run the command line in a copy of the warm process.

    With preloaded libraries it is no copy: they are loaded when a program starts.
    """
    if "LD_PRELOAD" not in environment:
        return warm_process().start(words, environment, descriptors, out, errors)
    with out.open("w") as output, errors.open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "saec", *words],
            stdout=output,
            stderr=log,
            env=environment,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors,) * 2),
        )


def refused(path: Path, *options: str) -> tuple[int, str]:
    """The exit code of a server that cannot start, and what it writes to stderr."""
    log, out = path.parent / "refused.log", path.parent / "refused.out"
    words = ["serve", str(path), *options]
    process = _start(words, dict(os.environ), 1024, out, log)
    return process.wait(SECONDS), log.read_text()


def _address(process: Forked | subprocess.Popen[bytes], out: Path, log: Path) -> tuple[str, ...]:
    """Name and ports, which the server prints when it listens."""
    while not (said := out.read_text()).endswith("\n") and process.poll() is None:
        time.sleep(0.01)
    found = ADDRESS.fullmatch(said)
    assert found, log.read_text()
    return found.groups()


def rows_of(seed: int, rows: int = 300, dim: int = 4) -> np.ndarray:
    """A random table (rows, dim) float32; seeds give different tables."""
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def write_artifact(path: Path, seed: int, **tables: tuple[int, int]) -> saec.Compressed:
    """Compress random fields of shapes (rows, dim) and save them; by default user and item."""
    shapes = tables or {"user": (300, 4), "item": (40, 3)}
    fields = [
        saec.Field(name, rows_of(seed, *shape), 1000 // np.arange(1, shape[0] + 1))
        for name, shape in shapes.items()
    ]
    result = saec.compress(fields, saec.Ratio(2), progress=False)
    result.save(path)
    return result


def write_scores(path: Path, seed: int = 0) -> np.ndarray:
    """An ONNX model: score (n, 1) = the user's row times weights; gives the user's scores."""
    table, weights = rows_of(seed), rows_of(seed + 1, 4, 1)
    nodes = [
        helper.make_node("Gather", ["table", "user"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["score"]),
    ]
    inputs = [helper.make_tensor_value_info("user", TensorProto.INT64, ["n"])]
    outputs = [
        helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1]),
        helper.make_tensor_value_info("row", TensorProto.FLOAT, ["n", 4]),
    ]
    constants = {"table": table, "weights": weights}
    write_onnx(path, nodes, inputs, outputs, constants)
    return table @ weights


def write_onnx(
    path: Path, nodes: Any, inputs: Any, outputs: Any, constants: Mapping[str, np.ndarray]
) -> None:
    """Write an ONNX model of ``nodes``; the file appears when it is complete."""
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    written = path.with_suffix(".part")
    onnx.save(model, str(written))
    written.replace(path)


def tensor(name: str, values: Any, datatype: str = "INT64", **more: Any) -> dict[str, Any]:
    """An input of a JSON request, with its values as a list."""
    return {
        "name": name,
        "datatype": datatype,
        "shape": list(np.shape(values)),
        "data": values,
        **more,
    }


def write_slow(path: Path) -> None:
    """Write an ONNX model that multiplies matrices; its input is the number of products."""
    size = 128
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["still"]),
            helper.make_node("MatMul", ["held", "matrix"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held", TensorProto.FLOAT, [size, size]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [size, size]),
        ],
    )
    nodes = [helper.make_node("Loop", ["rounds", "", "matrix"], ["result"], body=body)]
    inputs = [helper.make_tensor_value_info("rounds", TensorProto.INT64, [])]
    outputs = [helper.make_tensor_value_info("result", TensorProto.FLOAT, [size, size])]
    write_onnx(path, nodes, inputs, outputs, {"matrix": np.eye(size, dtype=np.float32)})


class Asking(threading.Thread):
    """A client that asks until told to stop, and keeps what it was told."""

    def __init__(
        self,
        client: Any,
        address: str,
        ids: np.ndarray,
        known: list[bytes],
        datatype: str = "INT64",
        name: str = "user",
    ) -> None:
        super().__init__()
        self._field = name
        self._client, self._address, self._ids, self._known = client, address, ids, known
        self._datatype = datatype
        self.stop = threading.Event()
        self.seen: list[int] = []
        self.failures: list[str] = []

    def run(self) -> None:
        put = self._client.InferInput(self._field, self._ids.shape, self._datatype)
        put.set_data_from_numpy(self._ids)
        with self._client.InferenceServerClient(self._address) as client:
            while not self.stop.is_set():
                try:
                    rows = client.infer("tables", [put]).as_numpy(self._field)
                    self.seen.append(self._known.index(rows.tobytes()))
                except Exception as error:
                    self.failures.append(repr(error))
