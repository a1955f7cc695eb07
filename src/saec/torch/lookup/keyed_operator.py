"""Rows and bags of keys as operators, which ``torch.compile`` and ``torch.export`` treat as units.

On a CPU they run the native core, elsewhere plain tensor operations. They have no gradients,
because tables with keys have no trainable parameters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from saec.artifact import Entry
from saec.errors import ModuleError
from saec.format.bags import Mode
from saec.format.keyed_field import KeyedField
from saec.format.keyed_patch import KeyedPatch
from saec.format.patched_field import PatchedField
from saec.keys.kinds import KeyKind
from saec.torch.lookup.operator import most_threads
from saec.torch.lookup.plain_chain import PlainChain
from saec.torch.lookup.reader import pool_rows

__all__ = ["keyed_bags", "keyed_rows", "keyed_tensors", "table_text", "tensor_names"]


# Of each link these are read in their own memory. Of its other tensors, which take kilobytes, the
# field has copies.
_READ_IN_PLACE = ("codes", "directory")


def table_text(field: KeyedField) -> str:
    """All parameters of a field besides its tensors, as a line of JSON for each link."""
    return "\n".join(map(_link_text, _links_of(field)))


def tensor_names(field: KeyedField) -> list[tuple[int, str]]:
    """The link and the role of each of :func:`keyed_tensors`."""
    every = [
        (number, role) for number, link in enumerate(_links_of(field)) for role in link.tensors
    ]
    return sorted(every, key=lambda name: name[1] not in _READ_IN_PLACE)


def keyed_tensors(field: KeyedField) -> list[Tensor]:
    """The tensors of a field and its patches, each as bytes (bytes,) uint8, so that a change of a
    module's dtype does not change them; those that are read in place come first."""
    links = [link.tensors for link in _links_of(field)]
    every = (links[number][role] for number, role in tensor_names(field))
    return [
        torch.from_numpy(np.array(np.ascontiguousarray(tensor)).reshape(-1).view(np.uint8))
        for tensor in every
    ]


def _links_of(field: KeyedField) -> Sequence[KeyedField | KeyedPatch]:
    """The field without patches, and its patches, oldest first."""
    return [field.base, *field.patches] if isinstance(field, PatchedField) else [field]


def _link_text(link: KeyedField | KeyedPatch) -> str:
    shapes = {role: [tensor.dtype.name, *tensor.shape] for role, tensor in link.tensors.items()}
    entry = link.entry
    details = entry.details.hex()
    return json.dumps([entry.name, entry.vocab_size, entry.dim, entry.dtype.name, details, shapes])


def _field(table: str, tensors: Sequence[Tensor]) -> KeyedField:
    """The field of tensors on a CPU, whose memory it shares.

    Raises:
        ArtifactError: their content is not valid in an artifact.
    """
    links = [json.loads(line) for line in table.split("\n")]
    names = [(number, role) for number, (*_, shapes) in enumerate(links) for role in shapes]
    names.sort(key=lambda name: name[1] not in _READ_IN_PLACE)
    arrays: list[dict[str, NDArray[Any]]] = [{} for _ in links]
    for tensor, (number, role) in zip(tensors, names, strict=True):
        own, *shape = links[number][-1][role]
        arrays[number][role] = tensor.detach().numpy().view(_dtype(own)).reshape(shape)
    base, *patches = map(_entry, links, arrays, [KeyedField.kind, *[KeyedPatch.kind] * len(links)])
    field = KeyedField._from_entry(base)
    if not patches:
        return field
    return PatchedField(field, [KeyedPatch.from_entry(entry, field) for entry in patches])


def _entry(link: Sequence[Any], arrays: Mapping[str, NDArray[Any]], kind: int) -> Entry:
    name, vocab_size, dim, dtype, details, _ = link
    return Entry(name, kind, _dtype(dtype), vocab_size, dim, bytes.fromhex(details), arrays)


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


class _MadeField(NamedTuple):
    """A field, its reader for devices other than the CPU, and the tensors of both.

    copied: the content of the tensors that the field has copies of; empty on other devices.
    """

    field: KeyedField
    plain: PlainChain | None
    table: str
    state: tuple[tuple[int, int], ...]
    copied: list[bytes]


_kept: Any = WeakIdKeyDictionary()  # which has no types


def _made(table: str, tensors: Sequence[Tensor]) -> _MadeField:
    """The objects made from tensors, valid while these exist and nothing is written to them.

    PyTorch does not count writes through ``.data`` or NumPy: on a CPU what was copied is compared.
    """
    state = tuple((tensor.data_ptr(), _version(tensor)) for tensor in tensors)
    in_place = len(_READ_IN_PLACE) * (1 + table.count("\n"))
    copied = [_content(tensor) for tensor in tensors[in_place:] if tensor.is_cpu]
    made: _MadeField | None = _kept.get(tensors[0])
    if made is None or (made.table, made.state, made.copied) != (table, state, copied):
        field = _field(table, [tensor.cpu() for tensor in tensors])
        plain = None if tensors[0].is_cpu else PlainChain(field, tensors[0].device)
        made = _kept[tensors[0]] = _MadeField(field, plain, table, state, copied)
    return made


def _content(tensor: Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


# Directly: torch.library.custom_op checks every call in Python, which takes as long as some
# lookups.
_torch_library: Any = torch.library  # parts of which have no types
_LIBRARY = _torch_library.Library("saec", "FRAGMENT")
_LIBRARY.define(
    "keyed_rows(Tensor keys, Tensor[] tensors, str table, bool unsigned) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order),
)


def _keyed_rows(keys: Tensor, tensors: Sequence[Tensor], table: str, unsigned: bool) -> Tensor:
    """Rows (m, dim) float32 of keys.

    Args:
        keys: (m,) int64: integers, or for a field of strings their hashes.
        tensors: of the field, from :func:`keyed_tensors`, on the device of the keys.
        table: the text of the field from :func:`table_text`.
        unsigned: whether ``keys`` are the bits of uint64.

    Raises:
        KeysError: on a CPU, a key is outside of the field's kind.
        ArtifactError: tensors are damaged.
    """
    made = _made(table, tensors)
    if made.plain is not None:
        return made.plain.rows(keys)
    hashes = _hashes(made.field, keys, unsigned)
    return torch.from_numpy(made.field.rows_of_hashes(hashes, most_threads(), in_pytorch=True))


def _hashes(field: KeyedField, keys: Tensor, unsigned: bool) -> NDArray[np.uint64]:
    given = keys.detach().numpy()
    if unsigned:
        given = given.view(np.uint64)
    text = field.key_kind == KeyKind.TEXT
    hashes = given.view(np.uint64) if text else field.hashes_of(given)
    return np.ascontiguousarray(hashes)


_LIBRARY.impl("keyed_rows", _keyed_rows, "CompositeExplicitAutograd")
_LIBRARY.define(
    "keyed_bags(Tensor keys, Tensor offsets, Tensor? weights, Tensor[] tensors, str table, "
    "bool unsigned, str mode) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order),
)


def _keyed_bags(
    keys: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    tensors: Sequence[Tensor],
    table: str,
    unsigned: bool,
    mode: str,
) -> Tensor:
    """Sums or means (bags, dim) float32 of rows of keys.

    Args:
        keys, tensors, table, unsigned: as of :func:`keyed_rows`.
        offsets: (bags,) int64, the first key of each bag.
        weights: (m,) float32 of keys in sums, or None.
        mode: sum or mean.

    Raises:
        IdError: on a CPU, offsets do not ascend from 0 to at most m.
        KeysError, ArtifactError: as :func:`keyed_rows`.
    """
    made = _made(table, tensors)
    if made.plain is not None:
        rows = made.plain.rows(keys)
        return pool_rows(rows, keys, offsets, weights, mode, None)
    factors = None if weights is None else weights.detach().numpy()
    hashes = _hashes(made.field, keys, unsigned)
    pooled = made.field.bags_of_hashes(
        hashes, offsets.numpy(), factors, cast("Mode", mode), most_threads(), in_pytorch=True
    )
    return torch.from_numpy(pooled)


_LIBRARY.impl("keyed_bags", _keyed_bags, "CompositeExplicitAutograd")


def _shape(keys: Tensor, tensors: Sequence[Tensor], table: str, unsigned: bool) -> Tensor:
    if torch.onnx.is_in_onnx_export():
        raise ModuleError(
            "ONNX has no operator for lookups by key: look up these rows outside of the model, and "
            "pass them as inputs"
        )
    _, _, dim, *_ = json.loads(table.partition("\n")[0])
    return tensors[0].new_empty((keys.shape[0], dim), dtype=torch.float32)


def _bags_shape(
    keys: Tensor,
    offsets: Tensor,
    weights: Tensor | None,
    tensors: Sequence[Tensor],
    table: str,
    unsigned: bool,
    mode: str,
) -> Tensor:
    return _shape(offsets, tensors, table, unsigned)  # one row for each bag


_torch_library.register_fake("saec::keyed_rows", _shape, lib=_LIBRARY)
_torch_library.register_fake("saec::keyed_bags", _bags_shape, lib=_LIBRARY)

# The operators as Python functions.
keyed_rows = torch.ops.saec.keyed_rows.default
keyed_bags = torch.ops.saec.keyed_bags.default
