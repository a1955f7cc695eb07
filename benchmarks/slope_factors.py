"""One factor for the coordinates of each tier and axis, from the slopes on unseen rows: a trial.

    python benchmarks/slope_factors.py ml-1m movielens_1m.parquet --ratios 25,55 --seeds 3,4,5

Codes shrink coordinates, and slopes say where the loss on unseen rows wants them larger. With x' a
row's coordinate as decoded, h the gradient of the loss and c = sum h x' / n over unseen rows, the
loss changes by c (f - 1) + H (f - 1)^2 / 2 if x' becomes f x', with H = 2 sum w/N nats x'^2. So f =
1 - c / H, where c is shrunk by its noise, and a share of this step is taken. The uncompressed
model gets such factors, too: what it gains by them is not a gain of compression.

Slopes come from the validation rows. Changes of AUC and log loss are those on test rows, against
the uncompressed model as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from saec import Axes, Ratio, compress, measure
from saec.codecs.axes.principal_axes import Frame
from saec.codecs.axes.tier_slopes import Estimate
from saec.codecs.moments_and_samples import moments_of
from saec.format.compressed import Compressed
from saec.format.tier_layout import tier_bounds
from saec.reference.datasets import load
from saec.reference.trial import Trial
from saec.tables.field import Field
from saec.tables.loss_metric import Metric, check_metrics

Rows = NDArray[np.float32]


def stretched(field: Field, decoded: Rows, metric: Metric, step: float) -> Rows:
    """Rows (n, dim) with the factor of each tier and axis."""
    assert metric.unseen is not None, "the metric was measured with unseen rows"
    frame = Frame.of(moments_of(field), metric, field.vocab_size)
    counts = np.asarray(field.frequencies, np.float64)
    coordinates = frame.coordinates(decoded, frame.rank).astype(np.float64)
    axes = frame.stored[:-1].astype(np.float64)
    ranks = np.argsort(-counts, kind="stable")
    result = decoded.astype(np.float64)
    for tier in np.split(ranks, tier_bounds(field.vocab_size)[1:-1]):
        own = tier[counts[tier] > 0]
        parts = np.zeros((2, len(own), frame.rank))
        for half, sums in enumerate(metric.unseen.halves):
            known = np.isin(own, sums.ids)
            gradients = sums.sums[np.searchsorted(sums.ids, own[known])].astype(np.float64)
            parts[half, known] = gradients @ axes.T * (2 / metric.unseen.examples)
        slopes = Estimate.of(parts * coordinates[own]).believed()
        curvature = 2 * frame.nats * (counts[own] @ np.square(coordinates[own])) / counts.sum()
        change = np.divide(-slopes, curvature, out=np.zeros_like(slopes), where=curvature > 0)
        result[own] += (step * change * coordinates[own]) @ axes
    return result.astype(np.float32)


def rows_of(result: Compressed, field: Field) -> Rows:
    """Decoded rows in the order of the field's own ids."""
    found = result[field.name]
    return found.lookup(found.new_ids if found.renumbered else np.arange(field.vocab_size))


def judged(trial: Trial, rows: Mapping[str, Rows]) -> str:
    """Changes on test and validation rows with these tables."""
    base = trial.scores(trial.base)
    with trial.own_tables():
        for name, values in rows.items():
            table = nn.Embedding(*values.shape, _weight=torch.from_numpy(values))
            trial.model.embeddings[name.removeprefix("embeddings.")] = table
        now = trial.scores(trial.probabilities())
    return "  ".join(
        f"{part} {now[part].auc - base[part].auc:+.5f} "
        f"{now[part].logloss - base[part].logloss:+.6f}"
        for part in ("test", "validation")
    )


def trial_rows(trial: Trial, ratios: list[float], steps: list[float]) -> None:
    """Print a line for each size and step, the uncompressed model first."""
    tables, (metrics, _) = trial.tables(), trial.metrics
    checked = check_metrics(tables, metrics)
    tried = {"as it is": {f.name: f.rows.read(0, f.vocab_size) for f in tables}}
    measured = measure(tables, Axes(order="frequency"), metrics=metrics, progress=False)
    for ratio in ratios:
        result = compress(measured, Ratio(ratio), progress=False)
        tried[f"ratio {ratio:g}"] = {field.name: rows_of(result, field) for field in tables}
    for name, rows in tried.items():
        for step in [0.0, *steps]:
            own = {f.name: stretched(f, rows[f.name], checked[f.name], step) for f in tables}
            print(f"{name}, step {step:g}: {judged(trial, own)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("path", type=Path)
    parser.add_argument("--ratios", default="25,55")
    parser.add_argument("--steps", default="0.5,1")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--model", default="deepfm")
    options = parser.parse_args()
    for seed in map(int, options.seeds.split(",")):
        log = load(options.task, options.path, seed, vocabularies=False)
        print(f"{options.task}, {options.model}, seed {seed}", flush=True)
        trial = Trial.start(log, options.model, 16, seed, progress=False)
        numbers = [list(map(float, each.split(","))) for each in (options.ratios, options.steps)]
        trial_rows(trial, *numbers)


if __name__ == "__main__":
    main()
