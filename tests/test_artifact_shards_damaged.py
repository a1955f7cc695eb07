"""Artifacts in shards: one malformed description or shard per error, and fuzzed ones."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from artifact_files import (
    BOOK,
    FIRST,
    GRAIN,
    RUN,
    WHERE,
    all_kinds,
    build,
    by_hand,
    load_and_use,
    put,
    save_in_shards,
    shard_by_hand,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saec.artifact import ShardedTensor, entry_bytes, write_shard
from saec.errors import ArtifactError
from saec.format.load import load
from saec.format.raw_field import RawField

OTHER = "0123456789abcdef"
SECOND = f"a.saec.{RUN}-00002"

Change = Callable[[dict[str, Any]], object]


def where(**changes: object) -> Change:
    return lambda said: said.update(changes)


NAMES = ["", "/a.saec", "x/a.saec", "../a.saec", "x\\a.saec", "a\0", "x" * 256]
MALFORMED: list[tuple[Change, str]] = [
    *((where(name=name), "is no name of a file beside the artifact") for name in NAMES),
    (where(name=b"a\xff"), "a name is no UTF-8"),
    (where(name="x" * 70_000), "a name takes 70000 bytes; the limit is 65535"),
    (where(shards=[]), "shards of 0 bytes are no uint8 (9,)"),
    (where(shards=[[1, 8]]), "shards of 8 bytes are no uint8 (9,)"),
    (where(shards=[[1, 10]]), "shards of 10 bytes are no uint8 (9,)"),
    (where(shards=[[0, 9]]), "there is no shard 0 of 9 bytes"),
    (where(shards=[[1, 0], [2, 9]]), "there is no shard 1 of 0 bytes"),
    (where(shards=[[2**62, 9]]), "there is no shard 4611686018427387904 of 9 bytes"),
    (where(shards=[[1, 2**62]]), "there is no shard 1 of 4611686018427387904 bytes"),
    (where(shards=[[1, 2**63]]), "a number has more than 9 bytes"),
    (where(shards=[[1, 4], [2, 5]]), "shard 1 has 4 bytes, no multiple of 65536, and is not the"),
    (where(shards=[[1, GRAIN], [2, 9]]), "shards of 65545 bytes are no uint8 (9,)"),
    (where(shards=[[2, 9]]), f"shard '{SECOND}' is missing"),
    (where(name="b.saec"), f"shard 'b.saec.{RUN}-00001' is missing"),
    (where(name=".."), f"shard '...{RUN}-00001' is missing"),
    (where(run=OTHER), f"shard 'a.saec.{OTHER}-00001' is missing"),
    (where(name="x" * 255), f"shard '{'x' * 255}.{RUN}-00001' cannot be opened"),
]


@pytest.mark.parametrize(("change", "message"), MALFORMED)
def test_malformed_place_of_shards(change: Change, message: str, tmp_path: Path) -> None:
    fields, shards = by_hand()
    change(fields[0]["tensors"]["codes"][2])
    refused(put(tmp_path, build(fields), shards), message)


def refused(path: Path, message: str) -> None:
    with pytest.raises(ArtifactError, match=re.escape(message)) as caught:
        load(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "field 'user': " in said
    assert len(said) < 1000


DAMAGED: list[tuple[str, list[int], dict[str, Any], str]] = [
    ("F32", [9], WHERE, "shards of 9 bytes are no float32 (9,)"),
    ("U8", [0], WHERE, "shards of 9 bytes are no uint8 (0,)"),
    ("U8", [0], WHERE | {"shards": []}, "shards of 0 bytes are no uint8 (0,)"),
    ("F32", [2**61, 2**61], WHERE, "shards of 9 bytes are no float32 (2305843009213693952, 23"),
    ("U8", [9, 1, 1], WHERE, "'codes' has 3 dimensions, not 1 or 2"),
    ("U8", [9, 1], WHERE, "take 9 bytes, not uint8 (9, 1)"),
    ("I8", [9], WHERE, "take 9 bytes, not int8 (9,)"),
]


@pytest.mark.parametrize(("dtype", "shape", "held", "message"), DAMAGED)
def test_damaged_record(
    dtype: str, shape: list[int], held: dict[str, Any], message: str, tmp_path: Path
) -> None:
    fields, shards = by_hand()
    fields[0]["tensors"]["codes"] = (dtype, shape, held)
    refused(put(tmp_path, build(fields), shards), message)


def test_a_shard_of_two_tensors(tmp_path: Path) -> None:
    fields, shards = by_hand()
    fields.append(copy.deepcopy(fields[0]) | {"name": "again"})
    path = put(tmp_path, build(fields), shards)
    with pytest.raises(ArtifactError, match=re.escape(f"shard '{FIRST}' is named 2 times")):
        load(path)


def test_a_shards_name_is_text(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.saec", RUN, 1, [BOOK])
    tensor = ShardedTensor(BOOK.dtype, BOOK.shape, "a\udcff", RUN, (shard,))
    entry = replace(RawField("user", BOOK).entry, sharded={"weights": tensor})
    with pytest.raises(ArtifactError, match=r"the name 'a\\udcff' is no UTF-8"):
        entry_bytes(entry)


def test_a_tensor_larger_than_all_addresses(tmp_path: Path) -> None:
    fields, shards = by_hand()
    size = 2**61
    where = WHERE | {"shards": [[1, size]]}
    fields[0]["tensors"]["codes"] = ("U8", [size], where)
    refused(put(tmp_path, build(fields), shards), f"{size} bytes cannot be mapped: Cannot allocate")


CODE_BYTES = bytes([0b01010010, *[0] * 8])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", f"shard '{FIRST}' has 0 bytes, not 65545"),
        (shard_by_hand(CODE_BYTES)[:-1], f"shard '{FIRST}' has 65544 bytes, not 65545"),
        (shard_by_hand(CODE_BYTES)[:GRAIN], f"shard '{FIRST}' has 65536 bytes, not 65545"),
        (shard_by_hand(CODE_BYTES) + b"\0", f"shard '{FIRST}' has 65546 bytes, not 65545"),
        (bytes(GRAIN + 9), f"shard '{FIRST}' does not begin as number 1 of its run"),
        (shard_by_hand(CODE_BYTES, OTHER), "does not begin as number 1 of its run"),
        (shard_by_hand(CODE_BYTES, RUN, 2), "does not begin as number 1 of its run"),
        (shard_by_hand(bytes(8)) + b"\0", "does not begin as number 1 of its run"),
    ],
    ids=["empty", "cut", "head alone", "longer", "zeros", "foreign", "other number", "other size"],
)
def test_damaged_shard(content: bytes, message: str, tmp_path: Path) -> None:
    fields, _ = by_hand()
    path = put(tmp_path, build(fields), {FIRST: content})
    with pytest.raises(ArtifactError, match=re.escape(message)) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: field 'user': shard ")


@pytest.mark.parametrize("kind", ["directory", "pipe", "link to nothing", "missing"])
def test_shard_that_is_no_file(kind: str, tmp_path: Path) -> None:
    fields, _ = by_hand()
    path = put(tmp_path, build(fields), {})
    if kind == "directory":
        (tmp_path / FIRST).mkdir()
    elif kind == "pipe":
        os.mkfifo(tmp_path / FIRST)
    elif kind == "link to nothing":
        (tmp_path / FIRST).symlink_to(tmp_path / "nothing")
    message = "is no file" if kind in ("directory", "pipe") else "is missing"
    with pytest.raises(ArtifactError, match=f"shard '{FIRST}' {message}"):
        load(path)


def test_every_byte_of_a_shards_head_counts(tmp_path: Path) -> None:
    fields, shards = by_hand()
    path = put(tmp_path, build(fields), shards)
    for spot in [*range(160), 1000, GRAIN - 1]:
        content = bytearray(shards[FIRST])
        content[spot] ^= 1
        (tmp_path / FIRST).write_bytes(content)
        with pytest.raises(ArtifactError, match="does not begin as number 1 of its run"):
            load(path)


def test_a_shard_is_no_artifact(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.saec", RUN, 1, [BOOK])
    with pytest.raises(ArtifactError, match="a safetensors file, but no saec artifact"):
        load(tmp_path / FIRST)


FUZZ = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.exhaustive
@FUZZ
@given(data=st.data())
def test_fuzzed_bytes(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "a.saec"
    if not path.exists():
        save_in_shards(all_kinds(), path)
    changed = data.draw(st.sampled_from(sorted(tmp_path.iterdir())))
    whole = changed.read_bytes()
    content = bytearray(whole)
    last = len(content) - 1
    spots = st.integers(0, min(last, 200)) | st.integers(max(0, last - 200), last)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(spots)] = data.draw(st.integers(0, 255))
    changed.write_bytes(content[: data.draw(st.integers(last - 1, last + 2))])
    load_and_use(path)
    changed.write_bytes(whole)


@pytest.mark.exhaustive
@FUZZ
@given(data=st.data())
def test_fuzzed_record(data: st.DataObject, tmp_path: Path) -> None:
    number = st.integers(0, 2**64) | st.sampled_from([1, 9, 24, GRAIN, GRAIN + 9])
    fields, shards = by_hand()
    held = copy.deepcopy(WHERE)
    values = {
        "name": st.sampled_from(["a.saec", RUN, "..", "/"]) | st.binary(max_size=3),
        "run": st.sampled_from([RUN, OTHER]),
        "shards": st.lists(st.lists(number, min_size=2, max_size=2), max_size=3),
    }
    for key in data.draw(st.sets(st.sampled_from(sorted(values)), max_size=2)):
        held[key] = data.draw(values[key])
    dtype = data.draw(st.sampled_from(["U8", "F32", 9]))
    shape = data.draw(st.sampled_from([[9], [0]]) | st.lists(number, max_size=3))
    fields[0]["tensors"]["codes"] = (dtype, shape, held)
    load_and_use(put(tmp_path, build(fields), shards))
