"""Runs of ``saec bench --rivals`` as its results file has them, small enough to compute by hand."""

from __future__ import annotations

from typing import Any

Run = dict[str, Any]


def run(
    method: str, seed: int, trial: int, validation: float, auc: float, nbytes: int = 180
) -> Run:
    return {
        "task": "t",
        "model": "deepfm",
        "dim": 4,
        "method": method,
        "target_ratio": 10.0,
        "seed": seed,
        "trial": trial,
        "settings": {},
        "validation_logloss": validation,
        "auc": auc,
        "logloss": 0.5,
        "train_seconds": 9.0,
        "lookup_ns": 1234.4,
        "seconds": 1.0,
        "nbytes": 100,
        "bytes_all_in": nbytes,
        "ratio": 10.0,
        "ratio_all_in": 1800 / nbytes,
    }


def impossible(method: str, why: str) -> Run:
    return {
        "task": "t",
        "model": "deepfm",
        "dim": 4,
        "method": method,
        "target_ratio": 10.0,
        "seed": 0,
        "trial": 0,
        "settings": {},
        "impossible": why,
        "seconds": 0.0,
    }


RUNS = [
    run("float32", 0, 0, 0.5, 0.82, 1800),
    run("float32", 1, 0, 0.5, 0.76, 1800),
    run("hash", 0, 0, 0.52, 0.9),  # the better AUC on test rows does not count
    run("hash", 0, 1, 0.51, 0.8),
    run("hash", 1, 1, 0.53, 0.7),
    run("axes", 0, 0, 0.5, 0.81),
    run("axes", 2, 0, 0.5, 0.99),  # no uncompressed model of this seed
    impossible("qr", "big & <wide>"),
]
