"""Other people's models, compressed on ml-1m: base AUC, ratio, change of AUC and of the loss.

    python benchmarks/zoo.py --path movielens_1m.parquet --json zoo.json
    python benchmarks/zoo.py --path movielens_1m.parquet --only torchfm --seeds 0

Every model is trained (Adam, until the loss on the validation rows rises) and compressed to each of
the ratios. Nothing is fine-tuned, and nothing chosen by the test rows. ``restores`` says whether a
saved artifact and decoded tables gave the same outputs, and plain modules with the original
``state_dict`` those of the original, all to the bit. Libraries that are not installed are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import zoo_click
import zoo_factors
import zoo_sequence
from zoo_models import LIBRARIES, build

from saec.reference import load
from saec.reference.experiment import write_json
from saec.reference.log import Log
from saec.reference.machine import machine

DIM, SEQUENCE_DIM, FACTORS = 16, 32, 64
SEQUENCE_EPOCHS = 4


def jobs(log: Log, options: argparse.Namespace, seed: int) -> Iterator[tuple[str, str, Any]]:
    """Library, model, and what measures it, of all that is installed and wanted."""
    data = zoo_click.Data.of(log)
    for library, (package, _, names) in LIBRARIES.items():
        for name in names if find_spec(package) else ():
            yield library, name, _click(library, name, data, options, seed)
    if find_spec("implicit"):
        measured = zoo_factors.measured(log, options.ratios, FACTORS, seed)
        yield "implicit", "alternating least squares", measured
    epochs = min(options.epochs, SEQUENCE_EPOCHS)
    sequence = zoo_sequence.measured(log, options.ratios, SEQUENCE_DIM, seed, epochs)
    yield "plain", "SASRec", sequence


def _click(
    library: str, name: str, data: zoo_click.Data, options: argparse.Namespace, seed: int
) -> Iterator[dict[str, Any]]:
    entry = build(library, name, data.log.vocab_sizes, DIM, seed)
    yield from zoo_click.measured(entry, data, options.ratios, seed, options.epochs)


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds, in Markdown."""
    lines = [
        "| library | model | AUC | ratio | dAUC | d loss | predicted | seeds | restores |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["library"], row["model"], row["asked"]), []).append(row)
    for (library, model, _), same in groups.items():
        means = {key: mean(row[key] for row in same) for key in ("auc", "ratio", "d_loss")}
        predicted = mean(row["predicted"] for row in same)
        lines.append(
            f"| {library} | {model} | {means['auc']:.4f} | {means['ratio']:.1f} "
            f"| {spread([row['d_auc'] for row in same])} | {means['d_loss']:+.4f} "
            f"| {predicted:.4f} | {len(same)} "
            f"| {'yes' if all(row['restores'] for row in same) else 'NO'} |"
        )
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean, and standard deviation if there is one."""
    behind = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{mean(values):+.4f}{behind}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--path", required=True, type=Path, help="the data of the task ml-1m")
    parser.add_argument("--ratios", type=float, nargs="+", default=[30.0, 60.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=6, help="at most")
    parser.add_argument("--only", default="", help="libraries or models whose name contains this")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # sums of several threads differ in their last bits
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        log = load("ml-1m", options.path, seed)
        for library, model, measured in jobs(log, options, seed):
            if options.only not in f"{library} {model}":
                continue
            for asked, found in zip(options.ratios, measured, strict=True):
                rows.append({"library": library, "model": model, "seed": seed, "asked": asked})
                rows[-1] |= found
                print(rows[-1], flush=True)
            if options.json is not None:
                write_json(options.json, {"machine": machine(), "results": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
