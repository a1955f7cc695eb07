"""Keys as people have them, to 64-bit hashes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import saec._native as _native
from saec.errors import KeysError, array_of, check_plain
from saec.util.atomic_file import let_go

__all__ = ["hash_keys"]

_SHOWN = 40  # characters of a key in a message
_AT_ONCE = 1 << 20  # integers whose copies, or pages of a file, are in memory together


def hash_keys(keys: ArrayLike, *, seed: int = 0, threads: int = 0) -> NDArray[np.uint64]:
    """Hash keys to 64 bits, the same in every language: XXH3-64.

    Strings are hashed as their UTF-8 bytes. Integers are hashed as 8 bytes, lowest first, in two's
    complement, so an int64 and a uint64 of the same bits have the same hash; smaller integer dtypes
    are widened. Different integers never have the same hash: for 8 bytes XXH3-64 is a bijection.

    Args:
        keys: (n,) integers, or strings: a numpy array (``U``, ``S``, object or StringDType), a
            pyarrow array, a polars or pandas series, or a list. ``bytes`` are strings in UTF-8.
        seed: of XXH3, 0 to 2**64 - 1; another one tells strings apart whose hashes are equal.
        threads: 0 for as many as there are.

    Returns:
        (n,) uint64.

    Raises:
        KeysError: keys are of another kind or of several kinds, or one is missing, too large or no
            UTF-8; names the key and its position.
    """
    if type(seed) is not int or not 0 <= seed < 2**64:
        raise KeysError(f"seed must be an integer from 0 to 2**64 - 1, not {seed!r}")
    plain = _plain(keys)
    if isinstance(plain, np.ndarray):
        return _hash_integers(plain, seed, threads)
    return _hash_strings(*plain, seed, threads)


_Strings = tuple[NDArray[np.uint8], NDArray[np.int32] | NDArray[np.int64]]


def _hash_integers(keys: NDArray[np.integer[Any]], seed: int, threads: int) -> NDArray[np.uint64]:
    wide = np.uint64 if keys.dtype.kind == "u" else np.int64
    hashes = np.empty(len(keys), np.uint64)
    for start in range(0, len(keys), _AT_ONCE):
        own = keys[start : start + _AT_ONCE]
        plain = np.ascontiguousarray(own, dtype=wide).view(np.uint64)
        _native.hash_integers(plain, hashes[start : start + _AT_ONCE], seed, threads)
        let_go(own)
    return hashes


def _hash_strings(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int32] | NDArray[np.int64],
    seed: int,
    threads: int,
) -> NDArray[np.uint64]:
    hashes = np.empty(len(offsets) - 1, np.uint64)
    bad = _native.hash_strings(data, offsets, hashes, seed, threads)
    if bad < len(hashes):
        key = data[offsets[bad] : offsets[bad + 1]].tobytes()
        raise KeysError(f"key {_shown(key)} at position {bad} is no UTF-8")
    return hashes


def _plain(keys: Any) -> NDArray[np.integer[Any]] | _Strings:
    """Integers (n,), or strings as bytes and offsets (n + 1,)."""
    check_plain(keys, "keys", KeysError)
    package = type(keys).__module__.partition(".")[0]
    if package == "pyarrow":
        return _of_arrow(keys)
    if package in ("polars", "pandas"):
        return _of_series(keys)
    if isinstance(keys, str | bytes):
        raise KeysError(f"keys must be an array or a list of keys, not the one key {_shown(keys)}")
    if not isinstance(keys, np.ndarray):
        if not isinstance(keys, Sequence):
            keys = array_of(keys, "keys", KeysError)
            return _of_array(keys)
        return _of_list(keys)
    return _of_array(keys)


def _of_array(keys: NDArray[Any]) -> NDArray[np.integer[Any]] | _Strings:
    if keys.ndim != 1:
        raise KeysError(f"keys must have one dimension, not the shape {keys.shape}")
    if keys.dtype.kind in "iu":
        return keys
    if keys.dtype.kind in "USOT":
        return _of_list(keys.tolist())
    raise KeysError(f"keys must be integers or strings, not {keys.dtype}{_first(keys)}")


def _first(keys: NDArray[Any]) -> str:
    return f", as {keys[0]!r} at position 0" if len(keys) else ""


def _of_list(keys: Sequence[Any]) -> NDArray[np.integer[Any]] | _Strings:
    if not len(keys):
        return np.empty(0, np.int64)
    if isinstance(keys[0], str | bytes):
        return _joined(keys)
    kinds = {type(key) for key in keys}
    for kind in kinds:
        if kind is bool or not issubclass(kind, int | np.integer):
            at = next(i for i, key in enumerate(keys) if type(key) is kind)
            raise KeysError(_no_key(keys, at, "an integer"))
    return _integers(keys)


def _no_key(keys: Sequence[Any], at: int, others: str) -> str:
    key = keys[at]
    if _is_missing(key):
        return f"key at position {at} is missing ({key!r})"
    if at == 0 or not isinstance(key, str | bytes | int | np.integer) or isinstance(key, bool):
        return f"key {_shown(key)} at position {at} is neither an integer nor a string"
    return f"key {_shown(key)} at position {at} is not {others}, as the key at position 0 is"


def _is_missing(key: object) -> bool:
    return key is None or key != key or type(key).__name__ in ("NAType", "NaTType")


def _integers(keys: Sequence[Any]) -> NDArray[np.integer[Any]]:
    lowest, highest = min(keys), max(keys)
    limit = 2**64 if lowest >= 0 else 2**63
    for key, fits in ((lowest, lowest >= -(2**63)), (highest, highest < limit)):
        if not fits:
            beside = "; negative keys are present, so keys are int64" if limit == 2**63 else ""
            raise KeysError(f"key {key} at position {keys.index(key)} needs over 64 bits{beside}")
    return np.array(keys, np.int64 if lowest < 0 else np.uint64)


def _joined(keys: Sequence[Any]) -> _Strings:
    encoded = []
    for at, key in enumerate(keys):
        if isinstance(key, str):
            try:
                encoded.append(key.encode())
            except UnicodeEncodeError as error:
                raise KeysError(f"key {_shown(key)} at position {at} is no UTF-8") from error
        elif isinstance(key, bytes):
            encoded.append(key)
        else:
            raise KeysError(_no_key(keys, at, "a string"))
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    data = np.frombuffer(b"".join(encoded), np.uint8)
    return data, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _of_series(keys: Any) -> NDArray[np.integer[Any]] | _Strings:
    """A polars or pandas series."""
    if not hasattr(keys, "to_numpy") or type(keys).__name__ == "DataFrame":
        raise KeysError(f"keys must be one column, not a {type(keys).__name__}")
    if type(keys).__module__.startswith("polars"):
        if keys.null_count():
            missing = int(keys.is_null().arg_true()[0])
            raise KeysError(f"key at position {missing} is missing (null)")
        return _of_arrow(keys.to_arrow()) if _is_text(keys.dtype) else _of_array(keys.to_numpy())
    missing = keys.isna().to_numpy()
    if missing.any():
        raise KeysError(f"key at position {int(missing.argmax())} is missing (null)")
    return _of_array(keys.to_numpy())


def _is_text(dtype: object) -> bool:
    return str(dtype) in ("String", "Utf8", "Categorical", "Binary")


def _of_arrow(keys: Any) -> NDArray[np.integer[Any]] | _Strings:
    if hasattr(keys, "combine_chunks"):
        keys = keys.combine_chunks()
    if keys.null_count:
        missing = next(i for i, valid in enumerate(keys.is_valid()) if not valid.as_py())
        raise KeysError(f"key at position {missing} is missing (null)")
    kind = str(keys.type)
    if kind.startswith("dictionary"):
        return _of_arrow(keys.dictionary_decode())
    if kind in ("string_view", "binary_view"):
        return _of_arrow(keys.cast(kind.replace("_view", "").replace("string", "large_string")))
    if kind not in ("string", "large_string", "binary", "large_binary"):
        return _of_array(keys.to_numpy(zero_copy_only=False))
    _, borders, data = keys.buffers()
    first, last = keys.offset, keys.offset + len(keys) + 1
    if borders is None or not len(keys):
        return np.empty(0, np.int64)
    if kind.startswith("large"):
        offsets: NDArray[np.int32] | NDArray[np.int64] = np.frombuffer(borders, np.int64)
    else:
        offsets = np.frombuffer(borders, np.int32)
    plain = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return plain, offsets[first:last]


def _shown(key: object) -> str:
    text = repr(key)
    return text if len(text) <= _SHOWN else "".join(itertools.islice(text, _SHOWN)) + "..."
