"""Click models: trained on a log, compressed in place, scored, and given back what they had."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from zoo_models import HISTORY, Entry

import saec
from saec.reference.evaluate import score
from saec.reference.log import Log
from saec.torch.model.call import call
from saec.torch.model.replace import decode_embeddings_, replace_embeddings_

BATCH = 2048


@dataclass(frozen=True, eq=False)
class Data:
    """A log as tensors: ids (rows, columns), labels (rows,), and the rows of each part."""

    ids: Tensor
    labels: Tensor
    parts: dict[str, Tensor]
    log: Log

    @classmethod
    def of(cls, log: Log) -> Data:
        """The log, with the last movies of the same user before each row behind its fields."""
        ids = log.ids.astype(np.int64)
        columns = [ids, *_histories(log)]
        parts = {part: torch.from_numpy(log.rows(part)) for part in ("train", "validation", "test")}
        labels = torch.from_numpy(np.array(log.labels))
        return cls(torch.from_numpy(np.concatenate(columns, axis=1)), labels, parts, log)

    def batches(self, entry: Entry, rows: Tensor, size: int = BATCH) -> Batches:
        """Batches of these rows, to be iterated as often as needed."""
        return Batches(self, entry, rows, size)


@dataclass(frozen=True, eq=False)
class Batches:
    """(inputs, labels) of a model, with labels of the shape of its outputs."""

    data: Data
    entry: Entry
    rows: Tensor
    size: int

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for rows in self.rows.split(self.size):
            yield self.entry.inputs(self.data.ids[rows]), self.data.labels[rows]


def _histories(log: Log) -> Sequence[np.ndarray[Any, Any]]:
    """For each row the ten movies before it of its user, in the file's order, and their number."""
    users, movies = (log.ids[:, log.field_names.index(name)] for name in ("user", "movie"))
    order = np.argsort(users, kind="stable")
    place = np.arange(len(order)) - np.searchsorted(users[order], users[order])
    history = np.zeros((len(order), HISTORY), dtype=np.int64)
    for back in range(1, HISTORY + 1):
        has = np.flatnonzero(place >= back)
        history[order[has], back - 1] = movies[order[has - back]]
    length = np.empty((len(order), 1), dtype=np.int64)
    length[order, 0] = np.minimum(place, HISTORY)
    return history, length


def loss_of(entry: Entry, outputs: Tensor, labels: Tensor) -> Tensor:
    """The model's loss on a batch."""
    return entry.loss_fn(outputs.reshape(-1), labels)


def train(entry: Entry, data: Data, seed: int, epochs: int, patience: int = 2) -> float:
    """Adam until the loss on the validation rows rises; the best state is kept. Epochs done."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(entry.model.parameters(), lr=2e-3)
    best, kept, refused, best_epoch = np.inf, {}, 0, 0.0
    rows = order = data.parts["train"]
    quarters = 4
    for step in range(epochs * quarters):
        if step % quarters == 0:
            order = rows[torch.randperm(len(rows), generator=generator)]
        entry.model.train()
        for inputs, labels in data.batches(entry, order.chunk(quarters)[step % quarters]):
            optimizer.zero_grad()
            loss_of(entry, call(entry.model, inputs, None), labels).backward()
            optimizer.step()
        loss = evaluate(entry, data, "validation")["loss"]
        if loss < best:
            best, refused, best_epoch = loss, 0, (step + 1) / quarters
            kept = copy.deepcopy(entry.model.state_dict())
        else:
            refused += 1
            if refused == patience:
                break
    entry.model.load_state_dict(kept)
    entry.model.eval()
    return best_epoch


def outputs(model: nn.Module, entry: Entry, data: Data, rows: Tensor) -> Tensor:
    """The model's outputs for these rows, (rows,)."""
    model.eval()
    with torch.no_grad():
        batches = data.batches(entry, rows, 8 * BATCH)
        return torch.cat([call(model, inputs, None).reshape(-1) for inputs, _ in batches])


def evaluate(entry: Entry, data: Data, part: str) -> dict[str, float]:
    """AUC and loss on a part of the log."""
    rows = data.parts[part]
    found, labels = outputs(entry.model, entry, data, rows), data.labels[rows]
    loss = float(entry.loss_fn(found.double(), labels.double()))
    ranks = torch.sigmoid(found.double()).numpy()  # AUC knows only the order
    return {"auc": score(labels.numpy(), ranks).auc, "loss": loss}


def compressed(entry: Entry, data: Data, ratio: float, seed: int) -> saec.Compressed:
    """Compress the entry's model in place; see :func:`saec.torch.compress_`."""
    frequencies = {name: data.log.frequencies[field] for name, field in entry.counted.items()}
    rows = data.parts["train"]
    sample = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    return saec.torch.compress_(
        entry.model,
        data.batches(entry, sample[:100_000]),
        entry.loss_fn,
        saec.Ratio(ratio),
        frequencies=frequencies,
        ranges=entry.ranges,
        seed=seed,
        progress=False,
    )


def restores(entry: Entry, original: nn.Module, result: saec.Compressed, data: Data) -> bool:
    """Whether a saved artifact serves what the model serves, and the original comes back.

    All to the bit: the artifact in a copy of the original, plain modules with decoded tables, and
    these with the original's ``state_dict``.
    """
    rows = data.parts["test"][: 4 * BATCH]
    here = outputs(entry.model, entry, data, rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.saec"
        result.save(path)
        served = copy.deepcopy(original)
        replace_embeddings_(served, saec.load(path), entry.ranges)
        same = torch.equal(outputs(served, entry, data, rows), here)
    plain = decode_embeddings_(copy.deepcopy(entry.model))
    same &= torch.equal(outputs(plain, entry, data, rows), here)
    plain.load_state_dict(original.state_dict())
    before = outputs(original, entry, data, rows)
    return same and torch.equal(outputs(plain, entry, data, rows), before)


def measured(
    entry: Entry, data: Data, ratios: Sequence[float], seed: int, epochs: int
) -> Iterator[dict[str, Any]]:
    """Train the model once, and compress a copy to each of the ratios."""
    done = train(entry, data, seed, epochs)
    base = evaluate(entry, data, "test")
    original = entry.model
    for ratio in ratios:
        own = Entry(
            copy.deepcopy(original), entry.inputs, entry.counted, entry.loss_fn, entry.ranges
        )
        result = compressed(own, data, ratio, seed)
        after = evaluate(own, data, "test")
        yield {
            "epochs": done,
            "auc": base["auc"],
            "loss": base["loss"],
            "ratio": result.compression_ratio,
            "d_auc": after["auc"] - base["auc"],
            "d_loss": after["loss"] - base["loss"],
            "predicted": result.predicted_loss_increase,
            "restores": restores(own, original, result, data),
        }
