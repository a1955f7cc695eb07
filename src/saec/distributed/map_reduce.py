"""Passes over the parts of a field by the workers of a Dask cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any, TypeVar

from distributed import Client, Future

from saec.artifact import Stored
from saec.distributed import worker_functions as jobs
from saec.distributed.cluster import workers_of
from saec.distributed.dask_rows import BlockRows, join_blocks, split_part
from saec.distributed.output_windows import Placed, Window, cut, placed
from saec.distributed.task_graph import Home, Submitting
from saec.errors import FieldError
from saec.streaming.bit_writes import Piece
from saec.streaming.chunks import Chunk, RunningCounts, Task
from saec.streaming.map_reduce import Advance, Arrays, Merge, silent
from saec.streaming.rows import ArrayRows, JoinedRows, Rows
from saec.streaming.scratch import IN_MEMORY, Workspace

__all__ = ["DaskHeld", "DaskPasses", "collect"]

T = TypeVar("T")

# Largest size of a field's rows in the client's memory that are sent to workers; the scheduler
# keeps a copy and sends them again if a worker dies.
_MOST_SENT = 1 << 28
# Parts whose results the client takes in order: those under way, for each thread of the cluster.
_AHEAD = 4

_ANY: Mapping[str, Sequence[str]] = MappingProxyType({})


class DaskPasses:
    """Work on parts where their rows are; see :class:`~saec.streaming.map_reduce.Passes`.

    Neighbouring parts have the same worker in every pass, which thus reads files from its page
    cache; other workers help while it is busy or gone. Data of a worker that dies are computed
    again. The client gets merged results, and tensors only if ``space`` has no other place for
    them.

    Args:
        parts: of a field. Files of their rows are read by the workers.
        client: of the scheduler.
        readers: addresses of the workers that can read a file, by its path; any worker reads files
            that are not listed.

    Raises:
        FieldError: too many rows in memory to be sent.
    """

    def __init__(
        self,
        parts: tuple[Chunk, ...],
        client: Client,
        readers: Mapping[str, Sequence[str]] = _ANY,
    ) -> None:
        self.parts = parts
        self._client = client
        self._readers = readers
        self._sent: dict[int, Future[Chunk]] = {}
        held = sum(_in_memory(part) for part in parts)
        if held > _MOST_SENT:
            raise FieldError(
                f"field {parts[0].name!r}: {held} bytes are in memory of this process; at most "
                f"{_MOST_SENT} are sent to workers. Give them as files that the workers can read"
            )

    def run(
        self,
        task: Task[T],
        merge: Merge[T],
        *,
        counter: RunningCounts | None = None,
        advance: Advance = silent,
    ) -> T:
        """See :class:`~saec.streaming.map_reduce.Passes`."""
        with self._submitting() as pass_:
            results = pass_.every(jobs.work, task, counter)
            root = pass_.tree(results, merge)
            for _ in pass_.finish(results, self._shares(), advance):
                results.clear()  # only the tree needs them
            result: T = root.result()
        return result

    def each(
        self,
        task: Task[T],
        *,
        counter: RunningCounts | None = None,
        advance: Advance = silent,
    ) -> Iterator[T]:
        """See :class:`~saec.streaming.map_reduce.Passes`.

        Workers hold a result until the client gets it, one after the other. Only the next few parts
        are submitted, ``_AHEAD`` for each thread of the cluster; a worker whose own parts are later
        in the order helps the others.
        """
        ahead = _AHEAD * max(sum(self._client.nthreads().values()), 1)
        with self._submitting() as pass_:
            submitted = pass_.in_turn(jobs.work, task, counter)
            waiting = deque(islice(submitted, ahead))
            for share in self._shares():
                result: T = waiting.popleft().result()
                advance(share)
                yield result
                waiting.extend(islice(submitted, 1))

    def hold(
        self, task: Task[Arrays], counter: RunningCounts | None = None, space: Workspace = IN_MEMORY
    ) -> DaskHeld:
        """See ``Passes``; workers spill to their disks if their memory is full."""
        with self._submitting() as pass_:
            arrays = pass_.every(jobs.work, task, counter)
            for _ in pass_.finish(arrays, self._shares(), silent):
                pass
        return DaskHeld(self, arrays)

    def lay(
        self,
        task: Task[tuple[T, list[Piece]]],
        merge: Merge[T],
        sizes: Mapping[str, int],
        *,
        counter: RunningCounts | None = None,
        advance: Advance = silent,
        space: Workspace = IN_MEMORY,
    ) -> tuple[T, dict[str, Stored]]:
        """See :class:`~saec.streaming.map_reduce.Passes`.

        Tensors are cut into about as many windows as there are workers. A worker assembles each
        window from the pieces of the parts that overlap it: parts x windows small tasks if rows
        are renumbered, otherwise slightly more tasks than parts.
        """
        workers = len(workers_of(self._client))
        windows = {role: cut(role, nbytes, workers) for role, nbytes in sizes.items()}
        tensors = _placed(windows, space, sizes)
        with self._submitting() as pass_:
            laid = pass_.every(jobs.lay_part, task, counter, pass_.send(windows))
            heads = [
                pass_.submit(jobs.head, number, part, urgent=1) for number, part in enumerate(laid)
            ]
            root = pass_.tree(heads, jobs.MergeHeads(merge))
            for _ in pass_.finish(heads, self._shares(), advance):
                heads.clear()
            result, places = root.result()
            _assemble(pass_, laid, places, windows, tensors)
        return result, {role: tensor.tensor() for role, tensor in tensors.items()}

    def _submitting(self) -> Submitting:
        homes = self._homes()
        return Submitting(self._client, self._given(homes), homes)

    def _given(self, homes: Sequence[Home]) -> list[Chunk | Future[Chunk]]:
        """The parts; those with rows in memory are sent or assembled once, for all passes."""
        sending = Submitting(self._client, (), ())
        for part, home in zip(self.parts, homes, strict=True):
            split = split_part(part)
            if part.number in self._sent or not (split or _in_memory(part)):
                continue
            self._sent[part.number] = (
                sending.ship(join_blocks, *split) if split else sending.send(part, home)
            )
        return [self._sent.get(part.number, part) for part in self.parts]

    def _homes(self) -> list[Home]:
        """Equal runs of rows for each worker; files and blocks keep their workers."""
        workers, rows = workers_of(self._client), self.parts[-1].stop
        homes: list[Home] = []
        for part in self.parts:
            readers = self._readers.get(str(getattr(part.rows, "path", "")))
            if readers is not None:
                homes.append((tuple(readers), False))
            elif isinstance(part.rows, BlockRows):
                homes.append(((), True))
            else:
                homes.append(((workers[part.start * len(workers) // rows],), True))
        return homes

    def _shares(self) -> list[float]:
        rows = sum(len(part) for part in self.parts)
        return [len(part) / rows for part in self.parts]


@dataclass(frozen=True, eq=False)
class DaskHeld:
    """See :class:`~saec.streaming.map_reduce.Held`."""

    passes: DaskPasses
    arrays: Sequence[Future[Arrays]]

    def run(self, task: Callable[[Arrays], T], merge: Merge[T]) -> T:
        """See :class:`~saec.streaming.map_reduce.Held`."""
        with Submitting(self.passes._client, (), ()) as pass_:
            sent = pass_.send(task)
            results = [pass_.submit(jobs.called, sent, arrays) for arrays in self.arrays]
            result: T = pass_.tree(results, merge).result()
        return result


def _in_memory(part: Chunk) -> int:
    return _memory_bytes(part.rows) + _memory_bytes(part.counts)


def _memory_bytes(rows: Rows) -> int:
    """Bytes to send for ``rows``."""
    if isinstance(rows, JoinedRows):
        return sum(_memory_bytes(shard) for shard in rows.shards)
    return rows.nbytes if isinstance(rows, ArrayRows) else 0


def _placed(
    windows: Mapping[str, Sequence[Window]], space: Workspace, sizes: Mapping[str, int]
) -> dict[str, Placed]:
    """Targets of the tensors, with distinct numbers of their shards."""
    tensors = {}
    first = 1 if space.shards is None else space.shards.first
    for role, own in windows.items():
        tensors[role] = placed(sizes[role], space, first)
        first += len(own)
    return tensors


def _assemble(
    pass_: Submitting,
    laid: list[Future[Any]],
    places: Iterable[tuple[int, list[jobs.Place]]],
    windows: Mapping[str, Sequence[Window]],
    tensors: Mapping[str, Placed],
) -> None:
    """Assemble every window from the parts that overlap it, ``places`` of each."""
    picked: dict[jobs.Place, list[Future[Any]]] = {}
    for number, own in places:
        for place in own:
            picked.setdefault(place, []).append(
                pass_.submit(jobs.pick, laid[number], place, urgent=2)
            )
    laid.clear()
    waiting: dict[Future[Any], Window] = {}
    for window in (window for own in windows.values() for window in own):
        groups = picked.pop((window.role, window.number), [])
        target = tensors[window.role].target
        waiting[pass_.submit(jobs.assemble, window, target, groups, urgent=3)] = window
    collect(pass_, waiting, tensors)


def collect(
    pass_: Submitting, waiting: dict[Future[Any], Window], tensors: Mapping[str, Placed]
) -> None:
    """Write the results of ``waiting`` into their tensors, as they arrive."""
    for done in pass_.finish(list(waiting), [0.0] * len(waiting), silent):
        window = waiting.pop(done)
        tensors[window.role].add(window, done.result())
