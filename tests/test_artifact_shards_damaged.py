"""Artifacts in shards: one malformed description or shard per error, and fuzzed ones."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable
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

from saec.artifact import write_shard
from saec.errors import ArtifactError
from saec.format.load import load

OTHER = "0123456789abcdef"
SECOND = f"a.saec.{RUN}-00002"

Change = Callable[[dict[str, Any]], object]


def where(**changes: object) -> Change:
    return lambda said: said.update(changes)


HUGE = int("9" * 4000)
NAMES = ["", "/a.saec", "x/a.saec", "../a.saec", "x\\a.saec", "a\0", "x" * 256, 1, None, ["a"], {}]
NOT_RUNS = [RUN.upper(), RUN[1:], RUN + "0", "", "../../../../../x", 9, None, [RUN], RUN + "\n"]
NOT_LISTS = [None, {}, "[[1, 9]]", [1, 9], [[1]], [[1, 9, 9]], [[1, None]], [[True, 9]], [["1", 9]]]
NOT_LISTS += [[[1, 9.0]], [[-1, 9]], [[1, -9]]]
MALFORMED: list[tuple[Change, str]] = [
    *((where(name=name), "is no name of a file beside the artifact") for name in NAMES),
    *((where(run=run), "a run is 16 hexadecimal digits, not") for run in NOT_RUNS),
    *((where(shards=shards), "are no shards' numbers and sizes") for shards in NOT_LISTS),
    (where(more=1), "are no shards of U8"),
    (lambda said: said.pop("run"), "are no shards of U8"),
    (lambda said: said.clear(), "{} are no shards of U8"),
    (where(shards=[]), "shards of 0 bytes are no uint8 (9,)"),
    (where(shards=[[1, 8]]), "shards of 8 bytes are no uint8 (9,)"),
    (where(shards=[[1, 10]]), "shards of 10 bytes are no uint8 (9,)"),
    (where(shards=[[0, 9]]), "there is no shard 0 of 9 bytes"),
    (where(shards=[[1, 0], [2, 9]]), "there is no shard 1 of 0 bytes"),
    (where(shards=[[HUGE, 9]]), "there is no shard 9999"),
    (where(shards=[[1, HUGE]]), "there is no shard 1 of 9999"),
    (where(shards=[[1, 4], [2, 5]]), "shard 1 has 4 bytes, no multiple of 65536, and is not the"),
    (where(shards=[[1, GRAIN], [2, 9]]), "shards of 65545 bytes are no uint8 (9,)"),
    (where(shards=[[2, 9]]), f"shard '{SECOND}' is missing"),
    (where(name="b.saec"), f"shard 'b.saec.{RUN}-00001' is missing"),
    (where(name=".."), f"shard '...{RUN}-00001' is missing"),
    (where(run=OTHER), f"shard 'a.saec.{OTHER}-00001' is missing"),
    (where(name="x" * 255), f"shard '{'x' * 255}.{RUN}-00001' cannot be opened"),
    (where(name="\ud800"), f"shard '\\ud800.{RUN}-00001' cannot be opened"),
]


@pytest.mark.parametrize(("change", "message"), MALFORMED)
def test_malformed_place_of_shards(change: Change, message: str, tmp_path: Path) -> None:
    description, joined, shards = by_hand()
    change(description["fields"][0]["tensors"]["codes"][-1])
    path = put(tmp_path, build(description, joined), shards)
    with pytest.raises(ArtifactError, match=re.escape(message)) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: field 'user': ")
    assert len(str(caught.value)) < 1000


def place(*words: object) -> Change:
    return lambda description: description["fields"][0]["tensors"].update(codes=[*words])


DAMAGED: list[tuple[Change, str]] = [
    (place("U9", 9, WHERE), "are no shards of U9"),
    (place("F32", 9, WHERE), "shards of 9 bytes are no float32 (9,)"),
    (place("U8", 0, WHERE), "shards of 9 bytes are no uint8 (0,)"),
    (place("U8", 0, WHERE | {"shards": []}), "shards of 0 bytes are no uint8 (0,)"),
    (place("U8", 2**70, WHERE), "shards of 9 bytes are no uint8 (1180591620717411303424,)"),
    (place("U8", HUGE, HUGE, WHERE), "shards of 9 bytes are no uint8 (9999"),
    (place("U8", 9, WHERE, WHERE), "is no dtype and shape of 'codes'"),
    (place("U8", WHERE, 9), "is no dtype and shape of 'codes'"),
    (place("U8", 9, 1, 1, WHERE), "is no dtype and shape of 'codes'"),
    (place("U8", WHERE), "is no dtype and shape of 'codes'"),
    (place(WHERE), "is no dtype and shape of 'codes'"),
    (place("U8", 9, [WHERE]), "is no dtype and shape of 'codes'"),
    (place("U8", 9), "there is no tensor 'codes.U8'"),
    (place("U8", 9, 1, WHERE), "take 9 bytes, not uint8 (9, 1)"),
    (place("I8", 9, WHERE), "take 9 bytes, not int8 (9,)"),
    (
        lambda description: description["fields"].append(
            copy.deepcopy(description["fields"][0]) | {"name": "again"}
        ),
        "'codebook' does not fit its tensor",
    ),
    (
        lambda description: description["fields"][0]["tensors"].update(more=["U8", 9, WHERE]),
        f"shard '{FIRST}' is named 2 times",
    ),
]


@pytest.mark.parametrize(("change", "message"), DAMAGED)
def test_damaged_description(change: Change, message: str, tmp_path: Path) -> None:
    description, joined, shards = by_hand()
    change(description)
    path = put(tmp_path, build(description, joined), shards)
    with pytest.raises(ArtifactError, match=re.escape(message)) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1000


def test_a_tensor_larger_than_all_addresses(tmp_path: Path) -> None:
    description, joined, shards = by_hand()
    size = 2**61
    description["fields"][0]["tensors"]["codes"][1] = size
    description["fields"][0]["tensors"]["codes"][2]["shards"] = [[1, size]]
    path = put(tmp_path, build(description, joined), shards)
    with pytest.raises(ArtifactError, match=f"{size} bytes cannot be mapped: Cannot allocate"):
        load(path)


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
    description, joined, _ = by_hand()
    path = put(tmp_path, build(description, joined), {FIRST: content})
    with pytest.raises(ArtifactError, match=re.escape(message)) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: field 'user': shard ")


@pytest.mark.parametrize("kind", ["directory", "pipe", "link to nothing", "missing"])
def test_shard_that_is_no_file(kind: str, tmp_path: Path) -> None:
    description, joined, _ = by_hand()
    path = put(tmp_path, build(description, joined), {})
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
    description, joined, shards = by_hand()
    path = put(tmp_path, build(description, joined), shards)
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


FUZZ = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


@FUZZ
@given(data=st.data())
def test_fuzzed_description(data: st.DataObject, tmp_path: Path) -> None:
    numbers = st.integers() | st.sampled_from([1, 9, 24, GRAIN, GRAIN + 9, 2**63, True, HUGE])
    texts = st.sampled_from(["a.saec", RUN, "..", "/", "U8", "F32"]) | st.text(max_size=3)
    anything = st.recursive(
        st.none() | numbers | st.floats() | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2),
        max_leaves=4,
    )
    description, joined, shards = by_hand()
    held = description["fields"][0]["tensors"]["codes"]
    parts: list[Any] = [held, held[-1], held[-1]["shards"], held[-1]["shards"][0]]
    places = [
        (part, key)
        for part in parts
        for key in (part if isinstance(part, dict) else range(len(part)))
    ]
    for part, key in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=2)):
        part[key] = data.draw(anything)
    load_and_use(put(tmp_path, build(description, joined), shards))
