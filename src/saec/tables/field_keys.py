"""The keys of a field's rows, checked once, and the statistics of keys that have no row."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec.errors import FieldError, KeysError
from saec.keys.hashing import hash_keys
from saec.keys.kinds import KeyKind, kind_of
from saec.streaming.rows import Rows

__all__ = ["KEY_BYTES", "FieldKeys", "Unseen", "field_keys"]

KEY_BYTES = 8  # that a key takes where it is stored, or its hash
EXACT_BITS = 32
_MOST_EXACT = 40
_MOST_SEEDS = 8
_READ_AT_ONCE = 1 << 22  # frequencies

Exact = bool | int


@dataclass(frozen=True, eq=False)
class Unseen:
    """The model's row for unknown keys: a vector (dim,) float64 and the number of that row; each is
    None if it does not exist."""

    vector: NDArray[np.float64] | None = None
    row: int | None = None


@dataclass(frozen=True, eq=False)
class FieldKeys:
    """Keys of a field's rows; the share of lookups with unknown keys, and their row.

    Args:
        hashes: (vocab_size,) uint64, all different, except for that of ``unseen.row``.
        kind: the kind of all keys.
        seed: seed of the hashes.
        unseen: the model's row for unknown keys.
        unseen_share: share of lookups whose key has no row.
        exact_bits: an unknown key is taken for a known one with probability 2^-bits; with 0 the
            budget determines the probability.
    """

    hashes: NDArray[np.uint64]
    kind: KeyKind
    seed: int
    unseen: Unseen
    unseen_share: float
    exact_bits: int

    @property
    def count(self) -> int:
        """Number of keys."""
        return len(self.hashes) - (self.unseen.row is not None)

    @property
    def identity(self) -> list[object]:
        """A hash of the keys and of all parameters of unknown keys."""
        vector = self.unseen.vector
        row = None if vector is None else vector.tolist()
        digest = blake2b(np.ascontiguousarray(self.hashes).data, digest_size=16).hexdigest()
        known = [int(self.kind), self.seed, row, self.unseen.row]
        return [digest, *known, self.unseen_share, self.exact_bits]

    @property
    def room(self) -> float:
        """The largest share of unknown keys that may be taken for known ones; 1 if there is no
        limit."""
        return 0.5**self.exact_bits if self.exact_bits else 1.0


def field_keys(
    name: str,
    keys: ArrayLike,
    frequencies: Rows,
    unseen: Unseen,
    unseen_share: float | None,
    exact: Exact,
) -> FieldKeys:
    """Check the keys of field ``name``; arguments as in :class:`~saec.tables.field.Field`.

    Args:
        name: the field's name.
        keys: (vocab_size,).
        frequencies: (vocab_size,), 0 for the row of unknown keys.
        unseen: the row of unknown keys.
        unseen_share: None for the Good-Turing estimate.
        exact: see Field.

    Raises:
        FieldError: a key is missing, occurs twice or is of another kind; the message names the
            key and its rows.
    """
    count = len(frequencies)
    try:
        hashes, seed = _different(name, keys, unseen.row)  # which rejects values that are not keys
        kind = kind_of(keys)
    except KeysError as error:
        raise FieldError(f"field {name!r}: {error}") from error
    if len(hashes) != count:
        raise FieldError(f"field {name!r}: weights have {count} rows, keys {len(hashes)}")
    return FieldKeys(
        hashes,
        kind,
        seed,
        unseen,
        _share(name, unseen_share, frequencies),
        _exact_bits(name, exact),
    )


def _different(name: str, keys: Any, unseen_row: int | None) -> tuple[NDArray[np.uint64], int]:
    """Hashes that differ wherever keys differ, and their seed."""
    for seed in range(_MOST_SEEDS):
        hashes = hash_keys(keys, seed=seed)
        rows = _equal_hashes(hashes, unseen_row)
        if rows is None:
            return hashes, seed
        first, second = rows
        if _same(_key_at(keys, first), _key_at(keys, second)):
            raise FieldError(
                f"field {name!r}: key {_short(_key_at(keys, first))} "
                f"stands at rows {first} and {second}"
            )
    raise FieldError(f"field {name!r}: different keys have equal hashes for {_MOST_SEEDS} seeds")


def _equal_hashes(hashes: NDArray[np.uint64], unseen_row: int | None) -> tuple[int, int] | None:
    """The first two rows of the lowest hash that several rows have, without that of unknown
    keys."""
    ascending = np.delete(hashes, [] if unseen_row is None else unseen_row)
    ascending.sort()  # in place: an argument sort takes twice the memory and ten times as long
    equal = ascending[1:] == ascending[:-1]
    if not equal.any():
        return None
    rows = np.flatnonzero(hashes == ascending[int(equal.argmax())])
    first, second = rows[rows != (-1 if unseen_row is None else unseen_row)][:2].tolist()
    return first, second


def _key_at(keys: Any, row: int) -> object:
    found = keys.iloc[row] if hasattr(keys, "iloc") else keys[row]
    return found.as_py() if hasattr(found, "as_py") else found


def _same(left: object, right: object) -> bool:
    # A string and its bytes in UTF-8 are one key.
    a, b = (key.encode() if isinstance(key, str) else key for key in (left, right))
    return bool(a == b)


def _short(key: object) -> str:
    text = repr(key.item() if isinstance(key, np.generic) else key)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _share(name: str, given: float | None, frequencies: Rows) -> float:
    if given is None:
        return _good_turing(frequencies)
    if (
        isinstance(given, bool)
        or not isinstance(given, int | float | np.number)
        or not 0 <= given <= 1
    ):
        raise FieldError(f"field {name!r}: unseen_share is a share from 0 to 1, not {given!r}")
    return float(given)


def _good_turing(frequencies: Rows) -> float:
    """The probability of unseen features, estimated by the share of those that occur once."""
    total, once = 0.0, 0
    for start in range(0, len(frequencies), _READ_AT_ONCE):
        stop = min(start + _READ_AT_ONCE, len(frequencies))
        own = frequencies.read(start, stop).astype(np.float64, copy=False)
        total += float(own.sum())
        once += int(np.count_nonzero(own == 1))
    return once / total if total else 0.0


def _exact_bits(name: str, exact: Exact) -> int:
    if isinstance(exact, bool):
        return EXACT_BITS if exact else 0
    if not isinstance(exact, int | np.integer) or not 1 <= exact <= _MOST_EXACT:
        raise FieldError(
            f"field {name!r}: exact is True, False or 1 to {_MOST_EXACT} bits, not {exact!r}"
        )
    return int(exact)
