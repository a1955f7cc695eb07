"""One field of a file, and how the description spells where its tensors are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from saec.artifact.container import DTYPES, NAMES, shortly
from saec.artifact.shards import Shard, ShardedTensor
from saec.errors import ArtifactError

__all__ = ["Entry", "Place", "described", "place_of"]

_MOST_LENGTHS = 2  # a shape has one or two
_SHARDS_KEYS = {"name", "run", "shards"}


@dataclass(frozen=True, eq=False)
class Entry:
    """One field: a JSON-able description and its tensors of one or two dimensions, by role.

    Args:
        description: of the field, without its tensors.
        tensors: in memory or mapped.
        sharded: tensors whose bytes stand in shards, and not in the file itself. A role that is in
            ``tensors``, too, is mapped there, or may be: only what is here is written of it.
    """

    description: Mapping[str, Any]
    tensors: Mapping[str, NDArray[Any]]
    sharded: Mapping[str, ShardedTensor] = field(default_factory=dict)

    @property
    def inside(self) -> dict[str, NDArray[Any]]:
        """The tensors whose bytes the file itself holds."""
        return {role: part for role, part in self.tensors.items() if role not in self.sharded}


@dataclass(frozen=True)
class Place:
    """Where the description says that a tensor is: in ``shards``, or next in the file's own."""

    dtype: str
    shape: list[int]
    shards: dict[str, Any] | None

    def sharded(self) -> ShardedTensor:
        """The tensor in shards; raises ArtifactError if the description says nonsense of it."""
        said = self.shards
        if said is None or said.keys() != _SHARDS_KEYS or self.dtype not in DTYPES:
            raise ArtifactError(f"{shortly(said)} are no shards of {self.dtype}")
        pairs = said["shards"]
        if not isinstance(pairs, list) or not all(map(_is_shard, pairs)):
            raise ArtifactError(f"{shortly(pairs)} are no shards' numbers and sizes")
        shards = tuple(Shard(number, nbytes) for number, nbytes in pairs)
        dtype, shape = DTYPES[self.dtype], tuple(self.shape)
        return ShardedTensor(dtype, shape, said["name"], said["run"], shards)


def described(entry: Entry) -> dict[str, Any]:
    """The description with its tensors' dtypes, shapes and shards."""
    places: dict[str, list[Any]] = {
        role: [NAMES[tensor.dtype], *tensor.shape, _shards(tensor)]
        for role, tensor in entry.sharded.items()
    }
    places |= {role: [NAMES[part.dtype], *part.shape] for role, part in entry.inside.items()}
    return {**entry.description, "tensors": places}


def _shards(tensor: ShardedTensor) -> dict[str, Any]:
    pairs = [[shard.number, shard.nbytes] for shard in tensor.shards]
    return {"name": tensor.name, "run": tensor.run, "shards": pairs}


def place_of(said: object) -> Place | None:
    """A list of a text, of one or two lengths and, maybe, of an object; None if it is none."""
    if not isinstance(said, list) or not said or not isinstance(said[0], str):
        return None
    dtype, *lengths = said
    shards = lengths.pop() if lengths and isinstance(lengths[-1], dict) else None
    if not 1 <= len(lengths) <= _MOST_LENGTHS or not all(map(_is_length, lengths)):
        return None
    return Place(dtype, lengths, shards)


def _is_length(said: object) -> bool:
    return type(said) is int and said >= 0  # True is no length


def _is_shard(said: object) -> bool:
    return isinstance(said, list) and len(said) == 2 and all(map(_is_length, said))
