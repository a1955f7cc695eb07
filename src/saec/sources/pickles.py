"""Read pickles of PyTorch without running anything that they ask for."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

__all__ = ["StandIn", "unpickled"]


class StandIn:
    """Stands for an object of some class: holds what a pickle gives to it and does nothing.

    Attributes:
        kind: the class, or function, that the pickle names.
        given: the arguments for it.
        state: what the pickle sets afterwards.
    """

    kind = ""

    def __init__(self, *given: object) -> None:
        self.given = given
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        """Items of a mapping are not kept."""

    def extend(self, values: Iterable[object]) -> None:
        """Nor are those of a sequence."""

    def get(self, name: str) -> Any:
        """An attribute of the object; None if it has none of this name."""
        return self.state.get(name) if isinstance(self.state, dict) else None


def unpickled(
    content: bytes, load: Callable[[Any], object] | None = None, most: int = 1 << 28
) -> object:
    """What a pickle holds: numbers, strings and containers, and stand-ins for all else.

    No name in it is ever looked up, so that nothing of what it names can be run.

    Args:
        content: the pickle.
        load: makes an object from a persistent id; the pickle must have none if it is None.
        most: bytes of a pickle that is read at all.

    Raises:
        Exception: of any kind, if the pickle is damaged.
    """
    if len(content) > most:
        raise ValueError(f"a pickle of {len(content)} bytes")
    return _Reader(content, load).load()


# The one written in Python: the other grows its memo to whatever number a hostile file gives.
class _Reader(pickle._Unpickler):
    def __init__(self, content: bytes, load: Callable[[Any], object] | None) -> None:
        super().__init__(BytesIO(content), encoding="utf-8")
        self._load = load

    def persistent_load(self, pid: Any) -> object:
        if self._load is None:
            raise ValueError("a persistent id")
        return self._load(pid)

    def find_class(self, module: str, name: str) -> type:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        kind = f"{module}.{name}"
        # A new class each time: a pickle may set attributes of what it was given.
        return type("StandIn", (StandIn,), {"kind": kind})
