"""Passes over the parts of a field in one process; :mod:`saec.distributed` has those on a
cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from saec.artifact import Stored
from saec.streaming.bit_writes import Piece, lay, lay_and_let_go
from saec.streaming.chunks import Chunk, RunningCounts, Task, merged
from saec.streaming.scratch import IN_MEMORY, Workspace

__all__ = ["Advance", "Executor", "Held", "LocalPasses", "Merge", "Passes", "passes_over", "silent"]

T = TypeVar("T")

Advance = Callable[[float], None]
Merge = Callable[[Sequence[T]], T]
Arrays = tuple[NDArray[Any], ...]

_NOTHING = np.zeros(0, dtype=np.int64)


def silent(share: float) -> None:
    """Show no progress."""


class Held(Protocol):
    """Arrays that a task made of every part, kept in the place of the parts."""

    def run(self, task: Callable[[Arrays], T], merge: Merge[T]) -> T:
        """Run ``task`` on the arrays of every part and merge the results."""


class Passes(Protocol):
    """Passes over a field's parts. Tasks and their results must be picklable."""

    @property
    def parts(self) -> tuple[Chunk, ...]:
        """The parts, in order of their rows."""

    def run(
        self,
        task: Task[T],
        merge: Merge[T],
        *,
        counter: RunningCounts | None = None,
        advance: Advance = silent,
    ) -> T:
        """Run ``task`` on every part and merge the results.

        Args:
            task: see :class:`~saec.streaming.chunks.Task`.
            merge: of neighbours, in order; the tree is that of
                :func:`~saec.streaming.chunks.merged`.
            counter: counts over the parts before each part.
            advance: called with shares of the work, which add up to 1.
        """

    def each(
        self,
        task: Task[T],
        *,
        counter: RunningCounts | None = None,
        advance: Advance = silent,
    ) -> Iterator[T]:
        """Run ``task`` on every part and yield the results, in order; arguments as of
        :meth:`run`."""

    def hold(
        self, task: Task[Arrays], counter: RunningCounts | None = None, space: Workspace = IN_MEMORY
    ) -> Held:
        """Keep the result of ``task`` for every part; results beyond ``space`` are computed
        again."""

    def lay(
        self,
        task: Task[tuple[T, list[Piece]]],
        merge: Merge[T],
        sizes: Mapping[str, int],
        *,
        counter: RunningCounts | None = None,
        advance: Advance = silent,
        space: Workspace = IN_MEMORY,
    ) -> tuple[T, Mapping[str, Stored]]:
        """As :meth:`run`, and write the pieces that ``task`` makes into tensors.

        Args:
            task: returns a result and pieces.
            merge: of the results.
            sizes: bytes of each tensor, by role.
            counter: see :meth:`run`.
            advance: see :meth:`run`.
            space: place of the tensors.

        Returns:
            The result, and for each role its tensor, of bytes.
        """


class Executor(Protocol):
    """The executor of work on the parts of fields: this process, or the workers of a cluster."""

    def __call__(self, parts: tuple[Chunk, ...]) -> Passes:
        """Passes over the ``parts`` of one field."""


@dataclass(frozen=True, eq=False)
class LocalPasses:
    """One part after the other."""

    parts: tuple[Chunk, ...]

    def run(
        self,
        task: Task[T],
        merge: Merge[T],
        *,
        counter: RunningCounts | None = None,
        advance: Advance = silent,
    ) -> T:
        """See :class:`Passes`."""
        return merged(self.each(task, counter=counter, advance=advance), merge)

    def each(
        self,
        task: Task[T],
        *,
        counter: RunningCounts | None = None,
        advance: Advance = silent,
    ) -> Iterator[T]:
        """See :class:`Passes`; a part is worked on when its result is asked for."""
        rows = sum(len(part) for part in self.parts)
        for part, before in self._counted(counter):
            yield task(part, before)
            advance(len(part) / rows)

    def hold(
        self, task: Task[Arrays], counter: RunningCounts | None = None, space: Workspace = IN_MEMORY
    ) -> LocalHeld:
        """See :class:`Passes`."""
        kept: list[_Kept] = []
        left = space.held
        for part, before in self._counted(counter):
            arrays = task(part, before)
            left -= sum(array.nbytes for array in arrays)
            kept.append(_Kept(task, part, before, arrays if left >= 0 else None))
        return LocalHeld(kept)

    def lay(
        self,
        task: Task[tuple[T, list[Piece]]],
        merge: Merge[T],
        sizes: Mapping[str, int],
        *,
        counter: RunningCounts | None = None,
        advance: Advance = silent,
        space: Workspace = IN_MEMORY,
    ) -> tuple[T, dict[str, NDArray[np.uint8]]]:
        """See :class:`Passes`."""
        tensors = {role: space.zeros(nbytes) for role, nbytes in sizes.items()}
        put = lay if sum(sizes.values()) <= space.held else lay_and_let_go

        def results() -> Iterator[T]:
            for result, pieces in self.each(task, counter=counter, advance=advance):
                put(pieces, tensors)
                yield result

        return merged(results(), merge), tensors

    def _counted(self, counter: RunningCounts | None) -> Iterator[tuple[Chunk, NDArray[np.int64]]]:
        """The parts, each with the counts before it."""
        if counter is None or not counter.size:
            yield from ((part, _NOTHING) for part in self.parts)
            return
        before = np.zeros(counter.size, dtype=np.int64)
        for part in self.parts:
            yield part, before
            before = before + counter(part)


def passes_over(parts: tuple[Chunk, ...], space: Workspace) -> Passes:
    """Passes by the executor of ``space``, or in this process if it has none."""
    return LocalPasses(parts) if space.executor is None else space.executor(parts)


@dataclass(frozen=True, eq=False)
class _Kept:
    """The result of a task on a part, or the means to compute it again."""

    task: Task[Arrays]
    part: Chunk
    before: NDArray[np.int64]
    arrays: Arrays | None

    def get(self) -> Arrays:
        return self.task(self.part, self.before) if self.arrays is None else self.arrays


@dataclass(frozen=True, eq=False)
class LocalHeld:
    """See :class:`Held`."""

    kept: Sequence[_Kept]

    def run(self, task: Callable[[Arrays], T], merge: Merge[T]) -> T:
        """See :class:`Held`."""
        return merged((task(kept.get()) for kept in self.kept), merge)
