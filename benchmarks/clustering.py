"""Fast clustering against full k-means, same clusters: seconds, distortion, AUC.

    python benchmarks/clustering.py --path globo.parquet --json clustering.json

Every field gets n/100 clusters, but at least 64, in float32. Full k-means runs 20 iterations over
all rows from random rows (faiss.Kmeans, and our own with exact search) and assigns every row; fast
clustering learns from the head and searches coarsely. The runs take turns. The model is trained
first (about half a minute); AUC is that of the validation rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from timing import interleave_cold, medians, peak_bytes

import saec
from saec.baselines import FaissKMeans
from saec.reference import load
from saec.reference.evaluate import evaluate
from saec.reference.experiment import write_json
from saec.reference.machine import machine
from saec.reference.methods import FULL_KMEANS
from saec.reference.models import build
from saec.reference.train import train

# Both kinds of full k-means start from random rows, as faiss does.
FULL = replace(FULL_KMEANS, seeding="random")
FAST = saec.Clusters(
    clusters=0.01,
    head_share=0.0,
    rows_per_cluster=4,
    iterations=3,
    seeding="random",
    codebook="float32",
    radius_share=0.0,
)
METHODS = {
    "faiss, all rows": FaissKMeans(),
    "saec, all rows": FULL,
    "saec, fast": FAST,
    "saec, fast, exact search": replace(FAST, radius_share=1.0),
}


def distortions(fields: Sequence[saec.Field], result: saec.Compressed) -> tuple[float, float]:
    """Squared error of all rows: each counted once, and weighted by frequency."""
    plain = weighted = 0.0
    for field in fields:
        squared = ((result[field.name].decode() - field.weights) ** 2).sum(axis=1, dtype=np.float64)
        plain += float(squared.sum())
        weighted += float(squared @ field.frequencies)
    return plain, weighted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="globo")
    parser.add_argument("--path")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    log = load(options.task, options.path, 0)
    model = build("deepfm", log.vocab_sizes)
    train(model, log)
    base = evaluate(model, log, "validation")
    fields = [
        saec.Field(name, model.embeddings[name].weight.detach().numpy().copy(), counts)
        for name, counts in log.frequencies.items()
    ]
    results: dict[str, saec.Compressed] = {}

    def run(method: str) -> None:
        results[method] = saec.compress(fields, None, METHODS[method], progress=False)

    seconds = interleave_cold({m: lambda m=m: run(m) for m in METHODS}, options.repeats)
    middle = medians(seconds)
    rows = []
    for method, result in results.items():
        for name, field in result.items():
            model.embeddings[name].weight.data.copy_(torch.from_numpy(field.decode()))
        now = evaluate(model, log, "validation", progress=False)
        plain, weighted = distortions(fields, result)
        rows.append(
            {
                "method": method,
                "seconds": seconds[method],
                "median_seconds": middle[method],
                "times_as_fast_as_faiss": middle["faiss, all rows"] / middle[method],
                "times_as_fast_as_saec_all_rows": middle["saec, all rows"] / middle[method],
                "ratio": result.compression_ratio,
                "validation_dauc": now.auc - base.auc,
                "validation_dlogloss": now.logloss - base.logloss,
                "distortion": plain,
                "distortion_by_frequency": weighted,
            }
        )
        print(rows[-1], flush=True)
    if options.json:
        facts = {"task": options.task, "base_auc": base.auc, "machine": machine(), "rows": rows}
        write_json(options.json, facts | {"process_peak_bytes": peak_bytes()})


if __name__ == "__main__":
    main()
