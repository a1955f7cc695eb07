"""Whether ``saec serve`` answers good requests while hostile clients are connected.

    python benchmarks/serve_hostile.py --json serve-hostile.json
    python benchmarks/serve_hostile.py --seconds 3 --rows 2000 --swap-every 0.5 --clients 2
    python benchmarks/serve_hostile.py --sieges 6 --seconds 15

Good clients ask for rows by HTTP and gRPC, as in serve.py, and one by a new HTTP connection for
each request, while the file is swapped and every third one is broken. Beside them, hostile clients
hold connections open, send heads and bodies byte by byte, read no answers, send garbage, leave in
the middle, or connect in hundreds. The server's memory and descriptors are told when it is new,
after a tenth of the time with good clients only, after a tenth with all, and at the end. With
--sieges there are hostile clients only, several times one after the other, each followed by a
swap: memory that is lost would add up. What a new server uses for the first time comes before:
three swaps, and two seconds of good requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import multiprocessing
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from serve import told
from serve_clients import Ask, Seen, ask_for, put, served, start_together, swap_until

TIMEOUT = 3.0  # the server's, so that its deadlines pass many times in a minute
TRIM = 6.0  # seconds: the server gives freed memory back more often
FLOOD = 300  # connections at once; the server takes 256
FLOOD_EVERY = 3.0  # seconds
INFER = b"POST /v2/models/model/infer HTTP/1.1\r\nHost: x\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
RESET = struct.pack("ii", 1, 0)  # linger for no time: closing sends a reset
UNREAD_IDS = 100_000
MOST_GROWN = 16 << 20  # bytes from the end of the first siege to that of the last


@dataclass(frozen=True)
class Hostile:
    """Clients of a kind: each sends ``first``, then ``more`` every 0.2 s, and reads nothing.

    hold: seconds after which one leaves by itself and comes again.
    """

    name: str
    protocol: str
    count: int
    first: bytes
    more: bytes = b""
    hold: float = 60.0


def unread() -> bytes:
    """A request for 6.4 MB."""
    ids = np.zeros(UNREAD_IDS, np.int32)
    size = {"binary_data_size": ids.nbytes}
    tensor = {"name": "user", "datatype": "INT32", "shape": [ids.size], "parameters": size}
    said = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    text = json.dumps(said).encode()
    head = b"Content-Length: %d\r\nInference-Header-Content-Length: %d\r\n\r\n"
    body = text + ids.tobytes()
    return INFER + head % (len(body), len(text)) + body


def kinds() -> list[Hostile]:
    """All of them but those that come in hundreds."""
    garbage = np.random.default_rng(0).bytes(500)
    return [
        Hostile("silent", "http", 30, b""),
        Hostile("slow head", "http", 50, INFER + b"A: ", b"x"),
        Hostile("slow body", "http", 80, INFER + b"Content-Length: 9999\r\n\r\n", b" "),
        Hostile("slow chunks", "http", 20, INFER + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n"),
        Hostile("unread answer", "http", 4, unread(), hold=2 * TIMEOUT),
        Hostile("garbage", "http", 4, garbage, hold=0.2),
        Hostile("leaving", "http", 4, INFER + b"Content-Length: 99\r\n\r\n{", hold=0.2),
        Hostile("silent", "grpc", 20, b""),
        Hostile("silent after preface", "grpc", 20, PREFACE),
        Hostile("slow preface", "grpc", 20, PREFACE[:5], b" "),
        Hostile("garbage", "grpc", 4, garbage, hold=0.2),
    ]


def besiege(seconds: float, at: dict[str, str]) -> dict[str, int]:
    """All hostile clients in one process; gives how many connections they made, by kind."""
    return asyncio.run(_besiege(seconds, at))


async def _besiege(seconds: float, at: dict[str, str]) -> dict[str, int]:
    made: Counter[str] = Counter()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
            for kind in kinds():
                for _ in range(kind.count):
                    tasks.create_task(_again_and_again(kind, at[kind.protocol], made))
            for protocol, address in at.items():
                tasks.create_task(_flood(protocol, address, made))
    return dict(made)


async def _again_and_again(kind: Hostile, address: str, made: Counter[str]) -> None:
    while True:
        with contextlib.suppress(OSError):
            await _harass(kind, address, made)
        await asyncio.sleep(0.2)  # between connections of one client


async def _connected(address: str) -> socket.socket:
    host, _, port = address.partition(":")
    stream = socket.socket()
    stream.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(stream, (host, int(port)))
    except BaseException:
        stream.close()
        raise
    return stream


async def _harass(kind: Hostile, address: str, made: Counter[str]) -> None:
    loop = asyncio.get_running_loop()
    with await _connected(address) as stream:
        made[f"{kind.protocol} {kind.name}"] += 1
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await loop.sock_sendall(stream, kind.first)
        leaves = loop.time() + kind.hold
        while loop.time() < leaves:
            await asyncio.sleep(0.2)
            stream.send(kind.more or b"")  # an error if the server has closed the connection
            if not kind.more and stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return
            if kind.name != "unread answer" and _closed(stream):
                return


def _closed(stream: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        while stream.recv(1 << 16):
            pass
        return True
    return False


async def _flood(protocol: str, address: str, made: Counter[str]) -> None:
    while True:
        coming = (_connected(address) for _ in range(FLOOD))
        came = await asyncio.gather(*coming, return_exceptions=True)
        streams = [stream for stream in came if isinstance(stream, socket.socket)]
        try:
            made[f"{protocol} flood"] += sum(
                isinstance(stream, socket.socket) for stream in streams
            )
            await asyncio.sleep(FLOOD_EVERY / 2)
        finally:
            for stream in streams:
                if isinstance(stream, socket.socket):
                    stream.close()
        await asyncio.sleep(FLOOD_EVERY / 2)


def ask_anew(seconds: float, address: str, right: Sequence[np.ndarray]) -> Seen:
    """A good client that makes a new HTTP connection for each request: row 3 of the users."""
    tensor = {"name": "user", "datatype": "INT64", "shape": [1], "data": [3]}
    body = json.dumps({"inputs": [tensor]})
    seen = Seen("new http", [], [])
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        start = time.perf_counter()
        connection = http.client.HTTPConnection(address, timeout=60)
        try:
            connection.request("POST", "/v2/models/model/infer", body)
            said = json.loads(connection.getresponse().read())
            rows = np.array(said["outputs"][0]["data"], np.float32)
            if not any(np.allclose(rows, row, atol=1e-5) for row in right):
                seen.failures.append("an answer of neither file")
        except Exception as error:  # whatever it is, a request failed
            seen.failures.append(repr(error))
        finally:
            connection.close()
            seen.seconds.append(time.perf_counter() - start)
    return seen


def held(pid: int) -> dict[str, int]:
    """What a process holds: bytes of memory, those of mapped files among them, and descriptors
    (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if "kB" in line}
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return {"rss": kib["VmRSS"] << 10, "files": kib["RssFile"] << 10, "descriptors": descriptors}


def settled(pid: int, descriptors: int, rest: float) -> dict[str, int]:
    """What it holds ``rest`` seconds after its deadlines have passed."""
    deadline = time.monotonic() + 3 * TIMEOUT
    while held(pid)["descriptors"] > descriptors and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(rest)
    return held(pid)


def measure(files: Sequence[Path], asks: Sequence[Ask], options: argparse.Namespace) -> Any:
    """Good clients alone, then beside hostile ones and swaps."""
    model = files[0].with_name("model" + files[0].suffix)
    put(files[0], model)
    row = [np.load(file.with_suffix(".row.npy")) for file in files]
    broken = model.with_name("broken")
    broken.write_bytes(b"nothing that can be served")
    context = multiprocessing.get_context("spawn")
    together = (context.Barrier(options.clients + 1),)
    protocols = [("http", "grpc")[number % 2] for number in range(options.clients)]
    with (
        served(model, "--timeout", str(TIMEOUT)) as (pid, at),
        ProcessPoolExecutor(options.clients + 1, context, start_together, together) as pool,
        ProcessPoolExecutor(1, context) as others,
    ):

        def good(seconds: float) -> list[Any]:
            return [
                pool.submit(ask_anew, seconds, at["http"], row),
                *(pool.submit(ask_for, seconds, name, at[name], asks) for name in protocols),
            ]

        memory = {"new": held(pid)}
        free = memory["new"]["descriptors"]
        rest = min(TRIM, options.seconds / 10)
        alone = [client.result() for client in good(options.seconds / 10)]
        memory["good clients"] = settled(pid, free, rest)
        others.submit(besiege, options.seconds / 10, at).result()
        memory["all, a tenth"] = settled(pid, free, rest)
        hostile = others.submit(besiege, options.seconds, at)
        clients = good(options.seconds)
        swaps = swap_until(model, [*files, broken], options.swap_every, clients)
        seen = [client.result() for client in clients]
        made = hostile.result()
        memory["all"] = settled(pid, free, rest)
    return {
        "swaps": swaps,
        "hostile": made,
        "memory": memory,
        "alone": told(alone, options.seconds / 10),
    } | told(seen, options.seconds)


def hold_after_sieges(
    files: Sequence[Path], asks: Sequence[Ask], options: argparse.Namespace
) -> dict[str, dict[str, int]]:
    """What the server holds when it is new, after swaps, good requests and each siege with a
    swap."""
    model = files[0].with_name("model" + files[0].suffix)
    put(files[0], model)
    context = multiprocessing.get_context("spawn")
    with (
        served(model, "--timeout", str(TIMEOUT)) as (pid, at),
        ProcessPoolExecutor(1, context) as others,
    ):
        memory = {"new": held(pid)}
        free = memory["new"]["descriptors"]
        for number in range(3):
            put(files[(number + 1) % len(files)], model)
            time.sleep(2)  # until it is served
        memory["3 swaps"] = settled(pid, free, TRIM)
        for protocol, address in at.items():
            others.submit(ask_for, 2.0, protocol, address, asks).result()
        memory["good requests"] = settled(pid, free, TRIM)
        for number in range(options.sieges):
            others.submit(besiege, options.seconds, at).result()
            put(files[number % len(files)], model)
            memory[f"siege {number + 1}"] = settled(pid, free, TRIM + 2)
    return memory


def kept_descriptors(memory: Mapping[str, Mapping[str, int]], last: str) -> bool:
    """Whether the server has more descriptors than a new one."""
    return memory[last]["descriptors"] > memory["new"]["descriptors"]


def show_memory(memory: dict[str, dict[str, int]]) -> None:
    for after, holds in memory.items():
        print(
            f"{after}: {holds['rss'] / 2**20:.1f} MiB, {holds['files'] / 2**20:.1f} of them of "
            f"files, {holds['descriptors']} descriptors"
        )


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['requests']:,} requests, {result['failures']} failed, {result['swaps']} swaps, "
        f"{sum(result['hostile'].values()):,} hostile connections"
    )
    for what, count in sorted(result["hostile"].items()):
        print(f"  {what}: {count:,}")
    show_memory(result["memory"])
    for when, times in (("alone", result["alone"]), ("beside them", result)):
        for protocol, points in times["milliseconds"].items():
            shown = ", ".join(f"{name} {value:.1f} ms" for name, value in points.items())
            print(f"{when}, {protocol}: {shown}")
    for failure in result["first_failures"]:
        print(f"  {failure}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 if a good request failed, or the server kept descriptors, or memory of sieges."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--swap-every", type=float, default=2, help="seconds")
    parser.add_argument("--clients", type=int, default=4, help="good ones that keep connections")
    parser.add_argument("--batch", type=int, default=512, help="ids of each field in a lookup")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--sieges", type=int, default=0, help="so many, without good clients")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        # Here, because every client's process imports this file.
        from serve_models import lookup_asks, write_tables

        import saec
        from saec.reference.experiment import write_json

        files = write_tables(Path(folder), options.rows)
        for file in files:
            np.save(file.with_suffix(".row.npy"), saec.load(file)["user"].lookup([3]))
        if options.sieges:
            memory = hold_after_sieges(files, lookup_asks(files, options.batch), options)
            show_memory(memory)
            if options.json:
                write_json(options.json, {"memory": memory})
            last = f"siege {options.sieges}"
            grown = memory[last]["rss"] - memory["siege 1"]["rss"]
            return int(kept_descriptors(memory, last) or grown > MOST_GROWN)
        result = measure(files, lookup_asks(files, options.batch), options)
    show(result)
    if options.json:
        write_json(options.json, result)
    failures = result["failures"] + result["alone"]["failures"]
    return int(failures > 0 or kept_descriptors(result["memory"], "all"))


if __name__ == "__main__":
    sys.exit(main())
