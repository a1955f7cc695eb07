"""Artifacts made by hand, without what is under test, and results of every kind."""

from __future__ import annotations

import copy
import itertools
import json
import math
import zlib
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
from saec.format.tier_index import TierVectors
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


def tiered(name: str, dtype: type[np.floating[Any]], vectors: bool) -> TieredField:
    """66 rows in two tiers with parts of every kind."""
    layout = Layout.parse(66, ["2g 1j2", "1 - 0"])
    codes = np.arange(layout.code_bytes, dtype=np.uint8)
    values = np.linspace(-2, 2, layout.value_count).astype(np.float16)
    axes = np.linspace(-1, 1, 8).reshape(4, 2).astype(dtype)
    where = TierVectors.of(np.arange(66) % 33 == 5) if vectors else None
    return TieredField(name, layout, codes, values, axes, where, "float16")


def all_kinds() -> Compressed:
    return Compressed(
        [
            clustered("a"),
            clustered("b", "float16"),
            clustered("c", "int8"),
            clustered("d", "int8", 1),
            tiered("tiers", np.float16, False),
            tiered("vectors", np.float32, True),
            RawField("e", BOOK),
            RawField("f", BOOK.astype(np.float16)),
            RawField("g\u00e9\n\u4e2d", BOOK.astype(ml_dtypes.bfloat16)),
        ]
    )


def packed(description: object) -> Tensor:
    data = zlib.compress(json.dumps(description).encode())
    return "U8", [len(data)], data


def build(description: object, tensors: dict[str, Tensor]) -> bytes:
    """A file made by hand, without what is under test."""
    return container({"saec": "2"}, tensors | {"description": packed(description)})


def container(metadata: dict[str, str], tensors: dict[str, Tensor]) -> bytes:
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


def good() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fields user (clustered) and item (raw), and their tensors, not joined yet."""
    user = {
        "name": "user",
        "codec": "clusters",
        "vocab_size": 5,
        "dim": 2,
        "dtype": "float32",
        "code_bits": 2,
    }
    item = {"name": "item", "codec": "raw", "vocab_size": 3, "dim": 2, "dtype": "float32"}
    tensors = {
        "0.codebook": ("F32", [3, 2], BOOK.tobytes()),
        "1.weights": ("F32", [3, 2], BOOK.tobytes()),
        "0.codes": ("U8", [9], bytes([0b01010010, 0b00, 0, 0, 0, 0, 0, 0, 0])),
    }
    return {"facts": {}, "fields": [user, item]}, tensors


def join(description: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put the places of the fields' tensors into the description; return the joined tensors."""
    joined: dict[str, Tensor] = {}
    for key, (dtype, shape, data) in tensors.items():
        index, role = key.split(".")
        description["fields"][int(index)].setdefault("tensors", {})[role] = [dtype, *shape]
        _, [count], before = joined.get(f"{role}.{dtype}", (dtype, [0], b""))
        joined[f"{role}.{dtype}"] = (dtype, [count + math.prod(shape)], before + data)
    return joined


def good_file() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """:func:`good`, joined."""
    description, tensors = good()
    return description, join(description, tensors)


def use(result: Compressed) -> None:
    """Everything that reads a field."""
    for field in result.values():
        field.lookup([0, field.vocab_size - 1])
        field.pool([0], [0])
        field.decode()
        repr(field)
    repr(result)


def load_and_use(path: Path) -> None:
    """Nothing but our own errors, whatever the file holds; damaged numbers may overflow."""
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
    """A shard, without what is under test."""
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
        entries.append(artifact.Entry(field.description, field.tensors, sharded))
    loss = result.predicted_loss_increase
    artifact.write(path, entries, {} if loss is None else {"predicted_loss_increase": loss})


def by_hand() -> tuple[dict[str, Any], dict[str, Tensor], dict[str, bytes]]:
    """Field user with its codes in a shard, item with its weights inside; the shards by name."""
    description, tensors = good()
    joined = join(description, tensors)
    _, _, data = joined.pop("codes.U8")
    description["fields"][0]["tensors"]["codes"].append(copy.deepcopy(WHERE))
    return description, joined, {FIRST: shard_by_hand(data)}


def put(directory: Path, index: bytes, shards: dict[str, bytes]) -> Path:
    for name, data in shards.items():
        (directory / name).write_bytes(data)
    (directory / "a.saec").write_bytes(index)
    return directory / "a.saec"
