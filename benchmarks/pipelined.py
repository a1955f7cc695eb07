"""Scores of a network over a table on disk: lookups ahead of scores, or one after the other.

    python benchmarks/pipelined.py                     # a table of 2 GB, 200 MB of memory
    python benchmarks/pipelined.py --in-memory         # the same table mapped, in memory

A batch has 26 ids an example, Zipf in order of frequency; the network is three layers over their
rows. Both ways take the same batches in turn and must give the same scores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import storage
import torch
from timing import interleave, medians

import saec

IDS, LAYERS = 26, (1024, 512, 256, 1)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    widths = (IDS * storage.DIM, *LAYERS)
    layers: list[torch.nn.Module] = []
    for before, after in zip(widths, LAYERS, strict=False):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="10^9 bytes of the table")
    parser.add_argument("--memory", default="200MB")
    parser.add_argument("--in-memory", action="store_true")
    parser.add_argument("--examples", type=int, default=256, help="in a batch")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="for the table, which is used again")
    options = parser.parse_args()
    rows = int(options.gigabytes * 1e9) // (4 * storage.DIM)
    model = network()
    with tempfile.TemporaryDirectory() as temporary:
        path = storage.make_raw(options.folder or Path(temporary), rows)
        tables = saec.load(path, memory=None if options.in_memory else options.memory)
        field, seconds = tables["table"], {"lookup": 0.0, "score": 0.0}
        draws = [storage.draws(rows, seed)["zipf"] for seed in range(2)]

        def lookup(ids: np.ndarray) -> torch.Tensor:
            begin = time.perf_counter()
            found = torch.from_numpy(field.lookup(ids)).reshape(options.examples, -1)
            seconds["lookup"] += time.perf_counter() - begin
            return found

        def score(found: torch.Tensor) -> torch.Tensor:
            begin = time.perf_counter()
            with torch.inference_mode():
                scores = model(found)
            seconds["score"] += time.perf_counter() - begin
            return scores

        def batches(draw: storage.Draw) -> list[np.ndarray]:
            return [draw(options.examples * IDS) for _ in range(options.batches)]

        same = batches(draws[0])
        one = torch.cat([score(lookup(ids)) for ids in same])
        assert torch.equal(one, torch.cat(list(saec.pipelined(same, lookup, score))))
        seconds.update(lookup=0.0, score=0.0)
        timed = medians(
            interleave(
                {
                    "one after the other": lambda: [
                        score(lookup(ids)) for ids in batches(draws[0])
                    ],
                    "pipelined": lambda: list(saec.pipelined(batches(draws[1]), lookup, score)),
                },
                options.repeats,
            )
        )
    calls = 2 * (options.repeats + 1) * options.batches
    for name, total in seconds.items():
        print(f"{name}: {1000 * total / calls:.1f} ms a batch, of both ways")
    for name, median in timed.items():
        print(f"{name}: {1000 * median / options.batches:.1f} ms a batch")
    ratio = timed["one after the other"] / timed["pipelined"]
    print(f"pipelined is {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
