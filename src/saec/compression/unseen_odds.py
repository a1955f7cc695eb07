"""The weight of unknown keys beside that of known ones, as codecs take it."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

from saec.tables.field import Field

__all__ = ["with_unseen_odds"]


def with_unseen_odds(field: Field) -> Field:
    """The field with its odds of unknown keys, u / known_share, in place of their share u.

    Codecs weigh rows by shares of known lookups, which add up to 1, and add unknown keys with the
    weight ``keys.unseen_share``. With the odds, their nats times the ``known_share`` of ``field``
    are nats per lookup. The result is for codecs alone, because odds may exceed 1.
    """
    if field.keys is None:
        return field
    weighed = copy(field)
    odds = field.keys.unseen_share / field.known_share
    weighed.keys = replace(field.keys, unseen_share=odds)
    return weighed
