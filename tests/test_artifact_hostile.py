"""Small artifacts that claim large contents take no memory, or are refused before allocation."""

from __future__ import annotations

import os
import time
from pathlib import Path

import peak_memory
import pytest
from artifact_files import AXES, build, container, number

from saec import load
from saec.errors import ArtifactError
from saec.format.compressed import Compressed

ROWS_OF_NINETEEN_TIERS = 1 << 42


def tiered_file(
    path: Path, rows: int, tiers: list[bytes], dim: int, values: int, code_bytes: int, rank: int
) -> int:
    """Write an artifact of zeros with one field in tiers; gives its size.

    tiers: of each, as :func:`tier` makes it.
    """
    field = {
        "name": "a",
        "codec": AXES,
        "dtype": "F32",
        "vocab_size": rows,
        "dim": dim,
        "details": b"\0" + b"".join(tiers),
        "tensors": {
            "codes": ("U8", [code_bytes], bytes(code_bytes)),
            "axes": ("F16", [rank + 1, dim], bytes(2 * (rank + 1) * dim)),
            "values": ("F16", [values], bytes(2 * values)),
        },
    }
    return path.write_bytes(build([field]))


def tier(part: bytes, count: int = 1) -> bytes:
    """A tier with the same part several times."""
    return number(count) + part * count


NOTHING, VALUE, TWO_VALUES = bytes([0]), bytes([0x20]), bytes([0x60, 2])  # "-", "0", "0j2"


def grid(bits: int) -> bytes:
    return bytes([0x40 + bits])


def without_bits(path: Path, rows: int, dim: int = 4) -> int:
    tiers = 1 + next(t for t in range(99) if 64 * 4**t >= rows)
    return tiered_file(path, rows, [tier(NOTHING)] * tiers, dim, 0, 7, 1)


@pytest.mark.parametrize("rows", [1 << 40, ROWS_OF_NINETEEN_TIERS])
def test_rows_without_bytes_cost_nothing(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "claim.saec"
    assert without_bits(path, rows) < 400
    before, start = peak_memory.begin(), time.process_time()
    field = load(path)["a"]
    assert field.lookup([0, rows - 1]).tolist() == [[0] * 4] * 2
    assert f"{rows:,}" in field._repr_html_()
    assert peak_memory.grown_since(before) < 16 << 20
    assert time.process_time() - start < 5
    with pytest.raises(ArtifactError, match=f"the decoded table would take {16 * rows} bytes"):
        field.decode()
    with pytest.raises(ArtifactError, match=f"the new ids would take {8 * rows} bytes"):
        _ = field.new_ids


@pytest.mark.parametrize("rows", [ROWS_OF_NINETEEN_TIERS + 1, 1 << 61, (1 << 63) - 1])
def test_more_rows_than_the_limit_are_refused(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "claim.saec"
    without_bits(path, rows)
    with pytest.raises(ArtifactError, match=f"a field has 1 to 4398046511104 rows, not {rows}|tie"):
        load(path)


def test_lookups_keep_little_of_a_small_file(tmp_path: Path) -> None:
    """Each part of ten bits stands for 1,024 rows, 64 kB, which may not all be decoded."""
    path = tmp_path / "parts.saec"
    parts, dim = 4000, 16
    tiers = [tier(grid(12), 2)] * 4 + [tier(grid(10), parts)]
    code_bytes = 4096 * 3 + -(-10 * parts // 8) + 7
    size = tiered_file(path, 4097, tiers, dim, 16 + 2 * parts, code_bytes, parts)
    field = load(path)["a"]
    before = peak_memory.begin()
    assert field.lookup([4096]).tolist() == [[0] * dim]
    # What is decoded, and what the core copies of values and axes.
    assert peak_memory.grown_since(before) < (1 << 20) + 64 * size
    assert field.lookup_table.stored_rows * dim * 4 < (256 << 10) + 64 * size + (1 << 20)
    assert peak_memory.grown_since(before) < 64 << 20  # was 260 MB


def test_more_parts_than_the_limit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "parts.saec"
    tiered_file(path, 64, [tier(VALUE, 4097)], 2, 4097, 7, 4097)
    with pytest.raises(ArtifactError, match="a tier has 4097 parts; the limit is 4096"):
        load(path)
    tiered_file(path, 64, [tier(TWO_VALUES, 2049)], 2, 4098, 7, 4098)
    with pytest.raises(ArtifactError, match="parts cover 4098 axes; the limit is 4096"):
        load(path)
    tiered_file(path, 64, [tier(NOTHING)] * 2, 2, 0, 7, 1)
    with pytest.raises(ArtifactError, match="64 rows make 1 to 1 tiers, not 2"):
        load(path)


def test_many_parts_take_little_memory(tmp_path: Path) -> None:
    """Each part is a byte of the file, and takes little more in memory."""
    path = tmp_path / "parts.saec"
    rows = 1 << 42
    tiered_file(path, rows, [tier(NOTHING, 4096)] * 19, 1, 0, 7, 4096)
    before = peak_memory.begin()
    load(path)
    assert peak_memory.grown_since(before) < 16 << 20


def test_artifact_without_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.saec"
    path.write_bytes(build([]))
    with pytest.raises(ArtifactError, match="has 0 fields; an artifact has 1 to 65536"):
        load(path)
    with pytest.raises(ArtifactError, match="0 fields"):
        Compressed([]).save(path)


def test_long_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.saec"
    path.write_bytes(container({"saec": "3", "more": "x" * (1 << 16)}, {}))
    with pytest.raises(ArtifactError, match=r"a header of 6.... bytes; at most 65536 are read"):
        load(path)


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.saec"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
        path = tmp_path / "pipe" if kind == "pipe" else path
    with pytest.raises(ArtifactError, match=r"is a (named pipe|device|folder), not a regular file"):
        load(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer; run"),
        (b"\n<!DOCTYPE html><html></html>", "an HTML page; the download has failed"),
        (b"PK\3\4" + bytes(100), "a zip archive"),
        (b"", "empty"),
    ],
)
def test_other_files_are_called_by_their_name(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "model.saec"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"; model.saec is {found}"):
        load(path)
