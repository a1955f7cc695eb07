"""What compression asks of a codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from saec.format.compressed_field import CompressedField
from saec.streaming.map_reduce import Advance
from saec.streaming.scratch import Workspace
from saec.tables.field import Field
from saec.tables.loss_metric import Metric

__all__ = ["Codec", "Coded", "Option"]


@dataclass(frozen=True)
class Option:
    """One way to store a field.

    Args:
        bits: what it takes, everything needed to decode included.
        distortion: what it loses, in a unit that all fields share; finite.
        choice: whatever the caller needs to carry it out.
    """

    bits: int
    distortion: float
    choice: Any


@dataclass(frozen=True, eq=False)
class Coded:
    """A field as it is stored, and what it loses.

    lost: sum_i w_i / sum w 1/2 delta_i' G delta_i over the changes delta_i of the rows, in nats to
    second order; G is the identity without a metric.
    """

    field: CompressedField
    lost: float


class Codec(Protocol):
    """A frozen dataclass of options that can price a field and code it."""

    def options(
        self, field: Field, metric: Metric | None, rng: np.random.Generator, space: Workspace
    ) -> Sequence[Option]:
        """What may be chosen for ``field``: bits as stored, expected distortion, the choice.

        Distortion is in nats with a ``metric``, and else the squared error weighted by frequency.
        """

    def least(self, field: Field) -> CompressedField:
        """The smallest that ``field`` may become, without its numbers: for its size.

        Takes no pass over the table, at most some over its frequencies.
        """

    def plan(self, field: Field, choice: object) -> CompressedField:
        """What coding ``field`` as chosen gives at most, without its numbers: for its size."""

    def encode(
        self,
        field: Field,
        choice: object,
        rng: np.random.Generator,
        advance: Advance,
        space: Workspace,
    ) -> Coded:
        """Code ``field`` as chosen; ``advance`` gets shares of the work that add up to 1."""
