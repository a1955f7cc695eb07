"""Throughput of ``saec serve`` with requests computed together, and with lookups ahead of scores.

    python benchmarks/serving.py batches
    python benchmarks/serving.py stages --path globo.parquet --folder .

``batches``: 64 clients send requests of one example, or of 4 ids, one after the other as they are
answered. Two servers of the same file, one with --batch-wait and one without, take turns. Fails if
scores of the model with wide layers are computed less than twice as fast together, or with a p99
above --p99.

``stages``: DeepFM, trained on `globo` (some minutes, kept in --folder). Its tables are served as an
artifact of float32 rows with a limit of memory, and its dense part as an ONNX model. Servers that
score one batch after the other (--ahead 0) and that look up the next batch meanwhile (--ahead 1)
take turns. Fails if lookups ahead are less than 1.25 times as fast with one thread, or have a
higher p99.

All responses are compared with scores computed here. Clients and servers share the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from loopback_clients import Call, Load, ask
from serve_clients import served

import saec

FLOORS = {"batches": 2.0, "stages": 1.25}
Loads = dict[str, list[Load]]


@contextlib.contextmanager
def together(path: Path, variants: Mapping[str, Sequence[str]]) -> Iterator[dict[str, int]]:
    """A server of the file for each variant's options; gives their ports."""
    with contextlib.ExitStack() as stack:
        ports = {}
        for name, options in variants.items():
            _, at = stack.enter_context(served(path, *options))
            ports[name] = int(at["http"].rpartition(":")[2])
        yield ports


def in_turn(ports: Mapping[str, int], calls: Sequence[Call], options: argparse.Namespace) -> Loads:
    for port in ports.values():
        ask(port, calls, options.clients, 0.5)
    loads: Loads = {name: [] for name in ports}
    for _ in range(options.repeats):
        for name, port in ports.items():
            loads[name].append(ask(port, calls, options.clients, options.seconds))
    return loads


def of(loads: Sequence[Load], what: str) -> float:
    """The median of all rounds."""
    return statistics.median(getattr(load, what) for load in loads)


def show(kind: str, loads: Loads) -> None:
    for name, own in loads.items():
        print(
            f"{kind}, {name}: {of(own, 'per_second'):.0f} requests a second, "
            f"median {of(own, 'median'):.1f} ms, p99 {of(own, 'p99'):.1f} ms",
            flush=True,
        )


def ratio(loads: Loads, slow: str, fast: str) -> float:
    return of(loads[fast], "per_second") / of(loads[slow], "per_second")


def score_calls(path: Path, rows: int, fields: int) -> list[Call]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    calls = []
    for ids in np.random.default_rng(0).integers(0, rows, (256, 1, fields)):
        (scores,) = session.run(["score"], {"ids": ids})
        calls.append(Call.of(path.stem, {"ids": ids}, scores))
    return calls


def lookup_calls(path: Path) -> list[Call]:
    field = saec.load(path)["user"]
    ids = np.random.default_rng(0).integers(0, field.vocab_size, (256, 4))
    return [Call.of(path.stem, {"user": own}, field.lookup(own)) for own in ids]


def batches(options: argparse.Namespace, folder: Path) -> int:
    """Requests alone and together, for a table and for models of three sizes."""
    from serve_models import write_model, write_tables

    alone, joint = "alone", f"together, wait {options.wait:g} ms"
    variants = {alone: (), joint: ("--batch-wait", str(options.wait))}
    cases = {"lookups of 4 ids": lookup_calls(write_tables(folder, options.rows)[0])}
    paths = {"lookups of 4 ids": write_tables(folder, options.rows)[0]}
    for name, (fields, layers) in MODELS.items():
        path = folder / f"{name.split()[0]}-{options.rows}.onnx"
        write_model(path, options.rows, fields, layers, seed=0)
        paths[name], cases[name] = path, score_calls(path, options.rows, fields)
    ratios, p99 = {}, 0.0
    for name, calls in cases.items():
        with together(paths[name], variants) as ports:
            loads = in_turn(ports, calls, options)
        show(name, loads)
        ratios[name], p99 = ratio(loads, alone, joint), of(loads[joint], "p99")
    said = ", ".join(f"{name} {value:.2f}" for name, value in ratios.items())
    print(f"together is times as fast as alone: {said}; p99 of the last {p99:.0f} ms")
    return int(list(ratios.values())[-1] < FLOORS["batches"] or p99 > options.p99)


# Fields of dim 16, and the widths of layers.
MODELS = {
    "deepfm (the reference's widths)": (10, (128, 64, 1)),
    "dlrm (MLPerf's top layers)": (26, (1024, 1024, 512, 256, 1)),
    "wide (6.5 M weights)": (26, (4096, 1024, 512, 1)),
}


def stages(options: argparse.Namespace, folder: Path) -> int:
    """One batch after the other, and lookups ahead, with one thread and with two."""
    from serve_deepfm import Deepfm

    model = Deepfm.made(folder, options.path, options.shuffled)
    calls = model.calls(options.examples)
    model.show_stages(options.memory, options.batch_rows)
    variants = {
        f"{name}, {threads} thread{'s' * (threads > 1)}": (
            *("--dense", str(model.dense), "--memory", options.memory),
            *("--batch-wait", str(options.wait), "--batch-rows", str(options.batch_rows)),
            *("--ahead", str(ahead), "--threads", str(threads)),
        )
        for threads in options.threads
        for ahead, name in enumerate(("one after the other", "lookups ahead"))
    }
    with together(model.tables, variants) as ports:
        loads = in_turn(ports, calls, options)
    show("DeepFM", loads)
    names = list(variants)
    ratios = [ratio(loads, one, two) for one, two in zip(names[::2], names[1::2], strict=True)]
    said = ", ".join(
        f"{value:.2f} with --threads {threads}"
        for value, threads in zip(ratios, options.threads, strict=True)
    )
    print(f"lookups ahead are times as fast as one after the other: {said}")
    higher = of(loads[names[1]], "p99") > of(loads[names[0]], "p99")
    return int(ratios[0] < FLOORS["stages"] or higher)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=FLOORS)
    parser.add_argument("--clients", type=int, help="by default 64, or 16 of DeepFM")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each server")
    parser.add_argument("--wait", type=float, default=2.0, help="milliseconds of --batch-wait")
    parser.add_argument("--p99", type=float, default=100.0, help="bound in milliseconds")
    parser.add_argument("--rows", type=int, default=100_000, help="of a table")
    parser.add_argument("--path", default="globo.parquet")
    parser.add_argument("--memory", default="16MB", help="of DeepFM's tables")
    parser.add_argument("--examples", type=int, default=1024, help="of a request to DeepFM")
    parser.add_argument("--shuffled", action="store_true", help="test rows in no order of time")
    parser.add_argument("--batch-rows", type=int, default=2048, help="of DeepFM")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--folder", type=Path, help="keep files here, and find them here again")
    options = parser.parse_args()
    options.clients = options.clients or {"batches": 64, "stages": 16}[options.what]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return batches(options, folder) if options.what == "batches" else stages(options, folder)


if __name__ == "__main__":
    sys.exit(main())
