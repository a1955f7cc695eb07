"""A sequential model by self-attention, and how well it ranks the next item.

Source: Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018 (arXiv 1808.09781):
causal self-attention with learned places, and scores by the item table itself. Trained by the
cross-entropy over all items in place of one sampled negative each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ItemScores", "Ranking", "SelfAttention", "next_item_loss", "rank_all"]

_TOP = 10


class SelfAttention(nn.Module):
    """``seen (B, length) -> scores (B * length, items)``, one row for each place.

    Args:
        items: ids, 0 for padding included.
        dim: of an item's row.
        length: places.
        table: in place of the plain item table, a module ids (...) -> rows (..., dim) with a
            method ``all_rows()``, (items, dim).
        layers, heads, dropout: of the attention.
    """

    def __init__(
        self,
        items: int,
        dim: int,
        length: int,
        *,
        table: nn.Module | None = None,
        layers: int = 1,
        heads: int = 1,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.place = nn.Embedding(length, dim)
        block = nn.TransformerEncoderLayer(
            dim, heads, dim, dropout=dropout, batch_first=True, norm_first=True
        )
        block.self_attn.dropout = 0.0  # of attention weights: none, which is much faster
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)
        self.item: nn.Module
        self.scores: nn.Module
        nn.init.normal_(self.place.weight, std=0.05)
        if table is None:
            self.item, self.scores = _tied(items, dim)
        else:
            self.item, self.scores = table, ItemScores(table)

    def hidden(self, seen: Tensor) -> Tensor:
        """(B, length) -> (B, length, dim), of which the scores are products with items' rows."""
        length = seen.shape[1]
        rows = self.item(seen) + self.place(torch.arange(length))
        rows = torch.where((seen > 0)[..., None], rows, 0.0)
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        states: Tensor = self.norm(self.blocks(rows, mask=mask, is_causal=True))
        return states

    def forward(self, seen: Tensor) -> Tensor:
        """See above."""
        scores: Tensor = self.scores(self.hidden(seen).flatten(0, 1))
        return scores

    def network(self) -> dict[str, Tensor]:
        """The state of all but the item table."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith(("item.", "scores."))
        }


def _tied(items: int, dim: int) -> tuple[nn.Embedding, nn.Linear]:
    """A table, and scores by its rows."""
    table, scores = nn.Embedding(items, dim, padding_idx=0), nn.Linear(dim, items, bias=False)
    nn.init.normal_(table.weight, std=0.05)
    with torch.no_grad():
        table.weight[0] = 0.0
    scores.weight = table.weight
    return table, scores


class ItemScores(nn.Module):
    """Products of states (n, dim) with all rows of a table, (n, items)."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self._tables = [table]  # in a list: the model has it already

    def forward(self, states: Tensor) -> Tensor:
        """See above."""
        rows: Tensor = self._tables[0].all_rows()  # type: ignore[operator]
        return states @ rows.T


def next_item_loss(scores: Tensor, wanted: Tensor) -> Tensor:
    """Mean log loss of the items that came next, where there is one."""
    return functional.cross_entropy(scores, wanted.flatten(), ignore_index=0)


@dataclass(frozen=True)
class Ranking:
    """How high the next item stands among all items, means over users.

    Attributes:
        hr: share of users whose next item is among the first ten.
        ndcg: 1 / log2(1 + rank) where it is, else 0.
        loss: log loss in nats.
    """

    hr: float
    ndcg: float
    loss: float


@torch.no_grad()
def rank_all(model: SelfAttention, batches: Iterable[tuple[Tensor, Tensor]]) -> Ranking:
    """Rank all items, also those that the user had before; the padding is none.

    Items of an equal score stand half above and half below; a NaN score ranks below
    all others. Leaves the model in eval mode.

    Args:
        model: as trained, or compressed.
        batches: items seen (B, length), and the next one (B,); at least one.
    """
    model.eval()
    above, losses = [], []
    for seen, wanted in batches:
        scores = model.scores(model.hidden(seen)[:, -1])
        scores = scores.index_fill(1, torch.tensor([0]), -torch.inf)
        own = scores.gather(1, wanted[:, None])
        equal = (scores == own).sum(1).double() - 1
        rank = (scores > own).sum(1).double() + equal / 2
        # NaN is above nothing, so a model that diverged would have all next items first.
        above.append(rank.masked_fill(own.isnan()[:, 0], torch.inf))
        losses.append(functional.cross_entropy(scores, wanted, reduction="none").double())
    ranks = torch.cat(above)
    gains = torch.where(ranks < _TOP, 1 / torch.log2(ranks + 2), 0.0)
    return Ranking(
        float((ranks < _TOP).double().mean()), float(gains.mean()), float(torch.cat(losses).mean())
    )
