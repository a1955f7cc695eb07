"""Compression by the workers of a cluster: the same artifact, byte for byte."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from dask_killing import KILLS, Killer
from distributed import Client
from safetensors.numpy import load_file

import saec
from saec import distributed
from saec.codecs.protocol import Codec
from saec.format.tier_index import Order
from saec.streaming.map_reduce import Executor

pytestmark = pytest.mark.usefixtures("coarse_prices")

ROWS, DIM = 3_001, 4


@pytest.fixture
def fields(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> list[saec.Field]:
    """A field of many parts in files, and one in memory."""
    monkeypatch.setattr("saec.streaming.chunks._PART_VALUES", 4000)
    rows = rng.standard_normal((ROWS, DIM), dtype=np.float32) * np.linspace(2, 0.1, DIM)
    np.save(tmp_path / "rows.npy", rows.astype(np.float32))
    np.save(tmp_path / "counts.npy", rng.zipf(1.3, ROWS).clip(max=10_000))
    mapped = [np.load(tmp_path / name, mmap_mode="r") for name in ("rows.npy", "counts.npy")]
    small = saec.Field("item", rows[:300].astype(np.float16), np.arange(1.0, 301))
    return [saec.Field("user", *mapped), small]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("codec", "measured"),
    [
        (saec.Axes(), True),
        (saec.Axes(order="frequency"), True),
        (saec.Axes(order="code"), True),
        (saec.Clusters(clusters=64, iterations=3), False),
    ],
    ids=["axes", "renumbered", "code", "clusters"],
)
def test_the_artifact_is_the_same(
    fields: list[saec.Field], client: Client, tmp_path: Path, codec: Codec, measured: bool
) -> None:
    metrics = {"user": np.diag([1.0, 0.9, 0.7, 0.5]), "item": np.eye(DIM)} if measured else None
    results = [
        saec.compress(
            fields, saec.Ratio(10), codec, metrics=metrics, progress=False, executor=executor
        )
        for executor in (None, distributed.DaskExecutor(client))
    ]
    one, many = tmp_path / "one.saec", tmp_path / "many.saec"
    results[0].save(one)
    results[1].save(many)
    assert one.read_bytes() == many.read_bytes()
    assert results[0].predicted_loss_increase == results[1].predicted_loss_increase
    for name in ("user", "item"):
        orders = [result[name].permutation for result in results]
        np.testing.assert_array_equal(*orders)


@pytest.mark.exhaustive
@pytest.mark.parametrize("codec", [saec.Axes(), saec.Clusters()], ids=["axes", "clusters"])
def test_keyed_artifacts_are_the_same(
    fields: list[saec.Field], client: Client, tmp_path: Path, codec: Codec
) -> None:
    user, item = fields
    keys = np.arange(ROWS) * 1_000_003
    names = [f"item-{row}" for row in range(300)]
    fields = [
        saec.Field("user", user.weights, user.frequencies, keys=keys),
        saec.Field("item", item.weights, item.frequencies, keys=names),
    ]
    for name, executor in (("one", None), ("many", distributed.DaskExecutor(client))):
        result = saec.compress(fields, saec.Ratio(10), codec, progress=False, executor=executor)
        result.save(tmp_path / name)
        assert result["user"].contains(keys).mean() > 0.1
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()


@pytest.mark.skipif(KILLS == 1, reason="a worker dies in the next test, too; make test-kills")
def test_a_worker_may_die_while_it_compresses(
    fields: list[saec.Field], client: Client, rng: np.random.Generator
) -> None:
    codec = saec.Axes(order="frequency")
    metrics = {field.name: np.eye(DIM) for field in fields}

    def compressed(executor: Executor | None) -> list[np.ndarray]:
        result = saec.compress(
            fields, saec.Ratio(10), codec, metrics=metrics, progress=False, executor=executor
        )
        return [result[name].decode() for name in result] + [result["user"].permutation]

    local = compressed(None)
    for seconds in rng.uniform(0, 0.3, KILLS):
        with Killer(client) as killer:
            killer.kill_after(seconds)
            found = compressed(distributed.DaskExecutor(client))
        for one, many in zip(local, found, strict=True):
            np.testing.assert_array_equal(one, many)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("order", ["keep", "code"] if KILLS == 1 else get_args(Order))
def test_workers_write_shards_of_the_artifact(
    fields: list[saec.Field],
    client: Client,
    tmp_path: Path,
    order: Order,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Joined, the shards have the bytes of the file of one process, also if a worker dies."""
    monkeypatch.setattr("saec.distributed.output_windows._LEAST", 1 << 10)
    metrics = {field.name: np.eye(DIM) for field in fields}
    budget, codec = saec.Ratio(3), saec.Axes(order=order)
    saec.compress(fields, budget, codec, metrics=metrics, out=tmp_path / "one", progress=False)
    (tmp_path / "shards").mkdir()
    killer = Killer(client) if order == "code" or KILLS > 1 else None
    with killer or nullcontext():
        if killer:
            killer.kill_after(0.1)
        executor = distributed.DaskExecutor(client)
        many = tmp_path / "shards" / "many.saec"
        result = saec.compress(
            fields,
            budget,
            codec,
            metrics=metrics,
            out=many,
            progress=False,
            executor=executor,
        )
    assert result.shard_count >= 1
    shards = sorted(path.name for path in many.parent.iterdir() if path.name[-6:-5] == "-")
    assert len(shards) == result.shard_count
    assert not list(many.parent.glob("*.partial*"))
    result.save(tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == (tmp_path / "one").read_bytes()
    if order != "keep":
        np.testing.assert_array_equal(
            *(
                load_file(f"{path}.permutation.safetensors")["user"]
                for path in (many, tmp_path / "one")
            )
        )
