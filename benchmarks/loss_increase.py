"""How a budget in log loss is met with unseen rows alone, and no rows for calibration.

    python benchmarks/loss_increase.py ml-1m movielens_1m.parquet --seeds 0,1,2

Trains a DeepFM, compresses copies of it to budgets of :class:`saec.LossIncrease` with the
validation rows as ``unseen`` ones, and prints a line for each: what was predicted, and what came on
test rows.
"""

from __future__ import annotations

import argparse
import copy
import logging
from pathlib import Path

import numpy as np

import saec
import saec.torch
from saec.reference import load
from saec.reference.batches import Batches
from saec.reference.evaluate import evaluate
from saec.reference.trial import Trial

MEASURED_ROWS = 200_000  # training rows from which the metric is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("path", type=Path)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--budgets", default="1e-4,3e-4,1e-3,3e-3", help="nats")
    options = parser.parse_args()
    logging.getLogger("saec").setLevel(logging.ERROR)
    for seed in map(int, options.seeds.split(",")):
        log = load(options.task, str(options.path), seed, vocabularies=False)
        model = Trial.start(log, "deepfm", 16, seed, False).model
        before = evaluate(model, log, "test", progress=False)
        rows = np.random.default_rng(seed).permutation(log.rows("train"))[:MEASURED_ROWS]
        train, unseen = Batches(log, np.sort(rows)), Batches(log, log.rows("validation"))
        for budget in map(float, options.budgets.split(",")):
            small = copy.deepcopy(model)
            goal = saec.LossIncrease(budget)
            result = saec.torch.compress_(small, train, budget=goal, unseen=unseen, progress=False)
            after = evaluate(small, log, "test", progress=False)
            increase = after.logloss - before.logloss
            print(
                f"seed {seed}, budget {budget:g}: ratio {result.compression_ratio:.1f}, predicted "
                f"{result.predicted_loss_increase:.5f}, came {increase:+.5f} "
                f"({increase / budget:.2f} of the budget), dAUC {after.auc - before.auc:+.5f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
