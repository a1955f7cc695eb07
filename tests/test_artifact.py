"""The file: literal bytes, sizes, one malformed file per error, mapping, whole writes or none."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifact_files import (
    BOOK,
    CODES,
    ROLES,
    Field,
    all_kinds,
    assembled,
    build,
    clustered,
    container,
    described,
    good,
    header,
    joined,
    load_and_use,
    record,
    use,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saec import artifact
from saec.artifact import entry_bytes, number_bytes, number_size
from saec.bits.packing import PackedCodes
from saec.errors import ArtifactError
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.load import load
from saec.format.raw_field import RawField


def test_literal_bytes_of_a_tiny_file(tmp_path: Path) -> None:
    first = RawField("a", np.array([[1, 2]], np.float32))
    second = RawField("b\u00e9", np.zeros((200, 1), np.float16))
    Compressed([first, second], 0.25).save(tmp_path / "a.saec")
    header = (
        b'{"__metadata__":{"saec":"3"},'
        b'"data":{"dtype":"U8","shape":[408],"data_offsets":[0,408]},'
        b'"description":{"dtype":"U8","shape":[36],"data_offsets":[408,444]}}'
    )
    data = b"\x00\x00\x80\x3f\x00\x00\x00\x40" + bytes(400)
    description = (
        b"\0\0\0\0\0\0\xd0\x3f"  # 0.25
        # raw, name, float32, 1 x 2, no details, one tensor: weights, F32 of two lengths
        b"\x00\x01a\x01\x01\x02\x00\x01\x00\x21\x01\x02"
        # 200 takes two bytes: 0x48 + 0x80, and 1
        b"\x00\x03b\xc3\xa9\x02\xc8\x01\x01\x00\x01\x00\x22\xc8\x01\x01"
    )
    expected = b"\xf8\0\0\0\0\0\0\0" + header.ljust(248) + data + description
    assert (tmp_path / "a.saec").read_bytes() == expected


def test_a_file_made_by_hand_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.saec").write_bytes(build(good()))
    result = load(tmp_path / "a.saec")
    assert list(result) == ["user", "item"]
    assert np.array_equal(result["user"].decode(), BOOK[CODES])
    assert np.array_equal(result["item"].decode(), BOOK)


def test_round_trip_of_every_kind(tmp_path: Path) -> None:
    saved = Compressed(list(all_kinds().values()), 1.25e-4)
    saved.save(tmp_path / "a.saec")
    loaded = load(tmp_path / "a.saec")
    assert list(loaded) == list(saved)
    assert loaded.predicted_loss_increase == 1.25e-4
    for name, field in saved.items():
        other = loaded[name]
        assert other.description == field.description
        assert np.array_equal(other.decode(), field.decode())
        assert other.nbytes == field.nbytes
        assert {role: t.dtype for role, t in other.tensors.items()} == {
            role: t.dtype for role, t in field.tensors.items()
        }
    use(loaded)
    loaded.save(tmp_path / "b.saec")
    assert (tmp_path / "b.saec").read_bytes() == (tmp_path / "a.saec").read_bytes()


def test_nbytes_is_the_size_on_disk(tmp_path: Path) -> None:
    for count in range(1, 8):
        result = Compressed(list(all_kinds().values())[:count])
        result.save(tmp_path / "a.saec")
        assert (tmp_path / "a.saec").stat().st_size == result.nbytes
        assert load(str(tmp_path / "a.saec")).nbytes == result.nbytes


def test_bytes_of_an_entry() -> None:
    # 9 bytes of codes, 3 of codebook, 8 of grid and 8 of axes.
    entry = clustered("f00", "int8", 1).entry
    # Codec, name, dtype, rows, dim, details, number of tensors; then role, dtype, lengths of each.
    taken = 1 + 4 + 1 + 1 + 1 + 2 + 1 + (2 + 1) + (2 + 2) + (2 + 2) + (2 + 2)
    assert entry_bytes(entry) == 9 + 3 + 8 + 8 + taken
    assert artifact.file_bytes([entry]) == 256 + 8 + entry_bytes(entry)


def test_sizes_of_numbers() -> None:
    for number in (0, 1, 127, 128, 16383, 16384, 2**62, 2**63 - 1):
        for asked in (number, np.int64(number)):
            assert number_size(asked) == len(number_bytes(asked))
    assert [number_size(2**bits) for bits in (6, 7, 13, 14)] == [1, 2, 2, 3]


def test_bytes_of_entries_with_long_numbers_and_names(tmp_path: Path) -> None:
    for count in (127, 128, 16383, 16384):
        field = RawField("\u00e9" * count, np.zeros((count, 1), np.float16))
        lengths = {127: 1, 128: 2, 16383: 2, 16384: 3}[count]
        name = 2 * count + {127: 2, 128: 2, 16383: 3, 16384: 3}[count]
        # A byte each: codec, dtype, dim, details, number of tensors; role, dtype, columns.
        assert entry_bytes(field.entry) == 8 + name + 2 * lengths + 2 * count
        Compressed([field]).save(tmp_path / "a.saec")
        assert (tmp_path / "a.saec").stat().st_size == 264 + entry_bytes(field.entry)


def several_of_one_kind(count: int) -> list[ClusteredField]:
    """Fields as real ones are: of different sizes, on axes."""
    rng = np.random.default_rng(0)
    fields = []
    for number in range(count):
        book = Codebook.round(rng.standard_normal((50 + number, 16)).astype(np.float32), "int8", 6)
        codes = PackedCodes.pack(rng.integers(50, size=900 + 77 * number), 6)
        fields.append(ClusteredField(f"field {number}", codes, book, "float32"))
    return fields


def test_fields_take_what_each_takes_alone(tmp_path: Path) -> None:
    fields = [*several_of_one_kind(11), *all_kinds().values()]
    alone = [entry_bytes(field.entry) for field in fields]
    assert all(12 <= n - field.nbytes < 60 for n, field in zip(alone, fields, strict=True))
    rng = np.random.default_rng(0)
    for count in range(1, len(fields)):
        chosen = rng.choice(len(fields), count, replace=False)
        Compressed([fields[i] for i in chosen]).save(tmp_path / "a.saec")
        size = (tmp_path / "a.saec").stat().st_size
        assert size == 264 + sum(alone[i] for i in chosen)


def test_tensors_start_at_multiples_of_their_item_size(tmp_path: Path) -> None:
    saved = all_kinds()
    saved.save(tmp_path / "a.saec")
    loaded = load(tmp_path / "a.saec")
    assert list(loaded) == list(saved)
    for field in loaded.values():
        assert field.tensors
        for tensor in field.tensors.values():
            assert isinstance(tensor.base, np.memmap), "mapped, not copied"
            assert tensor.ctypes.data % tensor.dtype.itemsize == 0


Change = Callable[[list[Field]], object]


def user(**changes: object) -> Change:
    return lambda fields: fields[0].update(changes)


def item(**changes: object) -> Change:
    return lambda fields: fields[1].update(changes)


def tensor(field: int, role: Any, dtype: Any, shape: list[int], data: bytes) -> Change:
    return lambda fields: fields[field]["tensors"].update({role: (dtype, shape, data)})


def drop(field: int, role: str) -> Change:
    return lambda fields: fields[field]["tensors"].pop(role)


def several(*changes: Change) -> Change:
    return lambda fields: [change(fields) for change in changes]


GRID = np.ones((2, 2), np.float32)
INT8 = tensor(0, "codebook", "I8", [3, 2], bytes(6))

MALFORMED: dict[str, tuple[Change, str]] = {
    "missing codes": (drop(0, "codes"), "damaged field 'user': there is no tensor 'codes'"),
    "missing codebook": (drop(0, "codebook"), "damaged field 'user': there is no tensor 'code"),
    "missing weights": (drop(1, "weights"), "damaged field 'item': there is no tensor 'weights'"),
    "extra tensor": (
        tensor(1, "starts", "U8", [1], b"a"),
        "(3, 2) and starts, weights; its tensors make float32 (3, 2) of weights",
    ),
    "codes as int8": (tensor(0, "codes", "I8", [9], bytes(9)), "take 9 bytes, not int8 (9,)"),
    "codes too short": (tensor(0, "codes", "U8", [8], bytes(8)), "9 bytes, not uint8 (8,)"),
    "codes too long": (tensor(0, "codes", "U8", [10], bytes(10)), "9 bytes, not uint8 (10,)"),
    "codes in two dimensions": (tensor(0, "codes", "U8", [9, 1], bytes(9)), "not uint8 (9, 1)"),
    "codebook of bytes": (tensor(0, "codebook", "U8", [3, 2], bytes(6)), "not uint8"),
    "codebook of bfloat16": (tensor(0, "codebook", "BF16", [3, 2], bytes(12)), "not bfloat16"),
    "codebook in one dimension": (
        tensor(0, "codebook", "F32", [6], bytes(24)),
        "a codebook has shape (clusters, rank), not (6,)",
    ),
    "codebook without centroids": (tensor(0, "codebook", "F32", [0, 2], b""), "not (0, 2)"),
    "codebook without centroids of huge width": (
        tensor(0, "codebook", "F32", [0, 2**61], b""),
        "cannot have shape (0, 2305843009213693952)",
    ),
    "codebook of another dim": (
        tensor(0, "codebook", "F32", [2, 3], bytes(24)),
        "its record says float32 (5, 2) and codebook, codes; its tensors make float32 (5, 3) of",
    ),
    "int8 without a grid": (INT8, "the grid of a int8 codebook is (2, 2), not None"),
    "grid of another shape": (
        several(INT8, tensor(0, "grid", "F32", [2, 1], bytes(8))),
        "is (2, 2), not (2, 1)",
    ),
    "grid of another dtype": (
        several(INT8, tensor(0, "grid", "F16", [2, 2], bytes(8))),
        "the grid of a int8 codebook",
    ),
    "grid with NaN": (
        several(INT8, tensor(0, "grid", "F32", [2, 2], (GRID * np.nan).tobytes())),
        "holds values that are not finite",
    ),
    "grid of floats": (
        tensor(0, "grid", "F32", [2, 2], GRID.tobytes()),
        "the grid of a float32 codebook is None, not (2, 2)",
    ),
    "axes that do not fit": (
        tensor(0, "axes", "F16", [2, 2], bytes(8)),
        "axes for rank 2 are (3, dim) float16 with dim above the rank",
    ),
    "axes with infinity": (
        tensor(0, "axes", "F16", [3, 3], np.full((3, 3), np.inf, np.float16).tobytes()),
        "the axes of a codebook hold values that are not finite",
    ),
    "weights in one dimension": (
        tensor(1, "weights", "F32", [6], bytes(24)),
        "weights have shape (6,), not (vocab_size, dim)",
    ),
    "weights without rows": (
        several(tensor(1, "weights", "F32", [0, 2], b""), item(vocab_size=0)),
        "weights have shape (0, 2)",
    ),
    "weights of integers": (
        several(tensor(1, "weights", "I8", [3, 2], bytes(6)), item(dtype="I8")),
        "a table cannot have been 'int8'",
    ),
    "weights of another dtype than said": (
        item(dtype="F16"),
        "its record says float16 (3, 2) and weights; its tensors make float32 (3, 2) of weights",
    ),
    "weights with details": (item(details=b"a"), "damaged field 'item': its record says"),
    "unknown codec": (user(codec=4), "field 'user': codec 4 is unknown"),
    "codec of another field": (item(codec=1, details=b"\2"), "field 'item': there is no tensor"),
    "empty name": (user(name=""), "is a string that is not empty, not ''"),
    "names twice": (item(name="user"), "field names are not unique"),
    "name that is no UTF-8": (
        user(name=b"us\xffr"),
        "its description is damaged: a name is no UTF-8",
    ),
    "name of a surrogate": (user(name=b"\xed\xa0\x80"), "a name is no UTF-8"),
    "name too long": (user(name=b"x" * 65536), "a name takes 65536 bytes; the limit is 65535"),
    "vocab_size zero": (
        several(user(vocab_size=0), tensor(0, "codes", "U8", [7], bytes(7))),
        "vocab_size 0 is outside 1..4398046511104",
    ),
    "vocab_size too large": (user(vocab_size=9), "9 codes of 2 bits take 10 bytes, not"),
    "vocab_size whose bits wrap round": (
        several(user(vocab_size=2**62), tensor(0, "codes", "U8", [7], bytes(7))),
        "damaged field 'user'",
    ),
    "vocab_size beyond 63 bits": (user(vocab_size=2**63), "'user': a number has more than 9 bytes"),
    "vocab_size of raw": (item(vocab_size=4), "its record says float32 (4, 2) and weights"),
    "dim of another table": (user(dim=3), "its record says float32 (5, 3) and codebook, codes"),
    "no dim": (user(dim=0), "its record says float32 (5, 0) and codebook, codes"),
    "dtype zero": (user(dtype=0), "its description is damaged: field 'user': dtype 0 is unknown"),
    "dtype unknown": (
        user(dtype=6),
        "its description is damaged: field 'user': dtype 6 is unknown",
    ),
    "code_bits 0": (user(details=b"\0"), "code_bits 0 is outside 1..32"),
    "code_bits 33": (user(details=b"\x21"), "code_bits 33 is outside 1..32"),
    "no code_bits": (user(details=b""), "0 bytes do not say the width of a code"),
    "two code_bits": (user(details=b"\2\2"), "2 bytes do not say the width of a code"),
    "details beyond the record": (user(details=b"\2" * 200), "200 bytes do not say the width of"),
    "role unknown": (tensor(0, 11, "U8", [1], b"a"), "field 'user': role 11 is unknown, or out of"),
    "tensor dtype zero": (tensor(0, "codes", 0, [9], bytes(9)), "field 'user': dtype 0 is unknown"),
    "tensor dtype unknown": (tensor(0, "codes", 15, [9], bytes(9)), "dtype 15 is unknown"),
    "tensor without lengths": (
        tensor(0, "codes", "U8", [], b"a"),
        "field 'user': 'codes' has 0 dimensions, not 1 or 2",
    ),
    "tensor of three lengths": (
        tensor(0, "codes", "U8", [9, 1, 1], bytes(9)),
        "field 'user': 'codes' has 3 dimensions, not 1 or 2",
    ),
    "tensor of huge length": (
        tensor(0, "codes", "U8", [2**62], bytes(9)),
        "'codes' cannot have shape (4611686018427387904,)",
    ),
    "tensor whose size wraps round": (
        tensor(0, "codebook", "F32", [2**61, 8], BOOK.tobytes()),
        "its fields' tensors take 73786976294838206497 bytes, and it holds 57",
    ),
    "tensor longer than its bytes": (
        tensor(0, "codes", "U8", [10], bytes(9)),
        "its fields' tensors take 58 bytes, and it holds 57",
    ),
    "bytes of no tensor": (
        tensor(0, "codes", "U8", [9], bytes(10)),
        "its fields' tensors take 57 bytes, and it holds 58",
    ),
    "fewer tensors than announced": (user(count=3), "'user': role 0 is unknown, or out of order"),
    "more tensors than announced": (user(count=1), "its description is damaged"),
    "fields gone": (lambda fields: fields.clear(), "it has 0 fields; an artifact has 1 to 65536"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_file(name: str, tmp_path: Path) -> None:
    change, message = MALFORMED[name]
    fields = good()
    change(fields)
    refused(build(fields), message, tmp_path)


def refused(content: bytes, message: str, directory: Path) -> None:
    path = directory / "bad.saec"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=re.escape(message)) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < len(str(path)) + 500


@pytest.mark.parametrize("loss", [-1e-9, math.inf, -math.inf])
def test_loss_increase_that_is_none(loss: float, tmp_path: Path) -> None:
    message = f"predicted_loss_increase is a finite number of at least 0, not {loss}"
    refused(build(good(), loss), message, tmp_path)


def test_loss_increase_that_is_not_known(tmp_path: Path) -> None:
    for loss in (math.nan, -math.nan):
        (tmp_path / "a.saec").write_bytes(build(good(), loss))
        assert load(tmp_path / "a.saec").predicted_loss_increase is None
    (tmp_path / "a.saec").write_bytes(build(good(), 0.0))
    assert load(tmp_path / "a.saec").predicted_loss_increase == 0.0


def test_roles_stand_once_and_in_order(tmp_path: Path) -> None:
    for first, second in [("codebook", "codes"), ("codes", "codes")]:
        fields = good()[:1]
        said = bytearray(described(fields))
        at = said.index(bytes([ROLES["codes"], 0x15, 9, ROLES["codebook"], 0x21]))
        said[at], said[at + 3] = ROLES[first], ROLES[second]
        message = f"field 'user': role {ROLES[second]} is unknown, or out of order"
        refused(assembled(joined(fields), bytes(said)), message, tmp_path)


def test_numbers_are_spelt_in_one_way(tmp_path: Path) -> None:
    said = described(good())
    at = said.index(b"\x04user\x01\x05")
    longer = said[: at + 6] + b"\x85\x00" + said[at + 7 :]
    message = (
        "its description is damaged: field 'user': the number 5 takes 2 bytes, more than needed"
    )
    refused(assembled(joined(good()), longer), message, tmp_path)


def test_every_description_that_ends_early(tmp_path: Path) -> None:
    said = described(good())
    whole = {8, 8 + len(record(good()[0])), len(said)}
    for size in range(len(said)):
        message = "its description is damaged"
        if size in whole:
            message = "it has 0 fields" if size == 8 else "its fields' tensors take 33 bytes"
        refused(assembled(joined(good()), said[:size]), message, tmp_path)


def test_description_that_goes_on(tmp_path: Path) -> None:
    refused(assembled(joined(good()), described(good()) + b"\0"), "is damaged: 1 bytes", tmp_path)


MIB = 1 << 20


def test_description_that_is_too_long(tmp_path: Path) -> None:
    message = "its description takes 16777217 bytes; at most 16777216 are read"
    refused(assembled(b"", bytes(16 * MIB + 1)), message, tmp_path)


@pytest.mark.exhaustive
def test_too_many_fields(tmp_path: Path) -> None:
    field = good()[1] | {"tensors": {}}
    refused(assembled(b"", described([field] * 65537)), "it has over 65536 fields", tmp_path)


@pytest.mark.parametrize("version", ["1", "2", "4", "", "3.0", '{"format": 1}', "9" * 999])
def test_another_format(version: str, tmp_path: Path) -> None:
    content = container({"saec": version}, {"description": ("U8", [3], b"abc")})
    message = f"this has format {artifact.shortly(version)}; this saec reads format 3"
    refused(content, message, tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"data":{', b'"date":{'),
        (b'"description":{', b'"descriptiom":{'),
        (b'"dtype":"U8"', b'"dtype":"I8"'),
        (b'"shape":[57]', b'"shape":"57"'),
        (b'"shape":[57]', b'"shape":[-7]'),
        (b'"shape":[57]', b'"shape":[[]]'),
        (b'"shape":[57]', b'"shape":true'),
        (b'"shape":[57]', b'"shape":[56]'),
        (b'"shape":[57],', b'"shape":[9' + b"9" * 60 + b"],"),
        (b"[0,57]", b"[1,57]"),
        (b"[0,57]", b"[0,58]"),
        (b"}} ", b"} }"),
        (b"}}  ", b"}}\n "),
    ],
)
def test_header_that_is_not_spelt_in_the_one_way(old: bytes, new: bytes, tmp_path: Path) -> None:
    begin = header(57, len(described(good())))
    changed = begin.replace(old, new, 1)
    changed = (len(changed) - 8).to_bytes(8, "little") + changed[8:]
    assert changed != begin
    refused(changed + joined(good()) + described(good()), "its header", tmp_path)


def test_header_of_another_length(tmp_path: Path) -> None:
    begin = header(57, len(described(good())))
    longer = (256).to_bytes(8, "little") + begin[8:] + b" " * 8
    message = "it is no saec artifact or is damaged: it has"
    refused(longer + joined(good()) + described(good()), message, tmp_path)


def test_a_name_too_long_to_be_read_is_not_written(tmp_path: Path) -> None:
    Compressed([clustered("x" * 65535)]).save(tmp_path / "a.saec")
    assert list(load(tmp_path / "a.saec")) == ["x" * 65535]
    (tmp_path / "a.saec").unlink()
    with pytest.raises(ArtifactError, match="takes 65536 bytes; the limit is 65535"):
        Compressed([clustered("x" * 65536)]).save(tmp_path / "a.saec")
    with pytest.raises(ArtifactError, match="is no UTF-8: 'utf-8' codec can't encode"):
        Compressed([clustered("\ud800")]).save(tmp_path / "a.saec")
    many = [clustered(str(number) + "x" * 65000) for number in range(300)]
    with pytest.raises(ArtifactError, match=r"300 fields take 19.* bytes to describe; the limits"):
        Compressed(many).save(tmp_path / "a.saec")
    assert list(tmp_path.iterdir()) == []


def raw_header(header: object, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no saec artifact or is damaged"),
        (b"PK\x03\x04", "is no saec artifact or is damaged"),
        (b"\xff" * 100, "is no saec artifact or is damaged"),
        ((2**63).to_bytes(8, "little") + b"{}", "is no saec artifact or is damaged"),
        ((10**9).to_bytes(8, "little") + b"{}", "is no saec artifact or is damaged"),
        (raw_header(b"{"), "is no saec artifact or is damaged"),
        (raw_header(b"\xff\xfe"), "is no saec artifact or is damaged"),
        (raw_header({}), "this is a safetensors file, but no saec artifact"),
        (raw_header({"__metadata__": None}), "this is a safetensors file, but no saec artifact"),
        (
            raw_header({"__metadata__": {"x": "y"}}),
            "this is a safetensors file, but no saec artifact",
        ),
        (raw_header({"__metadata__": {"saec": 1}}), "this has format 1; this saec reads format 3"),
        (raw_header({"__metadata__": []}), "this is a safetensors file, but no saec artifact"),
        (raw_header([]), "is no saec artifact or is damaged"),
        (raw_header(b"[" * 5000), "is no saec artifact or is damaged"),
    ],
)
def test_file_that_is_no_artifact(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        load(tmp_path / "bad")


def test_path_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="missing: no such file"):
        load(tmp_path / "missing")
    with pytest.raises(ArtifactError, match="is a folder, not a regular file"):
        load(tmp_path)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "cut.saec"
    all_kinds().save(path)
    content = path.read_bytes()
    for size in [*range(0, len(content), 5), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(ArtifactError, match="is no saec artifact or is damaged"):
            load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ArtifactError, match="is no saec artifact or is damaged"):
        load(path)


def test_code_beyond_the_codebook(tmp_path: Path) -> None:
    fields = good()
    fields[0]["tensors"]["codes"] = ("U8", [9], bytes([0b11, *[0] * 8]))
    (tmp_path / "bad.saec").write_bytes(build(fields))
    field = load(tmp_path / "bad.saec")["user"]
    assert field.lookup([1]).tolist() == [[1, 10]]
    with pytest.raises(ArtifactError, match="row 0 has a code beyond the 3 centroids"):
        field.lookup([0])


@pytest.mark.exhaustive
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzzed_bytes(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "fuzzed.saec"
    all_kinds().save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) - 3, len(content) + 1))])
    load_and_use(path)


@pytest.mark.exhaustive
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzzed_description(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "fuzzed.saec"
    all_kinds().save(path)
    content = path.read_bytes()
    size = json.loads(content[8:256])["data"]["shape"][0]
    said = bytearray(content[256 + size :])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(8, len(said) - 1))
        new = data.draw(st.binary(max_size=3) | st.integers(0, 255).map(lambda n: bytes([n])))
        said[at : at + data.draw(st.integers(0, 2))] = new
    path.write_bytes(assembled(content[256 : 256 + size], bytes(said)))
    load_and_use(path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzzed_fields(data: st.DataObject, tmp_path: Path) -> None:
    small = st.integers(0, 255)
    number = st.integers(0, 40) | st.integers(0, 2**64)
    fields = good()
    for field in fields:
        values = {"codec": small, "dtype": small, "vocab_size": number, "dim": number}
        values |= {"name": st.binary(max_size=3), "details": st.binary(max_size=3)}
        for key in data.draw(st.sets(st.sampled_from(sorted(values)), max_size=1)):
            field[key] = data.draw(values[key])
        for role, (dtype, shape, held) in list(field["tensors"].items()):
            if data.draw(st.booleans()):
                shape = data.draw(st.lists(number, max_size=3))
            field["tensors"][role] = (dtype, shape, held)
    path = tmp_path / "fuzzed.saec"
    path.write_bytes(build(fields))
    load_and_use(path)


MAPPED = """
import sys
import numpy as np
import saec

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

saec.load(sys.argv[2])["user"].lookup([0])  # everything imported and warm
before = peak()
result = saec.load(sys.argv[1])
ids = np.linspace(0, result["user"].vocab_size - 1, 50).astype(np.int64)
assert result["user"].lookup(ids).tolist() == [[1.0, 10.0]] * 50
ids = np.linspace(0, result["item"].vocab_size - 1, 50).astype(np.int64)
assert not result["item"].pool(ids, [0, 25]).any()
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read memory from")
def test_lookups_do_not_load_the_file(tmp_path: Path) -> None:
    # 100 MB of codes and 100 MB of weights, as holes in the file.
    rows = 25_000_000
    fields = good()
    small = tmp_path / "small.saec"
    small.write_bytes(build(fields))
    fields[0].update(vocab_size=rows, details=bytes([32]))
    fields[0]["tensors"]["codes"] = ("U8", [4 * rows + 7], b"")
    fields[1].update(vocab_size=rows // 2)
    fields[1]["tensors"]["weights"] = ("F32", [rows // 2, 2], b"")
    size = 24 + 4 * rows + 4 * rows + 7
    large = tmp_path / "large.saec"
    with large.open("wb") as file:
        file.write(header(size, len(described(fields))) + BOOK.tobytes())
        file.seek(256 + size)
        file.write(described(fields))
    assert large.stat().st_size > 200_000_000
    command = [sys.executable, "-c", MAPPED, str(large), str(small)]
    grown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 20_000, "kB"


def test_saving_over_the_file_that_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a.saec"
    all_kinds().save(path)
    loaded = load(path)
    Compressed([loaded["a"]]).save(path)
    assert list(load(path)) == ["a"]
    assert np.array_equal(loaded["e"].decode(), BOOK)  # the old file lives on


def test_new_files_have_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    all_kinds().save(tmp_path / "a.saec")
    assert (tmp_path / "a.saec").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_path_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot write .*missing/a\.saec: No such file or dir"):
        all_kinds().save(tmp_path / "missing" / "a.saec")
    (tmp_path / "directory").mkdir()
    with pytest.raises(ArtifactError, match=r"cannot write .*directory: it is a directory"):
        all_kinds().save(tmp_path / "directory")
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]


LIMITED = """
import resource, sys
import numpy as np
from saec.format.compressed import Compressed
from saec.format.raw_field import RawField
from saec.errors import ArtifactError

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Compressed([RawField("a", np.ones((100_000, 4), np.float32))]).save(sys.argv[1])
except ArtifactError as error:
    print(error)
"""


def test_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.saec"
    all_kinds().save(path)
    before = path.read_bytes()
    command = [sys.executable, "-c", LIMITED, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == f"cannot write {path}: File too large\n"
    assert path.read_bytes() == before
    assert [other.name for other in tmp_path.iterdir()] == ["a.saec"]


def test_anything_else_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    entry = replace(clustered().entry, tensors={"codes": np.zeros(3)})
    with pytest.raises(ValueError, match="not in"):
        artifact.write(tmp_path / "a.saec", [entry])
    assert list(tmp_path.iterdir()) == []


BLOCKS = """
import sys, tracemalloc
import numpy as np
from saec.format.compressed import Compressed
from saec.format.raw_field import RawField

table = np.zeros((80_000, 128), np.float32)[:, ::2]
result = Compressed([RawField("a", table)])
tracemalloc.start()
result.save(sys.argv[1])
print(tracemalloc.get_traced_memory()[1])
"""


def test_saving_needs_no_memory_in_the_size_of_a_tensor(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BLOCKS, str(tmp_path / "a.saec")]
    peak = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "a.saec").stat().st_size > 20_000_000
    assert int(peak.stdout) < 10_000_000


def test_weights_of_any_strides_are_written_whole(tmp_path: Path) -> None:
    table = np.arange(24, dtype=np.float32).reshape(4, 6)
    fields: list[CompressedField] = [
        RawField("strided", table[::2, ::-2]),
        RawField("fortran", np.asfortranarray(table)),
        RawField("broadcast", np.broadcast_to(table[:1], (5, 6))),
    ]
    Compressed(fields).save(tmp_path / "a.saec")
    loaded = load(tmp_path / "a.saec")
    for field in fields:
        assert np.array_equal(loaded[field.name].decode(), field.decode())
