"""Compressed forms of a trained next-item model, and what they are worth."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from saec.compression.budget import Ratio
from saec.compression.run import compress
from saec.errors import BudgetError, OptionError, did_you_mean
from saec.format.compressed_field import CompressedField
from saec.format.tiered_field import TieredField
from saec.reference.next_item.item_tables import CodedItems, ItemTable, TrainItems
from saec.reference.next_item.recoded_items import RecodedItems
from saec.reference.next_item.self_attentive import SelfAttention, next_item_loss, rank_all
from saec.reference.next_item.sequences import ItemSequences
from saec.reference.next_item.training import NextItemTraining, TrainedRanker, train_next_item
from saec.reference.sizes import Ids, bytes_all_in, with_vocabularies
from saec.torch import compress_, fields, loss_metrics

__all__ = ["NEXT_ITEM_METHODS", "NextItemModel", "NextItemRun"]

logger = logging.getLogger(__name__)

_UNCOMPRESSED = "uncompressed"

# How an item table is made small, and what is trained after that: nothing, all parameters on the
# training items alone, or all with the uncompressed model as the teacher. "Recoded": the latter,
# with codes that change, too.
_RECODED = "axes+recoded"
_TABLES = ("axes", "codes", "semi-tt")
_TUNINGS = ("", "+trained", "+distilled")
NEXT_ITEM_METHODS = (
    _UNCOMPRESSED,
    *(_UNCOMPRESSED + tuning for tuning in _TUNINGS[1:]),
    *(table + tuning for table in _TABLES for tuning in _TUNINGS),
    _RECODED,
)

_METRIC_BATCHES = 16  # a metric of one table needs no more users


@dataclass(frozen=True)
class NextItemRun:
    """One form of the model, to be made and measured.

    Args:
        method: one of :data:`NEXT_ITEM_METHODS`.
        ratio: bytes of the uncompressed item table by those of the small one; None for the
            uncompressed one.

    Raises:
        OptionError: an unknown method, or a ratio that does not fit it.
    """

    method: str
    ratio: float | None

    def __post_init__(self) -> None:
        if self.method not in NEXT_ITEM_METHODS:
            raise OptionError(
                f"no method {self.method!r}; there are {', '.join(NEXT_ITEM_METHODS)}"
                f"{did_you_mean(self.method, NEXT_ITEM_METHODS)}"
            )
        if (self.ratio is None) != (self.table == _UNCOMPRESSED):
            raise OptionError(f"method {self.method!r} cannot have the ratio {self.ratio}")
        if self.ratio is not None and not (self.ratio > 0 and math.isfinite(self.ratio)):
            raise OptionError(f"ratio is {self.ratio}; it must be positive")

    @property
    def table(self) -> str:
        """The method without its tuning."""
        return self.method.partition("+")[0]

    @property
    def tuning(self) -> str:
        """``trained``, ``distilled``, ``recoded`` or nothing."""
        return self.method.partition("+")[2]


@dataclass(frozen=True, eq=False)
class NextItemModel:
    """A trained model that compressed ones start from, and its sequences.

    All start from its network. Small tables of the rivals are first fitted to its table.

    Args:
        base: uncompressed.
        data: its sequences.
        training: settings of the tuning of compressed models.
        seed: of that tuning and of the compression.
    """

    base: SelfAttention
    data: ItemSequences
    training: NextItemTraining
    seed: int

    @classmethod
    def untrained(cls, data: ItemSequences, dim: int, seed: int) -> SelfAttention:
        """The model that training starts from."""
        torch.manual_seed(seed)
        return SelfAttention(data.vocab_size, dim, data.length)

    def measured(self, run: NextItemRun) -> dict[str, Any]:
        """Sizes in bytes of the item table, and the ranking of test and validation items.

        Raises:
            BudgetError: there is no table so small.
        """
        start = time.perf_counter()
        model, nbytes, all_in = self.compressed(run)
        tuned: TrainedRanker | None = None
        if run.tuning:
            teacher = None if run.tuning == "trained" else self.base
            tuned = train_next_item(
                model, self.data, self.training, teacher=teacher, seed=self.seed
            )
        parts = {
            prefix: asdict(rank_all(model, self.data.held_out(part, self.training.batch)))
            for prefix, part in (("", "test"), ("validation_", "validation"))
        }
        original = 4 * self._rows.numel()
        return {
            "nbytes": nbytes,
            "bytes_all_in": all_in,
            "ratio": original / nbytes,
            "network_bytes": sum(4 * value.numel() for value in self.base.network().values()),
            **_prefixed(parts),
            "epochs": None if tuned is None else tuned.epochs,
            "seconds": time.perf_counter() - start,
        }

    def compressed(self, run: NextItemRun) -> tuple[SelfAttention, int, int]:
        """A model with the small item table, its bytes, and those with the vocabulary."""
        rows = self._rows
        if run.method == _RECODED:
            assert run.ratio is not None
            return self._recoded(run.ratio)
        if run.table == "axes":
            assert run.ratio is not None
            return self._axes(run.ratio)
        if run.ratio is None:
            return copy.deepcopy(self.base), *self._sizes(4 * rows.numel())
        allowed = int(4 * rows.numel() / run.ratio)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            table = (
                CodedItems(rows, allowed, self.seed)
                if run.table == "codes"
                else TrainItems(rows, allowed)
            )
        return self._with(table), *self._sizes(table.nbytes)

    def _with(self, table: ItemTable) -> SelfAttention:
        """The base's network with another table."""
        count, dim = self._rows.shape
        model = SelfAttention(count, dim, self.data.length, table=table)
        model.load_state_dict(self.base.network(), strict=False)
        return model

    @property
    def _rows(self) -> Tensor:
        """(items, dim) of the uncompressed table."""
        table = self.base.item
        assert isinstance(table, nn.Embedding)
        return table.weight.detach()

    def _axes(self, ratio: float) -> tuple[SelfAttention, int, int]:
        model = copy.deepcopy(self.base).eval()
        result = compress_(
            model,
            self._batches(),
            next_item_loss,
            Ratio(ratio),
            frequencies={"item": self.data.frequencies},
            seed=self.seed,
            progress=False,
        )
        _tell_bytes(result["item"])
        return model, result.nbytes, bytes_all_in(result)

    def _recoded(self, ratio: float) -> tuple[SelfAttention, int, int]:
        """As by axes, but with codes that can still change."""
        model = copy.deepcopy(self.base).eval()
        metrics = loss_metrics(
            model, self._batches(), next_item_loss, names=["item"], progress=False
        )
        tables = fields(model, {"item": self.data.frequencies})
        result = compress(tables, Ratio(ratio), metrics=metrics, seed=self.seed, progress=False)
        field = result["item"]
        if not isinstance(field, TieredField):
            raise BudgetError(f"axes do not make the item table {ratio:g} times smaller")
        _tell_bytes(field)
        table = RecodedItems(field, self._rows, metrics["item"])
        table.nbytes = result.nbytes
        return self._with(table), result.nbytes, bytes_all_in(result)

    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        """Training items for the metric."""
        return list(islice(self.data.training(self.training.batch, None), _METRIC_BATCHES))

    def _sizes(self, nbytes: int) -> tuple[int, int]:
        ids: Ids = "dense"
        return nbytes, with_vocabularies(nbytes, [(self.data.vocab_size, ids)])


def tuning_of(
    training: NextItemTraining, epochs: int, rate: float, last_rate: float = 1.0, patience: int = 2
) -> NextItemTraining:
    """Settings for tuning what a training with ``training`` gave.

    Args:
        training: of the uncompressed model.
        epochs: most passes over the users; all are done if the rate falls.
        rate: Adam's, in the first step.
        last_rate: share of it that is left after the last step.
        patience: passes in a row without a better ranking, if the rate does not fall.
    """
    if last_rate != 1:
        patience = epochs
    return replace(
        training, learning_rate=rate, last_rate=last_rate, epochs=epochs, patience=patience
    )


def _tell_bytes(field: CompressedField) -> None:
    """Log what the bytes of a table are made of."""
    sizes = (f"{role} {tensor.nbytes}" for role, tensor in field.tensors.items())
    logger.info("bytes of the item table: %s", ", ".join(sizes))


def _prefixed(parts: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {
        f"{prefix}{name}": value for prefix, part in parts.items() for name, value in part.items()
    }
