"""Lookups of few ids by PyTorch modules against ``nn.Embedding``, and under ``torch.compile``.

    python benchmarks/short_lookups.py --json short.json
    python benchmarks/short_lookups.py --rows 100000 --repeats 3 --no-compile
    python benchmarks/short_lookups.py --compiled --batches 1 128
    python benchmarks/short_lookups.py --guards --rows 100000 --repeats 7

Tables are those of lookup.py, 1 M rows of dim 16; ids are Zipf. With ``torch.compile`` a small
network reads 26 tables of a tenth of the rows, by a module each or by ``FieldEmbeddings``, or no
table at all, eager and compiled; ``--compiled`` does this alone, and takes processor time, which
other programs disturb less. All take turns in one run, on one thread. ``--guards`` counts the
conditions that a compiled call checks, with and without those on modules, and takes the processor
time of calls that check them and run the same operators as eager ones.
"""

from __future__ import annotations

import argparse
import statistics
import time
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


class WithoutShortCut(nn.Module):
    """Lookups by PyTorch's operator, as where the core has no direct access to tensors."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.table = module.table

    def forward(self, ids: Tensor) -> Any:
        return self.table(ids)


def modules(rows: int) -> dict[str, nn.Module]:
    """By what they are called in docs/performance.md."""
    rng = np.random.default_rng(0)
    make = partial(tables.tiered, rng, rows, DIM)
    found = {
        "nn.Embedding": nn.Embedding(rows, DIM),
        "clusters, 256": module_of(tables.clustered(rng, rows, DIM, 256)),
        "axes": module_of(make(tables.CROSSES)),
        "axes, long codes": module_of(make(tables.USERS)),
        "axes, code-sorted": module_of(make(tables.SIMILAR)),
        "axes, ids kept": module_of(make(tables.CROSSES, tables.scattered(rng, rows))),
    }
    return found | {"axes, no short cut": WithoutShortCut(found["axes"])}


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
    """Lookups of all fields, a factorization machine and two layers, as users build them."""

    def __init__(self, lookups: nn.Module) -> None:
        super().__init__()
        self.lookups = lookups
        self.layers = nn.Sequential(nn.Linear(FIELDS * DIM, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, ids: Tensor) -> Any:
        rows = self.lookups(ids)
        pairs = 0.5 * (rows.sum(1).square() - rows.square().sum(1)).sum(1)
        return self.layers(rows.flatten(1)).squeeze(1) + pairs


class OneRow(nn.Module):
    """In place of lookups: the same row for all ids. What is left is the cost of a call."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.ones(FIELDS, DIM))

    def forward(self, ids: Tensor) -> Tensor:
        return self.row.expand(len(ids), FIELDS, DIM)


class Columns(nn.Module):
    """One module for each column of ids."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(modules)

    def forward(self, ids: Tensor) -> Any:
        return torch.stack([table(ids[:, i]) for i, table in enumerate(self.tables)], dim=1)


def eager_networks(rows: int) -> dict[str, nn.Module]:
    """The same network with each kind of lookups."""
    rng = np.random.default_rng(0)
    kinds = (tables.USERS, tables.CROSSES)
    compressed = [
        module_of(tables.tiered(rng, rows, DIM, kinds[number % 2])) for number in range(FIELDS)
    ]
    together = FieldEmbeddings({f"field{i}": module for i, module in enumerate(compressed)})
    return {
        "no lookups": Network(OneRow()),
        "nn.Embedding": Network(Columns([nn.Embedding(rows, DIM) for _ in range(FIELDS)])),
        "modules": Network(Columns(compressed)),
        "FieldEmbeddings": Network(together),
    }


def networks(rows: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Each eager and compiled."""
    eager = eager_networks(rows)
    found: dict[str, Callable[[Tensor], Tensor]] = dict(eager)
    for name, network in eager.items():
        found[f"{name}, compiled"] = torch.compile(network, fullgraph=True, dynamic=False)
    return found


def processor_times(
    rivals: Mapping[str, Callable[[Tensor], Tensor]], ids: list[Tensor], repeats: int
) -> dict[str, float]:
    """Microseconds of processor time of a call of each rival, in turn: medians."""
    calls = max(400 // (1 + len(ids[0]) // 8), 3)
    found: dict[str, list[float]] = {name: [] for name in rivals}
    for rival in rivals.values():
        ask(rival, ids, 3)
    for _ in range(repeats):
        for name, rival in rivals.items():
            start = time.process_time()
            ask(rival, ids, calls)
            found[name].append(1e6 * (time.process_time() - start) / calls)
    return {name: statistics.median(times) for name, times in found.items()}


def count_guards(
    network: nn.Module, ids: Tensor, repeats: int, modules: bool
) -> tuple[int, dict[str, float]]:
    """Conditions that a compiled call checks, with or without those on modules, and microseconds of
    processor time of an eager call and of one that checks them and then runs the same operators."""
    from torch._dynamo.eval_frame import _debug_get_cache_entry_list

    torch.compiler.reset()
    skip = None if modules else torch.compiler.skip_guard_on_all_nn_modules_unsafe
    checked = torch._dynamo.optimize("eager", nopython=True, dynamic=False, guard_filter_fn=skip)(
        network
    )
    times = processor_times({"eager": network, "checked": checked}, [ids], repeats)
    (entry,) = _debug_get_cache_entry_list(type(network).forward.__code__)
    return str(entry.guard_manager).count("+- "), times


def compare_guards(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Guards of each network and what they cost, with and without those on modules."""
    ids = batches(options.rows // 10, (1, FIELDS))[0]
    found = []
    for name, network in eager_networks(options.rows // 10).items():
        for kept in (True, False):
            number, times = count_guards(network, ids, options.repeats, kept)
            print(f"{name}: {number} guards ({kept=}), us: {_text(times)}", flush=True)
            found.append(
                {"network": name, "on_modules": kept, "guards": number, "microseconds": times}
            )
    return found


def compare_times(options: argparse.Namespace) -> dict[str, Any]:
    """Microseconds of single lookups by their number of ids, and of networks by batch size."""
    found: dict[str, Any] = {"lookups": {}, "networks": {}}
    rivals = {} if options.compiled else modules(options.rows)
    for size in () if options.compiled else SIZES:
        ids = batches(options.rows, (size,))
        found["lookups"][size] = timed(rivals, ids, options.repeats)
        print(f"{size} ids, us:", _text(found["lookups"][size]), flush=True)
    for size in () if options.no_compile else options.batches:
        ids = batches(options.rows // 10, (size, FIELDS))
        torch.compiler.reset()
        rivals = networks(options.rows // 10)
        found["networks"][size] = processor_times(rivals, ids, options.repeats)
        print(f"{FIELDS} fields, batch {size}, us:", _text(found["networks"][size]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--compiled", action="store_true", help="the networks alone")
    parser.add_argument("--guards", action="store_true", help="of compiled calls, and no more")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 128, 4096])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": machine()}
    with torch.inference_mode():
        if options.guards:
            found["guards"] = compare_guards(options)
        else:
            found |= compare_times(options)
    if options.json:
        write_json(options.json, found)


def _text(times: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {time:.1f}" for name, time in times.items())


if __name__ == "__main__":
    main()
