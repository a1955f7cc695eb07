"""Axes in the loss metric against full k-means, in turn: seconds and what is left in nats.

    python benchmarks/compress.py --path globo.parquet --json compress.json

Full k-means runs 20 iterations over all rows with n/100 clusters in each field, at least 64. The
model is trained first (about half a minute); the metric is measured once and not timed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from timing import interleave_cold, medians, peak_bytes

import saec
from saec.reference import load
from saec.reference.experiment import write_json
from saec.reference.machine import machine
from saec.reference.methods import FULL_KMEANS
from saec.reference.trial import Trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="globo")
    parser.add_argument("--path", required=True)
    parser.add_argument("--ratio", type=float, default=100.0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    trial = Trial.start(load(options.task, options.path, 0), "deepfm", 16, 0, False)
    tables, (metrics, _) = trial.tables(), trial.metrics
    made: dict[str, saec.Compressed] = {}

    def run(name: str, budget: saec.Ratio | None, codec: object) -> None:
        made[name] = saec.compress(tables, budget, codec, metrics=metrics, progress=False)

    rivals = {
        "axes": lambda: run("axes", saec.Ratio(options.ratio), saec.Axes()),
        "full k-means": lambda: run("full k-means", None, FULL_KMEANS),
    }
    seconds = interleave_cold(rivals, options.repeats)
    rows = [
        {
            "method": name,
            "seconds": middle,
            "ratio": made[name].compression_ratio,
            "predicted_loss_increase": made[name].predicted_loss_increase,
        }
        for name, middle in medians(seconds).items()
    ]
    for row in rows:
        print(row)
    if options.json is not None:
        facts = {"machine": machine(), "seconds": seconds, "rows": rows}
        write_json(options.json, facts | {"process_peak_bytes": peak_bytes()})


if __name__ == "__main__":
    main()
