"""Small damage to bytes, to trees of JSON, and to archives; drawn from a generator alone."""

from __future__ import annotations

import io
import json
import zipfile
from random import Random
from typing import Any

from saec.artifact.container import ARTIFACT, PATCH, file_header

ODD_NUMBERS = [0, 1, 2, 7, 64, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**42, 2**63 - 1, 2**63, 2**64]
ODD_VALUES = [
    *ODD_NUMBERS,
    -1,
    -(2**63),
    10**30,
    1.5,
    1e308,
    True,
    None,
    "",
    "a" * 999,
    [],
    {},
    [[]],
]


def spoiled(rng: Random, data: bytes) -> bytes:
    """``data`` with one to four places changed, cut, doubled or filled."""
    held = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        _spoil_once(rng, held)
    return bytes(held)


def _spoil_once(rng: Random, held: bytearray) -> None:
    at = rng.randrange(len(held) + 1)
    span = rng.choice([1, 1, 2, 4, 8, 30, 300])
    match rng.randrange(8):
        case 0 | 1 if at < len(held):
            held[at] ^= 1 << rng.randrange(8)
        case 2 if at < len(held):
            held[at] = rng.choice([0, 1, 127, 128, 254, 255, rng.randrange(256)])
        case 3:
            size = rng.choice([2, 4, 8])
            number = rng.choice(ODD_NUMBERS) % (1 << 8 * size)
            held[at : at + size] = number.to_bytes(size, rng.choice(["little", "little", "big"]))
        case 4:
            del held[at : at + span]
        case 5:
            held[at:at] = rng.randbytes(span)
        case 6:
            other = rng.randrange(len(held) + 1)
            held[at : at + span] = held[other : other + span]
        case _:
            if rng.randrange(4):
                held[at : at + span] = bytes(min(span, len(held) - at))
            else:
                del held[at:]


def spoil_tree(rng: Random, tree: Any) -> None:
    """Change one or two places of nested lists and dictionaries."""
    for _ in range(rng.choice([1, 1, 2])):
        places = list(_places(tree))
        if places:
            _spoil_place(rng, *rng.choice(places))


def _places(tree: Any) -> Any:
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in list(keys):
        yield tree, key
        yield from _places(tree[key])


def _spoil_place(rng: Random, owner: Any, key: Any) -> None:
    value = owner[key]
    match rng.randrange(5):
        case 0:
            del owner[key]
        case 1 if isinstance(owner, dict):
            owner[rng.choice(["", "name", "dtype", "x" * 300, str(key) + "1"])] = value
        case 1:
            owner.insert(key, value)
        case 2 if isinstance(value, str):
            owner[key] = spoiled(rng, value.encode()).decode(errors="replace")
        case 2 | 3 if type(value) is int:
            owner[key] = value + rng.choice([-1, 1, 7, -value * 2, value, 1 << 40])
        case _:
            owner[key] = rng.choice(ODD_VALUES) if rng.randrange(20) else nested(300)


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    inner: Any = 0
    for _ in range(depth):
        inner = [inner]
    return inner


def spoiled_safetensors(rng: Random, data: bytes) -> bytes:
    """A file with a damaged header, description or tensors; the rest stays consistent."""
    if not rng.randrange(4):
        return spoiled(rng, data)
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    about = header.get("description")
    choice = rng.randrange(6)
    if about is not None and choice < 4:
        first, last = about["data_offsets"]
        said = spoiled(rng, body[first:last])
        kind = PATCH if PATCH.key in header["__metadata__"] else ARTIFACT
        return file_header(kind, first, len(said)) + body[:first] + said
    if choice == 4:
        spoil_tree(rng, header)
    else:
        changed = bytearray(body)
        for _ in range(rng.choice([1, 3, 20])):
            if changed:
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        body = bytes(changed)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def spoiled_zip(rng: Random, data: bytes) -> bytes:
    """An archive with one damaged member and valid checksums, or a damaged archive."""
    if not rng.randrange(4):
        return spoiled(rng, data)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        members = old.infolist()
        pickles = [member for member in members if member.filename.endswith(".pkl")]
        chosen = rng.choice(pickles if pickles and rng.randrange(4) else members)
        for member in members:
            content = old.read(member)
            content = spoiled(rng, content) if member is chosen else content
            kind = zipfile.ZIP_DEFLATED if not rng.randrange(6) else member.compress_type
            new.writestr(member.filename, content, compress_type=kind)
    return made.getvalue()
