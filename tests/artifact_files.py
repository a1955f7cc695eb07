"""Artifacts made by hand, without the code under test, and results of every kind."""

from __future__ import annotations

import copy
import itertools
import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from saec import artifact
from saec.bits.packing import PackedCodes
from saec.errors import SaecError
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.compressed import Compressed
from saec.format.load import load
from saec.format.raw_field import RawField
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout
from saec.format.tiered_field import TieredField

Tensor = tuple[str, list[int], bytes]

CODES = [2, 0, 1, 1, 0]
BOOK = np.array([[1, 10], [2, 20], [3, 30]], np.float32)


def clustered(
    name: str = "user", dtype: Any = "float32", rank: int | None = None
) -> ClusteredField:
    packed = PackedCodes.pack(np.array(CODES), 2)
    return ClusteredField(name, packed, Codebook.round(BOOK, dtype, rank), "float32")


def tiered(name: str, dtype: type[np.floating[Any]], index: bool) -> TieredField:
    """66 rows in two tiers with parts of every kind."""
    layout = Layout.parse(66, ["2g 1j2", "1 - 0"])
    codes = np.arange(layout.code_bytes, dtype=np.uint8)
    values = np.linspace(-2, 2, layout.value_count).astype(np.float16)
    axes = np.linspace(-1, 1, 8).reshape(4, 2).astype(dtype)
    where = TierIndex.of(np.arange(66) % 33 == 5) if index else None
    return TieredField(name, layout, codes, values, axes, where, "float16")


def all_kinds() -> Compressed:
    return Compressed(
        [
            clustered("a"),
            clustered("b", "float16"),
            clustered("c", "int8"),
            clustered("d", "int8", 1),
            tiered("tiers", np.float16, False),
            tiered("index", np.float32, True),
            RawField("e", BOOK),
            RawField("f", BOOK.astype(np.float16)),
            RawField("g\u00e9\n\u4e2d", BOOK.astype(ml_dtypes.bfloat16)),
        ]
    )


Field = dict[str, Any]

ROLES = {"weights": 0, "codes": 1, "codebook": 2, "grid": 3, "axes": 4, "values": 5}
ROLES |= {"tiers": 6, "starts": 7}
DTYPES = {"F32": 1, "F16": 2, "BF16": 3, "I8": 4, "U8": 5}
WIDTHS = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1}
RAW, CLUSTERS, AXES = 0, 1, 2


def number(value: int) -> bytes:
    """A varint: seven bits a byte, lowest first; all bytes but the last have the highest bit."""
    groups = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def text(value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return number(len(data)) + data


def record(field: Field) -> bytes:
    """A field's record made by hand: codec, name, dtype, shape, details, tensors by role."""
    tensors = field["tensors"]
    return b"".join(
        [
            bytes([field["codec"]]),
            text(field["name"]),
            bytes([DTYPES.get(field["dtype"], field["dtype"])]),
            number(field["vocab_size"]),
            number(field["dim"]),
            text(field["details"]),
            bytes([field.get("count", len(tensors))]),
            *(tensor_record(role, *tensors[role]) for role in _in_order(tensors)),
        ]
    )


def _in_order(tensors: dict[Any, Any]) -> list[Any]:
    return sorted(tensors, key=lambda role: ROLES.get(role, role))


def tensor_record(role: Any, dtype: Any, shape: list[int], held: bytes | dict[str, Any]) -> bytes:
    """Role, dtype with the number of lengths, lengths; then the shards that ``held`` names."""
    sharded = isinstance(held, dict)
    kind = DTYPES.get(dtype, dtype) + 16 * len(shape) + 128 * sharded
    parts = [bytes([ROLES.get(role, role), kind]), *map(number, shape)]
    if isinstance(held, dict):
        parts += [text(held["name"]), bytes.fromhex(held["run"]), number(len(held["shards"]))]
        parts += [number(n) for pair in held["shards"] for n in pair]
    return b"".join(parts)


def described(fields: list[Field], loss: float = math.nan) -> bytes:
    return struct.pack("<d", loss) + b"".join(map(record, fields))


def header(data: int, description: int) -> bytes:
    said = (
        b'{"__metadata__":{"saec":"3"},'
        b'"data":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]},'
        b'"description":{"dtype":"U8","shape":[%d],"data_offsets":[%d,%d]}}'
        % (data, data, description, data, data + description)
    )
    return (248).to_bytes(8, "little") + said.ljust(248)


def joined(fields: list[Field]) -> bytes:
    """The bytes of all tensors, those with the widest items first."""
    tensors = [field["tensors"][role] for field in fields for role in _in_order(field["tensors"])]
    inside = [tensor for tensor in tensors if isinstance(tensor[2], bytes)]
    return b"".join(data for _, _, data in sorted(inside, key=lambda t: -WIDTHS.get(t[0], 1)))


def build(fields: list[Field], loss: float = math.nan) -> bytes:
    """A file made by hand, without the code under test."""
    return assembled(joined(fields), described(fields, loss))


def assembled(data: bytes, description: bytes) -> bytes:
    return header(len(data), len(description)) + data + description


def container(metadata: dict[str, str], tensors: dict[str, Tensor]) -> bytes:
    """Any safetensors file."""
    header: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for key, (dtype, shape, data) in tensors.items():
        header[key] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [offset, offset + len(data)],
        }
        offset += len(data)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    payload = b"".join(data for _, _, data in tensors.values())
    return len(encoded).to_bytes(8, "little") + encoded + payload


def good() -> list[Field]:
    """Fields user (clustered) and item (raw)."""
    user = {
        "name": "user",
        "codec": CLUSTERS,
        "dtype": "F32",
        "vocab_size": 5,
        "dim": 2,
        "details": bytes([2]),
        "tensors": {
            "codes": ("U8", [9], bytes([0b01010010, 0b00, 0, 0, 0, 0, 0, 0, 0])),
            "codebook": ("F32", [3, 2], BOOK.tobytes()),
        },
    }
    item = {
        "name": "item",
        "codec": RAW,
        "dtype": "F32",
        "vocab_size": 3,
        "dim": 2,
        "details": b"",
        "tensors": {"weights": ("F32", [3, 2], BOOK.tobytes())},
    }
    return [user, item]


def use(result: Compressed) -> None:
    """Call everything that reads a field."""
    for field in result.values():
        field.lookup([0, field.vocab_size - 1])
        field.pool([0], [0])
        field.decode()
        repr(field)
    repr(result)


def load_and_use(path: Path) -> None:
    """Load and read a file; raises only saec's own errors. Damaged numbers may overflow."""
    try:
        with np.errstate(all="ignore"):
            use(load(path))
    except SaecError:
        pass


GRAIN = 65536
RUN = "9f86d081884c7d65"
FIRST = f"a.saec.{RUN}-00001"
WHERE = {"name": "a.saec", "run": RUN, "shards": [[1, 9]]}  # user's codes


def shard_by_hand(data: bytes, run: str = RUN, number: int = 1) -> bytes:
    """A shard made by hand, without the code under test."""
    text = (
        b'{"__metadata__":{"saec_run":"%s","saec_shard":"%d"},'
        b'"piece":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'
        % (run.encode(), number, len(data), len(data))
    )
    return (GRAIN - 8).to_bytes(8, "little") + text.ljust(GRAIN - 8) + data


def save_in_shards(
    result: Compressed, path: Path, run: str = RUN, roles: tuple[str, ...] = ()
) -> None:
    """What :meth:`Compressed.save` writes, in shards of one grain; of some roles only, if given."""
    numbers = itertools.count(1)
    entries = []
    for field in result.values():
        sharded = {}
        for role, tensor in field.tensors.items():
            if not roles or role in roles:
                data = np.ascontiguousarray(tensor).view(np.uint8).reshape(-1)
                blocks = [data[start : start + GRAIN] for start in range(0, len(data), GRAIN)]
                shards = tuple(
                    artifact.write_shard(path, run, next(numbers), [block]) for block in blocks
                )
                sharded[role] = artifact.ShardedTensor(
                    tensor.dtype, tensor.shape, path.name, run, shards
                )
        entries.append(replace(field.entry, sharded=sharded))
    artifact.write(path, entries, result.predicted_loss_increase)


def by_hand() -> tuple[list[Field], dict[str, bytes]]:
    """Field user with its codes in a shard, item with its weights inside; the shards by name."""
    fields = good()
    dtype, shape, data = fields[0]["tensors"]["codes"]
    fields[0]["tensors"]["codes"] = (dtype, shape, copy.deepcopy(WHERE))
    return fields, {FIRST: shard_by_hand(data)}


def put(directory: Path, index: bytes, shards: dict[str, bytes]) -> Path:
    for name, data in shards.items():
        (directory / name).write_bytes(data)
    (directory / "a.saec").write_bytes(index)
    return directory / "a.saec"
