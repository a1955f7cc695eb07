"""Folders of model2vec: vectors of tokens in safetensors, and the tokens in tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from saec.errors import CheckpointError
from saec.sources.safetensor_files import read_safetensors
from saec.sources.source import Arrays, Source
from saec.sources.word_vectors import zipf_counts
from saec.streaming.rows import ArrayRows, Rows
from saec.util.messages import first_line
from saec.util.regular_file import read_regular

__all__ = ["TOKENIZER", "is_model2vec", "read_model2vec"]

TOKENIZER = "tokenizer.json"
MOST_TOKENIZER_BYTES = 256 << 20
MOST_VALUES = 1 << 30
_MODEL = "model.safetensors"
_NAMES = ("embeddings", "embedding.weight")
_FLOATS = tuple(map(np.dtype, (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)))


def is_model2vec(folder: Path) -> bool:
    """Whether a folder has the two files of a static model."""
    return (folder / TOKENIZER).is_file() and (folder / _MODEL).is_file()


def read_model2vec(folder: Path) -> Source:
    """The vectors of tokens as in the model, tokens as keys, and frequencies by rank.

    A token's vector is its row of ``embeddings``, or the row in ``mapping``, times its
    factor in ``weights``, if the file has these. Tokens of model2vec are in order of frequency.

    Raises:
        CheckpointError: the files are damaged, do not fit each other, or contain no such model.
    """
    arrays = read_safetensors(folder / _MODEL)
    tokens = _tokens(folder / TOKENIZER)
    name = folder.resolve().name
    rows = _rows(folder / _MODEL, arrays, len(tokens))
    return Source(
        {name: rows},
        {name: ArrayRows(zipf_counts(len(tokens)))},
        nameless=True,
        keys={name: tokens},
    )


def _rows(path: Path, arrays: Arrays, tokens: int) -> Rows:
    embeddings = next((arrays[name] for name in _NAMES if name in arrays), None)
    if embeddings is None or embeddings.ndim != 2 or embeddings.dtype not in _FLOATS:
        raise CheckpointError(f"{path}: no floating-point table {' or '.join(map(repr, _NAMES))}")
    mapping, weights = arrays.get("mapping"), arrays.get("weights")
    count = len(embeddings) if mapping is None else len(mapping)
    if count != tokens or (weights is not None and weights.shape != (tokens,)):
        raise CheckpointError(f"{path}: {count} vectors, but {tokens} tokens in {TOKENIZER}")
    if mapping is None and weights is None:
        return embeddings
    if tokens * embeddings.shape[1] > MOST_VALUES:
        raise CheckpointError(
            f"{path}: {tokens} tokens of {embeddings.shape[1]} numbers; at most {MOST_VALUES} "
            "numbers are put together"
        )
    table = embeddings.read(0, len(embeddings)).astype(np.float32)
    if mapping is not None:
        table = table[_places(path, mapping, len(table))]
    if weights is not None:
        table = table * weights.read(0, tokens).astype(np.float32)[:, None]
    return ArrayRows(table)


def _places(path: Path, mapping: Rows, count: int) -> NDArray[np.int64]:
    if mapping.ndim != 1 or mapping.dtype.kind not in "iu":
        raise CheckpointError(f"{path}: mapping is {mapping.dtype} {mapping.shape}, not integers")
    places = mapping.read(0, len(mapping)).astype(np.int64)
    if places.min() < 0 or places.max() >= count:
        raise CheckpointError(f"{path}: mapping leads outside [0, {count})")
    return places


def _tokens(path: Path) -> list[str]:
    """The tokens in the order of their ids."""
    try:
        said: Any = json.loads(read_regular(path, MOST_TOKENIZER_BYTES, CheckpointError))
        vocabulary = said["model"]["vocab"]
        if isinstance(vocabulary, dict):
            ids = {str(token): int(number) for token, number in vocabulary.items()}
        else:
            ids = {str(token): number for number, (token, *_) in enumerate(vocabulary)}
        for added in said.get("added_tokens") or []:
            ids.setdefault(str(added["content"]), int(added["id"]))
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a tokenizer: {first_line(error)}") from error
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(tokens))) or not tokens:
        raise CheckpointError(f"{path}: the ids of its {len(tokens)} tokens are not 0, 1, 2, ...")
    return tokens
