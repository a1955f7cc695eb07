"""What changed rows of a field save beside what the metric forecasts, and how that is counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saec.compression.budget import is_finite_number
from saec.errors import OptionError
from saec.tables.field import Field

__all__ = ["FieldWorth", "worth_of"]

_LEAST, _MOST = 1e-6, 1e6


@dataclass(frozen=True)
class FieldWorth:
    """The quotient of what changed rows save and of what the metric forecasts. It decides which
    rows a patch holds; losses that are stated are not weighed by it.

    number: above 1, bits of the field cost so much less. Below 1, rows may be overfitted: what they
    lose by the rows that lookups give now counts so much less, and errors of new codes count fully.
    """

    number: float

    @property
    def gain(self) -> float:
        """Of all nats of the field, at least 1."""
        return max(self.number, 1.0)

    @property
    def saving(self) -> float:
        """Of nats that rows lose by lookups as they are now, or by the default row, at most 1."""
        return min(self.number, 1.0)

    def weighed(self, loss: float, now: float) -> float:
        """A loss, of which ``now`` is by rows that keep what lookups give now."""
        return max(loss - (1 - self.saving) * now, 0.0)


def worth_of(
    worth: Mapping[str, float] | None, today: Sequence[Field], in_nats: bool
) -> dict[str, FieldWorth]:
    """The worth of each field; 1 for those that are not named.

    Raises:
        OptionError: see :func:`saec.update`.
    """
    if worth is None:
        worth = {}
    if not isinstance(worth, Mapping):
        raise OptionError(f"worth is a number by field name, not {worth!r}")
    names = {field.name for field in today}
    if unknown := sorted((name for name in worth if name not in names), key=str):
        raise OptionError(f"worth is given of field {unknown[0]!r}, and its table is not given")
    if worth and not in_nats:
        raise OptionError("the artifact was compressed without metrics: worth cannot be given")
    for name, own in worth.items():
        if not is_finite_number(own) or not _LEAST <= own <= _MOST:
            raise OptionError(
                f"worth of field {name!r} is a number from {_LEAST:g} to {_MOST:g}, not {own!r}"
            )
    return {name: FieldWorth(float(worth.get(name, 1.0))) for name in names}
