"""Which training rows form a batch, and which are skipped: plain, hot batches, stale rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from saec.errors import OptionError
from saec.reference.log import Log
from saec.reference.models import ClickModel
from saec.reference.training_settings import HotBatches, SkipStale, Training

__all__ = ["BatchSchedule", "hot_counts", "schedule_of"]

Rows = NDArray[np.intp]
Flags = NDArray[np.bool_]


class BatchSchedule(Protocol):
    """Batches of training rows.

    Attributes:
        skipped: rows that were given and are in no batch.
    """

    skipped: int

    def batches(self, rows: Rows) -> Iterator[Rows]:
        """Batches of ``rows`` (n,), each of which is trained on before the next one is asked for.

        Neighbours two by two stay together: a click and its sampled negative.
        """


def schedule_of(training: Training, log: Log, model: ClickModel, seed: int) -> BatchSchedule:
    """The schedule of the settings.

    Raises:
        OptionError: stale inputs are to be skipped, and the model has other tables than plain ones.
    """
    if training.skip_stale is not None:
        if not isinstance(model.embeddings, nn.ModuleDict):
            kind = type(model.embeddings).__name__
            raise OptionError(f"skip_stale needs a plain table for each field, not {kind}")
        return _SkippingStale(training.skip_stale, log, model, training.batch_size, seed)
    if training.hot_batches is not None:
        return _HotApart(training.hot_batches, log, training.batch_size)
    return _Plain(training.batch_size)


def hot_counts(log: Log, share: float) -> NDArray[np.int64]:
    """How many rows of each field (fields,) are hot: ids from 1 to this number.

    The most frequent ones of all tables together, at most ``share`` of all rows. Rows that are as
    frequent as the first one that is left out are left out, too.
    """
    counts = [log.frequencies[name][1:] for name in log.field_names]  # in descending order
    together = -np.sort(-np.concatenate(counts))
    most = int(share * len(together))
    least = together[most] if most < len(together) else 0.0
    return np.array([np.count_nonzero(own > least) for own in counts])


class _Plain:
    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.skipped = 0

    def batches(self, rows: Rows) -> Iterator[Rows]:
        for first in range(0, len(rows), self._batch_size):
            yield rows[first : first + self._batch_size]


class _HotApart:
    """Inputs that touch only hot rows in batches of their own, spread evenly over the others."""

    def __init__(self, settings: HotBatches, log: Log, batch_size: int) -> None:
        self._log, self._plain = log, _Plain(batch_size)
        self._hot, self._pairs = hot_counts(log, settings.share), settings.pairs
        self.skipped = 0

    def batches(self, rows: Rows) -> Iterator[Rows]:
        hot: Flags = np.all(self._log.ids[rows] <= self._hot, axis=1)
        if self._pairs:
            hot = _both(hot)
        parts = [list(self._plain.batches(rows[chosen])) for chosen in (hot, ~hot)]
        # A batch comes when as large a share of its kind has come as of the other one.
        order = [
            ((n + 0.5) / len(part), kind, n)
            for kind, part in enumerate(parts)
            for n in range(len(part))
        ]
        for _, kind, n in sorted(order):
            yield parts[kind][n]


class _SkippingStale:
    """Skips inputs whose hot rows have all moved less than a threshold between two snapshots.

    A row that was in no batch between these keeps the movement that it had before: that it stood
    still says nothing. So rows that are skipped come back when the others move less than they did.
    """

    def __init__(
        self, settings: SkipStale, log: Log, model: ClickModel, batch_size: int, seed: int
    ) -> None:
        self._settings, self._log, self._model = settings, log, model
        self._batch_size, self._rng = batch_size, np.random.default_rng(seed)
        self._hot = hot_counts(log, settings.share)
        self._snapshot: list[torch.Tensor] = []
        self._moved = [np.full(count + 1, np.inf, np.float32) for count in self._hot]
        self._moving: list[Flags] = []  # by field: id 0, hot ids, and one entry for all others
        self._steps = 0
        self.skipped = 0

    def batches(self, rows: Rows) -> Iterator[Rows]:
        waiting: list[Rows] = []
        for part in _Plain(self._batch_size).batches(rows):
            kept = part[~self._stale(part)]
            self.skipped += len(part) - len(kept)
            waiting.append(kept)
            if sum(map(len, waiting)) >= self._batch_size:
                together = np.concatenate(waiting)
                yield together[: self._batch_size]
                waiting = [together[self._batch_size :]]
                self._look(rows)
        last = np.concatenate(waiting) if waiting else rows[:0]
        if len(last):
            yield last
            self._look(rows)

    def _stale(self, rows: Rows) -> Flags:
        """Which inputs are skipped."""
        if not self._moving:
            return np.zeros(len(rows), np.bool_)
        ids, trained = self._log.ids[rows], np.zeros(len(rows), np.bool_)
        for column, count, moving in zip(ids.T, self._hot, self._moving, strict=True):
            trained |= moving[np.minimum(column, count + 1)]
        trained |= (ids > self._hot).all(axis=1)
        return _both(~trained) if self._settings.pairs else ~trained

    def _look(self, rows: Rows) -> None:
        """After a step: compare the hot rows with the last snapshot, and take the next one."""
        self._steps += 1
        if self._steps % self._settings.every:
            return
        paths = (f"embeddings.{name}.weight" for name in self._log.field_names)
        hot = [
            self._model.get_parameter(path).detach()[: count + 1]
            for path, count in zip(paths, self._hot, strict=True)
        ]
        if not self._snapshot:
            self._snapshot = [table.clone() for table in hot]
            return
        for new, old, known in zip(hot, self._snapshot, self._moved, strict=True):
            moved = old.sub_(new).norm(dim=1).numpy()
            np.copyto(known, moved, where=moved > 0)
            old.copy_(new)
        threshold = self._threshold(rows)
        rest = self._settings.spare_rare
        self._moving = [np.append(own >= threshold, rest) for own in self._moved]

    def _threshold(self, rows: Rows) -> float:
        """The movement below which a row is stale, so that the wanted share of a sample of inputs
        is skipped."""
        if self._settings.sample < len(rows):
            rows = rows[self._rng.integers(len(rows), size=self._settings.sample)]
        some = self._log.ids[rows]
        rest = np.float32(np.inf if self._settings.spare_rare else 0.0)
        most = np.zeros(len(some), np.float32)
        for column, count, own in zip(some.T, self._hot, self._moved, strict=True):
            most = np.maximum(most, np.append(own, rest)[np.minimum(column, count + 1)])
        return float(np.sort(most)[min(int(self._settings.skipped * len(most)), len(most) - 1)])


def _both(flags: Flags) -> Flags:
    """True where it is true of both neighbours; an odd last one has no neighbour."""
    pairs: Flags = np.all(flags[: len(flags) // 2 * 2].reshape(-1, 2), axis=1)
    return np.concatenate([np.repeat(pairs, 2), flags[2 * len(pairs) :]])
