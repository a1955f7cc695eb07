"""Sizes of a compressed model: of the file, of each field, and of a feature in each tier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from saec.baselines import RivalField
from saec.format.clustered_field import ClusteredField
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.keyed_field import KeyedField
from saec.format.tier_layout import tier_bounds
from saec.format.tiered_field import TieredField
from saec.tables.field_keys import KEY_BYTES

__all__ = ["Ids", "bytes_all_in", "sizes", "with_vocabularies"]

Ids = Literal["keys", "dense", "ranks"]
"""What a table is asked by: keys, ids in any order, or ids in an order of its own."""

_RANK_BYTES = 4

BYTES_A_KEY: dict[Ids, int] = {"keys": 0, "dense": KEY_BYTES, "ranks": KEY_BYTES + _RANK_BYTES}


def sizes(result: Compressed, prefix: str) -> dict[str, Any]:
    """Sizes in bytes, by field without the ``prefix`` of its name where they are of fields.

    Returns:
        ``ratio``, ``nbytes`` and ``original_nbytes`` of the file; by field ``field_bytes``,
        ``field_original_bytes``, ``clusters`` (None for a field without) and ``field_tiers``: for
        features in order of frequency, cut at ranks 64, 256, 1024, ..., their number ``rows`` and
        the ``bits`` of the codes of each. ``bytes_all_in`` and ``ratio_all_in`` count all that
        serving needs to go from a key to a row, see :func:`bytes_all_in`.
    """
    fields = {name.removeprefix(prefix): field for name, field in result.items()}
    return {
        "ratio": result.compression_ratio,
        "bytes_all_in": bytes_all_in(result),
        "ratio_all_in": _original_all_in(result) / bytes_all_in(result),
        "nbytes": result.nbytes,
        "original_nbytes": result.original_nbytes,
        "field_bytes": {name: field.nbytes for name, field in fields.items()},
        "field_original_bytes": {name: field.original_nbytes for name, field in fields.items()},
        "field_tiers": {name: _tiers(field) for name, field in fields.items()},
        "clusters": {name: _clusters(field) for name, field in fields.items()},
    }


def bytes_all_in(result: Compressed) -> int:
    """Bytes of the file, and of the vocabulary that takes keys to ids."""
    return with_vocabularies(
        result.nbytes, ((field.vocab_size, _ids(field)) for field in result.values())
    )


def with_vocabularies(nbytes: int, fields: Iterable[tuple[int, Ids]]) -> int:
    """``nbytes`` of tables, and the bytes of what takes the keys of ``fields`` to ids.

    Fields with keys need none. Where any numbering serves, an id is a key's place
    among the sorted keys, 8 bytes each. Ids in an order of their own, by frequency or code, take
    4 bytes more.

    Args:
        nbytes: of all tables.
        fields: by field, the number of its features and what it is asked by.
    """
    return nbytes + sum(count * BYTES_A_KEY[ids] for count, ids in fields)


def _ids(field: CompressedField) -> Ids:
    if isinstance(field, KeyedField):
        return "keys"
    ranked = isinstance(field, TieredField) and field.index is None and len(field.layout.tiers) > 1
    return "ranks" if ranked else "dense"


def _original_all_in(result: Compressed) -> int:
    """Bytes of float32 rows and of 8-byte keys."""
    return sum(field.vocab_size * (4 * field.dim + KEY_BYTES) for field in result.values())


def _tiers(field: CompressedField) -> list[dict[str, int]]:
    rows = np.diff(tier_bounds(field.vocab_size)).tolist()
    return [{"rows": count, "bits": _bits(field, tier)} for tier, count in enumerate(rows)]


def _bits(field: CompressedField, tier: int) -> int:
    """Bits of the codes of a feature; of its values, where the table is kept as it is."""
    if isinstance(field, TieredField):
        return sum(field.layout.widths(tier))
    if isinstance(field, ClusteredField):
        return field.codes.bits
    if isinstance(field, KeyedField):  # a mean over all tiers
        return round(8 * field.function.nbytes / field.vocab_size)
    if isinstance(field, RivalField):  # a mean over all tiers
        return round(8 * field.nbytes / field.vocab_size)
    return 8 * field.dim * np.dtype(field.dtype).itemsize


def _clusters(field: CompressedField) -> int | None:
    return field.codebook.clusters if isinstance(field, ClusteredField) else None
