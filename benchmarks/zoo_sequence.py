"""A sequential model whose item embeddings are its outputs, too (after SASRec).

Kang, McAuley, Self-Attentive Sequential Recommendation, ICDM 2018. The file that we read has no
times, so a user's sequence is in the file's order: good enough to see what compression changes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import saec
from saec.reference.log import Log
from saec.torch.model.replace import decode_embeddings_, replace_embeddings_

LENGTH = 50
BATCH = 128


class SelfAttentive(nn.Module):
    """Causal self-attention over the items so far, and scores of the next one.

    ``scores`` has the weight of ``item``: that is all that tying needs. Each position is an example
    of its own, so that scores are (users * length, items).
    """

    def __init__(self, items: int, dim: int, layers: int = 2) -> None:
        super().__init__()
        self.item = nn.Embedding(items, dim, padding_idx=0)
        self.place = nn.Embedding(LENGTH, dim)
        block = nn.TransformerEncoderLayer(
            dim, 2, 2 * dim, dropout=0.2, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.scores = nn.Linear(dim, items, bias=False)
        self.scores.weight = self.item.weight
        nn.init.normal_(self.item.weight, std=0.05)
        nn.init.normal_(self.place.weight, std=0.05)
        with torch.no_grad():
            self.item.weight[0] = 0

    def forward(self, seen: Tensor) -> Tensor:
        length = seen.shape[1]
        rows = self.item(seen) + self.place(torch.arange(length, device=seen.device))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=seen.device)
        hidden = self.blocks(rows, mask=mask, is_causal=True)
        scores: Tensor = self.scores(hidden.flatten(0, 1))
        return scores


def next_item_loss(scores: Tensor, wanted: Tensor) -> Tensor:
    """Mean log loss of the items that came next, where there is one."""
    return functional.cross_entropy(scores, wanted.flatten(), ignore_index=0)


@dataclass(frozen=True, eq=False)
class Sequences:
    """For each user the last movies: (users, LENGTH + 2), padded with 0 in front."""

    items: Tensor
    vocab_size: int

    @classmethod
    def of(cls, log: Log) -> Sequences:
        """The movies of each user of a log, in its order."""
        users, movies = (log.ids[:, log.field_names.index(name)] for name in ("user", "movie"))
        order = np.argsort(users, kind="stable")
        ends = np.flatnonzero(np.diff(users[order], append=-1)) + 1
        starts = np.concatenate([[0], ends[:-1]])
        items = np.zeros((len(ends), LENGTH + 2), dtype=np.int64)
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            last = movies[order[max(start, end - LENGTH - 2) : end]]
            items[row, len(items[row]) - len(last) :] = last
        return cls(torch.from_numpy(items), log.vocab_sizes["movie"])

    def batches(self, part: str) -> list[tuple[Tensor, Tensor]]:
        """(seen, next) of users; in ``validation`` and ``test`` only one movie is to be told."""
        behind = {"train": 2, "validation": 1, "test": 0}[part]
        end = self.items.shape[1] - behind
        seen, wanted = (
            self.items[:, end - LENGTH : end][:, :-1],
            self.items[:, end - LENGTH + 1 : end],
        )
        if part != "train":
            wanted = torch.where(torch.arange(LENGTH - 1) == LENGTH - 2, wanted, 0)
        return list(zip(seen.split(BATCH), wanted.split(BATCH), strict=True))

    def frequencies(self) -> np.ndarray[Any, Any]:
        """How often each item occurs in what training sees."""
        counts = torch.bincount(self.items[:, :-2].flatten(), minlength=self.vocab_size)
        counts[0] = 0
        return counts.double().numpy()


def evaluate(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Log loss of the last item, the share of others scored below it (AUC), and NDCG@10."""
    model.eval()
    losses, shares, gains = [], [], []
    with torch.no_grad():
        for seen, wanted in batches:
            scores, item = model(seen).unflatten(0, seen.shape)[:, -1], wanted[:, -1]
            own = scores.gather(1, item[:, None])
            above = (scores > own).sum(1).double()
            losses.append(functional.cross_entropy(scores, item, reduction="none").double())
            shares.append(1 - above / (scores.shape[1] - 1))
            gains.append(torch.where(above < 10, 1 / torch.log2(above + 2), 0.0))
    return {
        "auc": float(torch.cat(shares).mean()),
        "loss": float(torch.cat(losses).mean()),
        "ndcg": float(torch.cat(gains).mean()),
    }


def train(model: nn.Module, data: Sequences, seed: int, epochs: int) -> float:
    """Adam until the loss of the validation items rises; the best state is kept. Epochs done."""
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batches = data.batches("train")
    best, kept, refused, done = np.inf, {}, 0, 0
    for epoch in range(epochs):
        model.train()
        for index in torch.randperm(len(batches)).tolist():
            seen, wanted = batches[index]
            optimizer.zero_grad()
            next_item_loss(model(seen), wanted).backward()
            optimizer.step()
        loss = evaluate(model, data.batches("validation"))["loss"]
        refused += loss >= best
        if loss < best:
            best, kept, refused, done = loss, copy.deepcopy(model.state_dict()), 0, epoch + 1
        if refused == 2:
            break
    model.load_state_dict(kept)
    return float(done)


def measured(
    log: Log, ratios: Sequence[float], dim: int, seed: int, epochs: int
) -> Iterator[dict[str, Any]]:
    """Train the model once, and compress a copy to each of the ratios."""
    data = Sequences.of(log)
    torch.manual_seed(seed)
    original = SelfAttentive(data.vocab_size, dim)
    done = train(original, data, seed, epochs)
    test = data.batches("test")
    base = evaluate(original, test)
    for ratio in ratios:
        model = copy.deepcopy(original)
        result = saec.torch.compress_(
            model,
            data.batches("train"),
            next_item_loss,
            saec.Ratio(ratio),
            frequencies={"item": data.frequencies()},
            seed=seed,
            progress=False,
        )
        after = evaluate(model, test)
        yield {
            "epochs": done,
            **base,
            "ratio": result.compression_ratio,
            **{f"d_{name}": after[name] - base[name] for name in base},
            "predicted": result.predicted_loss_increase,
            "restores": restores(model, original, result, test[0][0]),
        }


def restores(model: nn.Module, original: nn.Module, result: saec.Compressed, seen: Tensor) -> bool:
    """Whether the original comes back to the bit, and the result serves what the model serves."""
    with torch.no_grad():
        here = model.eval()(seen)
        served = replace_embeddings_(copy.deepcopy(original), result).eval()
        same = torch.equal(served(seen), here)
        plain = decode_embeddings_(copy.deepcopy(model))
        # Scores are summed along axes in one and along dim in the other.
        same &= torch.allclose(plain(seen), here, rtol=1e-4, atol=1e-4)
        plain.load_state_dict(original.state_dict())
        return same and torch.equal(plain(seen), original.eval()(seen))
