"""The file of old ids: read by another library, for fields with and without new ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import saec
from saec import ArtifactError, Axes, Compressed, DataError, Field, Ratio
from saec.permutations import permutation_path, save_permutations


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
    monkeypatch.setattr("saec.permutations._WRITTEN_ROWS", block)
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
    with pytest.raises(DataError, match="none"):
        save_permutations(tmp_path / "none" / "ids", result)
    assert list(tmp_path.iterdir()) == []


def test_new_ids_are_the_inverse(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 2)).astype(np.float32)
    fields = [Field("f", rows, rng.permutation(300)), Field("g", rows, np.arange(300)[::-1])]
    result = saec.compress(fields, Ratio(5), Axes("frequency"), progress=False)
    old = result["f"].permutation
    assert old is not None
    assert np.array_equal(result["f"].new_ids[old], np.arange(300))
    assert np.array_equal(result["g"].new_ids, np.arange(300))  # in order already
    result.save(tmp_path / "a.saec")
    loaded = saec.load(tmp_path / "a.saec")
    assert np.array_equal(loaded["g"].new_ids, np.arange(300))
    with pytest.raises(ArtifactError, match="field 'f': the artifact does not hold the old ids"):
        loaded["f"].new_ids  # noqa: B018
