"""Tasks that the workers of the tests import."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saec.streaming.bit_writes import ByteRun, Piece, Scattered, scattered_codes
from saec.streaming.chunks import Chunk
from saec.streaming.strata import ByRank


def weighted(rows: NDArray[np.float32], weights: NDArray[np.generic]) -> NDArray[np.float32]:
    # No dot product: threads would change its last digits.
    return (rows * weights.astype(np.float32)[:, None]).sum(axis=0)


def flat(merged: object) -> list[object]:
    """The items of nested lists."""
    return [one for many in merged for one in flat(many)] if isinstance(merged, list) else [merged]


@dataclass(frozen=True)
class Sums:
    """Weighted sums of rows in floating point; last digits depend on the order of merging."""

    seconds: float = 0.0

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> NDArray[np.float32]:
        time.sleep(self.seconds)
        return weighted(part.weights(), part.frequencies())


def add(sums: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.add.reduce(sums)


def arrays(part: Chunk, before: NDArray[np.int64]) -> tuple[NDArray[np.float32], ...]:
    return part.weights(), part.frequencies().astype(np.float32)


def held_sums(held: tuple[NDArray[np.float32], ...]) -> NDArray[np.float32]:
    return weighted(*held)


@dataclass(frozen=True)
class Copy:
    """Writes ids in two ways, as one byte and as two; fails at a given part, if any.

    begun: a folder in which each part makes a file as it begins.
    """

    seconds: float = 0.0
    fails: int = -1
    begun: Path | None = None

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> tuple[int, list[Piece]]:
        if part.number == self.fails:
            raise ArithmeticError("no such sum")
        if self.begun is not None:
            (self.begun / str(part.number)).touch()
        time.sleep(self.seconds)
        ids = np.arange(part.start, part.stop)
        run = ByteRun("run", part.start, (ids % 251).astype(np.uint8))
        words = Scattered("scattered", 7 * ids + 3, (ids % 65521).astype(np.uint16))
        return len(part), [run, words]


@dataclass(frozen=True, eq=False)
class Ranks:
    """Writes codes of 5 bits at the ranks of rows."""

    placing: ByRank

    def __call__(self, part: Chunk, before: NDArray[np.int64]) -> tuple[int, list[Piece]]:
        pieces: list[Piece] = []
        for group in self.placing.groups(part, before):
            rows = (part.start + np.arange(len(part))[group.rows]) % 32
            pieces += scattered_codes("ranks", 5 * group.places, [rows], [5])
        return int(before.sum()), pieces


def processes(part: Chunk, before: NDArray[np.int64]) -> dict[int, set[int]]:
    """Numbers of parts, by the process that worked on them."""
    return {os.getpid(): {part.number}}


def union(results: Sequence[dict[int, set[int]]]) -> dict[int, set[int]]:
    pids = {pid for result in results for pid in result}
    return {pid: set().union(*(result.get(pid, ()) for result in results)) for pid in pids}
