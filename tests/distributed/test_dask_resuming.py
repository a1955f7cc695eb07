"""Compression by workers, interrupted and started again: finished shards are used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributed import Client

import saec
from saec import distributed
from saec.streaming.map_reduce import Executor

NAMES = ("user", "city")
ROWS = 2000
METRICS = {name: np.diag([1.0, 0.5, 0.25, 0.1]) for name in NAMES}


@pytest.fixture
def fields(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> list[saec.Field]:
    monkeypatch.setattr("saec.streaming.chunks._PART_VALUES", 4000)
    monkeypatch.setattr("saec.distributed.output_windows._LEAST", 1 << 10)
    result = []
    for name in NAMES:
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((ROWS, 4), dtype=np.float32))
        np.save(tmp_path / f"{name}.counts.npy", rng.zipf(1.3, ROWS).clip(max=10_000))
        files = (tmp_path / f"{name}.npy", tmp_path / f"{name}.counts.npy")
        result.append(saec.Field(name, *(np.load(file, mmap_mode="r") for file in files)))
    return result


class StopError(Exception):
    """Interrupts a compression."""


def compress(
    fields: list[saec.Field], out: Path, executor: Executor | None = None
) -> saec.Compressed:
    return saec.compress(
        fields, saec.Ratio(4), metrics=METRICS, out=out, progress=False, executor=executor
    )


def shards(folder: Path) -> dict[str, int]:
    """Names and inodes."""
    return {path.name: path.stat().st_ino for path in folder.glob("many.saec.*-*")}


@pytest.mark.exhaustive
def test_shards_that_are_written_stay(
    fields: list[saec.Field], client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tmp_path / "many.saec"
    encode = saec.Axes.encode

    def stopping(self: saec.Axes, field: saec.Field, *rest: object) -> object:
        if field.name == "city":
            raise StopError
        return encode(self, field, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(saec.Axes, "encode", stopping)
        with pytest.raises(StopError):
            compress(fields, many, distributed.DaskExecutor(client))
    assert not many.exists()
    assert not shards(tmp_path)
    written = shards(tmp_path / "many.saec.partial")
    assert written

    result = compress(fields, many, distributed.DaskExecutor(client))
    assert written.items() <= shards(tmp_path).items()
    assert len(shards(tmp_path)) == result.shard_count
    assert not (tmp_path / "many.saec.partial").exists()
    compress(fields, tmp_path / "one.saec")
    result.save(tmp_path / "joined.saec")
    assert (tmp_path / "joined.saec").read_bytes() == (tmp_path / "one.saec").read_bytes()


@pytest.mark.exhaustive
def test_shards_of_an_older_artifact_go(
    fields: list[saec.Field], client: Client, tmp_path: Path
) -> None:
    many = tmp_path / "many.saec"
    older = compress(fields, many, distributed.DaskExecutor(client))
    rows = older["user"].lookup(np.arange(ROWS))
    names = set(shards(tmp_path))
    saec.compress(
        fields,
        saec.Ratio(6),
        metrics=METRICS,
        out=many,
        progress=False,
        executor=distributed.DaskExecutor(client),
    )
    assert names.isdisjoint(shards(tmp_path))
    assert np.array_equal(older["user"].lookup(np.arange(ROWS)), rows)  # its map stays
    compress(fields, many)  # one file, by one process
    assert not shards(tmp_path)
