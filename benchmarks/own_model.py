"""Forecasts and budgets in log loss for a click model as a user may write it.

    python benchmarks/own_model.py movielens_1m.parquet [--seed 0] [--json own.json]
    python benchmarks/own_model.py movielens_1m.parquet --seed 1 --counted calibration --in-nats

The model: 14 columns of MovieLens 1M, three of them crosses of the user with a column of the movie,
each with an ``nn.Embedding`` of width 32; ids in alphabetical order, 0 for values that training
rows do not have; a network of two layers; one epoch of SparseAdam and Adam. Rows are split at
random into 80 % for training, 10 % for validation (calibration) and 10 % for tests.

Budgets in bytes are forecast to second order and measured on test rows, with features counted in
the training rows, where id 0 hardly occurs, and with id 0 counted as often as validation rows say.
With calibration, compress_ counts it by the validation rows itself, and what it expects is the
increase on these; budgets in log loss are calibrated on validation rows and measured on test rows.
With slopes, the first-order part of the loss on validation rows is in allocation and forecast, and
nothing is calibrated. --counted, --in-bytes and --in-nats choose some of these rows, whose figures
are those of the whole run: each row starts from the same trained model.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import saec
import saec.torch
from saec.codecs.protocol import Option
from saec.compression.plan import Priced

CROSSED = ("director1", "actor1", "genres")
PLAIN = ("user", "movie", "gender", "age", "occupation", "zip", "year", "genres", "rated")
COLUMNS = (*PLAIN, "director1", "actor1", *(f"user x {name}" for name in CROSSED))
DIM, BATCH = 32, 2048
COUNTED = ("training", "with unseen", "calibration", "with slopes")

Batches = list[tuple[Tensor, Tensor]]


class ClickModel(nn.Module):
    """A table for each column and two hidden layers; ids (n, columns) to logits (n,)."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, DIM, sparse=True) for n in sizes.values())
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.01)
        self.network = nn.Sequential(
            *(nn.Linear(DIM * len(sizes), 128), nn.ReLU(), nn.Dropout(0.2)),
            *(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1)),
        )

    def forward(self, ids: Tensor) -> Tensor:
        rows = [table(ids[:, place]) for place, table in enumerate(self.tables)]
        logits: Tensor = self.network(torch.cat(rows, dim=1)).squeeze(1)
        return logits


@dataclass(frozen=True)
class Rows:
    """ids (n, columns) int64 and labels (n,) float32 of one part of the split."""

    ids: Tensor
    labels: Tensor

    def batches(self, size: int) -> Batches:
        return list(zip(self.ids.split(size), self.labels.split(size), strict=True))


def read(path: Path) -> tuple[dict[str, int], list[Rows]]:
    """Vocabulary sizes by column, and the rows for training, validation and tests."""
    frame = pl.read_parquet(path).with_columns(
        pl.format("u{}", pl.col("user").cast(pl.String).str.zfill(5)).alias("user"),
        pl.format("m{}", pl.col("movie").cast(pl.String).str.zfill(5)).alias("movie"),
    )
    frame = frame.with_columns(
        pl.format("{}|{}", "user", name).alias(f"user x {name}") for name in CROSSED
    )
    order = np.random.default_rng(0).permutation(len(frame))
    parts = np.split(order, [len(frame) * 8 // 10, len(frame) * 9 // 10])
    encoded = [encode(frame[name], parts[0]) for name in COLUMNS]
    ids = torch.from_numpy(np.stack([own for own, _ in encoded], axis=1))
    labels = torch.from_numpy(frame["label"].to_numpy().astype(np.float32))
    sizes = {name: size for name, (_, size) in zip(COLUMNS, encoded, strict=True)}
    return sizes, [Rows(ids[part], labels[part]) for part in map(torch.from_numpy, parts)]


def encode(values: pl.Series, training: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Ids (n,) in alphabetical order of the training rows' values, 0 for others; their number."""
    known = values.gather(training).unique().sort()
    ids = pl.DataFrame({"value": known, "id": np.arange(1, len(known) + 1)})
    joined = values.to_frame("value").join(ids, on="value", how="left", maintain_order="left")
    return joined["id"].fill_null(0).to_numpy(), len(known) + 1


def train(sizes: dict[str, int], rows: Rows, seed: int) -> ClickModel:
    """One epoch."""
    torch.manual_seed(seed)
    model = ClickModel(sizes).train()
    optimisers = (
        torch.optim.SparseAdam(model.tables.parameters(), lr=1e-3),
        torch.optim.Adam(model.network.parameters(), lr=1e-3),
    )
    for chosen in torch.randperm(len(rows.labels)).split(BATCH):
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss = binary_cross_entropy_with_logits(model(rows.ids[chosen]), rows.labels[chosen])
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
    return model.eval()


@dataclass(frozen=True)
class Trial:
    """One budget: what is expected, and what came on test rows, ± one standard error.

    seconds: of compression; of sizes, the first one also has those of measuring for all of them.
    second_order, first_order: the parts of what is expected, where nothing is calibrated.
    """

    counted: str
    budget: str
    ratio: float
    expected: float
    measured: float
    standard_error: float
    auc_change: float
    seconds: float
    second_order: float | None = None
    first_order: float | None = None
    first_order_error: float | None = None


class Trials:
    """A trained model with its rows."""

    def __init__(self, model: ClickModel, rows: list[Rows]) -> None:
        self._model = model
        self._training, self._validation, self._test = (part.batches(4096) for part in rows)
        self._rows = rows
        self._measured: dict[str, Priced] = {}
        self.base_auc = self.auc(model)

    def auc(self, model: nn.Module) -> float:
        """Of the test rows."""
        with torch.no_grad():
            logits = torch.cat([model(ids) for ids, _ in self._test])
        return float(roc_auc_score(self._rows[2].labels, logits))

    def counts(self, unseen: bool) -> dict[str, NDArray[np.float64]]:
        """Of features in training rows; with ``unseen``, id 0 by its share of validation rows."""
        training, validation = self._rows[0].ids, self._rows[1].ids
        counts = {}
        for place, table in enumerate(self._model.tables):
            own = torch.bincount(training[:, place], minlength=len(table.weight)).double()
            if unseen:
                share = float((validation[:, place] == 0).double().mean())
                own[0] = share * len(training)
            counts[f"tables.{place}"] = own.numpy()
        return counts

    def run(self, budget: saec.Budget, counted: str) -> Trial:
        """Compress a copy to ``budget`` and measure it."""
        small, start = copy.deepcopy(self._model), time.perf_counter()
        parts: dict[str, float] = {}
        if counted == "calibration" or isinstance(budget, saec.LossIncrease):
            result = saec.torch.compress_(
                small,
                self._training,
                budget=budget,
                frequencies=self.counts(unseen=counted == "with slopes"),
                calibration=self._validation if counted == "calibration" else None,
                unseen=self._validation if counted == "with slopes" else None,
                progress=False,
            )
        else:
            options = self.options(counted)
            result = saec.compress(options, budget, progress=False)
            saec.torch.replace_embeddings_(small, result)
            parts = parts_of(options.chosen(budget))
        seconds = time.perf_counter() - start
        measured = saec.torch.measure_loss_increase(self._model, result, self._test, labelled=True)
        return Trial(
            counted=counted,
            budget=str(budget),
            ratio=result.compression_ratio,
            expected=result.predicted_loss_increase or 0.0,
            measured=measured.value,
            standard_error=measured.standard_error,
            auc_change=self.auc(small) - self.base_auc,
            seconds=seconds,
            **parts,
        )

    def options(self, counted: str) -> Priced:
        """Those of all tables, measured once for all sizes."""
        if counted not in self._measured:
            unseen = self._validation if counted == "with slopes" else None
            metrics = saec.torch.loss_metrics(
                self._model, self._training, unseen=unseen, progress=False
            )
            fields = saec.torch.fields(self._model, self.counts(unseen=counted != "training"))
            self._measured[counted] = saec.measure(fields, metrics=metrics, progress=False)
        return self._measured[counted]


def parts_of(chosen: Sequence[Option]) -> dict[str, float]:
    """What is expected of the ``chosen`` options of all fields."""
    return {
        "second_order": sum(option.second_order for option in chosen),
        "first_order": sum(option.first_order for option in chosen),
        "first_order_error": sum(option.error**2 for option in chosen) ** 0.5,
    }


def chosen(wanted: list[str] | None, units: set[str]) -> Iterator[tuple[saec.Budget, str]]:
    """The budgets, in ``units``, of the rows that are ``wanted``, all if None, and how
    features are counted."""
    in_bytes: list[saec.Budget] = [saec.Ratio(100), saec.MaxBytes("1MB"), saec.Ratio(500)]
    in_nats = [saec.LossIncrease(value) for value in (2e-5, 1e-4, 4e-4)]
    for counted in wanted or COUNTED:
        largest = [saec.Ratio(27)] if counted == "with slopes" else []
        losses = in_nats if counted in ("calibration", "with slopes") else []
        if "bytes" in units:
            yield from ((budget, counted) for budget in (*largest, *in_bytes))
        if "nats" in units:
            yield from ((budget, counted) for budget in losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--counted", choices=COUNTED, action="append", help="only these rows")
    only = parser.add_mutually_exclusive_group()
    for unit, which in (("bytes", "sizes"), ("nats", "budgets in log loss")):
        only.add_argument(
            f"--in-{unit}", dest="units", action="store_const", const={unit}, help=f"only {which}"
        )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes, rows = read(options.path)
    trials = Trials(train(sizes, rows[0], options.seed), rows)
    print(f"{sum(sizes.values()):,} rows of width {DIM}, test AUC {trials.base_auc:.4f}")
    print("counted      budget                        ratio  expected  measured on test    dAUC")
    done = []
    for budget, counted in chosen(options.counted, options.units or {"bytes", "nats"}):
        done.append(trials.run(budget, counted))
        print(line(done[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(trial) for trial in done], indent=2) + "\n")


def line(trial: Trial) -> str:
    """A row of the table."""
    return (
        f"{trial.counted:12} {trial.budget:26} {trial.ratio:8.1f}  {trial.expected:8.1e}  "
        f"{trial.measured:+8.1e} ± {trial.standard_error:.1e}  {trial.auc_change:+.4f}  "
        f"{trial.seconds:5.1f} s"
        + (
            f"  second order {trial.second_order:.1e}, first {trial.first_order:+.1e} "
            f"± {trial.first_order_error:.1e}"
            if trial.first_order
            else ""
        )
    )


if __name__ == "__main__":
    main()
