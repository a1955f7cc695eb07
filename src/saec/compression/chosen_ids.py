"""Which changed rows of a field whose ids only grow a patch holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saec.compression.id_exchange import TierExchange
from saec.compression.id_plan import ChangedIds, IdDay, IdSurvey
from saec.format.id_patch import CodedIds, IdPatch

__all__ = ["ChosenIds", "patch_of"]

Floats = NDArray[np.float64]

_ROUNDS = 3  # of choosing rows and counting the bits of their places in turn
_FIRST_PLACE_BITS, _EXCHANGED_PLACE_BITS = 4.0, 8.0


@dataclass(frozen=True, eq=False)
class ChosenIds:
    """A patch, the nats that its rows save together, and those that they lose now."""

    patch: IdPatch
    saved: float
    now: float


def patch_of(day: IdDay, survey: IdSurvey, price: float) -> ChosenIds:
    """The patch of all rows that save ``price`` nats for each of their bits."""
    exchanged = [_worth_exchanging(day, survey, one, price) for one in survey.exchanges]
    gone = np.concatenate([np.zeros(0, np.int64), *(one.ids for one in exchanged)])
    chosen = [
        own.only(keep & ~np.isin(own.ids, gone))
        for own, keep in zip(survey.changed, _worth_coding(day, survey, price), strict=True)
    ]
    tiers = [
        CodedIds.join(
            [CodedIds(own.ids, own.rows), *(own for x in exchanged for own in x.of_tier(t))]
        )
        for t, own in enumerate(chosen)
    ]
    changed: list[ChangedIds | TierExchange] = [*chosen, *exchanged]
    saved = sum(float((one.now - one.coded).sum()) for one in changed)
    now = sum(float(one.now.sum()) for one in changed)
    rows = day.base.vocab_size, day.field.vocab_size
    return ChosenIds(IdPatch(day.base, *rows, tuple(tiers), survey.default), saved, now)


def _worth_coding(day: IdDay, survey: IdSurvey, price: float) -> list[NDArray[np.bool_]]:
    """Of each tier the rows (k,) that save more than their bits and those of their places."""
    kept = [np.ones(len(own.ids), np.bool_) for own in survey.changed]
    places = np.full((len(kept), 2), _FIRST_PLACE_BITS)
    first, spans = day.base.vocab_size, (day.base.vocab_size, day.field.vocab_size)
    for _ in range(_ROUNDS):
        for tier, own in enumerate(survey.changed):
            bits = day.coder.row_bits[tier] + places[tier][(own.ids >= first).astype(np.int64)]
            kept[tier] = day.worth.saving * own.now - own.coded > price * bits
            new = int(kept[tier][own.ids >= first].sum())
            places[tier] = (
                _place_bits(int(kept[tier].sum()) - new, spans[0]),
                _place_bits(new, spans[1] - spans[0]),
            )
    return kept


def _worth_exchanging(
    day: IdDay, survey: IdSurvey, pairs: TierExchange, price: float
) -> TierExchange:
    """The pairs that save more than their bits, and more than both rows would save where they
    are."""
    bits = day.coder.row_bits
    saving = day.worth.saving
    apart = _saved_apart(survey.changed[pairs.low], pairs.risen, saving, price * bits[pairs.low])
    apart += _saved_apart(
        survey.changed[pairs.high], pairs.fallen, saving, price * bits[pairs.high]
    )
    both = bits[pairs.low] + bits[pairs.high] + 2 * _EXCHANGED_PLACE_BITS
    return pairs.only(saving * pairs.now - pairs.coded - price * both > apart)


def _saved_apart(changed: ChangedIds, ids: NDArray[np.int64], saving: float, cost: float) -> Floats:
    """What each of the ids (k,) saves with new codes of its own tier, at least 0."""
    if not len(changed.ids):
        return np.zeros(len(ids))
    at = np.minimum(np.searchsorted(changed.ids, ids), len(changed.ids) - 1)
    saved = np.maximum(saving * changed.now[at] - changed.coded[at] - cost, 0.0)
    return np.where(changed.ids[at] == ids, saved, 0.0)


def _place_bits(ids: int, span: int) -> float:
    """Bits that each of some ids of a span takes (Elias 1974)."""
    return 2 + math.log2(span / ids) if ids else 2 + math.log2(max(span, 1))
