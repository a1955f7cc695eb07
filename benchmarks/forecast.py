"""How far forecasts of the log loss were off, from results of ``saec bench``.

    python benchmarks/forecast.py RESULTS.json ...

Compares, for every compressed model without fine-tuning whose log loss on test rows grew by 2e-4
to 2e-2: the second-order forecast before coding; the divergence KL(p || p') on validation rows,
without labels; the increase on labelled validation rows; and the second-order forecast times the
share of it that came true on these rows, for this and for larger results of the same model, up to
nine times the forecast: as ``saec.torch.compress_`` does it. For budgets in log loss, what
``compress_`` expects of its result. A result that stands in several files counts once, as in the
last of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGER = 9.0
MODEL = ("task", "model", "dim", "optimiser", "bit_price", "seed")
RESULT = (*MODEL, "method", "target_ratio", "target_loss_increase")

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path)
    options = parser.parse_args()
    rows = {
        tuple(row[name] for name in RESULT): row
        for path in options.results
        for row in json.loads(path.read_text())["rows"]
        if not row["finetuned"] and row["predicted_loss_increase"] is not None
    }
    found: dict[str, list[float]] = {}
    for name, ratio in off(list(rows.values())):
        found.setdefault(name, []).append(ratio)
    for name, ratios in found.items():
        error = statistics.median(abs(ratio - 1) for ratio in ratios)
        ordered = sorted(ratios)
        tenth = len(ordered) // 10
        print(
            f"{name}: {len(ratios)} cases, median error {100 * error:.0f} %, "
            f"forecast / measured {ordered[tenth]:.2f} to {ordered[-1 - tenth]:.2f} "
            "in eight cases of ten"
        )


def off(rows: list[Row]) -> Iterator[tuple[str, float]]:
    """Kinds of forecasts, and forecast / measured."""
    for row in rows:
        measured, predicted = increase(row, ""), row["predicted_loss_increase"]
        if not 2e-4 <= measured <= 2e-2:
            continue
        if row["target_loss_increase"] is not None:
            yield "expected of a budget", predicted / measured
            continue
        yield "second order", predicted / measured
        yield "divergence", row["divergence"] / measured
        yield "labelled", increase(row, "validation_") / measured
        near = [other for other in rows if is_near(other, row)]
        true = sum(increase(other, "validation_") for other in near)
        share = true / sum(other["predicted_loss_increase"] for other in near)
        yield "labelled, with larger ones", predicted * share / measured


def is_near(other: Row, row: Row) -> bool:
    """Whether a result is of the same model, and as large as ``row``'s or somewhat larger."""
    least = row["predicted_loss_increase"]
    return (
        other["target_loss_increase"] is None
        and all(other[name] == row[name] for name in MODEL)
        and least <= other["predicted_loss_increase"] <= LARGER * least
    )


def increase(row: Row, rows: str) -> float:
    """Of the log loss; ``rows``: which, as columns' names begin."""
    grown: float = row[f"{rows}logloss"] - row[f"base_{rows}logloss"]
    return grown


if __name__ == "__main__":
    main()
