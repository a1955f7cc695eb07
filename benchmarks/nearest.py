"""Exact nearest-centroid search against faiss.IndexFlatL2, in turn, on several kinds of rows.

    python benchmarks/nearest.py --json nearest.json

Gaussian rows are the hardest: nothing but the byte filter helps. Rows of real embedding tables vary
along few directions, and whole groups of centroids are ruled out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import faiss
import numpy as np
from timing import interleave, medians

from saec import _native
from saec.reference.experiment import write_json
from saec.reference.machine import machine


def gaussian(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    return rng.standard_normal((rows, dim), dtype=np.float32)


def decaying(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    """Standard deviations that fall by a fifth from axis to axis, rotated."""
    rotation, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    return (gaussian(rng, rows, dim) * 0.8 ** np.arange(dim) @ rotation).astype(np.float32)


def compare(rows: np.ndarray, centroids: np.ndarray, repeats: int) -> dict[str, object]:
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(centroids)
    found: dict[str, np.ndarray] = {}

    def run_faiss() -> None:
        found["faiss"] = index.search(rows, 1)[1][:, 0]

    def run_saec() -> None:
        found["saec"] = np.empty(len(rows), dtype=np.int32)
        _native.NearestCentroid(centroids).search(rows, found["saec"])

    seconds = medians(interleave({"faiss": run_faiss, "saec": run_saec}, repeats))
    differ = np.flatnonzero(found["faiss"] != found["saec"])
    squared = [
        ((rows[differ].astype(np.float64) - centroids[found[name][differ]]) ** 2).sum(axis=1)
        for name in ("saec", "faiss")
    ]
    return {
        "faiss_seconds": seconds["faiss"],
        "saec_seconds": seconds["saec"],
        "speedup": seconds["faiss"] / seconds["saec"],
        "assignments_that_differ": len(differ),
        "largest_excess_squared_distance": float(max(squared[0] - squared[1], default=0.0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    results = {}
    for name, make in (("gaussian", gaussian), ("decaying", decaying)):
        rows = make(rng, options.rows, options.dim)
        centroids = rows[rng.choice(len(rows), options.clusters, replace=False)]
        for kind, points in (
            ("own rows as centroids", centroids),
            ("other centroids", make(rng, options.clusters, options.dim)),
        ):
            row = compare(rows, points, options.repeats)
            results[f"{name}, {kind}"] = row
            print(f"{name}, {kind}: {row}", flush=True)
    if options.json:
        write_json(options.json, {"machine": machine(), "rows": options.rows, "results": results})


if __name__ == "__main__":
    main()
