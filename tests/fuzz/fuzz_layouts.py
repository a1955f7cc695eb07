"""Artifacts of any layout and any bytes, with valid sizes: the native core must not crash."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from artifact_files import AXES, CLUSTERS, Tensor, build

from saec.bits.packing import packed_bytes
from saec.format.tier_index import TierIndex
from saec.format.tier_layout import Layout, tier_bounds

_PARTS = ["-", "0", "1", "2", "3", "5", "8", "2g", "7g", "10g", "12g", "0j2", "2j3", "4j2", "6j8"]
_ROWS = [1, 2, 63, 64, 65, 66, 255, 256, 300, 1024, 1025, 4097, 5000]


def tiered(rng: Random) -> bytes:
    """An artifact of one field in tiers."""
    count = rng.choice(_ROWS)
    if not rng.randrange(8):
        count = rng.choice([1 << 20, (1 << 36) + 1, 1 << 42])
    most = len(tier_bounds(count)) - 1
    number = rng.choice([most, rng.randint(1, most)])
    texts = [_tier(rng, big=count > 9999) for _ in range(number)]
    renumbered = rng.randrange(3) == 0
    if renumbered:
        texts = [_ordered(rng, text) for text in texts]
    layout = Layout.parse(count, texts)
    dim = rng.choice([1, 2, 3, 4, 8, 16, 17, 100])
    values = np.frombuffer(rng.randbytes(2 * layout.value_count), np.float16)
    axes = np.frombuffer(rng.randbytes(2 * (layout.rank + 1) * dim), np.float16)
    arrays: dict[str, Tensor] = {
        "values": ("F16", [len(values)], _finite(values).tobytes()),
        "axes": ("F16", [layout.rank + 1, dim], _finite(axes).tobytes()),
        "codes": ("U8", [layout.code_bytes], rng.randbytes(layout.code_bytes)),
    }
    if not renumbered and number > 1 and count < 9999 and rng.randrange(2):
        index = _index(rng, count, len(texts))
        arrays["tiers"] = ("U8", [len(index)], index)
    if layout.first_start_bytes[-1]:
        starts = _starts(rng, layout)
        arrays["starts"] = ("U8", [len(starts)], starts)
    index = 1 if renumbered else 2 if "tiers" in arrays else 0
    return _artifact(AXES, (count, dim), bytes([index]) + layout.packed(), arrays)


def clustered(rng: Random) -> bytes:
    """An artifact of one clustered field; some of its codes may lie beyond the codebook."""
    count, bits = rng.choice(_ROWS), rng.choice([1, 2, 3, 5, 8, 12, 17, 32])
    clusters, rank = rng.choice([1, 2, 3, 8, 200]), rng.choice([1, 2, 4, 17])
    dim = rank + rng.choice([0, 0, 1, 3])
    kind = "I8" if dim > rank else rng.choice(["F32", "F16", "I8"])
    width = {"F32": 4, "F16": 2, "I8": 1}[kind]
    size = packed_bytes(count, bits)
    arrays: dict[str, Tensor] = {
        "codes": ("U8", [size], rng.choice([bytes(size), rng.randbytes(size)])),
        "codebook": (kind, [clusters, rank], rng.randbytes(clusters * rank * width)),
    }
    if kind == "I8":
        arrays["grid"] = ("F32", [2, rank], np.ones(2 * rank, np.float32).tobytes())
    if dim > rank:
        axes = _finite(np.frombuffer(rng.randbytes(2 * (rank + 1) * dim), np.float16))
        arrays["axes"] = ("F16", [rank + 1, dim], axes.tobytes())
    return _artifact(CLUSTERS, (count, dim), bytes([bits]), arrays)


def _artifact(
    codec: int, shape: tuple[int, int], details: bytes, arrays: dict[str, Tensor]
) -> bytes:
    field = {"name": "a", "codec": codec, "dtype": "F32", "details": details, "tensors": arrays}
    return build([field | {"vocab_size": shape[0], "dim": shape[1]}])


def _tier(rng: Random, big: bool) -> str:
    parts = ["-", "0", "0j2"] if big else _PARTS
    return " ".join(rng.choice(parts) for _ in range(rng.choice([0, 1, 2, 3, 8])))


def _ordered(rng: Random, text: str) -> str:
    """Make some leading parts ordered, while they have bits and at most 16 together."""
    parts, bits = text.split(), 0
    for place, part in enumerate(parts):
        width = 0 if part == "-" else int(part.rstrip("g").partition("j")[0])
        bits += width
        if not width or bits > 12 or not rng.randrange(3):
            break
        parts[place] = f"o{part}"
    return " ".join(parts)


def _index(rng: Random, count: int, number: int) -> bytes:
    bounds = tier_bounds(count, number)
    if rng.randrange(3):
        tiers = np.repeat(np.arange(number), np.diff(bounds))
        order = np.random.default_rng(rng.randrange(1 << 30)).permutation(count)
        sound = bytearray(TierIndex.of(tiers[order], number).data.tobytes())
        for _ in range(rng.choice([0, 1, 5])):
            if sound:
                sound[rng.randrange(len(sound))] = rng.randrange(256)
        return bytes(sound)
    return rng.randbytes(TierIndex.planned_bytes(count, number))


def _starts(rng: Random, layout: Layout) -> bytes:
    from saec.bits.elias_fano import pack_starts

    packed = []
    for tier, rows in enumerate(np.diff(layout.bounds).tolist()):
        bits = layout.ordered_bits(tier)
        if bits:
            places = sorted(rng.choices(range(rows + 1), k=(1 << bits) - 1))
            packed.append(pack_starts(np.array(places), rows).tobytes())
    whole = bytearray(b"".join(packed))
    if rng.randrange(3) == 0:
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    return bytes(whole)


def _finite(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.where(np.isfinite(numbers), numbers, np.float16(1))
