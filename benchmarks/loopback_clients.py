"""Many clients of ``saec serve`` over loopback in one process, which takes little of its cores."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Call:
    """An HTTP request, and its output, to which all responses are compared."""

    sent: bytes
    expected: NDArray[np.float32]

    @classmethod
    def of(
        cls, model: str, inputs: Mapping[str, NDArray[Any]], expected: NDArray[np.float32]
    ) -> Call:
        tensors = [
            {
                "name": name,
                "datatype": "INT64",
                "shape": values.shape,
                "parameters": {"binary_data_size": values.nbytes},
            }
            for name, values in inputs.items()
        ]
        said = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
        body = said + b"".join(values.tobytes() for values in inputs.values())
        head = (
            f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\n"
            f"Inference-Header-Content-Length: {len(said)}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return cls(head.encode() + body, expected)


@dataclass(frozen=True)
class Load:
    """What clients saw: requests a second, and milliseconds of a request."""

    per_second: float
    median: float
    p99: float


def ask(port: int, calls: Sequence[Call], clients: int, seconds: float) -> Load:
    """Send the calls by turns, from each client one after the other as they are answered.

    Raises:
        ValueError: a response is an error, or not the one expected.
    """
    return asyncio.run(_ask(port, calls, clients, seconds))


async def _ask(port: int, calls: Sequence[Call], clients: int, seconds: float) -> Load:
    taken: list[float] = []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(_client(port, calls, first, until, taken) for first in range(clients)))
    return Load(
        len(taken) / seconds,
        1e3 * float(np.median(taken)),
        1e3 * float(np.percentile(taken, 99)),
    )


async def _client(
    port: int, calls: Sequence[Call], number: int, until: float, taken: list[float]
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (start := time.perf_counter()) < until:
        call = calls[number % len(calls)]
        writer.write(call.sent)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        taken.append(time.perf_counter() - start)
        _check(call, head, body)
        number += 7  # each client in an order of its own
    writer.close()
    await writer.wait_closed()


def _check(call: Call, head: bytes, body: bytes) -> None:
    if not head.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"{head[:20]!r}: {body[:200]!r}")
    values = np.frombuffer(body[-call.expected.nbytes :], np.float32)
    if np.abs(values - call.expected.reshape(-1)).max() > TOLERANCE:
        raise ValueError("a response is not the one expected")
