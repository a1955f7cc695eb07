"""Users' items in order, and what is predicted of them: leave-one-out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from saec.errors import DataError
from saec.reference.datasets.source import complete, numbers, read_lines, read_table

__all__ = ["ItemSequences", "load_sequences"]

_HELD_OUT = 2  # of each user: the last item tests, the one before validates


@dataclass(frozen=True, eq=False)
class ItemSequences:
    """The items of all users, one user after the other, each in order of time.

    Args:
        items: (events,) int64 ids from 1 on, the most frequent in training first; 0 is padding.
        starts: (users + 1,) int64: user u has the events from starts[u] to before starts[u + 1].
        length: how many items the model sees of a user.

    Raises:
        DataError: a user has fewer than four items, so that nothing is left to learn from.
    """

    items: NDArray[np.int64]
    starts: NDArray[np.int64]
    length: int

    def __post_init__(self) -> None:
        counts = np.diff(self.starts)
        if counts.min(initial=4) < 4:
            user = int(np.argmin(counts))
            raise DataError(f"user {user} has {counts[user]} items; next-item prediction needs 4")

    @classmethod
    def of(cls, users: NDArray[Any], items: NDArray[Any], length: int) -> ItemSequences:
        """Number the items of users, whose events are in order of time.

        Args:
            users: (events,) of any dtype that sorts.
            items: (events,) likewise.
            length: see above.
        """
        order = np.argsort(users, kind="stable")
        in_turn = users[order]
        changes = 1 + np.flatnonzero(in_turn[1:] != in_turn[:-1])
        starts = np.array([0, *changes, len(users)]) if len(users) else np.zeros(1, np.int64)
        _, codes = np.unique(items[order], return_inverse=True)
        counts = np.bincount(codes, weights=_trained(starts))
        ids = np.empty(len(counts), np.int64)
        ids[np.argsort(-counts, kind="stable")] = np.arange(1, len(counts) + 1)
        return cls(ids[codes], starts, length)

    @property
    def vocab_size(self) -> int:
        """Ids, the padding included."""
        return int(self.items.max(initial=0)) + 1

    @property
    def frequencies(self) -> NDArray[np.float64]:
        """(vocab_size,) occurrences of each id in the training part."""
        kept = _trained(self.starts)
        counts = np.bincount(self.items, weights=kept, minlength=self.vocab_size)
        return counts.astype(np.float64)

    def batches(self, batch: int) -> int:
        """Number of batches of ``batch`` users."""
        return -(-(len(self.starts) - 1) // batch)

    def held_out(self, part: str, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Items seen (B, length), padded with 0 in front, and the next one (B,), of all users."""
        behind = {"validation": 2, "test": 1}[part]
        ends = self.starts[1:] - behind
        for first in range(0, len(ends), batch):
            own = slice(first, first + batch)
            seen = self._before(ends[own], self.starts[:-1][own])
            yield seen, torch.from_numpy(self.items[ends[own]])

    def training(
        self, batch: int, rng: np.random.Generator | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Items seen (B, length), and at each place the next one (B, length), 0 for none.

        Args:
            batch: users.
            rng: shuffles the users, and draws for each where its items end; None takes the users
                in order, and the last items of each.
        """
        first, ends = self.starts[:-1], self.starts[1:] - _HELD_OUT - 1
        order = np.arange(len(ends))
        if rng is not None:
            order = rng.permutation(order)
            lowest = np.minimum(first + self.length, ends)
            ends = rng.integers(lowest, ends, endpoint=True)
        for start in range(0, len(order), batch):
            own = order[start : start + batch]
            seen = self._before(ends[own], first[own])
            wanted = torch.cat([seen[:, 1:], torch.from_numpy(self.items[ends[own], None])], dim=1)
            yield seen, torch.where(seen > 0, wanted, 0)

    def _before(self, ends: NDArray[np.int64], starts: NDArray[np.int64]) -> Tensor:
        """The last ``length`` items before each of ``ends``, and from ``starts`` on."""
        places = ends[:, None] + np.arange(-self.length, 0)
        inside = places >= starts[:, None]
        return torch.from_numpy(np.where(inside, self.items[np.where(inside, places, 0)], 0))


def load_sequences(path: Path, length: int) -> ItemSequences:
    """MovieLens: all ratings are items of their users.

    Args:
        path: the folder of the release with ``ratings.dat``, or a Parquet or CSV file with columns
            ``user`` and ``movie``, and ``timestamp`` if it has one. Without times, the order is
            that of the file.
        length: how many items the model sees of a user.

    Raises:
        DataError: the file is missing, unreadable or empty, a column is missing, or a user has too
            few items.
    """
    if path.is_dir():
        names = ("user", "movie", "rating", "timestamp")
        frame = read_lines(path / "ratings.dat", "::", names)
    else:
        frame = read_table(path, ("user", "movie"), ("timestamp",))
    if "timestamp" in frame.columns:
        times = complete(path, numbers(path, frame["timestamp"], pl.Float64))
        frame = frame.with_columns(times).sort("timestamp", maintain_order=True)
    users, movies = (
        complete(path, frame[name].cast(pl.String)).rank("dense").to_numpy()
        for name in ("user", "movie")
    )
    return ItemSequences.of(users, movies, length)


def _trained(starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(events,) 1 for an event in the training part, else 0."""
    kept = np.ones(starts[-1])
    for behind in range(1, _HELD_OUT + 1):
        kept[starts[1:] - behind] = 0.0
    return kept
