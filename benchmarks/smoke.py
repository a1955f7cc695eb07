"""Fails when lookups have become slower: ratios of times against recorded ones, in a minute.

    python benchmarks/smoke.py
    python benchmarks/smoke.py --record

Ratios are those to nn.EmbeddingBag and to the native float32 gather, in turn with both, one thread,
bags of 20. They differ between machines less than times do, but they differ: record them on the
machine that checks them. A ratio that has fallen is measured once more before it counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import lookup_rivals as rivals
import lookup_tables as tables
import numpy as np
from lookup_rivals import BAG, GATHER
from timing import medians

from saec.reference.experiment import write_json
from saec.reference.machine import machine

RECORDED = Path(__file__).parent / "recorded" / "smoke.json"
LEAST = 0.75  # of the recorded ratio

ROWS, DIM, BAG_IDS, REPEATS = 4_000_000, 16, 20, 15
IDS = 5 * rivals.IDS_PER_CALL


def measure() -> dict[str, float]:
    """How many times as fast as its base each codec is, by case."""
    rng = np.random.default_rng(0)
    table = tables.float_table(rng, ROWS, DIM)
    fields = {
        "clusters": tables.clustered(rng, ROWS, DIM, 4096),
        "axes": tables.tiered(rng, ROWS, DIM),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        compressed = [
            rivals.compressed(name, tables.stored(field, Path(folder) / name))
            for name, field in fields.items()
        ]
        bases = [rival for rival in rivals.float32(table) if rival.name in (BAG, GATHER)]
        for ids in tables.DISTRIBUTIONS:
            drawn = tables.draw_ids(rng, ids, ROWS, (2 * (REPEATS + 1), IDS))
            timed = rivals.time_in_turn([*bases, *compressed], drawn, None, BAG_IDS, 1, REPEATS)
            middle = medians(timed)
            for name in fields:
                for base in (BAG, GATHER):
                    found[f"{name}, {ids} ids, times {base}"] = middle[base] / middle[name]
    return found


def fallen(measured: Mapping[str, float], recorded: Mapping[str, float]) -> list[str]:
    """What to say of each recorded ratio that is not reached."""
    return [
        f"{name}: {measured[name]:.2f}, which is {100 * (1 - measured[name] / before):.0f} % below "
        f"the recorded {before:.2f}"
        for name, before in recorded.items()
        if measured[name] < LEAST * before
    ]


def better(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """The larger of two measurements of each ratio."""
    return {name: max(ratio, second[name]) for name, ratio in first.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write what the next runs check")
    options = parser.parse_args()
    if not options.record and not RECORDED.exists():
        sys.exit(f"there is no {RECORDED}; write it with --record")
    measured = measure()
    if options.record:
        RECORDED.parent.mkdir(exist_ok=True)
        write_json(RECORDED, {"machine": machine(), "ratios": measured})
        print(f"recorded in {RECORDED}")
        return
    recorded = json.loads(RECORDED.read_text())["ratios"]
    if set(recorded) != set(measured):
        sys.exit(f"{RECORDED} holds other ratios than these; record them with --record")
    if fallen(measured, recorded):
        print("slower than recorded; measuring once more", flush=True)
        measured = better(measured, measure())
    for name, ratio in measured.items():
        print(f"{name}: {ratio:.2f}, recorded {recorded[name]:.2f}")
    if failures := fallen(measured, recorded):
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
