"""One artifact of a base and its patches."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.errors import FieldError, KeysError
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.key_strings import KeyStrings, Strings, function_of
from saec.format.keyed_field import KeyedField
from saec.format.keyed_patch import KeyedPatch
from saec.format.load import load
from saec.format.patched_field import PatchedField
from saec.keys.static_function import StaticFunction

__all__ = ["compact"]

_AT_ONCE = 1 << 20  # keys

Symbols = NDArray[np.int64]


def compact(
    base: str | os.PathLike[str] | Compressed,
    *,
    out: str | os.PathLike[str],
    keys: Mapping[str, ArrayLike] | None = None,
    patches: Sequence[str | os.PathLike[str]] = (),
) -> Compressed:
    """Make one artifact of ``base`` and its patches, with the codes of the base.

    Ids have the same rows, to the last bit. Keys are not stored, so they are needed again. Each key
    that has a row gets the same row, to the last bit. All other keys, the removed ones among them,
    are unknown to the new artifact, and have the default row but for the field's
    ``false_positive_rate``. The bytes are those of a field with the same rows that was never
    patched, whatever the patches were.

    Args:
        base: an artifact, or its path.
        out: path of the new artifact, which may be that of the base; it is replaced as a whole.
        keys: by field name today's keys (n,), all different, of each field with keys that has
            patches; further fields with keys may be given, too.
        patches: oldest first, if ``base`` is a path.

    Returns:
        The new artifact, loaded.

    Raises:
        FieldError: keys of a field with patches are missing, or a field is unknown or has no keys.
        KeysError: keys are of another kind than the field's, or one occurs twice.
        ArtifactError: a file is damaged, or ``out`` cannot be written.
        PatchError: a patch does not follow the base and the patches before it.
    """
    old = load(base, patches=patches) if not isinstance(base, Compressed) else base
    keys = keys or {}
    _check_keys(old, keys)
    fields: list[CompressedField] = []
    for name, field in old.items():
        if name in keys:
            assert isinstance(field, KeyedField), "the others were refused"
            fields.append(_compacted(field, keys[name]))
        else:
            fields.append(field)
    Compressed(fields, old.predicted_loss_increase).save(out)
    return load(out)


def _check_keys(old: Compressed, keys: Mapping[str, ArrayLike]) -> None:
    for name in keys:
        if name not in old or not isinstance(old[name], KeyedField):
            raise FieldError(f"the artifact has no field {name!r} with keys; it has {sorted(old)}")
    for name, field in old.items():
        if isinstance(field, PatchedField) and name not in keys:
            raise FieldError(f"field {name!r} has patches: give its keys, which are not stored")


def _compacted(field: KeyedField, keys: ArrayLike) -> KeyedField:
    """The field with all rows that ``keys`` have, in one function."""
    hashes = field.hashes_of(keys)
    if not len(hashes):
        raise KeysError(f"{field.place}: no keys are given")
    if len(np.unique(hashes)) < len(hashes):
        raise KeysError(f"{field.place}: a key is given twice")
    base = field.base if isinstance(field, PatchedField) else field
    patches = field.patches if isinstance(field, PatchedField) else ()
    found: list[Strings] = []
    for start in range(0, len(hashes), _AT_ONCE):
        found += _strings_of(base, patches, hashes[start : start + _AT_ONCE])
    return KeyedField(
        base.name,
        len(hashes),
        base.layout,
        base.lengths,
        base.values,
        base.axes,
        function_of(found),
        base.dtype,
        base.key_kind,
        base.seed,
        base.price,
    )


def _strings_of(
    base: KeyedField, patches: Sequence[KeyedPatch], hashes: NDArray[np.uint64]
) -> list[Strings]:
    """The strings of the base's code for all keys that have a row."""
    found: list[Strings] = []
    left = hashes
    for patch in reversed(patches):
        known = patch.classes(left) > -2
        numbers, own = patch.layout.numbers, left[known]
        firsts = patch.layout.layout.first_roots
        for place, keys, symbols in _read(patch.layout.strings, own, patch.function):
            if numbers[place] >= 0:
                roots = patch.layout.used[firsts[place] + symbols[0]]
                first = roots - base.layout.first_roots[numbers[place]]
                codes = [first, *symbols[1:]]
                found += base.strings.strings(numbers[place], codes, own[keys])
        left = left[~known]
    for place, keys, symbols in _read(base.strings, left, base.function):
        found += base.strings.strings(place, symbols, left[keys])
    return found


def _read(
    strings: KeyStrings, hashes: NDArray[np.uint64], function: StaticFunction
) -> list[tuple[int, NDArray[np.int64], list[Symbols]]]:
    if not strings.layout.classes:
        return []
    return [(one.number, one.keys, one.symbols) for one in strings.read(hashes, function)]
