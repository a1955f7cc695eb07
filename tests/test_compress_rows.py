"""Fields in files, in shards and in small parts give the same results as arrays in memory."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from coding_calls import encode, offers
from numpy.typing import NDArray
from placed_rows import parts_of_values

from saec import (
    Axes,
    Budget,
    Clusters,
    Compressed,
    Field,
    FieldError,
    MaxBytes,
    Ratio,
    compress,
)
from saec.codecs.protocol import Codec
from saec.format.clustered_field import ClusteredField
from saec.format.raw_field import RawField
from saec.format.tier_index import Order
from saec.streaming.map_reduce import silent
from saec.streaming.rows import ArrayRows, FileRows, JoinedRows, Rows
from saec.streaming.scratch import Workspace
from saec.tables.loss_metric import Metric

ROWS, DIM = 1400, 4
METRICS = {"f": np.diag(np.logspace(-2, -4, DIM))}

# What codes, whether rows are in order of frequency, and the metrics.
CASES: dict[str, tuple[Codec, bool, Budget | None]] = {
    "axes, sorted": (Axes(), True, Ratio(5)),
    "axes, unsorted": (Axes(), False, Ratio(5)),
    "axes, renumbered": (Axes("frequency"), False, Ratio(5)),
    "axes, similar": (Axes("code"), False, Ratio(5)),
    "axes, similar, sorted": (Axes("code"), True, Ratio(5)),
    "clusters": (Clusters(), False, Ratio(5)),
    "clusters, sorted": (Clusters(codebook="float16"), True, Ratio(4)),
    "clusters, fixed": (Clusters(clusters=70, codebook="float32"), False, None),
}
every_case = pytest.mark.parametrize("case", CASES)
# Each in nats or not, in turn.
every_second_in_nats = pytest.mark.parametrize(
    ("case", "in_nats"), [(case, number % 2 == 0) for number, case in enumerate(CASES)]
)
every_other_in_nats = pytest.mark.parametrize(
    ("case", "in_nats"), [(case, number % 2 == 1) for number, case in enumerate(CASES)]
)


def table(dtype: object = np.float32) -> NDArray[np.generic]:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((ROWS, DIM)) * np.logspace(0, -1, DIM) + 0.2
    return rows.astype(dtype)


def counts(in_order: bool) -> NDArray[np.float64]:
    found = np.floor(3000 / np.arange(1, ROWS + 1))
    return found if in_order else np.random.default_rng(1).permutation(found)


def run(field: Field, case: str, in_nats: bool) -> Compressed:
    codec, _, budget = CASES[case]
    return compress([field], budget, codec, metrics=METRICS if in_nats else None, progress=False)


@cache
def from_memory(case: str, in_nats: bool, dtype: object = np.float32) -> Compressed:
    return run(Field("f", table(dtype), counts(CASES[case][1])), case, in_nats)


def check_same(found: Compressed, expected: Compressed) -> None:
    a, b = found["f"], expected["f"]
    assert a.description == b.description
    assert a.tensors.keys() == b.tensors.keys()
    for role, tensor in b.tensors.items():
        assert a.tensors[role].tobytes() == tensor.tobytes(), role
    assert (a.permutation is None) == (b.permutation is None)
    if b.permutation is not None:
        assert np.array_equal(a.permutation, b.permutation)
    if expected.predicted_loss_increase is not None:
        assert found.predicted_loss_increase == pytest.approx(
            expected.predicted_loss_increase, rel=1e-12
        )


def file_of(path: Path, array: NDArray[np.generic]) -> FileRows:
    path.write_bytes(b"\xff" * 5 + array.tobytes())
    return FileRows(path, 5, array.shape, array.dtype)


def shards_of(folder: Path, array: NDArray[np.generic]) -> JoinedRows:
    """In files and in memory, one of them empty."""
    shards: list[Rows] = []
    for number, (low, high) in enumerate(pairwise((0, 1, 400, 400, 900, ROWS))):
        one = array[low:high]
        shards.append(ArrayRows(one) if number == 4 else file_of(folder / f"{number}", one))
    return JoinedRows(shards)


@pytest.mark.exhaustive(keep=4)
@every_second_in_nats
def test_a_file_is_the_array(case: str, in_nats: bool, tmp_path: Path) -> None:
    rows = file_of(tmp_path / "rows", table())
    frequencies = file_of(tmp_path / "counts", counts(CASES[case][1]).astype(np.uint16))
    check_same(run(Field("f", rows, frequencies), case, in_nats), from_memory(case, in_nats))


@pytest.mark.exhaustive(keep=3)
@every_case
def test_a_map_is_the_array(case: str, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", table())
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    field = Field("f", rows, counts(CASES[case][1]))
    assert isinstance(field.rows, FileRows)
    check_same(run(field, case, False), from_memory(case, False))


@pytest.mark.exhaustive(keep=3)
@every_other_in_nats
def test_shards_are_the_array(case: str, in_nats: bool, tmp_path: Path) -> None:
    field = Field("f", shards_of(tmp_path, table()), counts(CASES[case][1]))
    assert len(field.parts) == 4
    check_same(run(field, case, in_nats), from_memory(case, in_nats))


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("case", ["axes, unsorted", "clusters, fixed"])
def test_narrow_floats_in_shards(case: str, dtype: object, tmp_path: Path) -> None:
    shards = shards_of(tmp_path, table(dtype))
    found = run(Field("f", shards, counts(CASES[case][1])), case, True)
    assert found["f"].dtype == np.dtype(dtype).name  # type: ignore[call-overload]
    check_same(found, from_memory(case, True, dtype))


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("order", ["keep", "frequency", "code"])
def test_samples_of_shards_are_those_of_the_array(
    order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saec.codecs.axes.codec._SAMPLED_ROWS", 300)
    monkeypatch.setattr("saec.codecs.axes.candidates._JOINT_LEARNED", 200)
    frequencies = counts(False)
    fields = Field("f", shards_of(tmp_path, table()), frequencies), Field("f", table(), frequencies)
    found, expected = (offers(Axes(order), field) for field in fields)
    assert [option.bits for option in found] == [option.bits for option in expected]
    assert [option.distortion for option in found] == pytest.approx(
        [option.distortion for option in expected], rel=1e-9
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("case", "part_rows", "in_nats"),
    [
        ("axes, unsorted", 11, True),
        ("axes, unsorted", 500, False),
        ("axes, renumbered", 500, True),
        ("axes, similar", 11, False),
        ("clusters, fixed", 11, False),
        ("clusters, fixed", 500, True),
    ],
)
def test_small_parts_change_last_digits_only(case: str, part_rows: int, in_nats: bool) -> None:
    field = Field("f", table(), counts(CASES[case][1]))
    with parts_of_values(part_rows * DIM):
        assert len(field.parts) == -(-ROWS // part_rows)
    found, expected = run(field, case, in_nats), from_memory(case, in_nats)
    if not isinstance(expected["f"], ClusteredField):
        check_same(found, expected)
        return
    a, b = found["f"], expected["f"]
    assert isinstance(a, ClusteredField)
    assert a.codebook.values == pytest.approx(b.codebook.values, rel=1e-5, abs=1e-6)
    one, other = a.codes.unpack(), b.codes.unpack()
    # A row between two centroids may go to either.
    assert np.count_nonzero(one != other) <= 2
    if in_nats:
        lost = expected.predicted_loss_increase
        assert found.predicted_loss_increase == pytest.approx(lost, rel=1e-5)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("held", [0, 5000])
@pytest.mark.parametrize("case", ["axes, unsorted", "axes, renumbered", "clusters"])
def test_little_memory_changes_nothing(case: str, held: int, tmp_path: Path) -> None:
    codec, in_order, _ = CASES[case]
    metric = Metric.of(METRICS["f"], "f", DIM)
    with parts_of_values(90 * DIM):
        field = Field("f", file_of(tmp_path / "rows", table()), counts(in_order))
        assert len(field.parts) > 9
    (tmp_path / "work").mkdir()
    space = Workspace(tmp_path / "work", held)
    expected = offers(codec, field, metric)
    found = codec.options(field, metric, np.random.default_rng(0), space)
    assert [option.bits for option in found] == [option.bits for option in expected]
    assert [o.distortion for o in found] == [o.distortion for o in expected]
    choice = expected[len(expected) // 2].choice
    coded = codec.encode(field, choice, np.random.default_rng(0), silent, space).field
    in_memory = encode(codec, field, choice, metric)
    for role, tensor in in_memory.tensors.items():
        assert np.array_equal(coded.tensors[role], tensor), role
    assert np.array_equal(coded.decode(), in_memory.decode())


@pytest.mark.parametrize("codec", [Axes(), Axes("frequency"), Clusters(), Clusters(clusters=9)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_found_in_a_file(
    codec: Codec, bad: float, tmp_path: Path
) -> None:
    rows = table()
    rows[900, 3] = bad
    np.save(tmp_path / "rows.npy", rows)
    budget = None if codec == Clusters(clusters=9) else Ratio(5)
    for weights in (
        file_of(tmp_path / "rows", rows),
        shards_of(tmp_path, rows),
        np.load(tmp_path / "rows.npy", mmap_mode="r"),
    ):
        with parts_of_values(70 * DIM):
            field = Field("user", weights, counts(False))
            with pytest.raises(
                FieldError, match=f"field 'user': weights hold {bad} at row 900, column 3"
            ):
                compress([field], budget, codec, progress=False)


def test_a_value_that_is_not_finite_is_found_in_a_field_that_stays_as_it_is(
    tmp_path: Path,
) -> None:
    rows, codec = table(), Clusters(clusters=ROWS, codebook="float32")  # larger than the table
    kept = compress([Field("user", rows, counts(False))], None, codec, progress=False)
    assert isinstance(kept["user"], RawField)
    rows[900, 3] = np.nan
    for weights in (file_of(tmp_path / "rows", rows), shards_of(tmp_path, rows)):
        field = Field("user", weights, counts(False))
        with pytest.raises(FieldError, match="weights hold nan at row 900, column 3"):
            compress([field], None, codec, progress=False)


@pytest.mark.parametrize("codec", [Axes(), Clusters(clusters=9)])
@pytest.mark.parametrize("bad", [np.nan, -2.0])
def test_a_frequency_that_cannot_be_is_found_in_a_file(
    codec: Codec, bad: float, tmp_path: Path
) -> None:
    frequencies = counts(False)
    frequencies[1300] = bad
    with parts_of_values(70 * DIM):
        field = Field("user", table(), file_of(tmp_path / "counts", frequencies))
        with pytest.raises(FieldError, match=f"field 'user': the frequency of id 1300 is {bad}"):
            compress([field], MaxBytes(4000), codec, progress=False)


def test_a_raw_field_of_a_file_is_its_map(tmp_path: Path) -> None:
    rows = file_of(tmp_path / "rows", table())
    for weights in (rows, shards_of(tmp_path, table())):
        field = Field("f", weights, counts(False))
        found = compress([field], MaxBytes(table().nbytes + 1000), Clusters(), progress=False)["f"]
        assert isinstance(found, RawField)
        assert np.array_equal(found.decode(), table())
