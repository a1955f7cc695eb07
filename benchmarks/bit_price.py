"""Training with a price on bits through ``saec.torch.BitPrice``, in a plain loop.

    python benchmarks/bit_price.py --path movielens_1m.parquet
    python benchmarks/bit_price.py --path movielens_1m.parquet --prices 8e-8 3.2e-7 --seeds 0
    python benchmarks/bit_price.py --path movielens_1m.parquet --choose 55 100 --share 0.25
    python benchmarks/bit_price.py --task globo --path globo.parquet --users 0.25 --prices 0 2e-7 \
        --seeds 0
    python benchmarks/bit_price.py --path movielens_1m.parquet --steps 20

Trains the reference DeepFM of width 16 by each price with each seed and the task's other settings,
compresses its tables to each ratio, and measures AUC and log loss on validation and test rows.
Price 0 trains plainly, as ``saec bench``. ``--users`` keeps a share of the users with all of their
rows. ``--choose`` lets ``BitPrice.for_ratio`` choose a price for each ratio, by trials on a share
of the training rows; test rows are not looked at. ``--steps`` compares the time of training steps
with a price and without, as processor time: medians of nine turns of as many steps. Every finished
run is a line of benchmarks/recorded/bit_price.jsonl, and is not repeated when the same command
starts again.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recorded_runs import RecordedRuns
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from saec.reference import load
from saec.reference.batches import Batches
from saec.reference.benchmark import Benchmark
from saec.reference.encode import encode
from saec.reference.evaluate import evaluate
from saec.reference.log import Log
from saec.reference.machine import machine
from saec.reference.models import build
from saec.reference.row_adagrad import RowAdagrad
from saec.reference.train import train as train_plainly
from saec.reference.training_settings import PricedTraining
from saec.reference.training_steps import INITIAL_ACCUMULATOR
from saec.reference.trial import Trial
from saec.torch import BitPrice

RECORDED = RecordedRuns(Path(__file__).parent / "recorded" / "bit_price.jsonl")
DIM, BATCH = 16, 2048
MOST_EPOCHS, PATIENCE, PARTS = 20, 4, 4  # parts of an epoch, after each of which to evaluate

Rows = NDArray[np.intp]


def frequencies(log: Log, rows: Rows | None = None) -> dict[str, NDArray[np.float64]]:
    """Counts by the names of the model's tables; of all training rows, or of some."""
    return {
        f"embeddings.{name}": log.frequencies[name]
        if rows is None
        else np.bincount(log.ids[rows, column], minlength=size).astype(np.float64)
        for column, (name, size) in enumerate(log.vocab_sizes.items())
    }


def train(model: nn.Module, price: BitPrice, log: Log, rows: Rows, seed: int) -> float:
    """A plain training loop, until the validation loss of the running mean rises: epochs done."""
    optimizers = optimizers_of(model, log.name)
    rng, best, best_state, refused = np.random.default_rng(seed), np.inf, {}, 0
    model.train()
    for part in range(MOST_EPOCHS * PARTS):
        if part % PARTS == 0:
            order = np.array_split(shuffled(rows, rng), PARTS)
        for batch in np.array_split(order[part % PARTS], -(-len(rows) // (PARTS * BATCH))):
            step(model, optimizers, price, log, batch)
        with price.averaged():
            now = evaluate(model, log, "validation", progress=False).logloss
            if now < best:
                best, best_state, refused = now, copy.deepcopy(model.state_dict()), 0
            else:
                refused += 1
        if refused == PATIENCE:
            break
    price.remove()
    model.load_state_dict(best_state)
    return (part + 1) / PARTS


def optimizers_of(model: nn.Module, task: str) -> list[torch.optim.Optimizer]:
    """Row-wise Adagrad for the tables, Adam for the network."""
    network = [value for name, value in model.named_parameters() if "embeddings" not in name]
    tables = RowAdagrad(
        model.embeddings.parameters(),
        PricedTraining.of(task).table_learning_rate,
        INITIAL_ACCUMULATOR,
    )
    return [tables, torch.optim.Adam(network, 3e-3)]


def step(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    price: BitPrice | None,
    log: Log,
    batch: Rows,
) -> None:
    """One step on a batch, with a price or without."""
    ids, labels = torch.from_numpy(log.ids[batch]), torch.from_numpy(log.labels[batch])
    loss = binary_cross_entropy_with_logits(model(ids), labels)
    if price is not None:
        loss = loss + price.cost()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    if price is not None:
        price.step()


def timed(log: Log, steps: int) -> str:
    """Milliseconds of a step without and with a price, and their ratio."""
    batches = log.rows("train")[: steps * BATCH].reshape(steps, BATCH)
    models = [build("deepfm", log.vocab_sizes, DIM, 0) for _ in range(2)]
    prices = [
        None,
        BitPrice(models[1], 1.6e-7, frequencies(log), **PricedTraining.of(log.name).options),
    ]
    optimizers = [optimizers_of(model, log.name) for model in models]
    taken: list[list[float]] = [[], []]
    for _ in range(10):
        for index in range(2):
            start = time.process_time()
            for batch in batches:
                step(models[index], optimizers[index], prices[index], log, batch)
            taken[index].append(1e3 * (time.process_time() - start) / steps)
    plain, priced = (median(times[1:]) for times in taken)
    return f"{plain:.1f} ms a step, {priced:.1f} with a price: {priced / plain:.2f} times"


def shuffled(rows: Rows, rng: np.random.Generator) -> Rows:
    """Random order; neighbours, a click and its sampled negative, stay together."""
    pairs = rows[: len(rows) // 2 * 2].reshape(-1, 2)
    return np.concatenate([rng.permutation(pairs).ravel(), rows[pairs.size :]])


def of_users(log: Log, share: float, seed: int) -> Log:
    """All rows of some users, the first field, and that share of the rows of unseen users."""
    rng = np.random.default_rng(seed)
    users = log.ids[:, 0]
    chosen = (rng.random(users.max() + 1) < share)[users]
    pairs = (rng.random(len(users) // 2 + 1) < share).repeat(2)[: len(users)]
    rows = np.flatnonzero(np.where(users == 0, pairs, chosen))
    columns = dict(zip(log.field_names, log.ids[rows].T, strict=True))
    return encode(columns, log.labels[rows], log.split[rows], log.name)


def run(options: argparse.Namespace, log: Log, price: float, seed: int) -> dict[str, Any]:
    """Train once, and compress by all methods to all ratios."""
    start = time.perf_counter()
    model = build("deepfm", log.vocab_sizes, DIM, seed)
    if price > 0:
        paid = BitPrice(
            model, price, frequencies(log), **PricedTraining.of(log.name).options, seed=seed
        )
        epochs, bits = train(model, paid, log, log.rows("train"), seed), paid.bits
    else:
        epochs, bits = train_plainly(model, log, seed=seed, progress=False).epochs, None
    seconds = time.perf_counter() - start
    trial = Trial(log, model, {}, seed, False)
    base = trial.scores(trial.base)
    jobs = Benchmark(log.name, methods=options.methods, ratios=options.ratios).jobs()
    kept = (
        *("method", "target_ratio", "ratio", "ratio_all_in", "nbytes", "predicted_loss_increase"),
        *("auc", "logloss", "validation_auc", "validation_logloss"),
    )
    return {
        "seconds": round(seconds, 1),
        "epochs": epochs,
        "bits": bits,
        "features": sum(log.vocab_sizes.values()),
        "auc": base["test"].auc,
        "logloss": base["test"].logloss,
        "validation_auc": base["validation"].auc,
        "validation_logloss": base["validation"].logloss,
        "compressed": [{key: row[key] for key in kept} for row in trial.rows(jobs)],
    }


def choose(options: argparse.Namespace, log: Log, ratio: float, seed: int) -> dict[str, Any]:
    """The price that ``for_ratio`` finds on a share of the training rows."""
    start = time.perf_counter()
    rows = log.rows("train")
    pairs = np.random.default_rng(seed).permutation(len(rows) // 2)
    chosen = np.sort(pairs[: round(len(pairs) * options.share)])
    sample = rows[(2 * chosen[:, None] + [0, 1]).ravel()]
    price = BitPrice.for_ratio(
        build("deepfm", log.vocab_sizes, DIM, seed),
        ratio,
        frequencies(log, sample),
        lambda model, price: train(model, price, log, sample, seed),
        Batches(log, sample),
        Batches(log, log.rows("validation")),
        **PricedTraining.of(log.name).options,
        seed=seed,
        progress=False,
    )
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "chosen": price.price,
        "trials": [[trial.price, trial.loss] for trial in price.trials],
    }


def asked(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What identifies each run that is wanted."""
    for seed in options.seeds:
        key = {"task": options.task, "users": options.users, "seed": seed}
        for ratio in options.choose:
            yield {**key, "ratio": ratio, "share": options.share}
        for price in options.prices:
            yield {**key, "price": price}


def table(lines: list[dict[str, Any]]) -> str:
    """Means over seeds, in Markdown."""
    found: dict[tuple[Any, ...], list[tuple[float, float, float]]] = {}
    for line in lines:
        name = line["task"] + (f", {line['users']:g} of the users" if line["users"] < 1 else "")
        for row in line.get("compressed", ()):
            key = (name, line["price"], row["method"], row["target_ratio"])
            values = (row["auc"], row["auc"] - line["auc"], row["validation_logloss"])
            found.setdefault(key, []).append(values)
        if "compressed" in line:
            key = (name, line["price"], "uncompressed", 1.0)
            found.setdefault(key, []).append((line["auc"], 0.0, line["validation_logloss"]))
    text = ["| task | price | method | ratio | AUC | dAUC | validation log loss | seeds |"]
    text += ["|---|---|---|---|---|---|---|---|"]
    for key, values in sorted(found.items()):
        auc, change, loss = (list(column) for column in zip(*values, strict=True))
        spread = f" ± {stdev(auc):.4f}" if len(auc) > 1 else ""
        task, price, method, ratio = key
        text.append(
            f"| {task} | {price:g} | {method} | {ratio:g} | {mean(auc):.4f}{spread} "
            f"| {mean(change):+.4f} | {mean(loss):.5f} | {len(auc)} |"
        )
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", default="ml-1m")
    parser.add_argument("--path", required=True, type=Path, help="the task's data")
    parser.add_argument("--prices", type=float, nargs="*", default=[1.6e-7])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ratios", type=float, nargs="+", default=[25.0, 55.0, 100.0])
    parser.add_argument("--methods", nargs="+", default=["axes", "axes-remapped"])
    parser.add_argument("--choose", type=float, nargs="*", default=[], help="ratios")
    parser.add_argument("--share", type=float, default=0.25, help="of the rows, to choose by")
    parser.add_argument("--users", type=float, default=1.0, help="the share that is kept")
    parser.add_argument("--steps", type=int, help="time that many instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.steps is not None:
        print(timed(load(options.task, options.path, 0), options.steps))
        return
    left = [key for key in asked(options) if not RECORDED.hold(key)]
    for index, key in enumerate(left):
        print(f"{len(left) - index} runs left, now {key}", flush=True)
        log = load(options.task, options.path, key["seed"])
        if options.users < 1:
            log = of_users(log, options.users, key["seed"])
        if "price" in key:
            found = run(options, log, key["price"], key["seed"])
        else:
            found = choose(options, log, key["ratio"], key["seed"])
        RECORDED.add({**key, **found, "machine": machine()})
        print(json.dumps(found), flush=True)
    print(table([line for line in RECORDED.lines() if line["task"] == options.task]))


if __name__ == "__main__":
    main()
