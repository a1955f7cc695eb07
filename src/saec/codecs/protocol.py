"""The interface of codecs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from saec.artifact import ShardedTensor, Stored
from saec.codecs.slope_noise import SlopeNoise
from saec.format.compressed_field import CompressedField
from saec.streaming.map_reduce import Advance
from saec.streaming.scratch import Workspace
from saec.tables.field import Field
from saec.tables.loss_metric import Metric
from saec.tables.unseen_gradients import SlopeShare
from saec.util.absent_arrays import absent

__all__ = ["LEAST_COST", "Codec", "Coded", "Option", "expected_loss", "split"]

LEAST_COST = 0.1  # of a second-order loss, that remains whatever slopes say


@dataclass(frozen=True)
class Option:
    """One way to store a field.

    Args:
        bits: 8 times the bytes that it adds to the artifact: the field's record and its tensors.
        distortion: the loss by which options are chosen, in a unit that all fields share; finite.
        choice: the codec's own description of this option, which ``Codec.encode`` takes.
        noise: the errors of ``first_order``; None if there are none.
        share: how much weight these slopes have in ``distortion``; None without unseen rows.
        far: the additional loss, in the same unit, of rows far from all others. It is not part of
            ``distortion``: otherwise these few rows would decide how all others are coded.
        by_slopes: the part of ``distortion`` that slopes on unseen rows make; of gains it has half.
        first_order: what these slopes are expected to add to the loss.
    """

    bits: int
    distortion: float
    choice: Any
    noise: SlopeNoise | None = None
    share: SlopeShare | None = None
    far: float = 0.0
    by_slopes: float = 0.0
    first_order: float = 0.0

    @property
    def error(self) -> float:
        """The standard error of ``first_order``."""
        return 0.0 if self.noise is None else self.noise.error

    @property
    def loss(self) -> float:
        """The whole loss by which options are chosen."""
        return self.distortion + self.far

    @property
    def second_order(self) -> float:
        """The whole loss without slopes on unseen rows."""
        return self.loss - self.by_slopes


@dataclass(frozen=True, eq=False)
class Coded:
    """A compressed field and its loss.

    sharded: tensors that workers have written to shards, by role. Until the field is saved and
    loaded, it holds zeros in their place, which take no memory.

    lost: sum_i w_i / sum w 1/2 delta_i' G delta_i, where delta_i is the change of row i: the loss
    in nats to second order. Without a metric, G is the identity. For fields with keys, sum w is of
    all lookups, those with unknown keys included; and they add what slopes on unseen rows cost
    beyond the plan, if other rows than planned are left out.
    """

    field: CompressedField
    lost: float
    sharded: Mapping[str, ShardedTensor] = dataclass_field(default_factory=dict)


def expected_loss(second_order: float, first_order: float) -> float:
    """The expected loss of all fields together, from the sums of their losses.

    Gains of first order may be larger than second-order losses. Where they nearly cancel, the sum
    is mostly error, and terms of higher order count: a tenth of the second order is left.
    """
    return max(second_order + first_order, LEAST_COST * second_order, 0.0)


def split(
    tensors: Mapping[str, Stored],
) -> tuple[dict[str, NDArray[Any]], dict[str, ShardedTensor]]:
    """Split ``tensors`` into arrays and shards, both by role.

    For each tensor in shards, the arrays hold zeros of its shape, which take no memory.
    """
    sharded = {
        role: tensor for role, tensor in tensors.items() if isinstance(tensor, ShardedTensor)
    }
    arrays = {
        role: absent(tensor.dtype, *tensor.shape) if isinstance(tensor, ShardedTensor) else tensor
        for role, tensor in tensors.items()
    }
    return arrays, sharded


class Codec(Protocol):
    """A compression method with its settings: a frozen dataclass that codes fields."""

    @property
    def renumbers(self) -> bool:
        """Whether compression changes the ids, so that lookups take new ones."""

    @property
    def has_one_size(self) -> bool:
        """Whether each field has exactly one option, so that a budget cannot change the result."""

    @property
    def only_copies(self) -> bool:
        """Whether :meth:`encode` only copies the table, so that its result need not be stored for
        resuming an interrupted run."""

    def sampled_bytes(self, field: Field) -> int:
        """The most bytes of memory that :meth:`options` takes for ``field``, beyond the memory of
        a pass over its rows."""

    def options(
        self, field: Field, metric: Metric | None, rng: np.random.Generator, space: Workspace
    ) -> Sequence[Option]:
        """The options for ``field``: stored bits, expected distortion, and the choice.

        Coding takes exactly the bits of the option; the exception is clusters to which no row is
        nearest: they are not stored.

        Distortion is in nats if there is a ``metric``, and otherwise the squared error weighted by
        frequency.
        """

    def least(self, field: Field, space: Workspace) -> CompressedField:
        """A field of the size of the smallest option, with zeros as its values.

        Reads no rows of the table, but may read its frequencies several times.
        """

    def encode(
        self,
        field: Field,
        choice: object,
        rng: np.random.Generator,
        advance: Advance,
        space: Workspace,
    ) -> Coded:
        """Code ``field`` by the ``choice`` of an option.

        ``advance`` is called with fractions of the work done, which add up to 1.
        """
