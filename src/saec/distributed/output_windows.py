"""Tensors in windows: one worker assembles each window and writes it to its target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from saec.artifact import GRAIN, Shard, ShardedTensor, Stored, write_shard
from saec.streaming.bit_writes import ByteRun, Piece
from saec.streaming.scratch import Workspace

__all__ = ["Placed", "Target", "Window", "cut", "placed", "touched"]

# Bytes of a window. With smaller ones, headers of shards would take more than 1.6 %; several larger
# ones would not fit into the memory of a small worker.
_LEAST = 1 << 22
_MOST = 1 << 28


@dataclass(frozen=True)
class Window:
    """Bytes ``start`` to ``stop`` of a tensor, from 0, as one of several consecutive windows."""

    role: str
    number: int
    start: int
    stop: int


class Target(Protocol):
    """Target of a tensor's windows; its result is sent to the client."""

    def __call__(self, window: Window, data: NDArray[np.uint8]) -> Any:
        """Write the bytes to the target; repetition has no further effect."""


def cut(role: str, nbytes: int, shares: int) -> tuple[Window, ...]:
    """About as many windows as ``shares``; more if they would be too large, fewer if too small."""
    size = min(max(-(-nbytes // shares), _LEAST), _MOST)
    size = -(-size // GRAIN) * GRAIN
    starts = range(0, nbytes, size)
    return tuple(
        Window(role, number, start, min(start + size, nbytes))
        for number, start in enumerate(starts)
    )


def touched(piece: Piece, windows: Sequence[Window]) -> Sequence[Window]:
    """Windows that may contain bytes of ``piece``."""
    if isinstance(piece, ByteRun):
        first, last = piece.first, piece.first + len(piece.data) - 1
    elif len(piece.places):
        first, last = int(piece.places[0]), int(piece.places[-1]) + piece.words.itemsize - 1
    else:
        return ()
    size = windows[0].stop
    return windows[first // size : last // size + 1]


class Placed(Protocol):
    """A tensor during the writing of its windows."""

    target: Target

    def add(self, window: Window, given: Any) -> None:
        """Take the target's result for a window."""

    def tensor(self) -> Stored:
        """The tensor, after all windows have been written."""


def placed(nbytes: int, space: Workspace, first: int) -> Placed:
    """The target of a tensor.

    Shards of an artifact if there is one and the tensor is large, else ``space``.
    ``first``: number of its first shard.
    """
    if space.shards is not None and nbytes > _LEAST:
        path = space.shards.path.resolve()
        return _InShards(ToShards(path, space.shards.run, first), nbytes)
    return _InArray(space.zeros(nbytes))


def send(window: Window, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A target: the client."""
    return data


@dataclass(frozen=True)
class ToShards:
    """A target: one shard of an artifact for each window."""

    path: Path
    run: str
    first: int

    def __call__(self, window: Window, data: NDArray[np.uint8]) -> Shard:
        return write_shard(self.path, self.run, self.first + window.number, [data])


class _InArray:
    target: Target = staticmethod(send)

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data

    def add(self, window: Window, given: NDArray[np.uint8]) -> None:
        self._data[window.start : window.stop] = given

    def tensor(self) -> NDArray[np.uint8]:
        return self._data


class _InShards:
    def __init__(self, target: ToShards, nbytes: int) -> None:
        self.target: Target = target
        self._to = target
        self._nbytes = nbytes
        self._shards: dict[int, Shard] = {}

    def add(self, window: Window, given: Shard) -> None:
        self._shards[window.number] = given

    def tensor(self) -> ShardedTensor:
        shards = tuple(self._shards[number] for number in sorted(self._shards))
        to = self._to
        return ShardedTensor(np.dtype(np.uint8), (self._nbytes,), to.path.name, to.run, shards)
