"""The file: literal bytes, sizes, one malformed file per error, mapping, whole writes or none."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifact_files import (
    BOOK,
    CODES,
    Tensor,
    all_kinds,
    build,
    clustered,
    container,
    good,
    good_file,
    join,
    load_and_use,
    packed,
    use,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saec import artifact
from saec.artifact import Entry, entry_bytes
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
    second = RawField("b", np.array([[3], [4]], np.float32))
    Compressed([first, second], 0.25).save(tmp_path / "a.saec")
    described = zlib.compress(
        b'{"facts":{"predicted_loss_increase":0.25},'
        b'"fields":[{"name":"a","codec":"raw","vocab_size":1,"dim":2,'
        b'"dtype":"float32","tensors":{"weights":["F32",1,2]}},'
        b'{"name":"b","codec":"raw","vocab_size":2,"dim":1,'
        b'"dtype":"float32","tensors":{"weights":["F32",2,1]}}]}',
        9,
    )
    count = len(described)
    header = (
        b'{"__metadata__":{"saec":"2"},'
        b'"weights.F32":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
        b'"description":{"dtype":"U8","shape":[%d],"data_offsets":[16,%d]}}' % (count, 16 + count)
    )
    header += b" " * (-len(header) % 8)
    data = b"\x00\x00\x80\x3f\x00\x00\x00\x40\x00\x00\x40\x40\x00\x00\x80\x40"
    expected = len(header).to_bytes(8, "little") + header + data + described
    assert (tmp_path / "a.saec").read_bytes() == expected


def test_a_file_made_by_hand_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.saec").write_bytes(build(*good_file()))
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


@pytest.mark.parametrize(("first", "second"), [("user", "item"), ("x" * 300, "\u4e2d\u6587")])
def test_spare_bytes_are_the_descriptions(first: str, second: str) -> None:
    entries = [clustered(first).entry, RawField(second, BOOK).entry]
    size = artifact.file_bytes(entries)
    assert size < artifact.file_bytes(entries, spare=100) - 90 <= size + 20
    assert artifact.file_bytes(entries, spare=10**6) - size - 10**6 in range(17)  # two numbers


def test_bytes_of_an_entry() -> None:
    # 9 bytes of codes, 3 of codebook, 8 of grid and 8 of axes; and its part of the description.
    text = json.dumps(
        {
            "name": "f00",
            "codec": "clusters",
            "vocab_size": 5,
            "dim": 2,
            "dtype": "float32",
            "code_bits": 2,
            "tensors": {
                "codes": ["U8", 9],
                "codebook": ["I8", 3, 1],
                "grid": ["F32", 2, 1],
                "axes": ["F16", 2, 2],
            },
        },
        separators=(",", ":"),
    )
    assert entry_bytes(clustered("f00", "int8", 1).entry) == 9 + 3 + 8 + 8 + len(text) // 5


def several_of_one_kind(count: int) -> list[ClusteredField]:
    """Fields as real ones are: of different sizes, on axes."""
    rng = np.random.default_rng(0)
    fields = []
    for number in range(count):
        book = Codebook.round(rng.standard_normal((50 + number, 16)).astype(np.float32), "int8", 6)
        codes = PackedCodes.pack(rng.integers(50, size=900 + 77 * number), 6)
        fields.append(ClusteredField(f"field {number}", codes, book, "float32"))
    return fields


def test_what_a_field_takes_beside_its_tensors() -> None:
    fields = several_of_one_kind(11)
    one, eleven = Compressed(fields[:1]), Compressed(fields)
    tensors = [field.nbytes for field in fields]
    assert one.nbytes - tensors[0] < 700  # one of each tensor is named in the header
    assert eleven.nbytes - sum(tensors) - (one.nbytes - tensors[0]) < 10 * 50
    assert sum(entry_bytes(field.entry) for field in fields) - sum(tensors) < 11 * 50


def test_tensors_start_at_multiples_of_their_item_size(tmp_path: Path) -> None:
    all_kinds().save(tmp_path / "a.saec")
    for field in load(tmp_path / "a.saec").values():
        for tensor in field.tensors.values():
            assert isinstance(tensor.base, np.memmap), "mapped, not copied"
            assert tensor.ctypes.data % tensor.dtype.itemsize == 0


def test_tensors_at_odd_places_are_read(tmp_path: Path) -> None:
    description, tensors = good_file()
    order = ["codes.U8", "codebook.F32", "weights.F32"]
    (tmp_path / "a.saec").write_bytes(build(description, {key: tensors[key] for key in order}))
    result = load(tmp_path / "a.saec")
    assert np.array_equal(result["user"].decode(), BOOK[CODES])
    assert np.array_equal(result["item"].decode(), BOOK)


Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


def user(**changes: object) -> Change:
    return lambda description, _: description["fields"][0].update(changes)


def item(**changes: object) -> Change:
    return lambda description, _: description["fields"][1].update(changes)


def without(key: str) -> Change:
    return lambda description, _: description["fields"][0].pop(key)


def tensor(key: str, dtype: str, shape: list[int], data: bytes) -> Change:
    return lambda _, tensors: tensors.update({key: (dtype, shape, data)})


def drop(key: str) -> Change:
    return lambda _, tensors: tensors.pop(key)


def several(*changes: Change) -> Change:
    return lambda description, tensors: [change(description, tensors) for change in changes]


def facts(**stated: object) -> Change:
    return lambda description, _: description["facts"].update(stated)


GRID = np.ones((2, 2), np.float32)
LOSS = "predicted_loss_increase is a finite number of at least 0, not "
INT8 = tensor("0.codebook", "I8", [3, 2], bytes(6))

MALFORMED: dict[str, tuple[Change, str]] = {
    "missing codes": (drop("0.codes"), "damaged field 'user': 'codes'"),
    "missing codebook": (drop("0.codebook"), "damaged field 'user': 'codebook'"),
    "missing weights": (drop("1.weights"), "field 'item': its description names no tensors"),
    "extra tensor": (tensor("0.more", "U8", [1], b"a"), "but its tensors say"),
    "codes as int8": (tensor("0.codes", "I8", [9], bytes(9)), "take 9 bytes, not int8 (9,)"),
    "codes too short": (tensor("0.codes", "U8", [8], bytes(8)), "take 9 bytes, not uint8 (8,)"),
    "codes too long": (tensor("0.codes", "U8", [10], bytes(10)), "take 9 bytes, not uint8 (10,)"),
    "codes in two dimensions": (tensor("0.codes", "U8", [9, 1], bytes(9)), "not uint8 (9, 1)"),
    "codebook of bytes": (tensor("0.codebook", "U8", [3, 2], bytes(6)), "not uint8"),
    "codebook of bfloat16": (tensor("0.codebook", "BF16", [3, 2], bytes(12)), "not bfloat16"),
    "codebook in one dimension": (
        tensor("0.codebook", "F32", [6], bytes(24)),
        "a codebook has shape (clusters, rank), not (6,)",
    ),
    "codebook without centroids": (tensor("0.codebook", "F32", [0, 2], b""), "not (0, 2)"),
    "codebook of another dim": (
        tensor("0.codebook", "F32", [2, 3], bytes(24)),
        "but its tensors say",
    ),
    "int8 without a grid": (INT8, "the grid of a int8 codebook is (2, 2), not None"),
    "grid of another shape": (
        several(INT8, tensor("0.grid", "F32", [2, 1], bytes(8))),
        "is (2, 2), not (2, 1)",
    ),
    "grid of another dtype": (
        several(INT8, tensor("0.grid", "F16", [2, 2], bytes(8))),
        "the grid of a int8 codebook",
    ),
    "grid with NaN": (
        several(INT8, tensor("0.grid", "F32", [2, 2], (GRID * np.nan).tobytes())),
        "holds values that are not finite",
    ),
    "grid of floats": (
        tensor("0.grid", "F32", [2, 2], GRID.tobytes()),
        "the grid of a float32 codebook is None, not (2, 2)",
    ),
    "axes that do not fit": (
        tensor("0.axes", "F16", [2, 2], bytes(8)),
        "axes for rank 2 are (3, dim) float16 with dim above the rank",
    ),
    "axes with infinity": (
        tensor("0.axes", "F16", [3, 3], np.full((3, 3), np.inf, np.float16).tobytes()),
        "the axes of a codebook hold values that are not finite",
    ),
    "weights in one dimension": (
        tensor("1.weights", "F32", [6], bytes(24)),
        "weights have shape (6,), not (vocab_size, dim)",
    ),
    "weights without rows": (
        several(tensor("1.weights", "F32", [0, 2], b""), item(vocab_size=0)),
        "weights have shape (0, 2)",
    ),
    "weights of integers": (
        several(tensor("1.weights", "I8", [3, 2], bytes(6)), item(dtype="int8")),
        "a table cannot have been 'int8'",
    ),
    "weights of another dtype than said": (item(dtype="float16"), "but its tensors say"),
    "number of rows that is no number": (
        user(vocab_size=True),
        "damaged field 'user': 'vocab_size' is True, not a whole number",
    ),
    "width that is no whole number": (
        user(dim=4.0),
        "damaged field 'user': 'dim' is 4.0, not a whole number",
    ),
    "unknown codec": (user(codec="squares"), "damaged field 'user': 'squares'"),
    "codec that is no text": (user(codec=["raw"]), "damaged field 'user'"),
    "no codec": (without("codec"), "damaged field 'user': 'codec'"),
    "no name": (without("name"), "damaged field 'without a name': 'name'"),
    "name that is no text": (user(name=["user"]), "is a string that is not empty, not ['user']"),
    "empty name": (user(name=""), "is a string that is not empty, not ''"),
    "names twice": (item(name="user"), "field names are not unique"),
    "vocab_size negative": (user(vocab_size=-1), "damaged field 'user'"),
    "vocab_size zero": (
        several(user(vocab_size=0), tensor("0.codes", "U8", [7], bytes(7))),
        "vocab_size 0 is outside 1..4398046511104",
    ),
    "vocab_size too large": (user(vocab_size=9), "9 codes of 2 bits take 10 bytes, not"),
    "vocab_size whose bits wrap round": (
        several(user(vocab_size=2**63), tensor("0.codes", "U8", [7], bytes(7))),
        "too many codes to be addressed",
    ),
    "vocab_size beyond 64 bits": (user(vocab_size=2**70), "damaged field 'user'"),
    "vocab_size as text": (user(vocab_size="5"), "damaged field 'user'"),
    "vocab_size as float": (user(vocab_size=5.0), "damaged field 'user'"),
    "vocab_size of raw": (item(vocab_size=4), "but its tensors say"),
    "no vocab_size": (without("vocab_size"), "damaged field 'user': 'vocab_size'"),
    "dim of another table": (user(dim=3), "but its tensors say"),
    "no dim": (without("dim"), "but its tensors say"),
    "dtype unknown": (user(dtype="float99"), "a table cannot have been 'float99'"),
    "dtype that is no text": (user(dtype=[]), "a table cannot have been []"),
    "code_bits 0": (user(code_bits=0), "code_bits 0 is outside 1..32"),
    "code_bits 33": (user(code_bits=33), "code_bits 33 is outside 1..32"),
    "code_bits None": (user(code_bits=None), "damaged field 'user'"),
    "no code_bits": (without("code_bits"), "damaged field 'user': 'code_bits'"),
    "extra key": (user(more=1), "but its tensors say"),
    "NaN in the description": (user(dim=float("nan")), "'dim' is nan, not a whole number"),
    "fact that is unknown": (facts(colour=1), "unknown facts: ['colour']"),
    "one fact too many": (facts(predicted_loss_increase=1, a=1), "unknown facts: ['a', 'predicted"),
    "loss increase negative": (facts(predicted_loss_increase=-1e-9), LOSS + "-1e-09"),
    "loss increase NaN": (facts(predicted_loss_increase=math.nan), LOSS + "nan"),
    "loss increase infinite": (facts(predicted_loss_increase=math.inf), LOSS + "inf"),
    "loss increase too large": (facts(predicted_loss_increase=10**400), LOSS + "1000"),
    "loss increase as text": (facts(predicted_loss_increase="0"), LOSS + "'0'"),
    "loss increase as truth": (facts(predicted_loss_increase=True), LOSS + "True"),
    "loss increase as list": (facts(predicted_loss_increase=[0.1]), LOSS + "[0.1]"),
    "loss increase null": (facts(predicted_loss_increase=None), LOSS + "None"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_file(name: str, tmp_path: Path) -> None:
    change, message = MALFORMED[name]
    description, tensors = good()
    change(description, tensors)
    joined = join(description, tensors)
    (tmp_path / "bad.saec").write_bytes(build(description, joined))
    with pytest.raises(ArtifactError, match=re.escape(message)) as caught:
        load(tmp_path / "bad.saec")
    assert str(caught.value).startswith(f"{tmp_path / 'bad.saec'}: ")


def describe(**changes: object) -> Change:
    return lambda description, _: description.update(changes)


def place(role: str, *described: object) -> Change:
    """Other words on where user's tensor is."""
    return lambda description, _: description["fields"][0]["tensors"].update({role: described})


def tensors_of_user(tensors: object) -> Change:
    return user(tensors=tensors)


EMPTY = tensor("more.U8", "U8", [0], b"")
DEEP = json.loads("[" * 900 + "]" * 900)

# Changes to what join makes.
DAMAGED: dict[str, tuple[Change, str]] = {
    "missing tensor": (drop("codes.U8"), "field 'user': there is no tensor 'codes.U8'"),
    "tensor of no field": (tensor("more.U8", "U8", [1], b"a"), "explains 1 items of tensor 'more."),
    "empty tensor of no field": (EMPTY, "no field explains 0 items of tensor 'more.U8'"),
    "tensor that is no field's any more": (
        lambda description, _: description["fields"].pop(),
        "no field explains 6 items of tensor 'weights.F32'",
    ),
    "tensor without a dtype in its name": (tensor("codes", "U8", [1], b"a"), "tensor 'codes' of"),
    "tensor of another dtype than its name": (
        tensor("codes.U8", "I8", [9], bytes(9)),
        "unexpected tensor 'codes.U8' of dtype I8",
    ),
    "tensor of a dtype unknown": (
        tensor("codes.I64", "I64", [1], bytes(8)),
        "unexpected tensor 'codes.I64' of dtype I64",
    ),
    "tensor in two dimensions": (
        tensor("weights.F32", "F32", [3, 2], BOOK.tobytes()),
        "unexpected tensor 'weights.F32' of dtype F32 and shape [3, 2]",
    ),
    "tensor without dimensions": (tensor("a.U8", "U8", [], b"a"), "tensor 'a.U8' of dtype U8 and"),
    "tensor longer than its parts": (
        tensor("codes.U8", "U8", [10], bytes(10)),
        "no field explains 1 items of tensor 'codes.U8'",
    ),
    "tensor shorter than its parts": (
        tensor("codes.U8", "U8", [8], bytes(8)),
        "'codes' does not fit its tensor: 8 items are left for [9]",
    ),
    "part of a dtype that is not there": (place("codes", "I8", 9), "no tensor 'codes.I8'"),
    "part of a dtype unknown": (place("codes", "U9", 9), "there is no tensor 'codes.U9'"),
    "part of a role unknown": (place("more", "U8", 9), "there is no tensor 'more.U8'"),
    "part without lengths": (place("codes", "U8"), "['U8'] is no dtype and shape of 'codes'"),
    "part of three lengths": (place("codes", "U8", 9, 1, 1), "is no dtype and shape of 'codes'"),
    "part without anything": (place("codes"), "[] is no dtype and shape of 'codes'"),
    "part of negative length": (place("codes", "U8", -9), "['U8', -9] is no dtype and shape"),
    "part of two negative lengths": (place("codebook", "F32", -3, -2), "is no dtype and shape"),
    "part of length true": (place("codes", "U8", True), "['U8', True] is no dtype and shape"),
    "part of length null": (place("codes", "U8", None), "['U8', None] is no dtype and shape"),
    "part of broken length": (place("codes", "U8", 9.0), "['U8', 9.0] is no dtype and shape"),
    "part of length as text": (place("codes", "U8", "9"), "['U8', '9'] is no dtype and shape"),
    "part of length as list": (place("codes", "U8", [9]), "['U8', [9]] is no dtype and shape"),
    "part nested deeply": (place("codes", "U8", DEEP), "is no dtype and shape of 'codes'"),
    "part whose dtype is no text": (place("codes", ["U8"], 9), "[['U8'], 9] is no dtype and shape"),
    "part of huge length": (place("codes", "U8", 2**70), "does not fit its tensor: 9 items are"),
    "part whose size wraps round": (place("codebook", "F32", 2**62, 4), "6 items are left for"),
    "empty part of huge length": (
        place("codebook", "F32", 0, 2**63),
        "field 'user': 'codebook' does not fit its tensor",
    ),
    "part that is an object": (
        tensors_of_user({"codes": {"U8": 9}}),
        "{'U8': 9} is no dtype and shape of 'codes'",
    ),
    "part that is text": (tensors_of_user({"codes": "U8"}), "'U8' is no dtype and shape"),
    "part that is null": (tensors_of_user({"codes": None}), "None is no dtype and shape"),
    "no tensors": (without("tensors"), "field 'user': its description names no tensors"),
    "tensors that are a list": (tensors_of_user([]), "field 'user': its description names no"),
    "tensors that are null": (tensors_of_user(None), "field 'user': its description names no"),
    "tensors taken twice": (
        lambda description, _: description["fields"].append(description["fields"][1]),
        "field 'item': 'weights' does not fit its tensor: 0 items are left for [3, 2]",
    ),
    "dim nested deeply": (user(dim=DEEP), "but its tensors say"),
    "dtype nested deeply": (user(dtype=DEEP), "damaged field 'user'"),
    "name nested deeply": (user(name=DEEP), "damaged field [[[["),
    "no facts": (lambda description, _: description.pop("facts"), "other parts than facts and"),
    "facts that are a list": (describe(facts=[]), "its description states no facts"),
    "facts that are null": (describe(facts=None), "its description states no facts"),
    "more than facts and fields": (describe(more=1), "other parts than facts and fields"),
    "no fields": (lambda description, _: description.pop("fields"), "other parts than facts and"),
    "fields that are an object": (describe(fields={}), "its description names no fields"),
    "field that is no object": (describe(fields=[1]), "its description names no fields"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file(name: str, tmp_path: Path) -> None:
    change, message = DAMAGED[name]
    description, joined = good_file()
    change(description, joined)
    (tmp_path / "bad.saec").write_bytes(build(description, joined))
    with pytest.raises(ArtifactError, match=re.escape(message)) as caught:
        load(tmp_path / "bad.saec")
    assert str(caught.value).startswith(f"{tmp_path / 'bad.saec'}: ")


MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "its description is damaged: JSONDecodeError"),
        (b"{", "its description is damaged: JSONDecodeError"),
        (b"\xff{}", "its description is damaged: UnicodeDecodeError"),
        (b"7", "its description has other parts than facts and fields"),
        (b"[" * 100_000, "its description is damaged: RecursionError"),
        (b'{"facts":' + b"9" * 5000 + b"}", "its description is damaged: ValueError"),
        (b" " * 16 * MIB + b"{}", "not one zlib stream of up to 16777216 bytes"),
    ],
    ids=["empty", "unclosed", "no text", "number", "deep", "long number", "long"],
)
def test_description_that_cannot_be_read(text: bytes, message: str, tmp_path: Path) -> None:
    refused_description(zlib.compress(text), message, tmp_path)


def refused_description(data: bytes, message: str, tmp_path: Path, dtype: str = "U8") -> None:
    path = tmp_path / "bad.saec"
    count = len(data) // (4 if dtype == "F32" else 1)
    path.write_bytes(container({"saec": "2"}, {"description": (dtype, [count], data)}))
    with pytest.raises(ArtifactError, match=re.escape(message)) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")


EMPTY_STREAM = zlib.compress(b'{"facts":{},"fields":[]}')


def preset(text: bytes) -> bytes:
    """A zlib stream that needs a dictionary."""
    packer = zlib.compressobj(zdict=b"fields")
    return packer.compress(text) + packer.flush()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "its bytes are not one zlib stream"),
        (EMPTY_STREAM[:-1], "its bytes are not one zlib stream"),
        (EMPTY_STREAM + b"\0", "its bytes are not one zlib stream"),
        (EMPTY_STREAM * 2, "its bytes are not one zlib stream"),
        (EMPTY_STREAM[:-1] + b"x", "its description is damaged: error('Error -3 while"),
        (b'{"facts":{},"fields":[]}', "its description is damaged: error('Error -3 while"),
        (preset(b'{"facts":{},"fields":[]}'), "its description is damaged: error('Error 2 while"),
        (bytes(16 * MIB + 1), "it takes 16777217 bytes; at most 16777216 are read"),
    ],
    ids=["empty", "cut", "more", "twice", "checksum", "plain", "dictionary", "long"],
)
def test_description_that_is_no_zlib_stream(data: bytes, message: str, tmp_path: Path) -> None:
    refused_description(data, message, tmp_path)


def test_description_of_another_dtype(tmp_path: Path) -> None:
    message = "unexpected tensor 'description' of dtype "
    refused_description(bytes(16), message + "I8 and shape [16]", tmp_path, "I8")
    refused_description(bytes(16), message + "F32 and shape [4]", tmp_path, "F32")


def test_no_description(tmp_path: Path) -> None:
    _, joined = good_file()
    (tmp_path / "bad.saec").write_bytes(container({"saec": "2"}, joined))
    with pytest.raises(ArtifactError, match=r"bad\.saec: it has no description"):
        load(tmp_path / "bad.saec")


@pytest.mark.parametrize("version", ["1", "3", "", "2.0", '{"format": 1, "fields": []}', "9" * 999])
def test_another_format(version: str, tmp_path: Path) -> None:
    _, joined = good_file()
    (tmp_path / "bad.saec").write_bytes(container({"saec": version}, joined))
    message = f"this has format {artifact.shortly(version)}; this saec reads format 2"
    with pytest.raises(ArtifactError, match=re.escape(message)) as caught:
        load(tmp_path / "bad.saec")
    assert len(str(caught.value)) < len(str(tmp_path)) + 200


def test_a_description_too_long_to_be_read_is_not_written(tmp_path: Path) -> None:
    message = "1 fields are too many, or their names too long"
    with pytest.raises(ArtifactError, match=message):
        Compressed([clustered("x" * 64 * MIB)]).save(tmp_path / "a.saec")
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
        (raw_header({"__metadata__": {"saec": 1}}), "is no saec artifact or is damaged"),
        (
            raw_header({"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}, b"short"),
            "is no saec artifact or is damaged",
        ),
        (
            raw_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 5]}}, b"fives"),
            "is no saec artifact or is damaged",
        ),
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
    description, tensors = good()
    tensors["0.codes"] = ("U8", [9], bytes([0b11, *[0] * 8]))
    (tmp_path / "bad.saec").write_bytes(build(description, join(description, tensors)))
    field = load(tmp_path / "bad.saec")["user"]
    assert field.lookup([1]).tolist() == [[1, 10]]
    with pytest.raises(ArtifactError, match="row 0 has a code beyond the 3 centroids"):
        field.lookup([0])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzzed_text(data: st.DataObject, tmp_path: Path) -> None:
    description, tensors = good_file()
    text = bytearray(json.dumps(description).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    changed = zlib.compress(text)
    path = tmp_path / "fuzzed.saec"
    path.write_bytes(
        container({"saec": "2"}, tensors | {"description": ("U8", [len(changed)], changed)})
    )
    load_and_use(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzzed_description(data: st.DataObject, tmp_path: Path) -> None:
    anything = st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-3, 40),
            st.integers(),
            st.floats(),
            st.text(max_size=3),
            st.sampled_from(["raw", "clusters", "float32", "float16", "int8", "F32", "U8"]),
        ),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
        max_leaves=3,
    )
    description, tensors = good_file()
    parts: list[Any] = [description, *description["fields"], {"predicted_loss_increase": 0.5}]
    description["facts"] = parts[-1]
    parts += [field["tensors"] for field in description["fields"]]
    parts += [place for field in description["fields"] for place in field["tensors"].values()]
    places = [
        (part, key)
        for part in parts
        for key in (part if isinstance(part, dict) else range(len(part)))
    ]
    for part, key in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=2)):
        part[key] = data.draw(anything)
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(tensors)))
        dtype = data.draw(st.sampled_from(["U8", "I8", "F16", "BF16", "F32"]))
        tensors[name] = (dtype, data.draw(st.lists(st.integers(0, 2**64), max_size=3)), b"")
    path = tmp_path / "fuzzed.saec"
    path.write_bytes(build(description, tensors))
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
    sizes = {"codebook.F32": 24, "weights.F32": 4 * rows, "codes.U8": 4 * rows + 7}
    counts = {"codebook.F32": 6, "weights.F32": rows, "codes.U8": sizes["codes.U8"]}
    description, _ = good_file()
    user, item = description["fields"]
    user.update(vocab_size=rows, code_bits=32)
    user["tensors"]["codes"] = ["U8", sizes["codes.U8"]]
    item.update(vocab_size=rows // 2, tensors={"weights": ["F32", rows // 2, 2]})
    small = tmp_path / "small.saec"
    small.write_bytes(build(*good_file()))
    _, _, described = packed(description)
    sizes["description"] = counts["description"] = len(described)
    offsets = np.cumsum([0, *sizes.values()]).tolist()
    header = {"__metadata__": {"saec": "2"}}
    for place, key in enumerate(sizes):
        entry = {"dtype": key.partition(".")[2] or "U8", "shape": [counts[key]]}
        header[key] = entry | {"data_offsets": offsets[place : place + 2]}  # type: ignore[assignment]
    text = json.dumps(header).encode()
    start = raw_header(text + b" " * (-len(text) % 8), BOOK.tobytes())
    large = tmp_path / "large.saec"
    with large.open("wb") as file:
        file.write(start)
        file.seek(len(start) - 24 + offsets[-2])
        file.write(described)
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
    with pytest.raises(KeyError, match="float64"):
        artifact.write(tmp_path / "a.saec", [Entry({}, {"x": np.zeros(3)})])
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
