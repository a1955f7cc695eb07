"""What compression asks of a codec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from saec.allocation import Option
from saec.metric import Metric
from saec.stored.field import CompressedField
from saec.table import Field

__all__ = ["Advance", "Codec"]

Advance = Callable[[float], None]


class Codec(Protocol):
    """A frozen dataclass of options that can price a field and code it."""

    def options(
        self, field: Field, metric: Metric | None, rng: np.random.Generator
    ) -> Sequence[Option]:
        """What may be chosen for ``field``: bits as stored, expected distortion, the choice.

        Distortion is in nats with a ``metric``, and else the squared error weighted by frequency.
        """

    def plan(self, field: Field, choice: object) -> CompressedField:
        """What coding ``field`` as chosen gives at most, without its numbers: for its size."""

    def encode(
        self, field: Field, choice: object, rng: np.random.Generator, advance: Advance
    ) -> CompressedField:
        """Code ``field`` as chosen; ``advance`` gets shares of the work that add up to 1."""
