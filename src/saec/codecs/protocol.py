"""The interface of codecs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from saec.artifact import ShardedTensor, Stored
from saec.format.compressed_field import CompressedField
from saec.streaming.map_reduce import Advance
from saec.streaming.scratch import Workspace
from saec.tables.field import Field
from saec.tables.loss_metric import Metric
from saec.tables.unseen_gradients import SlopeShare

__all__ = ["Codec", "Coded", "Option", "split"]


@dataclass(frozen=True)
class Option:
    """One way to store a field.

    Args:
        bits: 8 times the bytes by which it makes the artifact grow, record and tensors.
        distortion: the loss that options are chosen by, in a unit that all fields share; finite.
        choice: whatever the caller needs to carry it out.
        error: standard error of ``distortion`` that slopes on unseen rows add.
        share: of these slopes that is in ``distortion``; None without unseen rows.
        far: loss in the same unit that is not in ``distortion``, because a few rows far from all
            others would otherwise decide how the others are coded.
    """

    bits: int
    distortion: float
    choice: Any
    error: float = 0.0
    share: SlopeShare | None = None
    far: float = 0.0

    @property
    def loss(self) -> float:
        """The whole loss."""
        return self.distortion + self.far


@dataclass(frozen=True, eq=False)
class Coded:
    """A field as it is stored, and what it loses.

    sharded: tensors that workers have left in shards, by role; the field holds zeros in their place
    that take no memory, until it is saved and loaded.

    lost: sum_i w_i / sum w 1/2 delta_i' G delta_i over the changes delta_i of the rows, in nats to
    second order, and what slopes on unseen rows add; G is the identity without a metric.
    """

    field: CompressedField
    lost: float
    sharded: Mapping[str, ShardedTensor] = dataclass_field(default_factory=dict)


def split(
    tensors: Mapping[str, Stored],
) -> tuple[dict[str, NDArray[Any]], dict[str, ShardedTensor]]:
    """Arrays by role, with zeros that take no memory for what is in shards; and these."""
    sharded = {
        role: tensor for role, tensor in tensors.items() if isinstance(tensor, ShardedTensor)
    }
    arrays = {
        role: np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape)
        if isinstance(tensor, ShardedTensor)
        else tensor
        for role, tensor in tensors.items()
    }
    return arrays, sharded


class Codec(Protocol):
    """A frozen dataclass of options that can price a field and code it."""

    @property
    def renumbers(self) -> bool:
        """Whether lookups of results take new ids."""

    @property
    def has_one_size(self) -> bool:
        """Whether there is one option for each field, so that a budget has nothing to decide."""

    @property
    def only_copies(self) -> bool:
        """Whether :meth:`encode` only copies the table, so that an interrupted run need not keep
        what it made."""

    def sampled_bytes(self, field: Field) -> int:
        """Bytes of memory that measuring ``field`` takes at most, beside what any pass takes."""

    def options(
        self, field: Field, metric: Metric | None, rng: np.random.Generator, space: Workspace
    ) -> Sequence[Option]:
        """What may be chosen for ``field``: bits as stored, expected distortion, the choice.

        Coding as chosen takes exactly the option's bits; only clusters that nothing is nearest to
        are not stored.

        Distortion is in nats with a ``metric``, and else the squared error weighted by frequency.
        """

    def least(self, field: Field, space: Workspace) -> CompressedField:
        """The smallest of the options, without its numbers: for its size.

        Takes no pass over the table, at most some over its frequencies.
        """

    def encode(
        self,
        field: Field,
        choice: object,
        rng: np.random.Generator,
        advance: Advance,
        space: Workspace,
    ) -> Coded:
        """Code ``field`` as chosen; ``advance`` gets shares of the work that add up to 1."""
