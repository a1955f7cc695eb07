"""The format of ``torch.save`` before PyTorch 1.6: consecutive pickles, and then numbers.

The pickles are a magic number, the format's version, properties of the machine, the saved object,
and the keys of the storages in the order in which their numbers follow. Each storage is its number
of values, 8 bytes, and the values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from saec.errors import CheckpointError
from saec.sources.pickles import read_pickle
from saec.sources.torch_storages import NUMBERS, Storage
from saec.streaming.rows import FileRows
from saec.util.regular_file import open_regular

__all__ = ["read_legacy"]

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001


def read_legacy(path: Path) -> object:
    """The saved object; its tensors and other objects are stand-ins, see :func:`tensor`.

    Raises:
        ValueError, OSError, EOFError: the file is damaged.
    """
    with open_regular(path, CheckpointError) as stream:
        if read_pickle(stream) != _MAGIC or read_pickle(stream) != _VERSION:
            raise ValueError("no file of torch.save")
        facts = read_pickle(stream)
        if isinstance(facts, dict) and not facts.get("little_endian", True):
            raise ValueError("numbers are stored with the highest byte first")
        storages = _Storages(path.absolute())
        saved = read_pickle(stream, storages.load)
        storages.place(stream, read_pickle(stream))
        return saved


class _Storages:
    """Storages that tensors name before their place is known."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._named: dict[str, Storage] = {}
        self._rows: dict[str, FileRows] = {}

    def load(self, given: Any) -> FileRows | None:
        """Rows, one number each, from a storage's id; None for unsupported numbers."""
        if not isinstance(given, tuple):
            raise ValueError("a persistent id that is no storage's")
        storage = Storage.of(given[:5])
        if given[5:] != (None,):
            raise ValueError("a view of a storage")
        if self._named.setdefault(storage.key, storage) != storage:
            raise ValueError(f"storage {storage.key[:20]} of two kinds")
        dtype = NUMBERS.get(storage.kind)
        if dtype is None:
            return None
        if storage.key not in self._rows:
            self._rows[storage.key] = FileRows(self._path, 0, (storage.count,), dtype)
        return self._rows[storage.key]

    def place(self, stream: BinaryIO, keys: object) -> None:
        """Find the storages, in the order of their ``keys``, from the stream's position on."""
        offset, end = stream.tell(), stream.seek(0, 2)
        if not isinstance(keys, list) or len(keys) != len(self._named):
            raise ValueError("other storages than the tensors name")
        for key in keys:
            if not isinstance(key, str) or key not in self._named:
                raise ValueError("other storages than the tensors name")
            storage = self._named.pop(key)
            stream.seek(offset)
            count = int.from_bytes(stream.read(8), "little")
            if count != storage.count:
                raise ValueError(f"a storage of {count} values, not {storage.count}")
            offset += 8
            if key in self._rows:
                self._rows[key].offset = offset
            offset += count * storage.itemsize
            if offset > end:
                raise ValueError("truncated")
