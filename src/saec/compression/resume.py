"""Resume interrupted compressions: finished parts are kept beside the artifact."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import saec.artifact as artifact
from saec.codecs.protocol import Coded
from saec.errors import (
    ArtifactError,
    BudgetError,
    FieldError,
    MetricError,
    OptionError,
)
from saec.format.compressed import Compressed
from saec.format.load import load
from saec.format.permutation_file import permutation_path, save_permutations
from saec.streaming.scratch import ShardNames, Workspace
from saec.util.atomic_file import (
    cause,
    checked_target,
    sync_directory,
    take_status,
    target_name,
    whole_file,
)
from saec.util.remote_file import refuse_url

__all__ = ["Resumable"]

logger = logging.getLogger(__name__)

_MARK, _LOCK, _MADE, _ARTIFACT = "mark", "lock", "made", "artifact"
_FINISHED = "field-*.saec"
_NOTHING: Mapping[Path, Callable[[Path], None]] = MappingProxyType({})

# Errors that repeating the request cannot fix. Any other error, such as a failed read or a lost
# cluster, may be temporary.
_IMPOSSIBLE = (BudgetError, FieldError, MetricError, OptionError)

_NUMBER_BITS = 20  # each field's shards have these bits of the number for themselves


class Resumable:
    """The folder ``<out>.partial`` with the finished parts of an artifact, as a context manager.

    Args:
        out: path of the artifact.
        mark: hash of everything that it depends on; work with another mark is deleted.
        held: see :class:`~saec.streaming.scratch.Workspace`.

    Raises:
        ArtifactError: the folder cannot be made, another process works in it, or ``out`` is not a
            regular file.
    """

    def __init__(self, out: Path, mark: str, held: int = Workspace.held) -> None:
        refuse_url(out, ArtifactError)
        self.out = out = checked_target(out, ArtifactError)
        self.mark = mark
        self._held = held
        self._run = mark[:16]
        self._sharded: dict[str, Mapping[str, artifact.ShardedTensor]] = {}
        self.folder = out.with_name(f"{out.name}.partial")

    def __enter__(self) -> Self:
        try:
            self._lock = self._locked()
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._begin()
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, OSError):
                raise self._unwritable(error) from error
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The next request will be a different one, so measurements for this one are useless.
        if isinstance(error, _IMPOSSIBLE) and not any(self.folder.glob(_FINISHED)):
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def space(self, number: int) -> Workspace:
        """The folder in which the tensors of the field of this ``number`` are made."""
        first = (number << _NUMBER_BITS) + 1
        shards = ShardNames(self.folder / self.out.name, self._run, first)
        return Workspace(self.folder, self._held, shards)

    def once(self, number: int, code: Callable[[], Coded]) -> Coded:
        """The result of ``code`` for the field of this ``number``, from this or an earlier run."""
        path = self.folder / f"field-{number:05}.saec"
        kept = _kept(path)
        if kept is None:
            _keep(path, code())
            kept = _opened(path)
        loss = kept.predicted_loss_increase
        assert loss is not None, "it was given"
        (field,) = kept.values()
        self._sharded[field.name] = kept.sharded.get(field.name, {})
        return Coded(field, loss)

    def finish(
        self, result: Compressed, beside: Mapping[Path, Callable[[Path], None]] = _NOTHING
    ) -> None:
        """Write the artifact; its intermediate files are then no longer needed.

        Args:
            result: content of the artifact.
            beside: files that the artifact needs, each with a function that writes it. They are
                moved to their places after the artifact is written, and before it is moved to its
                own.

        Raises:
            ArtifactError: it cannot be written; finished parts remain.
        """
        entries = []
        for name, field in result.items():
            sharded = self._sharded.get(name, {})
            for tensor in sharded.values():
                for file in tensor.files:
                    self._bring(self.folder / file, self.out.with_name(file))
            entries.append(replace(field.entry, sharded=sharded))
        made = self.folder / _ARTIFACT
        artifact.write(made, entries, result.predicted_loss_increase)
        for target, write in beside.items():
            self.put(write, target)
        self._place(made, self.out)
        try:
            shutil.rmtree(self.folder)
        except OSError as error:  # the artifact is complete nevertheless
            logger.warning("cannot remove %s: %s", self.folder, error)
        artifact.remove_stale(self.out, self._run)

    def put(self, write: Callable[[Path], None], target: Path) -> None:
        """Write a file in the folder, then move it to its place.

        If the process is killed, the remains are deleted together with the folder.

        Raises:
            ArtifactError: it cannot be moved there.
        """
        made = self.folder / _MADE
        write(made)
        self._place(made, target)

    def _place(self, made: Path, target: Path) -> None:
        target = checked_target(target, ArtifactError)
        try:
            take_status(made, target)
            made.replace(target)
            sync_directory(target.parent)
        except OSError as error:
            why = cause(error, target.parent)
            raise ArtifactError(f"cannot write {target}: {why}") from error

    def _bring(self, shard: Path, target: Path) -> None:
        """Link a shard to its place and keep it here, too, so that this step can be repeated."""
        made = self.folder / _MADE
        made.unlink(missing_ok=True)
        try:
            os.link(shard, made)
        except OSError:  # not all file systems have links
            _copy(shard, made)
        self._place(made, target)
        made.unlink(missing_ok=True)  # it stays where it already was a link to the same file

    def _locked(self) -> int:
        """A lock that ends with the process; the folder may vanish until the lock is acquired."""
        while True:
            self.folder.mkdir(exist_ok=True)
            path = self.folder / _LOCK
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same(handle, path):
                    return handle
            except BlockingIOError as error:
                os.close(handle)
                raise ArtifactError(f"another process is writing {self.out}") from error
            os.close(handle)

    def _begin(self) -> None:
        """Start with an empty folder, unless the present one has the same mark."""
        mark = self.folder / _MARK
        found = _content(mark)
        if found == self.mark.encode():
            logger.info("going on with what %s holds", self.folder)
            self._clear(lambda path: target_name(path) != path.name)  # files of killed processes
            return
        if found is not None:
            logger.warning("%s belongs to other options or inputs: starting anew", self.folder)
        self._clear(lambda path: path.name != _LOCK)
        with whole_file(mark, ArtifactError) as stream:
            stream.write(self.mark.encode())

    def _clear(self, unwanted: Callable[[Path], bool]) -> None:
        for path in filter(unwanted, sorted(self.folder.iterdir())):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _unwritable(self, error: OSError) -> ArtifactError:
        exists = isinstance(error, FileExistsError)
        why = "it is no folder" if exists else cause(error, self.out.parent)
        return ArtifactError(f"cannot write {self.folder}: {why}")


def _content(path: Path) -> bytes | None:
    """The bytes of a small file; None if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _copy(shard: Path, path: Path) -> None:
    with shard.open("rb") as source, whole_file(path, ArtifactError) as stream:
        shutil.copyfileobj(source, stream)


def _same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _kept(path: Path) -> Compressed | None:
    """A finished field; None if there is none or its files are damaged, in which case it is coded
    again."""
    if not path.exists():
        return None
    try:
        return _opened(path)
    except (ArtifactError, OSError, ValueError) as error:
        logger.warning("%s cannot be read and is made again: %s", path, error)
        return None


def _keep(path: Path, coded: Coded) -> None:
    """Write a finished field, with its permutation if it has one."""
    entry = replace(coded.field.entry, sharded=coded.sharded)
    old_ids = partial(save_permutations, permutation_path(path), {entry.name: coded.field})
    artifact.write(path, [entry], coded.lost, old_ids if coded.field.renumbered else None)


def _opened(path: Path) -> Compressed:
    """A finished field with its permutation, if it has one."""
    kept = load(path)
    for field in kept.values():
        if field.renumbered:
            field.permutation = field.old_ids
    return kept
