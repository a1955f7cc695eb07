"""Results can be copied and sent to other processes at any time, also after lookups."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import numpy as np
import pytest
from artifact_files import all_kinds, save_in_shards
from numpy.typing import NDArray

import saec
from saec.format.compressed import Compressed

IDS = [0, 2, 1]


def in_memory(_: Path) -> Compressed:
    return all_kinds()


def mapped(directory: Path) -> Compressed:
    all_kinds().save(directory / "a.saec")
    return saec.load(directory / "a.saec")


def in_shards(directory: Path) -> Compressed:
    save_in_shards(all_kinds(), directory / "a.saec", roles=("codes",))
    return saec.load(directory / "a.saec")


def renumbered(_: Path) -> Compressed:
    rows = np.random.default_rng(0).standard_normal((2000, 4)).astype(np.float32)
    field = saec.Field("a", rows, 1e4 / np.arange(1, 2001))
    codec = saec.Axes(order="code")
    return saec.compress([field], saec.Ratio(8), codec, progress=False)


@pytest.fixture(scope="module", params=[in_memory, mapped, in_shards, renumbered])
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    made: Compressed = request.param(tmp_path_factory.mktemp("artifact"))
    return made


def through_joblib(whole: Any) -> Any:
    path = Path("whole.joblib")
    joblib.dump(whole, path)
    return joblib.load(path)


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda whole: pickle.loads(pickle.dumps(whole)),
    "cloudpickle": lambda whole: pickle.loads(cloudpickle.dumps(whole)),
    "joblib": through_joblib,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
every_copy = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


def rows_of(result: Compressed) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = result.lookup(dict.fromkeys(result, IDS))
    return rows


@every_copy
def test_result(
    result: Compressed,
    copied: Callable[[Any], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = rows_of(result)
    other = copied(result)
    assert rows_of(other).tobytes() == rows.tobytes()
    assert rows_of(copied(other)).tobytes() == rows.tobytes()
    assert (other.nbytes, other.shard_count) == (result.nbytes, result.shard_count)
    for name in result:
        assert np.array_equal(other[name].decode(), result[name].decode())


@every_copy
def test_field(
    result: Compressed,
    copied: Callable[[Any], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for field in result.values():
        rows = field.lookup(IDS)
        other = copied(field)
        assert other.lookup(IDS).tobytes() == rows.tobytes()
        assert np.array_equal(other.decode(), field.decode())


def test_lookups_leave_nothing_in_a_pickle(result: Compressed) -> None:
    fresh = pickle.loads(pickle.dumps(result))
    before = len(pickle.dumps(fresh))
    rows_of(fresh)
    assert len(pickle.dumps(fresh)) == before


def test_copy_of_a_renumbered_result_keeps_the_old_ids() -> None:
    result = renumbered(Path())
    other = pickle.loads(pickle.dumps(result))
    assert np.array_equal(other["a"].new_ids, result["a"].new_ids)


def test_copy_of_a_mapped_result_outlives_the_file(tmp_path: Path) -> None:
    result = in_shards(tmp_path)
    expected = rows_of(result)
    sent = pickle.dumps(result)
    del result
    for file in tmp_path.iterdir():
        file.unlink()
    assert np.array_equal(rows_of(pickle.loads(sent)), expected)


def test_copy_can_be_saved(tmp_path: Path) -> None:
    result = mapped(tmp_path)
    rows_of(result)
    copy.deepcopy(result).save(tmp_path / "b.saec")
    assert (tmp_path / "a.saec").read_bytes() == (tmp_path / "b.saec").read_bytes()


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_result_goes_to_another_process(method: str) -> None:
    result = all_kinds()
    rows = rows_of(result)
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(result["a"].lookup, IDS).result().tolist() == rows[:, :2].tolist()
