"""Lookups of few ids by PyTorch modules against ``nn.Embedding``, and under ``torch.compile``.

    python benchmarks/short_lookups.py --json short.json
    python benchmarks/short_lookups.py --rows 100000 --repeats 3 --no-compile

Tables are those of lookup.py, 1 M rows of dim 16; ids are Zipf. With ``torch.compile`` a small
network reads 26 tables by ``FieldEmbeddings``: as it is, compiled as a whole, and compiled but for
its lookups. All take turns in one run, on one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import lookup_tables as tables
import numpy as np
import torch
from timing import interleave, medians
from torch import Tensor, nn

from saec.format.compressed_field import CompressedField
from saec.reference.experiment import write_json
from saec.reference.machine import machine
from saec.torch import CompressedEmbedding, FieldEmbeddings
from saec.torch.table.joint import compressed_table

DIM = 16
SIZES = (1, 8, 32, 128, 1024)
FIELDS = 26
CALLS = 200  # in a row that make one timing, or fewer for many ids


def module_of(field: CompressedField) -> nn.Module:
    return CompressedEmbedding(compressed_table([field], {}, like=torch.empty(0)))


def modules(rows: int) -> dict[str, nn.Module]:
    """By what they are called in docs/performance.md."""
    rng = np.random.default_rng(0)
    make = partial(tables.tiered, rng, rows, DIM)
    return {
        "nn.Embedding": nn.Embedding(rows, DIM),
        "clusters, 256": module_of(tables.clustered(rng, rows, DIM, 256)),
        "axes": module_of(make(tables.CROSSES)),
        "axes, long codes": module_of(make(tables.USERS)),
        "axes, code-sorted": module_of(make(tables.SIMILAR)),
        "axes, ids kept": module_of(make(tables.CROSSES, tables.scattered(rng, rows))),
    }


def batches(rows: int, shape: tuple[int, ...]) -> list[Tensor]:
    ids = tables.draw_ids(np.random.default_rng(1), "zipf", rows, (50, *shape))
    return list(torch.from_numpy(np.ascontiguousarray(ids)))


def ask(module: Callable[[Tensor], Tensor], ids: list[Tensor], calls: int) -> None:
    found = cycle(ids)
    for _ in range(calls):
        module(next(found))


def timed(
    rivals: Mapping[str, Callable[[Tensor], Tensor]], ids: list[Tensor], repeats: int
) -> dict[str, float]:
    """Microseconds of a call of each rival."""
    calls = max(CALLS // (1 + ids[0].numel() // 100), 5)
    runs = {name: partial(ask, rival, ids, calls) for name, rival in rivals.items()}
    return {
        name: 1e6 * seconds / calls for name, seconds in medians(interleave(runs, repeats)).items()
    }


class Network(nn.Module):
    """Lookups of all fields, and two layers."""

    def __init__(self, lookups: nn.Module) -> None:
        super().__init__()
        self.lookups = lookups
        self.layers = nn.Sequential(nn.Linear(FIELDS * DIM, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, ids: Tensor) -> Any:
        return self.layers(self.lookups(ids).flatten(1))


class Apart(nn.Module):
    """Lookups that torch.compile leaves alone."""

    def __init__(self, lookups: nn.Module) -> None:
        super().__init__()
        self.lookups = lookups

    @torch.compiler.disable
    def forward(self, ids: Tensor) -> Any:
        return self.lookups(ids)


def networks(rows: int) -> dict[str, Callable[[Tensor], Tensor]]:
    rng = np.random.default_rng(0)
    kinds = (tables.USERS, tables.CROSSES)
    fields = {
        f"field{number}": module_of(tables.tiered(rng, rows, DIM, kinds[number % 2]))
        for number in range(FIELDS)
    }
    lookups = FieldEmbeddings(fields)
    return {
        "eager": Network(lookups),
        "compiled": torch.compile(Network(lookups), fullgraph=True),
        "compiled but for lookups": torch.compile(Network(Apart(lookups))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": machine(), "lookups": {}, "networks": {}}
    with torch.inference_mode():
        rivals = modules(options.rows)
        for size in SIZES:
            ids = batches(options.rows, (size,))
            found["lookups"][size] = timed(rivals, ids, options.repeats)
            print(f"{size} ids, us:", _text(found["lookups"][size]), flush=True)
        for size in () if options.no_compile else (1, 128):
            ids = batches(options.rows // 10, (size, FIELDS))
            torch.compiler.reset()
            rivals = networks(options.rows // 10)
            found["networks"][size] = timed(rivals, ids, options.repeats)
            print(f"{FIELDS} fields, batch {size}, us:", _text(found["networks"][size]), flush=True)
    if options.json:
        write_json(options.json, found)


def _text(times: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {time:.1f}" for name, time in times.items())


if __name__ == "__main__":
    main()
