"""What ids in no order cost: bytes of the tier index, and quality, at equal ratios.

    python benchmarks/scattered_ids.py --task globo --path globo.parquet --json scattered.json

A DeepFM is trained on ids in order of frequency. Its tables are then compressed by axes as they
are, and with the rows of each field in a random order, which the codec must keep. Compressed rows
are put back at their places in the model, which answers the test rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import saec
from saec.compression.plan import Priced
from saec.compression.run import compress_priced
from saec.format.compressed import Compressed
from saec.format.raw_field import RawField
from saec.format.tiered_field import TieredField
from saec.reference import load
from saec.reference.experiment import write_json
from saec.reference.machine import machine
from saec.reference.trial import Trial
from saec.tables.field import Field

Places = Mapping[str, NDArray[np.int64]]


def index_bits(result: Compressed) -> float:
    """Bits per feature of all fields' indexes."""
    fields = [field for field in result.values() if isinstance(field, TieredField)]
    held = sum(len(field.index.data) for field in fields if field.index is not None)
    return 8 * held / sum(field.vocab_size for field in result.values())


def moved(fields: Sequence[Field], places: Places) -> list[Field]:
    """The fields with row ``places[name][i]`` of each as row i."""
    return [
        Field(
            field.name,
            np.asarray(field.weights)[places[field.name]],
            np.asarray(field.frequencies)[places[field.name]],
        )
        for field in fields
    ]


def moved_back(result: Compressed, places: Places) -> Compressed:
    """The decoded rows where they were before :func:`moved`."""
    fields = []
    for name, field in result.items():
        rows = np.empty((field.vocab_size, field.dim), np.float32)
        rows[places[name]] = field.decode()
        fields.append(RawField(name, rows))
    return Compressed(fields)


def measured(trial: Trial, ratios: Sequence[float], seed: int) -> list[dict[str, Any]]:
    """A row for each order of the ids and each ratio."""
    rng, fields = np.random.default_rng(seed), trial.tables()
    sorted_ids = {field.name: np.arange(field.vocab_size) for field in fields}
    scattered = {field.name: rng.permutation(field.vocab_size) for field in fields}
    base = trial.scores(trial.base)["test"]
    rows = []
    # Copies, all of them made now: the model's own tables are written to below.
    orders = [
        (label, places, moved(fields, places))
        for label, places in (("by frequency", sorted_ids), ("in no order", scattered))
    ]
    for label, places, own in orders:
        priced = Priced.of(own, saec.Axes(), trial.metrics[0], seed=seed, progress=False)
        for ratio in ratios:
            result = compress_priced(priced, saec.Ratio(ratio))
            with trial.holding(moved_back(result, places)):
                now = trial.scores(trial.probabilities())["test"]
            row = {
                "ids": label,
                "ratio": result.compression_ratio,
                "nbytes": result.nbytes,
                "index_bits": index_bits(result),
                "dauc": now.auc - base.auc,
                "dlogloss": now.logloss - base.logloss,
                "forecast": result.predicted_loss_increase,
            }
            print({key: round(v, 5) if isinstance(v, float) else v for key, v in row.items()})
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="simulated")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--ratios", type=float, nargs="+", default=[100.0, 300.0, 500.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    log = load(options.task, options.path, options.seed)
    trial = Trial.start(log, "deepfm", 16, options.seed, False)
    rows = measured(trial, options.ratios, options.seed)
    if options.json is not None:
        write_json(options.json, {"machine": machine(), "base": trial.facts, "rows": rows})


if __name__ == "__main__":
    main()
