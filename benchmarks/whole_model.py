"""DeepFM with compressed tables against the uncompressed one: examples per second, peak memory.

    python benchmarks/whole_model.py --json whole_model.json
    python benchmarks/whole_model.py --task globo --path globo.parquet --ratio 147
    python benchmarks/whole_model.py --task globo --path globo.parquet --scattered

The model is trained first (about half a minute) and its tables are compressed by axes to --ratio,
and by clusters to that ratio, or where they cannot reach it, to a hundredth as many clusters as
features. The models then answer the same test rows in turn: the uncompressed one calls one
nn.Embedding after the other, compressed ones once the same way and once all fields in one call.
With --scattered the rows of each table stand in a random order before anything is compressed, so
that ids say nothing about frequency, for all models alike.
Memory is that of processes of their own, which load one model and serve it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scattered_ids import moved
from timing import interleave, medians, peak_bytes
from torch import Tensor, nn

import saec
from saec.format.compressed_field import CompressedField
from saec.format.raw_field import RawField
from saec.reference import load
from saec.reference.experiment import write_json
from saec.reference.machine import machine
from saec.reference.models import ClickModel, build
from saec.reference.trial import Trial
from saec.tables.field import Field
from saec.torch.model.modules import CompressedEmbedding
from saec.torch.table.joint import compressed_table

MODELS = ("uncompressed", "axes", "clusters")
TOGETHER = "in one call"

# Calls in a row that make one timing, by examples per call: some milliseconds, so that most timings
# are over before another process takes the core.
CALLS = {1: 25, 128: 10, 4096: 1}

TABLES = "embeddings."
IDS = "ids.npy"  # of the test rows; the last file that is written


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """Train and compress; leave the models and the test rows in ``folder``."""
    trial = Trial.start(load(options.task, options.path, 0), "deepfm", 16, 0, False)
    metrics, _ = trial.metrics
    places = places_of(trial.tables(), options.scattered)
    tables, ratio = moved(trial.tables(), places), saec.Ratio(options.ratio)
    saec.compress(tables, ratio, metrics=metrics, progress=False).save(folder / "axes")
    try:
        clusters = saec.compress(tables, ratio, saec.Clusters(), progress=False)
    except saec.BudgetError:
        clusters = saec.compress(tables, None, saec.Clusters(clusters=0.01), progress=False)
    clusters.save(folder / "clusters")
    state = trial.model.state_dict()
    network = {name: held for name, held in state.items() if not name.startswith(TABLES)}
    torch.save(
        {field.name.removeprefix(TABLES): torch.from_numpy(field.weights) for field in tables},
        folder / MODELS[0],
    )
    torch.save(network, folder / "network")
    ids = trial.log.ids[trial.log.rows("test")]
    columns = [
        np.argsort(place)[column] for place, column in zip(places.values(), ids.T, strict=True)
    ]
    np.save(folder / IDS, np.stack(columns, axis=1))


def places_of(tables: Sequence[Field], scattered: bool) -> dict[str, NDArray[np.int64]]:
    """By table, the row that each of its rows is to be: itself, or one by chance."""
    rng = np.random.default_rng(0)
    order = rng.permutation if scattered else np.arange
    return {table.name: order(table.vocab_size) for table in tables}


def opened(name: str, folder: Path) -> ClickModel:
    """A model as a server would load it: no table is made that it does not serve from."""
    modules = plain_modules(folder) if name == MODELS[0] else compressed_modules(name, folder)
    model = build("deepfm", dict.fromkeys(modules, 1))
    model.embeddings.update(modules)
    found = model.load_state_dict(torch.load(folder / "network"), strict=False)
    assert not found.unexpected_keys, found
    assert all(name.startswith(TABLES) for name in found.missing_keys), found
    return model.eval()


def plain_modules(folder: Path) -> dict[str, nn.Module]:
    tables = torch.load(folder / MODELS[0])
    return {name: nn.Embedding.from_pretrained(weight) for name, weight in tables.items()}


def compressed_modules(name: str, folder: Path) -> dict[str, nn.Module]:
    result = saec.load(folder / name)
    return {field.removeprefix(TABLES): module_of(stored) for field, stored in result.items()}


def module_of(field: CompressedField) -> nn.Module:
    """What :func:`saec.torch.replace_embeddings_` would put into a model that has its tables."""
    if isinstance(field, RawField):
        return nn.Embedding.from_pretrained(torch.from_numpy(field.decode()))
    return CompressedEmbedding(compressed_table([field], {}, like=torch.empty(0)))


def contestants(folder: Path) -> dict[str, ClickModel]:
    """All models; compressed ones once more with all fields in one call."""
    models = {name: opened(name, folder) for name in MODELS}
    for model in models.values():
        model.embed = MethodType(one_by_one, model)
    return models | {f"{name}, {TOGETHER}": opened(name, folder) for name in MODELS[1:]}


def one_by_one(model: ClickModel, ids: Tensor) -> Tensor:
    """Vectors of all fields as a model without :class:`saec.torch.FieldEmbeddings` gets them."""
    columns = zip(model.embeddings.values(), ids.unbind(1), strict=True)
    return torch.stack([module(column) for module, column in columns], dim=1)


def mean_change(model: ClickModel, plain: ClickModel, ids: Tensor) -> float:
    """Of the predicted probabilities: whether it is the same model at all."""
    with torch.inference_mode():
        changes = [
            (model(batch).sigmoid() - plain(batch).sigmoid()).abs()
            for batch in torch.split(ids, max(CALLS))
        ]
    return float(torch.cat(changes).mean())


def answer(model: ClickModel, batches: Iterator[Tensor], calls: int) -> None:
    for _ in range(calls):
        model(next(batches))


def batches_of(ids: Tensor, size: int) -> Iterator[Tensor]:
    """Whole batches, in order, from the first again after the last."""
    for start in cycle(range(0, len(ids) - size + 1, size)):
        yield ids[start : start + size]


def speeds(models: Mapping[str, ClickModel], ids: Tensor, repeats: int) -> list[dict[str, Any]]:
    rows = []
    for size, calls in CALLS.items():
        runs = {
            name: partial(answer, model, batches_of(ids, size), calls)
            for name, model in models.items()
        }
        with torch.inference_mode():
            middle = medians(interleave(runs, repeats))
        for name, seconds in middle.items():
            row = {
                "model": name,
                "batch": size,
                "threads": torch.get_num_threads(),
                "examples_per_second": size * calls / seconds,
                "times_uncompressed": middle["uncompressed"] / seconds,
            }
            print(row, flush=True)
            rows.append(row)
    return rows


def serve(name: str, folder: Path) -> None:
    """Load one model, answer all test rows, and print the peak memory of this process."""
    idle = peak_bytes()
    model, ids = opened(name, folder), torch.from_numpy(np.load(folder / IDS))
    with torch.inference_mode():
        for size in CALLS:
            answer(model, batches_of(ids, size), CALLS[size])
        for batch in torch.split(ids, max(CALLS)):
            model(batch)
    print(json.dumps({"imports_bytes": idle, "peak_bytes": peak_bytes()}))


def memory(name: str, folder: Path) -> dict[str, Any]:
    """Peak memory of a process that serves one model, and that of its imports alone."""
    command = [sys.executable, __file__, "--serve", name, "--folder", str(folder)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {"file_bytes": (folder / name).stat().st_size} | json.loads(printed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="simulated")
    parser.add_argument("--path")
    parser.add_argument("--ratio", type=float, default=100.0)
    parser.add_argument("--scattered", action="store_true", help="ids in no order of frequency")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=101)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--folder", type=Path, help="keep the models here, and find them here again"
    )
    parser.add_argument("--serve", choices=MODELS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.folder)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        if not (folder / IDS).exists():
            folder.mkdir(parents=True, exist_ok=True)
            prepare(options, folder)
        memories = {model: memory(model, folder) for model in MODELS}
        models = contestants(folder)
        ids = torch.from_numpy(np.load(folder / IDS))
        for model, facts in memories.items():
            facts["mean_change"] = mean_change(models[model], models[MODELS[0]], ids)
            print(model, facts, flush=True)
        rows = []
        for threads in options.threads:
            torch.set_num_threads(threads)
            rows += speeds(models, ids, options.repeats)
    if options.json is not None:
        asked = {"task": options.task, "ratio": options.ratio, "scattered": options.scattered}
        found = {"machine": machine(), "models": memories, "rows": rows}
        write_json(options.json, asked | found)


if __name__ == "__main__":
    main()
