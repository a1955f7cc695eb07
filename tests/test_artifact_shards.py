"""Artifacts in shards: equal to whole ones, mapped as one array, written by many, removed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from artifact_files import (
    BOOK,
    CODES,
    FIRST,
    GRAIN,
    RUN,
    WHERE,
    all_kinds,
    build,
    by_hand,
    put,
    save_in_shards,
    shard_by_hand,
    use,
)
from open_files import descriptors_of, needs_descriptors

from saec import artifact
from saec.artifact import Entry, Shard, ShardedTensor, find_shard, write_shard
from saec.bits.packing import PackedCodes
from saec.errors import ArtifactError
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.compressed import Compressed
from saec.format.load import load
from saec.format.raw_field import RawField

OTHER = "0123456789abcdef"
SECOND = f"a.saec.{RUN}-00002"
U8 = np.dtype(np.uint8)


@pytest.fixture(scope="module")
def large() -> Compressed:
    """Codes of 3 grains and a bit; weights of 2 grains and a bit, with a row across each border."""
    rng = np.random.default_rng(3)
    codes = PackedCodes.pack(rng.integers(3, size=4 * (3 * GRAIN + 1000)), 2)
    table = rng.standard_normal((11_000, 3)).astype(np.float32)
    return Compressed(
        [ClusteredField("codes", codes, Codebook(BOOK), "float32"), RawField("weights", table)],
        0.5,
    )


def test_literal_bytes_of_a_shard(tmp_path: Path) -> None:
    written = write_shard(tmp_path / "a.saec", RUN, 7, [np.arange(3, dtype=np.uint8)])
    text = (
        b'{"__metadata__":{"saec_run":"9f86d081884c7d65","saec_shard":"7"},'
        b'"piece":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}'
    )
    expected = b"\xf8\xff\0\0\0\0\0\0" + text + b" " * (65536 - 8 - len(text)) + b"\0\1\2"
    assert (tmp_path / "a.saec.9f86d081884c7d65-00007").read_bytes() == expected
    assert written == Shard(7, 3)
    assert written.file_bytes == len(expected)


def test_safetensors_reads_shards_and_what_joins_them(tmp_path: Path) -> None:
    save_in_shards(all_kinds(), tmp_path / "a.saec", roles=("codes",))
    shard = safetensors.numpy.load_file(tmp_path / FIRST)
    assert [*shard] == ["piece"]
    assert np.array_equal(shard["piece"], all_kinds()["a"].tensors["codes"])
    with safetensors.safe_open(tmp_path / FIRST, "numpy") as opened:
        assert opened.metadata() == {"saec_run": RUN, "saec_shard": "1"}
    assert "description" in safetensors.numpy.load_file(tmp_path / "a.saec")


def test_files_made_by_hand_are_read(tmp_path: Path) -> None:
    fields, shards = by_hand()
    result = load(put(tmp_path, build(fields), shards))
    assert np.array_equal(result["user"].decode(), BOOK[CODES])
    assert np.array_equal(result["item"].decode(), BOOK)
    assert result.shard_count == 1


def size_of_all(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


@pytest.mark.parametrize("roles", [(), ("codes",), ("weights", "axes", "tiers", "grid")])
def test_sharded_equals_whole(roles: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "sharded").mkdir()
    whole = Compressed(list(all_kinds().values()), 1.25e-4)
    whole.save(tmp_path / "whole.saec")
    save_in_shards(whole, tmp_path / "sharded" / "a.saec", roles=roles)
    loaded = load(tmp_path / "sharded" / "a.saec")
    use(loaded)
    assert loaded.nbytes == size_of_all(tmp_path / "sharded")
    assert loaded.shard_count == len(list((tmp_path / "sharded").iterdir())) - 1
    assert loaded.predicted_loss_increase == 1.25e-4
    for name, field in whole.items():
        assert loaded[name].description == field.description
        assert loaded[name].nbytes == field.nbytes
        assert np.array_equal(loaded[name].decode(), field.decode())
    loaded.save(tmp_path / "one.saec")
    assert (tmp_path / "one.saec").read_bytes() == (tmp_path / "whole.saec").read_bytes()


def test_pieces_are_one_array(large: Compressed, tmp_path: Path) -> None:
    (tmp_path / "sharded").mkdir()
    save_in_shards(large, tmp_path / "sharded" / "a.saec")
    loaded = load(tmp_path / "sharded" / "a.saec")
    assert loaded.shard_count == 4 + 3 + 1
    assert loaded.nbytes == size_of_all(tmp_path / "sharded")
    for field in loaded.values():
        for tensor in field.tensors.values():
            assert tensor.flags.c_contiguous
            assert not tensor.flags.writeable
            assert tensor.ctypes.data % GRAIN % 4096 == 0
    assert np.array_equal(loaded["codes"].decode(), large["codes"].decode())
    assert np.array_equal(loaded["weights"].decode(), large["weights"].decode())
    row = GRAIN // 12  # its bytes are in two shards
    assert np.array_equal(loaded["weights"].lookup([row]), large["weights"].lookup([row]))
    loaded.save(tmp_path / "one.saec")
    large.save(tmp_path / "whole.saec")
    assert (tmp_path / "one.saec").read_bytes() == (tmp_path / "whole.saec").read_bytes()


def entry_of(name: str, sharded: dict[str, ShardedTensor]) -> Entry:
    return Entry(name, 0, np.dtype(np.float32), 3, 300, b"xyz", {}, sharded)


def test_shards_of_several_grains(tmp_path: Path) -> None:
    path = tmp_path / "a.saec"
    data = np.random.default_rng(0).integers(256, size=5 * GRAIN + 3).astype(np.uint8)
    cuts = [data[: 3 * GRAIN], data[3 * GRAIN : 4 * GRAIN], data[4 * GRAIN :]]
    shards = tuple(write_shard(path, RUN, 10 - i, [cut]) for i, cut in enumerate(cuts))
    assert shards == (Shard(10, 3 * GRAIN), Shard(9, GRAIN), Shard(8, GRAIN + 3))
    tensor = ShardedTensor(U8, (len(data),), path.name, RUN, shards)
    artifact.write(path, [entry_of("a", {"codes": tensor})], 1.5)
    [entry], loss = artifact.read(path)
    assert loss == 1.5
    assert (entry.name, entry.codec, entry.dtype) == ("a", 0, np.float32)
    assert (entry.vocab_size, entry.dim, entry.details) == (3, 300, b"xyz")
    assert entry.sharded == {"codes": tensor}
    assert np.array_equal(entry.tensors["codes"], data)


def test_moved_together_with_another_name(tmp_path: Path) -> None:
    save_in_shards(all_kinds(), tmp_path / "a.saec")
    (tmp_path / "a.saec").rename(tmp_path / "b.saec")
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    loaded = load(moved / "b.saec")
    assert np.array_equal(loaded["a"].decode(), all_kinds()["a"].decode())


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_in_shards(all_kinds(), Path("a.saec"))
    assert load("a.saec").nbytes == size_of_all(tmp_path)


def check_rows(loaded: Compressed) -> None:
    """``loaded`` holds the rows of :func:`all_kinds`."""
    expected = all_kinds()
    assert list(loaded) == list(expected)
    for name, field in expected.items():
        assert np.array_equal(loaded[name].decode(), field.decode())
    use(loaded)


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    save_in_shards(all_kinds(), tmp_path / "store" / "a.saec", roles=("codes",))
    for number, path in enumerate(sorted((tmp_path / "store").iterdir())):
        path.rename(tmp_path / "store" / str(number))
        (tmp_path / path.name).symlink_to(tmp_path / "store" / str(number))
    check_rows(load(tmp_path / "a.saec"))


def test_a_link_to_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    save_in_shards(all_kinds(), tmp_path / "store" / "a.saec")
    (tmp_path / "latest.saec").symlink_to(Path("store") / "a.saec")
    check_rows(load(tmp_path / "latest.saec"))
    (tmp_path / "store" / FIRST).unlink()
    with pytest.raises(ArtifactError, match=f"shard '{FIRST}' is missing"):
        load(tmp_path / "latest.saec")


@needs_descriptors
def test_no_shard_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "a.saec"
    save_in_shards(all_kinds(), path)
    loaded = [load(path) for _ in range(3)]
    (tmp_path / FIRST).write_bytes(b"")
    with pytest.raises(ArtifactError, match=f"shard '{FIRST}' has 0 bytes"):
        load(path)
    assert not [file for file in tmp_path.iterdir() if descriptors_of(file)]
    assert all(len(result) for result in loaded)


def test_bytes_are_counted_before_writing(large: Compressed, tmp_path: Path) -> None:
    path = tmp_path / "a.saec"
    field = large["weights"]
    shards = (Shard(1, GRAIN), Shard(2, field.nbytes - GRAIN))
    tensor = ShardedTensor(np.dtype(np.float32), (11_000, 3), path.name, RUN, shards)
    entry = replace(field.entry, sharded={"weights": tensor})
    said = artifact.file_bytes([entry])
    assert said == 264 + artifact.entry_bytes(entry)
    # Codec, name, dtype, shape, details and number of tensors; role, dtype and shape of one; the
    # name and run of its shards, their number, and number and size of each.
    record = 1 + 8 + 1 + 2 + 1 + 1 + 1 + (1 + 1 + 2 + 1) + (1 + 6) + 8 + 1 + (1 + 3) + (1 + 3)
    assert artifact.entry_bytes(entry) == record + 2 * GRAIN + field.nbytes
    data = field.tensors["weights"].view(np.uint8).reshape(-1)
    write_shard(path, RUN, 1, [data[:GRAIN]])
    write_shard(path, RUN, 2, [data[GRAIN:]])
    artifact.write(path, [entry])
    assert size_of_all(tmp_path) == said


def test_blocks_of_any_kind_make_a_shard(tmp_path: Path) -> None:
    table = np.arange(24, dtype=np.float32).reshape(4, 6)
    blocks = [table[::2, ::-2], np.asfortranarray(table), np.arange(5, dtype=np.uint8)]
    written = write_shard(tmp_path / "a.saec", RUN, 1, iter(blocks))
    data = (tmp_path / FIRST).read_bytes()[GRAIN:]
    assert data == table[::2, ::-2].tobytes() + table.tobytes() + bytes(range(5))
    assert written == Shard(1, len(data))


def test_a_shard_written_by_many_at_once(tmp_path: Path) -> None:
    def write(_: int) -> Shard:
        return write_shard(tmp_path / "a.saec", RUN, 1, [np.full(GRAIN, 7, np.uint8)] * 3)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(write, range(40))) == {Shard(1, 3 * GRAIN)}
    assert (tmp_path / FIRST).read_bytes() == shard_by_hand(b"\7" * 3 * GRAIN)
    assert [path.name for path in tmp_path.iterdir()] == [FIRST]


def failing() -> Iterator[np.ndarray]:
    yield np.zeros(GRAIN, np.uint8)
    raise KeyboardInterrupt


def test_a_shard_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "a.saec", RUN, 1, failing())
    with pytest.raises(ArtifactError, match="there is no shard 1 of 0 bytes"):
        write_shard(tmp_path / "a.saec", RUN, 1, [])
    with pytest.raises(ArtifactError, match="there is no shard 0 of 1 bytes"):
        write_shard(tmp_path / "a.saec", RUN, 0, [np.zeros(1, np.uint8)])
    with pytest.raises(ArtifactError, match=r"cannot write .*missing/a\.saec\.9f.*: No such file"):
        write_shard(tmp_path / "missing" / "a.saec", RUN, 1, [np.zeros(1, np.uint8)])
    with pytest.raises(ArtifactError, match="a run is 16 hexadecimal digits, not '9F86'"):
        write_shard(tmp_path / "a.saec", "9F86", 1, [np.zeros(1, np.uint8)])
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
import numpy as np
from saec.artifact import write_shard

def blocks():
    yield np.zeros(65536, np.uint8)
    os.kill(os.getpid(), 9)

write_shard(sys.argv[1], sys.argv[2], 2, blocks())
"""


def killed_worker(path: Path, run: str) -> None:
    ran = subprocess.run([sys.executable, "-c", KILLED, str(path), run], check=False)
    assert ran.returncode == -9


def test_what_killed_workers_leave_is_removed_with_their_run(tmp_path: Path) -> None:
    path = tmp_path / "a.saec"
    write_shard(path, RUN, 1, [np.zeros(1, np.uint8)])
    killed_worker(path, RUN)
    killed_worker(path, OTHER)
    assert len(list(tmp_path.iterdir())) == 3
    artifact.remove_run(path, OTHER)
    assert len(list(tmp_path.iterdir())) == 2
    artifact.remove_run(path, RUN)
    assert list(tmp_path.iterdir()) == []
    artifact.remove_run(path, RUN)
    with pytest.raises(
        ArtifactError, match=r"cannot remove shards of .*missing/a\.saec: .*No such"
    ):
        artifact.remove_run(tmp_path / "missing" / "a.saec", RUN)


KEPT = [
    "b.saec.0123456789abcdef-00001",
    "a.saec.x.0123456789abcdef-00001",
    "xa.saec.0123456789abcdef-00001",
    "aXsaec.0123456789abcdef-00001",
    "a.saec.0123456789abcdef-0001",
    "a.saec.0123456789abcdef-00001.txt",
    "a.saec.0123456789abcdeF-00001",
    "a.saec.0123456789abcde-00001",
    "a.saec.0123456789abcdef00001",
    "a.saec.-00001",
    "a.saec.permutation.safetensors",
    ".a.saec.0123456789abcdef.part",
    ".a.saec.0123456789abcdef-00001.0123456789abcdef.txt",
]
STALE = [
    "a.saec.0123456789abcdef-00001",
    "a.saec.0123456789abcdef-123456",
    "a.saec.aaaaaaaaaaaaaaaa-00002",
    ".a.saec.0123456789abcdef-00001.ffffffffffffffff.part",
]


def test_only_shards_of_the_artifact_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.saec"
    save_in_shards(all_kinds(), path)
    mine = {path.name for path in tmp_path.iterdir()}
    for name in (*KEPT, *STALE):
        (tmp_path / name).write_text("")
    (tmp_path / "a.saec.0123456789abcdef-00009").mkdir()
    artifact.remove_stale(path, RUN)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == mine | {*KEPT, "a.saec.0123456789abcdef-00009"}
    use(load(path))
    artifact.remove_run(path, RUN)
    assert {path.name for path in tmp_path.iterdir()} == left - mine | {"a.saec"}


def test_a_new_run_leaves_the_old_one_readable_until_it_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.saec"
    save_in_shards(Compressed([RawField("old", BOOK)]), path)
    new = Compressed([RawField("new", 2 * BOOK)])
    write_shard(path, OTHER, 1, [2 * BOOK])
    loaded = load(path)
    assert list(loaded) == ["old"]
    save_in_shards(new, path, OTHER)
    artifact.remove_stale(path, OTHER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.saec", f"a.saec.{OTHER}-00001"]
    assert np.array_equal(load(path)["new"].decode(), 2 * BOOK)
    assert np.array_equal(loaded["old"].decode(), BOOK)  # still mapped


def test_one_file_over_the_one_that_was_loaded_from_shards(tmp_path: Path) -> None:
    path = tmp_path / "a.saec"
    save_in_shards(all_kinds(), path)
    loaded = load(path)
    loaded.save(path)
    artifact.remove_run(path, RUN)
    assert [path.name for path in tmp_path.iterdir()] == ["a.saec"]
    assert load(path).shard_count == 0
    use(load(path))
    use(loaded)


def test_found_shards(tmp_path: Path) -> None:
    path = tmp_path / "a.saec"
    assert find_shard(path, RUN, 1) is None
    written = write_shard(path, RUN, 1, [np.zeros(70_000, np.uint8)])
    assert find_shard(path, RUN, 1) == written == Shard(1, 70_000)
    assert find_shard(path, RUN, 2) is None
    assert find_shard(path, OTHER, 1) is None
    (tmp_path / FIRST).rename(tmp_path / SECOND)
    with pytest.raises(ArtifactError, match=f"shard '{SECOND}' does not begin as number 2 of its"):
        find_shard(path, RUN, 2)
    (tmp_path / FIRST).write_bytes(b"short")
    with pytest.raises(ArtifactError, match=f"shard '{FIRST}' has 5 bytes, not 65537"):
        find_shard(path, RUN, 1)


@pytest.mark.parametrize("change", ["missing", "longer", "of another run"])
def test_nothing_is_written_that_cannot_be_read(change: str, tmp_path: Path) -> None:
    path = tmp_path / "a.saec"
    Compressed([RawField("old", BOOK)]).save(path)
    before = path.read_bytes()
    shard = write_shard(path, OTHER if change == "of another run" else RUN, 1, [BOOK])
    if change == "missing":
        (tmp_path / FIRST).unlink()
    said = Shard(1, 16) if change == "longer" else shard
    tensor = ShardedTensor(BOOK.dtype, (said.nbytes // 8, 2), path.name, RUN, (said,))
    with pytest.raises(ArtifactError, match=f"shard '{FIRST}' "):
        artifact.write(path, [entry_of("a", {"weights": tensor})])
    assert path.read_bytes() == before


PEAK = """
import sys
import numpy as np
import saec

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

saec.load(sys.argv[2])["user"].lookup([0])  # everything imported and warm
before = peak()
user = saec.load(sys.argv[1])["user"]
ids = np.linspace(0, user.vocab_size - 1, 50).astype(np.int64)
assert user.lookup(ids).tolist() == [[1.0, 10.0]] * 50
print(peak() - before)
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read memory from")
def test_lookups_do_not_load_the_shards(tmp_path: Path) -> None:
    fields, shards = by_hand()
    (tmp_path / "small").mkdir()
    small = put(tmp_path / "small", build(fields), shards)
    half = 800 * GRAIN  # two shards of 52 MB of codes, as holes
    fields[0].update(vocab_size=2 * half // 4, details=bytes([32]))
    pairs = [[1, half], [2, half + 7]]
    fields[0]["tensors"]["codes"] = ("U8", [2 * half + 7], WHERE | {"shards": pairs})
    large = put(tmp_path, build(fields), {})
    for number, size in pairs:
        text = json.dumps({"__metadata__": {"saec_run": RUN, "saec_shard": str(number)}})[:-1]
        piece = {"piece": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
        text = (text + "," + json.dumps(piece)[1:]).replace(" ", "")
        with (tmp_path / f"a.saec.{RUN}-0000{number}").open("wb") as file:
            file.write((GRAIN - 8).to_bytes(8, "little") + text.encode().ljust(GRAIN - 8))
            file.truncate(GRAIN + size)
    command = [sys.executable, "-c", PEAK, str(large), str(small)]
    grown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 20_000, "kB"
