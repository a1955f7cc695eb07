"""Results files as ``saec bench`` writes them, small enough to compute by hand."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def row(seed: int = 0, **changes: Any) -> Row:
    return {
        "task": "ml-1m",
        "model": "deepfm",
        "dim": 16,
        "seed": seed,
        "method": "saec",
        "target_ratio": 25.0,
        "ratio": 25.5,
        "nbytes": 40_000,
        "original_nbytes": 1_020_000,
        "base_auc": 0.8,
        "base_logloss": 0.5,
        "auc": 0.79,
        "logloss": 0.51,
        "compress_seconds": 2.0,
        "finetuned": False,
    } | changes


def deciles(*changes: float) -> list[dict[str, Any]]:
    """Deciles in the form of ``saec.reference.damage``; frequencies double from 0, 2, 4."""
    return [
        {
            "least": float(2**place if place else 0),
            "most": float(2 ** (place + 1) if place else 0),
            "rows": 100,
            "auc_change": None,
            "logloss_change": change,
            "logloss_error": 0.01,
        }
        for place, change in enumerate(changes)
    ]


def tiers(*bits: float) -> list[dict[str, Any]]:
    """64, 192, 768, ... features of so many bits each."""
    return [
        {"rows": 3 * 64 * 4 ** (tier - 1) if tier else 64, "bits": each}
        for tier, each in enumerate(bits)
    ]


def picture(**changes: Any) -> dict[str, Any]:
    """Four features, of which the first and the last share a cluster, midway between them."""
    return {
        "field": "movie",
        "features": 4,
        "shares": [0.8, 0.2],
        "ids": [1, 3, 2, 0],
        "frequencies": [100, 25, 4, 4],
        "x": [0, 1, 3, 4],
        "y": [0, 2, 1, 2],
        "clusters": [0, 1, 2, 0],
        "centers": [[2, 1], [1, 2], [3, 1]],
    } | changes


def results(*rows: Row) -> dict[str, Any]:
    machine = {"cores": 2, "memory": 8 << 30, "packages": {"saec": "0.1"}, "date": "2025-06-01"}
    return {"command": "saec bench ml-1m", "machine": machine, "rows": list(rows)}
