"""The file: literal bytes, sizes, one malformed file per error, mapping, whole writes or none."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saec import artifact
from saec.artifact import Entry
from saec.codebook import Codebook
from saec.codes import PackedCodes
from saec.compressed import ClusteredField, Compressed, CompressedField, RawField, load
from saec.errors import ArtifactError, SaecError

Tensor = tuple[str, list[int], bytes]

CODES = [2, 0, 1, 1, 0]
BOOK = np.array([[1, 10], [2, 20], [3, 30]], np.float32)


def clustered(
    name: str = "user", dtype: Any = "float32", rank: int | None = None
) -> ClusteredField:
    packed = PackedCodes.pack(np.array(CODES), 2)
    return ClusteredField(name, packed, Codebook.round(BOOK, dtype, rank), "float32")


def all_kinds() -> Compressed:
    return Compressed(
        [
            clustered("a"),
            clustered("b", "float16"),
            clustered("c", "int8"),
            clustered("d", "int8", 1),
            RawField("e", BOOK),
            RawField("f", BOOK.astype(np.float16)),
            RawField("g\u00e9\n\u4e2d", BOOK.astype(ml_dtypes.bfloat16)),
        ]
    )


def build(description: object, tensors: dict[str, Tensor]) -> bytes:
    """A file made by hand, without what is under test; metadata as text are taken as they are."""
    text = description if isinstance(description, str) else json.dumps(description)
    header: dict[str, object] = {"__metadata__": {"saec": text}}
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
    """What :func:`build` needs for the fields user (clustered) and item (raw)."""
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
    return {"format": 1, "fields": [user, item]}, tensors


def use(result: Compressed) -> None:
    """Everything that reads a field."""
    for field in result.values():
        field.lookup([0, field.vocab_size - 1])
        field.pool([0], [0])
        field.decode()
        repr(field)
    repr(result)


def test_literal_bytes_of_a_tiny_file(tmp_path: Path) -> None:
    Compressed([RawField("a", np.array([[1, 2]], np.float32))]).save(tmp_path / "a.saec")
    header = (
        b'{"__metadata__":{"saec":"{\\"format\\":1,\\"fields\\":[{\\"name\\":\\"a\\",'
        b'\\"codec\\":\\"raw\\",\\"vocab_size\\":1,\\"dim\\":2,\\"dtype\\":\\"float32\\"}]}"},'
        b'"0.weights":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
    )
    header += b" " * (-len(header) % 8)
    data = b"\x00\x00\x80\x3f\x00\x00\x00\x40"
    expected = len(header).to_bytes(8, "little") + header + data
    assert (tmp_path / "a.saec").read_bytes() == expected


def test_a_file_made_by_hand_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.saec").write_bytes(build(*good()))
    result = load(tmp_path / "a.saec")
    assert list(result) == ["user", "item"]
    assert np.array_equal(result["user"].decode(), BOOK[CODES])
    assert np.array_equal(result["item"].decode(), BOOK)


def test_round_trip_of_every_kind(tmp_path: Path) -> None:
    saved = all_kinds()
    saved.save(tmp_path / "a.saec")
    loaded = load(tmp_path / "a.saec")
    assert list(loaded) == list(saved)
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


def test_tensors_start_at_multiples_of_their_item_size(tmp_path: Path) -> None:
    all_kinds().save(tmp_path / "a.saec")
    for field in load(tmp_path / "a.saec").values():
        for tensor in field.tensors.values():
            assert isinstance(tensor.base, np.memmap), "mapped, not copied"
            assert tensor.ctypes.data % tensor.dtype.itemsize == 0


def test_tensors_at_odd_places_are_read(tmp_path: Path) -> None:
    description, tensors = good()
    order = ["0.codes", "0.codebook", "1.weights"]
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


GRID = np.ones((2, 2), np.float32)
INT8 = tensor("0.codebook", "I8", [3, 2], bytes(6))

MALFORMED: dict[str, tuple[Change, str]] = {
    "missing tensor": (drop("0.codes"), "damaged field 'user': 'codes'"),
    "missing codebook": (drop("0.codebook"), "damaged field 'user': 'codebook'"),
    "missing weights": (drop("1.weights"), "damaged field 'item': 'weights'"),
    "extra tensor": (tensor("0.more", "U8", [1], b"a"), "but its tensors say"),
    "tensor of no field": (tensor("2.codes", "U8", [1], b"a"), "unexpected tensor '2.codes'"),
    "tensor of a padded index": (tensor("00.codes", "U8", [1], b"a"), "tensor '00.codes'"),
    "tensor of a huge index": (tensor("1" * 5000, "U8", [1], b"a"), "unexpected tensor '111"),
    "tensor without a field": (tensor("codes", "U8", [1], b"a"), "unexpected tensor 'codes'"),
    "tensor of another dtype": (
        tensor("0.codes", "I64", [1], bytes(8)),
        "unexpected tensor '0.codes' of dtype I64",
    ),
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
    "unknown codec": (user(codec="axes"), "damaged field 'user': 'axes'"),
    "codec that is no text": (user(codec=["raw"]), "damaged field 'user'"),
    "no codec": (without("codec"), "damaged field 'user': 'codec'"),
    "no name": (without("name"), "damaged field 'without a name': 'name'"),
    "name that is no text": (user(name=["user"]), "is a string that is not empty, not ['user']"),
    "empty name": (user(name=""), "is a string that is not empty, not ''"),
    "names twice": (item(name="user"), "field names are not unique"),
    "vocab_size negative": (user(vocab_size=-1), "damaged field 'user'"),
    "vocab_size zero": (
        several(user(vocab_size=0), tensor("0.codes", "U8", [7], bytes(7))),
        "vocab_size 0 is below 1",
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
    "NaN in the description": (user(dim=float("nan")), "but its tensors say"),
    "another format": (
        lambda description, _: description.update(format=2),
        "has format 2; this saec reads format 1",
    ),
    "no format": (lambda description, _: description.pop("format"), "KeyError('format')"),
    "no fields": (lambda description, _: description.pop("fields"), "KeyError('fields')"),
    "fields that are no list": (
        lambda description, _: description.update(fields={}),
        "its description names no fields",
    ),
    "field that is no object": (
        lambda description, _: description.update(fields=[1]),
        "its description names no fields",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_file(name: str, tmp_path: Path) -> None:
    change, message = MALFORMED[name]
    description, tensors = good()
    change(description, tensors)
    (tmp_path / "bad.saec").write_bytes(build(description, tensors))
    with pytest.raises(ArtifactError, match=re.escape(message)) as caught:
        load(tmp_path / "bad.saec")
    assert str(tmp_path / "bad.saec") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its description is damaged: JSONDecodeError"),
        ("{", "its description is damaged: JSONDecodeError"),
        ("7", "its description is damaged: TypeError"),
        ("[" * 100_000, "its description is damaged: RecursionError"),
        ('{"format":' + "9" * 5000 + "}", "its description is damaged: ValueError"),
    ],
    ids=["empty", "unclosed", "number", "deep", "long number"],
)
def test_description_that_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.saec").write_bytes(build(text, {}))
    with pytest.raises(ArtifactError, match=re.escape(message)):
        load(tmp_path / "bad.saec")


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
        (raw_header({}), "is a safetensors file, but no saec artifact"),
        (raw_header({"__metadata__": None}), "is a safetensors file, but no saec artifact"),
        (raw_header({"__metadata__": {"x": "y"}}), "is a safetensors file, but no saec artifact"),
        (raw_header({"__metadata__": {"saec": 1}}), "is no saec artifact or is damaged"),
        (
            raw_header(
                {
                    "__metadata__": {"saec": '{"format":1,"fields":[{}]}'},
                    "0.a": {"dtype": "U8", "shape": [0, 2**63], "data_offsets": [0, 0]},
                }
            ),
            "tensor '0.a' is damaged",
        ),
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
    with pytest.raises(ArtifactError, match="is no saec artifact or is damaged"):
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
    (tmp_path / "bad.saec").write_bytes(build(description, tensors))
    field = load(tmp_path / "bad.saec")["user"]
    assert field.lookup([1]).tolist() == [[1, 10]]
    with pytest.raises(ArtifactError, match="row 0 has code 3, but there are 3 centroids"):
        field.lookup([0])


def load_and_use(path: Path) -> None:
    """Nothing but our own errors, whatever the file holds; damaged numbers may overflow."""
    try:
        with np.errstate(all="ignore"):
            use(load(path))
    except SaecError:
        pass


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
def test_fuzzed_description(data: st.DataObject, tmp_path: Path) -> None:
    anything = st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-3, 40),
            st.integers(),
            st.floats(),
            st.text(max_size=3),
            st.sampled_from(["raw", "clusters", "float32", "float16", "int8"]),
        ),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
        max_leaves=3,
    )
    description, tensors = good()
    places = [(part, key) for part in (description, *description["fields"]) for key in part]
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
    description, tensors = good()
    description["fields"][0].update(vocab_size=rows, code_bits=32)
    description["fields"][1].update(vocab_size=rows // 2)
    small = tmp_path / "small.saec"
    small.write_bytes(build(*good()))
    sizes = {"0.codebook": 24, "1.weights": 4 * rows, "0.codes": 4 * rows + 7}
    offsets = np.cumsum([0, *sizes.values()]).tolist()
    shapes = {"0.codebook": [3, 2], "1.weights": [rows // 2, 2], "0.codes": [sizes["0.codes"]]}
    header = {"__metadata__": {"saec": json.dumps(description)}}
    for place, key in enumerate(sizes):
        entry = {"dtype": tensors[key][0], "shape": shapes[key]}
        header[key] = entry | {"data_offsets": offsets[place : place + 2]}  # type: ignore[assignment]
    text = json.dumps(header).encode()
    start = raw_header(text + b" " * (-len(text) % 8), BOOK.tobytes())
    large = tmp_path / "large.saec"
    with large.open("wb") as file:
        file.write(start)
        file.truncate(len(start) - 24 + offsets[-1])
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
    with pytest.raises(ArtifactError, match=r"cannot write .*directory: Is a directory"):
        all_kinds().save(tmp_path / "directory")
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]


LIMITED = """
import resource, sys
import numpy as np
from saec.compressed import Compressed, RawField
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
