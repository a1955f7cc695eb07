"""How far forecasts of the log loss were off, from results of ``saec bench``.

    python benchmarks/forecast.py RESULTS.json ...

Compares, for every compressed model without fine-tuning whose log loss on test rows grew by 2e-4
to 2e-2: the second-order forecast before coding; the divergence KL(p || p') on validation rows,
without labels; and the increase on labelled validation rows, which ``saec.torch.forecast`` and
``saec.torch.compress_`` measure. For budgets in log loss, what ``compress_`` expects of its result.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path)
    options = parser.parse_args()
    ratios: dict[str, list[float]] = {
        "second order": [],
        "divergence": [],
        "labelled": [],
        "expected of a budget": [],
    }
    for path in options.results:
        for row in json.loads(path.read_text())["rows"]:
            measured = row["logloss"] - row["base_logloss"]
            if row["finetuned"] or row["predicted_loss_increase"] is None:
                continue
            if not 2e-4 <= measured <= 2e-2:
                continue
            if row["target_loss_increase"] is not None:
                ratios["expected of a budget"].append(row["predicted_loss_increase"] / measured)
                continue
            labelled = row["validation_logloss"] - row["base_validation_logloss"]
            forecasts = (row["predicted_loss_increase"], row["divergence"], labelled)
            for name, forecast in zip(ratios, forecasts, strict=False):
                ratios[name].append(forecast / measured)
    for name, found in ratios.items():
        if not found:
            continue
        error = statistics.median(abs(ratio - 1) for ratio in found)
        ordered = sorted(found)
        tenth = len(ordered) // 10
        print(
            f"{name}: {len(found)} cases, median error {100 * error:.0f} %, "
            f"forecast / measured {ordered[tenth]:.2f} to {ordered[-1 - tenth]:.2f} "
            "in eight cases of ten"
        )


if __name__ == "__main__":
    main()
