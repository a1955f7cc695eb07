"""The file of old ids: read by another library, for fields with and without new ids."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import saec
from saec import ArtifactError, Axes, Compressed, Field, Ratio
from saec.format.permutation_file import permutation_path, save_permutations
from saec.format.tiered_field import TieredField


@pytest.fixture(scope="module")
def result() -> Compressed:
    """One field is renumbered, one in order already, one stays as it is."""
    rng = np.random.default_rng(0)
    counts = 1000 / np.arange(1, 901)
    fields = [
        Field("user", rng.standard_normal((900, 8), np.float32), rng.permutation(counts)),
        Field("item\n\u4e2d", rng.standard_normal((901, 8), np.float32), [*counts, 0]),
        Field("raw", rng.standard_normal((3, 2), np.float32), [1, 2, 3]),
    ]
    return saec.compress(fields, Ratio(10), Axes("frequency"), progress=False)


def test_beside_the_artifact() -> None:
    assert permutation_path("a/b.saec") == Path("a/b.saec.permutation.safetensors")
    assert permutation_path(Path("c")) == Path("c.permutation.safetensors")


@pytest.mark.parametrize("block", [1, 7, 450, 1 << 20])
def test_old_ids(
    block: int, result: Compressed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saec.format.permutation_file._WRITTEN_ROWS", block)
    monkeypatch.setattr("saec.streaming.npy_writer._BLOCK", 8 * block)
    save_permutations(tmp_path / "ids", result)
    found = load_file(tmp_path / "ids")
    assert set(found) == {"user", "item\n\u4e2d", "raw"}
    assert {ids.dtype for ids in found.values()} == {np.dtype(np.int64)}
    assert result["user"].permutation is not None
    assert not np.array_equal(found["user"], np.arange(900))
    assert np.array_equal(found["user"], result["user"].permutation)
    assert np.array_equal(found["item\n\u4e2d"], np.arange(901))
    assert np.array_equal(found["raw"], np.arange(3))
    (tensors,) = [(tmp_path / "ids").read_bytes()]
    assert int.from_bytes(tensors[:8], "little") % 8 == 0, "tensors are aligned"


def test_a_path_that_cannot_be_written(result: Compressed, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="none"):
        save_permutations(tmp_path / "none" / "ids", result)
    assert list(tmp_path.iterdir()) == []


def test_new_ids_are_the_inverse() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 2)).astype(np.float32)
    fields = [Field("f", rows, rng.permutation(300)), Field("g", rows, np.arange(300)[::-1])]
    result = saec.compress(fields, Ratio(5), Axes("frequency"), progress=False)
    assert np.array_equal(result["f"].new_ids[result["f"].old_ids], np.arange(300))
    assert np.array_equal(result["g"].new_ids, np.arange(300))  # in order already
    assert np.array_equal(result["g"].old_ids, np.arange(300))


def test_saved_and_loaded_with_the_old_ids(result: Compressed, tmp_path: Path) -> None:
    result.save(tmp_path / "a.saec")
    loaded = saec.load(tmp_path / "a.saec")
    for name, field in result.items():
        assert np.array_equal(loaded[name].old_ids, field.old_ids)
        assert np.array_equal(loaded[name].new_ids, field.new_ids)
    again = pickle.loads(pickle.dumps(loaded))
    assert np.array_equal(again["user"].new_ids, result["user"].new_ids)


def test_old_ids_are_found_through_a_link_and_from_another_directory(
    result: Compressed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result.save(tmp_path / "a.saec")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "b.saec").symlink_to(tmp_path / "a.saec")
    monkeypatch.chdir(tmp_path / "links")
    loaded = saec.load("b.saec")
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(loaded["user"].old_ids, result["user"].old_ids)


def test_a_loaded_artifact_is_saved_with_its_old_ids(result: Compressed, tmp_path: Path) -> None:
    result.save(tmp_path / "a.saec")
    saec.load(tmp_path / "a.saec").save(tmp_path / "b.saec")
    for name in ("a.saec", "a.saec.permutation.safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / name.replace("a", "b", 1)).read_bytes()
    saec.load(tmp_path / "b.saec").save(tmp_path / "b.saec")
    assert np.array_equal(saec.load(tmp_path / "b.saec")["user"].old_ids, result["user"].old_ids)


def test_streams_have_no_place_for_old_ids(result: Compressed, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="of user were renumbered, and a stream has no place"):
        result.save(io.BytesIO())
    result.save(tmp_path / "a.saec")
    loaded = saec.load((tmp_path / "a.saec").read_bytes())
    with pytest.raises(ArtifactError, match="'user' was renumbered, and bytes or a stream have no"):
        loaded["user"].new_ids  # noqa: B018


def test_tuned_tables_are_saved_with_their_old_ids(result: Compressed, tmp_path: Path) -> None:
    result.save(tmp_path / "a.saec")
    for field in (result["user"], saec.load(tmp_path / "a.saec")["user"]):
        assert isinstance(field, TieredField)
        tuned = field.tuned(field.values * np.float16(2), field.axes)
        Compressed([tuned]).save(tmp_path / "tuned.saec")
        loaded = saec.load(tmp_path / "tuned.saec")
        assert np.array_equal(loaded["user"].old_ids, result["user"].old_ids)


def test_missing_old_ids_are_named(result: Compressed, tmp_path: Path) -> None:
    result.save(tmp_path / "a.saec")
    permutation_path(tmp_path / "a.saec").unlink()
    loaded = saec.load(tmp_path / "a.saec")
    assert loaded["user"].lookup([0, 899]).shape == (2, 8)
    with pytest.raises(ArtifactError, match=r"'user' was renumbered.*a\.saec\.perm.*missing: co"):
        loaded["user"].new_ids  # noqa: B018
    permutation_path(tmp_path / "b.saec").write_bytes(b"of another artifact")
    loaded.save(tmp_path / "b.saec")  # as it was loaded
    assert not permutation_path(tmp_path / "b.saec").exists()


def test_old_ids_of_another_artifact_are_refused(result: Compressed, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((900, 8), np.float32)
    field = Field("user", rows, rng.permutation(1000 / np.arange(1, 901)))
    saec.compress([field], Ratio(10), Axes("frequency"), progress=False).save(tmp_path / "b.saec")
    result.save(tmp_path / "a.saec")
    permutation_path(tmp_path / "b.saec").replace(permutation_path(tmp_path / "a.saec"))
    with pytest.raises(ArtifactError, match="'user': these are the old ids of another artifact"):
        saec.load(tmp_path / "a.saec")["user"].new_ids  # noqa: B018


@pytest.mark.parametrize("size", [0, 7, 100, 500, -8])
def test_truncated_old_ids_are_refused(result: Compressed, tmp_path: Path, size: int) -> None:
    result.save(tmp_path / "a.saec")
    path = permutation_path(tmp_path / "a.saec")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ArtifactError, match="field 'user': "):
        saec.load(tmp_path / "a.saec")["user"].new_ids  # noqa: B018


@pytest.mark.parametrize(
    ("old", "message"),
    [(900, r"lies outside \[0, 900\)"), (-1, "lies outside"), (0, "given twice")],
)
def test_ids_that_are_no_permutation_are_refused(
    result: Compressed, tmp_path: Path, old: int, message: str
) -> None:
    result.save(tmp_path / "a.saec")
    path = permutation_path(tmp_path / "a.saec")
    data = bytearray(path.read_bytes())
    first = 8 + int.from_bytes(data[:8], "little")  # of the first field
    changed = old if load_file(path)["user"][0] != old else 1
    data[first : first + 8] = int(changed).to_bytes(8, "little", signed=True)
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=message):
        saec.load(tmp_path / "a.saec")["user"].new_ids  # noqa: B018


def test_the_artifact_is_published_after_the_old_ids(
    result: Compressed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the artifact cannot be written, one that was there before is as it was."""
    made: list[str] = []
    replaced = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda self, target: (made.append(target.name), replaced(self, target))[1]
    )
    result.save(tmp_path / "a.saec")
    assert made == ["a.saec.permutation.safetensors", "a.saec"]


def test_a_save_that_fails_leaves_the_old_pair(
    result: Compressed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk: neither file is replaced if one cannot be written."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((900, 8), np.float32)
    field = Field("user", rows, rng.permutation(1000 / np.arange(1, 901)))
    saec.compress([field], Ratio(10), Axes("frequency"), progress=False).save(tmp_path / "a.saec")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for module in (
        "saec.artifact.writing.byte_blocks",
        "saec.format.permutation_file.vector_blocks",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, full)
            with pytest.raises(ArtifactError, match="No space left"):
                result.save(tmp_path / "a.saec")
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_artifact_whose_ids_stay_leaves_no_old_ids_behind(
    result: Compressed, tmp_path: Path
) -> None:
    result.save(tmp_path / "a.saec")
    rows = np.random.default_rng(0).standard_normal((300, 2)).astype(np.float32)
    fields = [Field("g", rows, np.arange(300))]
    saec.compress(fields, Ratio(2), Axes(), progress=False).save(tmp_path / "a.saec")
    assert [path.name for path in tmp_path.iterdir()] == ["a.saec"]


def test_a_field_with_the_name_of_the_metadata(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((300, 2)).astype(np.float32)
    fields = [Field("__metadata__", rows, np.random.default_rng(1).permutation(300))]
    result = saec.compress(fields, Ratio(2), Axes("frequency"), progress=False)
    with pytest.raises(ArtifactError, match="cannot be named '__metadata__'"):
        result.save(tmp_path / "a.saec")
    assert list(tmp_path.iterdir()) == []
