"""What slopes on unseen rows gain: axes with and without them, at the same sizes.

    python benchmarks/slopes.py globo globo.parquet --ratios 100,300 --seeds 0,1,2

Trains DeepFM as ``saec bench`` does. Slopes come from the validation rows; changes of AUC and log
loss on test rows are the answer, those on validation rows are too good with slopes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from saec import Axes, LossMetrics, Ratio, compress, measure
from saec.reference.datasets import load
from saec.reference.trial import Trial


def trial_rows(trial: Trial, order: str, ratios: list[float]) -> None:
    """Print a line for each size, without and with slopes."""
    base = trial.scores(trial.base)
    sloped, _ = trial.metrics
    plain = LossMetrics(dict(sloped), sloped.examples, sloped.relative_errors)
    for name, metrics in (("plain", plain), ("slopes", sloped)):
        measured = measure(trial.tables(), Axes(order=order), metrics=metrics, progress=False)
        for ratio in ratios:
            result = compress(measured, Ratio(ratio), progress=False)
            with trial.holding(result):
                scores = trial.scores(trial.probabilities())
            changes = "  ".join(
                f"{part} {scores[part].auc - base[part].auc:+.5f} "
                f"{scores[part].logloss - base[part].logloss:+.6f}"
                for part in ("test", "validation")
            )
            expected = result.predicted_loss_increase
            print(f"{name:7} ratio {ratio:g}  {changes}  expected {expected:+.6f}", flush=True)
    for field, share in result.slope_shares.items():
        told = f"{share.measured:.2f} +- {share.error:.2f}"
        print(f"  {field}: {share.value:.2f} of the slopes ({told})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("path", type=Path)
    parser.add_argument("--ratios", default="100,300")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--model", default="deepfm")
    parser.add_argument("--order", default="frequency", help="of ids, as of saec.Axes")
    options = parser.parse_args()
    for seed in map(int, options.seeds.split(",")):
        log = load(options.task, options.path, seed, vocabularies=False)
        print(f"{options.task}, {options.model}, seed {seed}", flush=True)
        trial = Trial.start(log, options.model, 16, seed, progress=False)
        trial_rows(trial, options.order, [float(ratio) for ratio in options.ratios.split(",")])


if __name__ == "__main__":
    main()
