"""DeepFM on `globo` for the benchmark of ``saec serve``: an artifact and a dense ONNX model."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from loopback_clients import Call
from numpy.typing import NDArray

import saec
from saec.format.compressed import Compressed
from saec.format.raw_field import RawField
from saec.reference import load
from saec.reference.models import ClickModel
from saec.reference.trial import Trial
from saec.serve.lookup_model import LookupModel
from saec.serve.protocol import InferRequest
from saec.serve.scored_tables import ScoredTables
from saec.util.sizes import parse_size

MOST_BYTES = 1 << 26


class Dense(torch.nn.Module):
    """The model without its tables: rows of each field in, scores out."""

    def __init__(self, model: ClickModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *rows: torch.Tensor) -> torch.Tensor:
        return self.model.interact(torch.stack(rows, dim=1))


@dataclass(frozen=True)
class Deepfm:
    """Files of the trained model, and ids of its test rows (rows, fields)."""

    tables: Path
    dense: Path
    ids: NDArray[np.int64]

    @classmethod
    def made(cls, folder: Path, log: str, shuffled: bool) -> Deepfm:
        """Trained, unless the folder has it already; test rows in order of time, or in none."""
        files = folder / "tables.saec", folder / "dense.onnx", folder / "ids.npy"
        if not files[2].exists():
            trial = Trial.start(load("globo", log, 0), "deepfm", 16, 0, False)
            names = trial.model.field_names
            weights = [
                trial.model.embeddings[name].weight.detach().numpy()  # type: ignore[union-attr]
                for name in names
            ]
            Compressed([RawField(*own) for own in zip(names, weights, strict=True)]).save(files[0])
            _export(trial.model, files[1])
            np.save(files[2], trial.log.ids[trial.log.rows("test")].astype(np.int64))
        ids = np.load(files[2])
        if shuffled:
            ids = np.random.default_rng(0).permutation(ids)
        return cls(files[0], files[1], ids)

    def calls(self, examples: int) -> list[Call]:
        """Requests of consecutive test rows, and their scores."""
        tables = saec.load(self.tables)
        session = onnxruntime.InferenceSession(str(self.dense), providers=["CPUExecutionProvider"])
        calls = []
        for first in range(0, min(2048 * examples, len(self.ids) - examples), examples):
            ids = dict(zip(tables, self.ids[first : first + examples].T.copy(), strict=True))
            rows = {name: tables[name].lookup(own) for name, own in ids.items()}
            calls.append(Call.of(self.tables.stem, ids, session.run(None, rows)[0]))
        return calls

    def show_stages(self, memory: str, examples: int) -> None:
        """Milliseconds of both stages of batches of consecutive test rows, one thread each."""
        tables = LookupModel.open(self.tables, memory=parse_size(memory))
        model = ScoredTables.open(self.dense, tables)
        seconds: list[tuple[float, float, float]] = []
        for first in range(0, 100 * examples, examples):
            ids = self.ids[first : first + examples].T.copy()
            request = InferRequest(
                {spec.name: own for spec, own in zip(model.inputs, ids, strict=False)}
            )
            times = [time.perf_counter(), time.process_time()]
            found = model.look_up(request, MOST_BYTES)
            times += [time.perf_counter(), time.process_time()]
            model.score(found, MOST_BYTES)
            scored = time.perf_counter() - times[2]
            seconds.append((times[2] - times[0], times[3] - times[1], scored))
        lookup, busy, score = (1e3 * np.median(seconds[20:], axis=0)).tolist()
        counts = model.read_counts
        assert counts is not None
        pages = counts.pages_read / (100 * examples)
        print(
            f"batches of {examples}: lookup {lookup:.1f} ms ({busy:.1f} ms of the processor), "
            f"scores {score:.1f} ms; {pages:.2f} pages read an example",
            flush=True,
        )


def _export(model: ClickModel, path: Path) -> None:
    names = list(model.field_names)
    rows = tuple(torch.zeros(2, model.dim) for _ in names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, about itself
        torch.onnx.export(
            Dense(model.eval()),
            rows,
            str(path),
            input_names=names,
            output_names=["score"],
            dynamic_axes={name: {0: "n"} for name in (*names, "score")},
            dynamo=False,
        )
