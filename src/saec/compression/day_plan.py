"""What an update starts from: the fields of the base and of today, checked, and a plan for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.codecs.axes.frozen import FrozenCoder
from saec.codecs.frozen_ids import frozen_ids
from saec.compression.budget import is_finite_number
from saec.compression.changed_rows import DayField
from saec.compression.field_worth import FieldWorth
from saec.compression.id_plan import IdDay
from saec.compression.patch_plan import PatchPlan
from saec.errors import FieldError, KeysError, MetricError, OptionError
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.id_patch import PlainField, most_rows
from saec.format.keyed_field import KeyedField
from saec.format.patched_field import PatchedField
from saec.keys.kinds import KeyKind
from saec.tables.field import Field
from saec.tables.loss_metric import Metric, check_metrics

__all__ = ["check_removed", "id_day_of", "metrics_of", "plan_of"]


def metrics_of(
    old: Compressed, today: Sequence[Field], metrics: Mapping[str, ArrayLike] | None
) -> dict[str, Metric]:
    """The metric of each field: of the kind with which the base was compressed. Without what
    was measured on unseen rows: which rows a patch holds is decided to second order, and unknown
    keys count like other lookups."""
    in_nats = old.predicted_loss_increase is not None
    if in_nats and metrics is None:
        raise MetricError("the artifact was compressed with metrics: give today's")
    if not in_nats and metrics is not None:
        raise MetricError("the artifact was compressed without metrics, and is updated without")
    if metrics is None:
        return {field.name: Metric.euclidean(field.dim) for field in today}
    checked = check_metrics(today, metrics)
    return {name: replace(metric, unseen=None, unknown=None) for name, metric in checked.items()}


def plan_of(
    old: Compressed,
    field: Field,
    metric: Metric,
    worth: FieldWorth,
    threshold: float | None,
    removed: Mapping[str, ArrayLike],
    price: float,
) -> PatchPlan:
    """The rows of a field that may be in the patch; ``price``: of a bit in the base."""
    present = _checked_keyed(old, field)
    base = present.base if isinstance(present, PatchedField) else present
    least = price if threshold is None else _checked_threshold(threshold)
    if threshold is None and not price and base.layout.classes:
        raise OptionError(f"{base.place} does not state the price of a bit: give a threshold")
    bits = 1 + int(base.strings.root.lengths.min()) if base.layout.classes else 1
    own = least / worth.gain, price / worth.gain
    day = DayField(field, FrozenCoder(present, metric), worth, *own, bits)
    survey = day.survey()
    gone = np.zeros(0, np.uint64)
    if field.name in removed:
        gone = _gone(present, field, removed[field.name])
    return PatchPlan(day, survey, base, gone)


def id_day_of(
    old: Compressed, field: Field, metric: Metric, worth: FieldWorth, threshold: float | None
) -> IdDay:
    """A field without keys, beside the one of the base."""
    base = _checked_base(old, field)
    if not isinstance(base, PlainField) or field.keys is not None:
        raise FieldError(
            f"field {field.name!r}: "
            + ("today it has no keys" if field.keys is None else "today it has keys")
            + f", and in the artifact it has {'ids' if isinstance(base, PlainField) else 'keys'}"
        )
    if field.vocab_size < base.vocab_size:
        raise FieldError(
            f"field {field.name!r} has {field.vocab_size} rows, and in the artifact "
            f"{base.vocab_size}: without keys, ids stay and rows only become more"
        )
    if field.vocab_size > (most := most_rows(base.vocab_size)):
        raise FieldError(
            f"field {field.name!r} has {field.vocab_size} rows, and in the artifact "
            f"{base.vocab_size}: a patch makes them {most} at most; compress it afresh"
        )
    if base.renumbered:
        raise FieldError(
            f"the features of field {field.name!r} were renumbered: compress it afresh, or with "
            "order='keep'"
        )
    known = None if threshold is None else _checked_threshold(threshold)
    return IdDay(field, base, frozen_ids(base, metric), metric, worth, known)


def _checked_keyed(old: Compressed, field: Field) -> KeyedField:
    """The field of the base with this name, after a check that it has the same keys."""
    base = _checked_base(old, field)
    assert isinstance(base, KeyedField), "others are planned by ids"
    if field.keys is None:
        raise FieldError(
            f"field {field.name!r}: today it has no keys, and in the artifact it has keys"
        )
    text = KeyKind.TEXT
    if (base.key_kind == text) != (field.keys.kind == text):
        raise FieldError(
            f"field {field.name!r}: keys are {field.keys.kind}; in the artifact {base.key_kind}"
        )
    if base.seed != field.keys.seed:
        raise FieldError(
            f"field {field.name!r}: today's keys need another seed of hashes than the artifact's: "
            "compress afresh"
        )
    return base


def _checked_base(old: Compressed, field: Field) -> CompressedField:
    """The field of the base with this name, after a check that it has the same rows."""
    if field.name not in old:
        raise FieldError(f"the artifact has no field {field.name!r}; it has {sorted(old)}")
    base = old[field.name]
    if (base.dim, base.dtype) != (field.dim, field.dtype.name):
        raise FieldError(
            f"field {field.name!r} is {field.dtype} of dim {field.dim}; in the artifact it is "
            f"{base.dtype} of dim {base.dim}"
        )
    return base


def _checked_threshold(threshold: float) -> float:
    if not is_finite_number(threshold) or threshold < 0:
        raise OptionError(f"threshold is a number of nats per bit of at least 0, not {threshold!r}")
    return float(threshold)


def check_removed(removed: Mapping[str, ArrayLike], today: Sequence[Field]) -> None:
    unknown = sorted(set(removed) - {field.name for field in today})
    if unknown:
        raise FieldError(f"keys of field {unknown[0]!r} are removed, and its table is not given")
    plain = sorted(field.name for field in today if field.keys is None and field.name in removed)
    if plain:
        raise FieldError(f"field {plain[0]!r} has no keys that could be removed")


def _gone(present: KeyedField, field: Field, keys: ArrayLike) -> NDArray[np.uint64]:
    """Hashes of removed keys that have a row now, each once.

    Raises:
        KeysError: one is in today's table, or is no key of the field.
    """
    assert field.keys is not None, "a keyed field has keys"
    hashes = np.unique(present.hashes_of(keys))
    both = np.isin(hashes, field.keys.hashes)
    if both.any():
        raise KeysError(f"field {field.name!r}: {int(both.sum())} removed keys are in its table")
    return hashes[present.classes_of_hashes(hashes) >= 0]
