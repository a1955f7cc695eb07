"""Changed rows of a keyed field, in a small static function that is asked before the field's own.

Values, axes and the codes of all parts but the first are those of the field. The first codewords
have lengths of their own. The first bits of their hashes tell which keys the patch has.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from saec.artifact import ByteReader, Entry, number_bytes
from saec.errors import ArtifactError
from saec.format.key_prefixes import KeyPrefixes
from saec.format.key_strings import KeyStrings
from saec.format.keyed_field import FUNCTION_ROLES, KeyedField
from saec.format.keyed_layout import KeyedLayout, SymbolPart
from saec.format.keyed_rows import KeyedRows
from saec.format.tier_layout import MOST_ROWS
from saec.keys.static_function import StaticFunction

__all__ = ["KeyedPatch", "PatchCounts", "PatchLayout"]

_MARKER = SymbolPart(1, 0)


@dataclass(frozen=True)
class PatchCounts:
    """Keys of a patch: new ones, those whose row moved, those that have the default row from now
    on, and those that were left out to keep a limit of bytes."""

    added: int = 0
    moved: int = 0
    removed: int = 0
    dropped: int = 0

    @property
    def changed(self) -> int:
        """Number of keys in the patch."""
        return self.added + self.moved + self.removed


class PatchLayout:
    """The classes of a patch: those of its base with the first symbols that changed rows have, and
    a class of its own for keys that have the default row from now on.

    Args:
        base: the field that is patched.
        lengths: (first symbols of the base + 1,) uint8, bits of each codeword, the last one that of
            the default row; 0 for symbols that no changed row has. Empty if there are no changes.
        string_bits: see :class:`~saec.format.keyed_layout.KeyedLayout`.

    Attributes:
        used: (k,) int64, the first symbols of the base that changed rows have.
        numbers: (classes,) numbers of the classes in the base; of the default row's, -1.
        strings: the codes.
    """

    def __init__(self, base: KeyedField, lengths: NDArray[np.uint8], string_bits: int) -> None:
        roots = base.layout.first_roots[-1]
        if lengths.shape == (0,) and lengths.dtype == np.uint8:
            lengths = np.zeros(roots + 1, np.uint8)
        if lengths.shape != (roots + 1,) or lengths.dtype != np.uint8:
            raise ArtifactError(
                f"lengths are uint8 {(roots + 1,)}, not {lengths.dtype} {lengths.shape}"
            )
        self.stored_lengths = lengths
        self.used = np.flatnonzero(lengths[:-1])
        self.numbers: list[int] = []
        classes: list[tuple[SymbolPart, ...]] = []
        all_lengths, values = [np.zeros(0, np.uint8)], [np.zeros(0, np.float16)]
        for number, parts in enumerate(base.layout.classes):
            first, last = base.layout.first_roots[number : number + 2]
            own = self.used[(self.used >= first) & (self.used < last)]
            if not len(own):
                continue
            self.numbers.append(number)
            classes.append((SymbolPart(len(own), parts[0].axes), *parts[1:]))
            at = base.layout.first_parts[number]
            of_first = base.layout.part_values(at, parts[0], base.values)[own - first]
            values.append(of_first.astype(np.float16).reshape(-1))
            values.append(_span(base.values, base.layout.first_values, at + 1, at + len(parts)))
            all_lengths.append(lengths[own])
            all_lengths.append(
                _span(base.lengths, base.layout.first_lengths, at + 1, at + len(parts))
            )
        if lengths[-1]:
            self.numbers.append(-1)
            classes.append((_MARKER,))
            all_lengths.append(lengths[-1:])
        self.layout = KeyedLayout(tuple(classes), string_bits)
        self.lengths = np.concatenate(all_lengths)
        self.values = np.concatenate(values)
        self.strings = KeyStrings(self.layout, self.lengths)
        if classes:
            assert self.strings.plans, "codes are made, and so checked, here"


class KeyedPatch:
    """The changed keys of a keyed field, and their rows.

    Attributes:
        kind: its number in a patch, in place of that of a field's form.

    Args:
        base: the field.
        vocab_size: rows of the table that the patch was made from.
        layout: the classes.
        changed: says which keys are in the patch.
        function: from the hashes of changed keys to their strings.
        counts: of keys, for reports.

    Raises:
        ArtifactError: sizes do not fit each other or the base.
    """

    kind = 4

    def __init__(
        self,
        base: KeyedField,
        vocab_size: int,
        layout: PatchLayout,
        changed: KeyPrefixes,
        function: StaticFunction,
        counts: PatchCounts,
    ) -> None:
        if not 0 < vocab_size <= MOST_ROWS:
            raise ArtifactError(f"vocab_size {vocab_size} is outside 1..{MOST_ROWS}")
        if function.fingerprint_bits:
            raise ArtifactError("its static function has fingerprints, beside its codewords")
        held = function.keys, len(layout.layout.classes), len(changed.prefixes)
        if any(held) and not all(held):
            raise ArtifactError(f"it has {held[0]} strings, {held[1]} classes and {held[2]} keys")
        self.base = base
        self.vocab_size = vocab_size
        self.layout = layout
        self.changed = changed
        self.function = function
        self.counts = counts

    def __getstate__(self) -> dict[str, Any]:
        """The state without the native table, which is made anew."""
        return {name: value for name, value in vars(self).items() if name != "rows"}

    def drop(self, keys: int) -> Self:
        """With a note that so many keys were left out to keep a limit of bytes."""
        noted = copy(self)
        noted.counts = replace(self.counts, dropped=keys)
        return noted

    @cached_property
    def rows(self) -> KeyedRows:
        """What the native core reads strings and rows from."""
        own = self.layout
        return KeyedRows(
            own.layout, own.strings, own.lengths, own.values, self.base.axes, self.function
        )

    @property
    def as_field(self) -> KeyedField:
        """A field of the changed keys alone; all others are unknown to it."""
        own, base = self.layout, self.base
        axes = np.concatenate([base.axes[: own.layout.rank], base.axes[-1:]])
        return KeyedField(
            base.name,
            self.vocab_size,
            own.layout,
            own.lengths,
            own.values,
            axes,
            self.function,
            base.dtype,
            base.key_kind,
            base.seed,
        )

    def classes(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The base's number of the class of each key (m,); -1 for the default row, -2 for keys
        that are not in the patch."""
        classes = np.full(len(hashes), -2)
        known = self.changed.contain(hashes)
        classes[known] = np.array([*self.layout.numbers, -1])[self.rows.classes(hashes[known])]
        return classes

    @property
    def taken_share(self) -> float:
        """The share of keys that are not in the patch and still have a row of it, not the default
        row."""
        last = int(self.layout.stored_lengths[-1])
        code = self.layout.strings.root.known_share if self.layout.layout.classes else 0.0
        return self.changed.share * (code - (0.5**last if last else 0.0))

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """``codes``, ``directory`` and ``steps`` of the static function; ``starts``, the prefixes
        of keys; ``lengths``."""
        own = {FUNCTION_ROLES[role]: tensor for role, tensor in self.function.tensors.items()}
        lengths = self.layout.stored_lengths
        stored = lengths if lengths.any() else lengths[:0]
        return own | {"starts": self.changed.packed, "lengths": stored}

    @property
    def details(self) -> bytes:
        """Numbers: of the function, bits of a string, prefixes and their bits, and counts of
        keys."""
        counts = self.counts
        return b"".join(
            map(
                number_bytes,
                (
                    *self.function.description,
                    self.layout.layout.string_bits,
                    len(self.changed.prefixes),
                    self.changed.bits,
                    counts.added,
                    counts.moved,
                    counts.removed,
                    counts.dropped,
                ),
            )
        )

    @property
    def entry(self) -> Entry:
        """The patch's entry for the field in a file."""
        return Entry(
            self.base.name,
            self.kind,
            np.dtype(self.base.dtype),
            self.vocab_size,
            self.base.dim,
            self.details,
            self.tensors,
        )

    @classmethod
    def from_entry(cls, entry: Entry, base: KeyedField) -> Self:
        """The patch of a file's entry.

        Raises:
            ArtifactError: the entry is damaged.
            KeyError: a tensor is missing.
        """
        details = ByteReader(entry.details)
        numbers = tuple(details.number() for _ in range(5))
        string_bits, prefixes, bits = (details.number() for _ in range(3))
        counts = PatchCounts(*(details.number() for _ in range(4)))
        if details.left:
            raise ArtifactError(f"{details.left} bytes follow its counts of keys")
        layout = PatchLayout(base, entry.tensors["lengths"], string_bits)
        changed = KeyPrefixes.unpacked(entry.tensors["starts"], prefixes, bits)
        roles = {own: entry.tensors[role] for own, role in FUNCTION_ROLES.items()}
        function = StaticFunction.from_tensors(numbers, roles)
        if len(entry.tensors) != len(roles) + 2:
            raise ArtifactError(f"it has tensors {', '.join(sorted(entry.tensors))}")
        return cls(base, entry.vocab_size, layout, changed, function, counts)


def _span(items: NDArray[Any], firsts: tuple[int, ...], start: int, stop: int) -> NDArray[Any]:
    """The items of parts ``start`` to ``stop``, of which each starts at its place in ``firsts``."""
    return items[firsts[start] : firsts[stop]]
