"""Compress tables to a budget."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec import artifact
from saec.allocation import Option, allocate
from saec.budget import Budget
from saec.codecs.clusters import Clusters
from saec.codecs.codec import Codec
from saec.compressed import Compressed, CompressedField, RawField
from saec.errors import BudgetError
from saec.progress import bar, track
from saec.table import Field, check_fields

__all__ = ["compress"]

_RAW = "raw"  # the choice to keep a table as it is


def compress(
    fields: Iterable[Field],
    budget: Budget | None = None,
    codec: Codec | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Compressed:
    """Compress ``fields`` so that the artifact, as saved, stays within ``budget``.

    Args:
        fields: tables with frequencies; names must be unique.
        budget: ``Ratio``, ``MaxBytes`` or ``BitsPerFeature``. None only if the codec leaves nothing
            to be decided, as ``Clusters(clusters=...)``.
        codec: ``Clusters()`` if None.
        seed: the result depends on it, the options and the fields' contents, and on nothing else.
        progress: show bars on stderr for work over two seconds.

    Bits go where they lower the frequency-weighted squared error most. A field that would not get
    smaller stays as it is.

    Raises:
        BudgetError: the budget cannot be met; names the smallest that can.
        FieldError: names are not unique, or there are no fields.
    """
    checked = check_fields(fields)
    chosen_codec = Clusters() if codec is None else codec
    options = [
        _with_raw(field, chosen_codec.options(field, _rng(seed, field, 0)))
        for field in track(checked, description="measuring fields", show=progress)
    ]
    choices = _choose(checked, options, budget)
    compressed: list[CompressedField] = []
    with bar("coding fields", len(checked), progress) as shown:
        for field, option in zip(checked, choices, strict=True):
            if option.choice == _RAW:
                compressed.append(RawField(field.name, _kept(field)))
                shown.advance(1)
            else:
                rng = _rng(seed, field, 1)
                compressed.append(chosen_codec.encode(field, option.choice, rng, shown.advance))
    return Compressed(compressed)


def _kept(field: Field) -> NDArray[Any]:
    """The table as it is now: a model may go on training; a mapped file is left where it is."""
    return field.weights if isinstance(field.weights, np.memmap) else field.weights.copy()


def _rng(seed: int, field: Field, purpose: int) -> np.random.Generator:
    """Its own stream for every field, so that other fields and their order change nothing."""
    return np.random.default_rng([seed, zlib.crc32(field.name.encode()), purpose])


def _with_raw(field: Field, options: Sequence[Option]) -> list[Option]:
    """Options that are smaller than the table itself, and the table."""
    whole = RawField(field.name, field.weights)
    raw = Option(8 * artifact.entry_bytes(whole.entry), 0.0, _RAW)
    return [*(option for option in options if option.bits < raw.bits), raw]


def _choose(
    fields: Sequence[Field], options: Sequence[Sequence[Option]], budget: Budget | None
) -> list[Option]:
    if budget is None:
        if any(len(field_options) > 2 for field_options in options):
            raise BudgetError("a codec that does not fix the number of clusters needs a budget")
        return [field_options[0] for field_options in options]
    original = sum(field.nbytes for field in fields)
    limit = budget.max_bytes(original, sum(field.vocab_size for field in fields))
    smallest = artifact.EMPTY_BYTES + sum(min(o.bits for o in row) for row in options) // 8
    if smallest > limit:
        raise BudgetError(
            f"{budget} allows {limit} bytes; the smallest possible is {smallest} bytes, "
            f"ratio {original / smallest:.1f}"
        )
    left = 8 * (limit - artifact.EMPTY_BYTES)
    return allocate(options, left, [field.name for field in fields])
