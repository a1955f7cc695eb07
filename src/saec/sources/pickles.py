"""Read pickles of PyTorch in bounded time and memory, and without executing code from them."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any, BinaryIO, ClassVar

from saec.util.messages import first_line

__all__ = ["MOST_PICKLE_BYTES", "StandIn", "read_pickle", "unpickled"]

MOST_PICKLE_BYTES = 64 << 20
MOST_STEPS = 1 << 21  # instructions of a pickle; each takes a microsecond and up to 100 bytes

_MOST_GIVEN = 64  # arguments for an object
_MOST_KINDS = 1000  # names of classes and functions
_MOST_NAME = 300  # letters of one

Load = Callable[[Any], object]


class StandIn:
    """Stands for an object of some class: keeps its arguments and state, and does nothing.

    Attributes:
        kind: the class, or function, that the pickle names.
        given: its arguments.
        state: the state that the pickle sets afterwards.
    """

    __slots__ = ("given", "state")
    kind: ClassVar[str] = ""

    def __init__(self, *given: object) -> None:
        self.given = given
        self.state: object = None

    def __new__(cls, *_given: object) -> StandIn:
        """Make an object without a call of its class."""
        made = super().__new__(cls)
        made.given, made.state = (), None
        return made

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        """Ignore items of a mapping."""

    def append(self, value: object) -> None:
        """Ignore items of a sequence."""

    def extend(self, values: Iterable[object]) -> None:
        """Ignore items of a sequence."""

    def add(self, value: object) -> None:
        """Ignore items of a set."""

    def get(self, name: str) -> Any:
        """An attribute of the object; None if it does not exist."""
        return self.state.get(name) if isinstance(self.state, dict) else None


class Items(dict[object, object]):
    """Stands for an OrderedDict. It takes no arguments, so that no call copies another mapping."""

    def __init__(self) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Ignore attributes."""


def unpickled(
    content: bytes | bytearray, load: Load | None = None, most: int = MOST_PICKLE_BYTES
) -> object:
    """The content of a pickle: numbers, strings and containers, and stand-ins for all other
    objects.

    Names in it are never imported, so nothing that it names can be executed.

    Args:
        content: the pickle.
        load: makes an object from a persistent id; the pickle must have none if it is None.
        most: largest number of bytes of a pickle.

    Raises:
        ValueError: the pickle is damaged or takes more steps than the limit.
    """
    if len(content) > most:
        raise ValueError(f"a pickle of {len(content)} bytes; the limit is {most}")
    return read_pickle(BytesIO(content), load)


def read_pickle(stream: BinaryIO, load: Load | None = None) -> object:
    """The content of the next pickle in a stream; bytes behind it are not read."""
    reader = _Unpickler(_Limited(stream), load)
    try:
        return reader.load()
    except Exception as error:  # the library's reader may raise any error for a damaged pickle
        if isinstance(error, ValueError | OSError) or error is reader.fault:
            raise
        raise ValueError(first_line(error)) from error


class _Limited:
    """A stream with a limit of all bytes that are read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, MOST_PICKLE_BYTES

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._left:
            raise ValueError(f"a pickle of more than {MOST_PICKLE_BYTES} bytes")
        self._left -= size
        return self._stream.read(size)

    def readline(self) -> bytes:
        line = self._stream.readline(self._left)
        self._left -= len(line)
        return line


# The version in Python: the C version grows its memo to any index that a hostile file contains.
class _Unpickler(pickle._Unpickler):
    def __init__(self, stream: _Limited, load: Load | None) -> None:
        super().__init__(stream, encoding="utf-8")
        self._load = load
        self.fault: Exception | None = None  # of ``load``, which is none of the pickle's
        self._kinds: dict[str, type] = {"collections.OrderedDict": Items}
        self.stack: list[Any] = []
        self.dispatch = _Steps(self)  # type: ignore[misc]  # of this reader alone

    def persistent_load(self, pid: Any) -> object:
        if self._load is None:
            raise ValueError("a persistent id")
        try:
            return self._load(pid)
        except Exception as error:
            self.fault = error
            raise

    def find_class(self, module: str, name: str) -> type:
        kind = f"{module}.{name}"
        if kind not in self._kinds:
            if len(self._kinds) > _MOST_KINDS or len(kind) > _MOST_NAME:
                raise ValueError("a pickle of too many, or too long, names of classes")
            made = type("StandIn", (StandIn,), {"kind": kind, "__slots__": ()})
            self._kinds[kind] = made
        return self._kinds[kind]


class _Steps(dict[int, Callable[[Any], None]]):
    """Run each instruction only if it is safe for the present stack."""

    def __init__(self, reader: _Unpickler) -> None:
        super().__init__(pickle._Unpickler.dispatch)
        self._reader, self._left = reader, MOST_STEPS

    def __getitem__(self, opcode: int) -> Callable[[Any], None]:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"a pickle of more than {MOST_STEPS} steps")
        prepare = _PREPARE.get(opcode)
        if prepare is not None:
            prepare(self._reader.stack)
        return _OTHERS.get(opcode) or super().__getitem__(opcode)


def _refuse(stack: list[Any]) -> None:
    raise ValueError("a pickle with instructions that PyTorch does not write")


def _check_call(stack: list[Any]) -> None:
    """Allow objects only of a class with few arguments, because these are copied at each call."""
    called, given = stack[-2:]
    if called is not Items and not (isinstance(called, type) and issubclass(called, StandIn)):
        raise ValueError("a pickle that calls what is no class")
    if not isinstance(given, tuple) or len(given) > _MOST_GIVEN:
        raise ValueError(f"an object of more than {_MOST_GIVEN} arguments, or of none")


def _check_state(stack: list[Any]) -> None:
    if not isinstance(stack[-2], StandIn | Items):
        raise ValueError("a pickle that sets attributes of what has none")


def _plain_key(stack: list[Any]) -> None:
    stack[-2] = _plain(stack[-2])


def _plain_keys(stack: list[Any]) -> None:
    stack[::2] = map(_plain, stack[::2])


def _plain(key: Any) -> object:
    """A key of a dictionary, or a stand-in: nested tuples may take forever to hash, and
    many large integers have the same hash."""
    small = type(key) in (int, bool) and -(1 << 63) <= key < 1 << 63
    plain = small or isinstance(key, str | bytes | StandIn | None)
    return key if plain else StandIn(key)


def _push_set(reader: Any) -> None:
    reader.append(StandIn())


def _push_frozen_set(reader: Any) -> None:
    reader.pop_mark()
    reader.append(StandIn())


_PREPARE: dict[int, Callable[[list[Any]], None]] = {
    pickle.REDUCE[0]: _check_call,
    pickle.NEWOBJ[0]: _check_call,
    pickle.BUILD[0]: _check_state,
    pickle.SETITEM[0]: _plain_key,
    pickle.SETITEMS[0]: _plain_keys,
    pickle.DICT[0]: _plain_keys,
} | {
    opcode[0]: _refuse
    for opcode in (
        *(pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
        *(pickle.PERSID, pickle.LONG4),
        *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    )
}

_OTHERS: dict[int, Callable[[Any], None]] = {
    pickle.EMPTY_SET[0]: _push_set,
    pickle.FROZENSET[0]: _push_frozen_set,
}
