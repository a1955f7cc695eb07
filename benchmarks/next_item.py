"""Next-item prediction with a compressed item table: ours beside two on-device papers'.

    python benchmarks/next_item.py movielens_1m.parquet --runs benchmarks/recorded/next_item.jsonl

Trains a sequential model with a tied item table on MovieLens 1M (leave-one-out, full ranking), and
measures HR@10 and NDCG@10 of its compressed forms. Every finished one is a line of the results
file; started again, only missing ones are done. Ends with a table in Markdown.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from recorded_runs import RecordedRuns

from saec.reference.kept_model import fitted_or_kept
from saec.reference.machine import machine
from saec.reference.next_item.compressions import (
    NEXT_ITEM_METHODS,
    NextItemModel,
    NextItemRun,
    tuning_of,
)
from saec.reference.next_item.self_attentive import SelfAttention
from saec.reference.next_item.sequences import ItemSequences, load_sequences
from saec.reference.next_item.training import NextItemTraining, train_next_item

TASK = "ml-1m-next"
RATIOS = (30.0, 10.0, 100.0)
DIM, LENGTH = 64, 50


def wanted(methods: Sequence[str], ratios: Sequence[float]) -> Iterator[NextItemRun]:
    """Ratio by ratio, those of the uncompressed table first."""
    for place, ratio in enumerate(ratios):
        for method in methods:
            if not method.startswith("uncompressed"):
                yield NextItemRun(method, ratio)
            elif place == 0:
                yield NextItemRun(method, None)


def base_model(
    data: ItemSequences, training: NextItemTraining, seed: int, keep: Path | None
) -> SelfAttention:
    """The trained uncompressed model; from the folder ``keep``, if it was trained before."""
    model = NextItemModel.untrained(data, DIM, seed)
    falls = "" if training.last_rate == 1 else f"-to-{training.last_rate:g}"
    file = None if keep is None else keep / f"{TASK}-{seed}-{training.epochs}{falls}.pt"

    def fit() -> None:
        start = time.perf_counter()
        found = train_next_item(model, data, training, seed=seed)
        print(f"seed {seed}: {found}, {time.perf_counter() - start:.0f} s", flush=True)

    fitted_or_kept(model, file, {"training": asdict(training)}, fit)
    model.eval()
    return model


def missing(
    runs: RecordedRuns, methods: Sequence[str], ratios: Sequence[float], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """What identifies each run with these settings that is not recorded."""
    keys = [
        {"task": TASK, **settings, "method": run.method, "target_ratio": run.ratio}
        for run in wanted(methods, ratios)
    ]
    return [key for key in keys if not runs.hold(key)]


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Means over seeds, in Markdown; of several settings the best on validation items."""
    rows = [
        "| method | aimed at | ratio | KB | HR@10 | NDCG@10 | of uncompressed | epochs | seeds |"
    ]
    rows.append("|---" * 9 + "|")
    whole = [line["ndcg"] for line in lines if line["method"] == "uncompressed"]
    found = {(line["method"], line["target_ratio"]) for line in lines}
    for method, ratio in sorted(
        found, key=lambda one: (one[1] or 0, NEXT_ITEM_METHODS.index(one[0]))
    ):
        same = [line for line in lines if (line["method"], line["target_ratio"]) == (method, ratio)]
        own = [
            max((line for line in same if line["seed"] == seed), key=_validated)
            for seed in sorted({line["seed"] for line in same})
        ]
        means = {
            name: mean(line[name] for line in own) for name in ("ratio", "nbytes", "hr", "ndcg")
        }
        share = f"{100 * means['ndcg'] / mean(whole):.1f} %" if whole else "-"
        epochs = [line["epochs"] for line in own if line["epochs"] is not None]
        rows.append(
            f"| `{method}` | {'-' if ratio is None else f'{ratio:g}'} | {means['ratio']:.1f} "
            f"| {means['nbytes'] / 1e3:.3g} | {means['hr']:.4f} | {means['ndcg']:.4f} "
            f"| {share} | {f'{mean(epochs):.0f}' if epochs else '-'} | {len(own)} |"
        )
    return "\n".join(rows)


def _validated(line: dict[str, Any]) -> float:
    ndcg: float = line["validation_ndcg"]
    return ndcg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="folder with ratings.dat, or a Parquet or CSV file")
    parser.add_argument("--runs", type=Path, default=Path("next_item.jsonl"))
    parser.add_argument(
        "--methods", nargs="+", default=NEXT_ITEM_METHODS, choices=NEXT_ITEM_METHODS
    )
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=20, help="most, of the uncompressed model")
    parser.add_argument(
        "--base-last-rate",
        type=float,
        default=1.0,
        help="as --last-rate, of the uncompressed model",
    )
    parser.add_argument("--tuning-epochs", type=int, default=4, help="most, of compressed ones")
    parser.add_argument("--tuning-rate", type=float, default=1.5e-3, help="Adam's, of the same")
    parser.add_argument(
        "--last-rate", type=float, default=1.0, help="share of it that is left after the last step"
    )
    parser.add_argument("--keep", type=Path, help="folder for trained uncompressed models")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    runs, where = RecordedRuns(options.runs), machine()
    data = load_sequences(options.path, LENGTH)
    base_rate = NextItemTraining.learning_rate
    training = tuning_of(
        NextItemTraining(), options.epochs, base_rate, options.base_last_rate, patience=3
    )
    for seed in options.seeds:
        settings = {
            "seed": seed,
            "base_epochs": options.epochs,
            "base_last_rate": options.base_last_rate,
            "tuning_epochs": options.tuning_epochs,
            "tuning_rate": options.tuning_rate,
            "last_rate": options.last_rate,
        }
        left = missing(runs, options.methods, options.ratios, settings)
        if not left:
            continue
        base = base_model(data, training, seed, options.keep)
        tuning = tuning_of(training, options.tuning_epochs, options.tuning_rate, options.last_rate)
        model = NextItemModel(base, data, tuning, seed)
        for key in left:
            found = model.measured(NextItemRun(key["method"], key["target_ratio"]))
            line = {**key, **found, "cpu": where["cpu"], "date": machine()["date"]}
            runs.add(line)
            print(line, flush=True)
    own = {"base_epochs": options.epochs, "base_last_rate": options.base_last_rate}
    print(table([line for line in runs.lines() if own.items() <= line.items()]))


if __name__ == "__main__":
    main()
