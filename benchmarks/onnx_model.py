"""DeepFM in onnxruntime, its tables compressed, against the uncompressed one: bytes, scores, speed.

    python benchmarks/onnx_model.py --json onnx_model.json
    python benchmarks/onnx_model.py --task globo --path globo.parquet --ratios 100 300
    python benchmarks/onnx_model.py --task globo --path globo.parquet --ratios 100 --scattered

The model is trained first and exported, and its tables are compressed by axes to --ratios. Each
result is put into the ONNX file twice, with whole and with packed codes (docs/onnx.md). "plain" is
the exported model with the tables as they were learned. Scores of the rewritten models are compared
with those of the exported one with the decoded rows in its tables. With --scattered the rows of
each table are in a random order, for all models alike.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from scattered_ids import moved
from timing import interleave, medians

import saec
import saec.onnx
from saec.reference import load
from saec.reference.evaluate import score
from saec.reference.experiment import write_json
from saec.reference.machine import machine
from saec.reference.trial import Trial
from saec.sources.onnx_graph import embedding_tables
from saec.tables.field import Field

# Calls in a row that make one timing, by examples per call.
CALLS = {1: 300, 128: 50, 4096: 4}

EXPORTERS = ("dynamo", "legacy")
LAYOUTS = {"whole": False, "packed": True}


def export(model: torch.nn.Module, ids: NDArray[np.int64], path: Path, exporter: str) -> None:
    """Write the model, for batches of any size."""
    axes: dict[str, Any] = {"dynamic_axes": {"ids": {0: "batch"}}}
    if exporter == "dynamo":
        axes = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, about itself
        torch.onnx.export(
            model.eval(),
            (torch.from_numpy(ids),),
            path,
            input_names=["ids"],
            dynamo=exporter == "dynamo",
            external_data=False,
            verbose=False,
            **axes,
        )


def scattered(
    model: torch.nn.Module, ids: NDArray[np.int64], tables: Sequence[Field]
) -> tuple[NDArray[np.int64], list[Field]]:
    """Put the rows of the model's tables into a random order; the new ids and tables."""
    rng = np.random.default_rng(0)
    places = {table.name: rng.permutation(table.vocab_size) for table in tables}
    own = moved(tables, places)
    with torch.no_grad():
        for table in own:
            model.get_submodule(table.name).weight.copy_(torch.from_numpy(table.weights))
    columns = zip(places.values(), ids.T, strict=True)
    return np.stack([np.argsort(place)[column] for place, column in columns], axis=1), own


def with_decoded_rows(plain: Path, result: saec.Compressed, out: Path) -> None:
    """The plain model with the rows that the compressed tables stand for."""
    model = onnx.load(plain)
    for name, use in embedding_tables(model.graph).items():
        rows = result[name.removesuffix(".weight")].decode()
        use.tensor.CopyFrom(numpy_helper.from_array(rows, name))
    onnx.save(model, out)


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def scores(path: Path, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits of all rows."""
    opened = session(path, 1)
    size = max(CALLS)
    parts = range(0, len(ids), size)
    return np.concatenate([opened.run(None, {"ids": ids[part : part + size]})[0] for part in parts])


def quality(labels: NDArray[Any], logits: NDArray[np.float32]) -> dict[str, float]:
    found = score(labels, 1 / (1 + np.exp(-logits.astype(np.float64))))
    return {"auc": found.auc, "logloss": found.logloss}


def answer(opened: Any, batches: Iterator[NDArray[np.int64]], calls: int) -> None:
    for _ in range(calls):
        opened.run(None, {"ids": next(batches)})


def batches_of(ids: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Whole batches, in order, from the first again after the last."""
    for start in cycle(range(0, len(ids) - size + 1, size)):
        yield ids[start : start + size]


def speeds(
    models: Mapping[str, Path], ids: NDArray[np.int64], threads: int, repeats: int
) -> list[dict[str, Any]]:
    opened = {name: session(path, threads) for name, path in models.items()}
    rows = []
    for size, calls in CALLS.items():
        runs = {
            name: partial(answer, model, batches_of(ids, size), calls)
            for name, model in opened.items()
        }
        middle = medians(interleave(runs, repeats))
        for name, seconds in middle.items():
            row = {
                "model": name,
                "batch": size,
                "threads": threads,
                "examples_per_second": size * calls / seconds,
                "times_plain": middle["plain"] / seconds,
            }
            print(row, flush=True)
            rows.append(row)
    return rows


def rewritten(
    folder: Path, result: saec.Compressed, ids: NDArray[np.int64], labels: NDArray[Any]
) -> tuple[dict[str, Path], list[dict[str, Any]]]:
    """The models with one compressed result in them, and what they are like."""
    plain, decoded = folder / "plain.onnx", folder / "decoded.onnx"
    with_decoded_rows(plain, result, decoded)
    wanted = scores(decoded, ids)
    decoded.unlink()
    paths, facts = {}, []
    for layout, packed in LAYOUTS.items():
        name = f"{layout} {result.compression_ratio:.0f}"
        paths[name] = folder / f"{name}.onnx"
        report = saec.onnx.compress(plain, result, paths[name], packed=packed)
        found = scores(paths[name], ids)
        fact = {
            "model": name,
            "artifact_ratio": result.compression_ratio,
            "table_ratio": report.compression_ratio,
            "table_bytes": report.nbytes,
            "plain_table_bytes": report.original_nbytes,
            "file_bytes": paths[name].stat().st_size,
            "largest_difference": float(np.abs(found - wanted).max()),
            **quality(labels, found),
        }
        print(fact, flush=True)
        facts.append(fact)
    return paths, facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="simulated")
    parser.add_argument("--path")
    parser.add_argument("--ratios", type=float, nargs="+", default=[100.0, 300.0])
    parser.add_argument("--scattered", action="store_true", help="ids in no order of frequency")
    parser.add_argument("--exporter", choices=EXPORTERS, default="dynamo")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    trial = Trial.start(load(options.task, options.path, 0), "deepfm", 16, 0, False)
    metrics, _ = trial.metrics
    test = trial.log.rows("test")
    ids, tables = trial.log.ids[test].astype(np.int64), trial.tables()
    if options.scattered:
        ids, tables = scattered(trial.model, ids, tables)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = folder / "plain.onnx"
        export(trial.model, ids[:3], plain, options.exporter)
        models, labels = {"plain": plain}, trial.log.labels[test]
        facts: list[dict[str, Any]] = [
            {
                "model": "plain",
                "file_bytes": plain.stat().st_size,
                **quality(labels, scores(plain, ids)),
            }
        ]
        print(facts[0], flush=True)
        for ratio in options.ratios:
            budget = saec.Ratio(ratio)
            result = saec.compress(tables, budget, metrics=metrics, progress=False)
            paths, found = rewritten(folder, result, ids, labels)
            models |= paths
            facts += found
        rows = []
        for threads in options.threads:
            rows += speeds(models, ids, threads, options.repeats)
    if options.json is not None:
        asked = {"task": options.task, "exporter": options.exporter, "machine": machine()}
        versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
        write_json(options.json, asked | {"versions": versions, "models": facts, "rows": rows})


if __name__ == "__main__":
    main()
