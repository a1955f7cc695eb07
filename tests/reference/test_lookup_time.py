"""The time of lookups: what is asked for, and per what it is counted."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import saec
from saec.baselines import RivalField
from saec.format.compressed_field import CompressedField
from saec.reference.job import Job
from saec.reference.log import Log
from saec.reference.lookup_time import compressed_ns, module_ns
from saec.reference.methods import method_of
from saec.reference.models import build
from saec.reference.simulated import simulate
from saec.reference.small.tables import SmallTables
from saec.reference.training_settings import Training
from saec.reference.trial import Trial

pytestmark = pytest.mark.usefixtures("one_thread")

SECONDS = 0.004


@pytest.fixture(scope="module")
def log() -> Log:
    """With a test part of more than one batch."""
    return simulate(50_000, seed=0, keys=True)


@pytest.fixture(scope="module")
def trial(log: Log) -> Trial:
    net = build("deepfm", log.vocab_sizes, 4, 0)
    return Trial.of(log, net, "deepfm", 0, False, Training())


class Slow(SmallTables):
    """Tables that take 4 ms a call, and keep what they were asked for."""

    def __init__(self) -> None:
        super().__init__([])
        self.asked: list[Tensor] = []

    def forward(self, ids: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.asked.append(ids)
        time.sleep(SECONDS)
        return ids


def test_it_is_counted_by_feature(log: Log) -> None:
    """A call of 2,048 rows takes 4 ms: so many nanoseconds by 2,048 rows and the fields."""
    tables = Slow()
    found = module_ns(tables, log)
    least = 1e9 * SECONDS / (2048 * len(log.field_names))
    assert least <= found < 5 * least  # a machine may be busy
    assert tables.training
    whole = len(log.rows("test")) // 2048
    assert whole > 1
    first, *counted = tables.asked
    assert torch.equal(first, counted[0])
    assert len(counted) == whole
    rows = torch.cat(counted).numpy()
    assert rows.shape == (2048 * whole, len(log.field_names))
    test = log.ids[log.rows("test")]
    assert {*map(tuple, rows)} <= {*map(tuple, test)}


def test_few_rows_are_one_batch() -> None:
    few, tables = simulate(1000, seed=0), Slow()
    module_ns(tables, few)
    assert [len(ids) for ids in tables.asked] == [len(few.rows("test"))] * 2


def test_models_are_asked_for_their_vectors(trial: Trial) -> None:
    """Without the network above them."""
    trial.model.interact = None  # type: ignore[method-assign,assignment]
    assert module_ns(trial.model, trial.log) > 0
    del trial.model.interact
    assert trial.model.interact


@pytest.mark.parametrize("name", ["saec", "axes", "axes-remapped", "int4"])
def test_tables_are_asked_for_what_they_know(
    trial: Trial, log: Log, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Keys, ids, new ids, or what is stored: each time the rows of the same test rows."""
    found: dict[str, list[NDArray[Any]]] = {}

    def recorded(own: type, attribute: str) -> None:
        plain = getattr(own, attribute)

        def lookup(self: Any, asked: NDArray[Any]) -> Any:
            rows = plain(self, asked)
            found.setdefault(self.name, []).append(rows)
            return rows

        monkeypatch.setattr(own, attribute, lookup)

    result, _ = trial.compress(
        Job(name, method_of(name), None if name == "int4" else saec.Ratio(8))
    )
    fields = list(result.values())
    recorded(type(fields[0]), "from_stored" if name == "int4" else "lookup")
    assert compressed_ns(result, log) > 0
    test = np.random.default_rng(0).permutation(log.rows("test"))
    assert found.keys() == {field.name for field in fields if type(field) is type(fields[0])}
    for field in fields:
        if field.name in found:
            place = log.field_names.index(field.name.removeprefix("embeddings."))
            assert np.array_equal(found[field.name][1], _expected(field, log, test[:2048], place))


def _expected(
    field: CompressedField, log: Log, rows: NDArray[np.intp], place: int
) -> NDArray[np.float32]:
    if type(field).__name__ == "KeyedField":
        assert log.keys is not None
        return field.lookup(log.keys[rows, place])
    ids = log.ids[rows, place].astype(np.int64)
    if isinstance(field, RivalField):
        return field.decode()[ids]
    return field.decode()[field.new_ids[ids] if field.renumbered else ids]
