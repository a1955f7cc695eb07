"""Vectors of words: word2vec's text and binary files, GloVe's and fastText's.

A line of a text has a word and its numbers; word2vec and fastText begin with a line that has the
number of words and the dimension, GloVe does not. The binary file has this line, and then for each
word its bytes, a space, and float32 numbers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from saec.errors import CheckpointError
from saec.sources.source import Source
from saec.streaming.rows import ArrayRows
from saec.util.regular_file import check_regular, open_regular

__all__ = ["WORD_SUFFIXES", "is_word_vectors", "read_word_vectors", "zipf_counts"]

MOST_LINE_BYTES = 1 << 20
MOST_WORD_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 22
WORD_SUFFIXES = (".vec", ".txt", ".glove", ".w2v")
_HEADER = re.compile(rb"(\d{1,10}) (\d{1,6})[ \t]*\r?\n")

Floats = NDArray[np.float32]
Words = list[bytes]


def is_word_vectors(path: Path) -> bool:
    """Whether a file has vectors of words: by its suffix, and for ``.bin`` by its first line."""
    if path.suffix in WORD_SUFFIXES:
        return True
    if path.suffix != ".bin":
        return False
    with open_regular(path, CheckpointError) as stream:
        return _HEADER.match(stream.read(32)) is not None


def read_word_vectors(path: Path) -> Source:
    """The table of a file, its words as keys, and frequencies by rank, after Zipf's law.

    Raises:
        CheckpointError: a line is not a word with as many finite numbers as the others, the file
            is too short for its first line, or a line has over a megabyte.
    """
    size = check_regular(path, CheckpointError)
    if not size:
        raise CheckpointError(f"{path}: an empty file, without vectors of words")
    with open_regular(path, CheckpointError) as stream:
        first = stream.readline(MOST_LINE_BYTES)
        header = _HEADER.fullmatch(first)
        if header is None:
            count, dim = _counted(path, stream, first)
            stream.seek(0)
        else:
            count, dim = int(header[1]), int(header[2])
        binary = path.suffix == ".bin"
        # A number takes two bytes of text or more, a word and its space one or more.
        least = count * (4 * dim if binary else 2 * dim)
        if not count or not dim or least > size:
            raise CheckpointError(
                f"{path}: takes {size:,} bytes, too few for {count:,} words with {dim:,} numbers "
                "each, or has none"
            )
        rows = np.empty((count, dim), np.float32)
        words = (_read_binary if binary else _read_text)(path, stream, rows)
    return Source(
        {path.stem: ArrayRows(rows)},
        {path.stem: ArrayRows(zipf_counts(count))},
        nameless=True,
        keys={path.stem: words},
    )


def zipf_counts(count: int) -> NDArray[np.float64]:
    """Frequencies (count,) of rows in order of frequency, floor(count / rank); the rarer half
    occurs once (Zipf 1949)."""
    return np.floor(count / np.arange(1.0, count + 1))


def _counted(path: Path, stream: BinaryIO, first: bytes) -> tuple[int, int]:
    """Number of words and dimension of a text without a first line for them."""
    dim = len(first.split()) - 1
    ends, last = first.count(b"\n"), first
    while block := stream.read(_BLOCK_BYTES):
        ends, last = ends + block.count(b"\n"), block
    return ends + (last[-1:] not in (b"", b"\n")), max(dim, 0)


def _read_text(path: Path, stream: BinaryIO, rows: Floats) -> Words:
    words, dim = [], rows.shape[1]
    for number in range(len(rows)):
        line = stream.readline(MOST_LINE_BYTES).rstrip()
        parts = line.rsplit(b" ", dim)  # a word of GloVe may contain spaces
        try:
            rows[number] = np.array(parts[1:], np.float32)
        except ValueError:
            parts = []
        if len(parts) != dim + 1 or not np.isfinite(rows[number]).all():
            raise CheckpointError(
                f"{path}: word {number + 1} of {len(rows)} is not followed by {dim} finite "
                f"numbers: {line[:60]!r}"
            )
        words.append(parts[0])
    return words


def _read_binary(path: Path, stream: BinaryIO, rows: Floats) -> Words:
    words, dim = [], rows.shape[1]
    buffer, at = b"", 0
    for number in range(len(rows)):
        if len(buffer) - at < MOST_WORD_BYTES + 4 * dim:
            buffer, at = buffer[at:] + stream.read(_BLOCK_BYTES + 4 * dim), 0
        end = buffer.find(b" ", at, at + MOST_WORD_BYTES)
        if end < 0 or len(buffer) - end - 1 < 4 * dim:
            raise CheckpointError(f"{path}: ends, or has no word, at word {number + 1}")
        rows[number] = np.frombuffer(buffer, "<f4", dim, end + 1)
        if not np.isfinite(rows[number]).all():
            raise CheckpointError(f"{path}: word {number + 1} has a number that is not finite")
        words.append(buffer[at:end].lstrip(b"\n"))
        at = end + 1 + 4 * dim
    return words
