"""Common behaviour of all methods that train small tables."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saec.errors import BudgetError, DataError
from saec.keys.hashing import hash_keys
from saec.reference.evaluate import evaluate
from saec.reference.log import Log
from saec.reference.models import build
from saec.reference.simulated import simulate
from saec.reference.sizes import with_vocabularies
from saec.reference.small import SMALL, SmallTables
from saec.reference.small.features import FieldFeatures, asked_by_keys, table_bytes
from saec.reference.small.training import SmallTraining
from saec.reference.training_settings import Training

pytestmark = pytest.mark.usefixtures("one_thread")

every_method = pytest.mark.parametrize("name", SMALL)

DIM = 4
SHORT = Training(batch_size=100, max_epochs=2, evaluations_per_epoch=1, table_decay=0.0)

# Methods whose values are rounded in training, with gradients passed straight through.
ROUNDED = ("dqrm", "mpe")


def field(count: int, unseen: int = 0, number: int = 0) -> FieldFeatures:
    """Frequencies fall with the row."""
    keys = hash_keys(np.arange(count + unseen) + 1000 * number)
    return FieldFeatures(f"f{number}", number, np.floor(100 / np.arange(1, count + 1)), keys)


def built(name: str, fields: list[FieldFeatures], nbytes: int, **settings: Any) -> SmallTables:
    torch.manual_seed(3)
    return SMALL[name](**settings).build(fields, DIM, nbytes)


def every_id(fields: list[FieldFeatures]) -> Tensor:
    """Ids (B, fields) that contain every key of each field; shorter fields repeat theirs."""
    size = max(len(one.keys) for one in fields)
    return torch.stack([torch.arange(size) % len(one.keys) for one in fields], dim=1)


@pytest.fixture(scope="module")
def clicks() -> Log:
    return simulate(1000, seed=1, keys=True)


@pytest.fixture(scope="module")
def training(clicks: Log) -> SmallTraining:
    return SmallTraining.of(clicks, "deepfm", DIM, 0)


@pytest.fixture(scope="module")
def untrained_logloss(training: SmallTraining) -> float:
    model = build("deepfm", training.log.vocab_sizes, DIM, 0)
    return evaluate(model, training.log, "train", progress=False).logloss


@every_method
def test_training_repeats_learns_and_is_measured_as_stored(
    name: str, training: SmallTraining, untrained_logloss: float
) -> None:
    nbytes = table_bytes(training.fields, DIM) // 6
    found = [training.trained(SMALL[name](), nbytes, SHORT) for _ in range(2)]
    assert len(found[0][1]) == (2 if name == "mpe" else 1)
    trained = evaluate(found[0][0], training.log, "train", progress=False)
    assert trained.logloss < untrained_logloss - 0.01
    tables = [net.embeddings for net, _ in found]
    assert isinstance(tables[0], SmallTables)
    assert isinstance(tables[1], SmallTables)
    stored, again = (one.stored() for one in tables)
    assert {key: value.tobytes() for key, value in stored.items()} == {
        key: value.tobytes() for key, value in again.items()
    }
    assert tables[0].nbytes == sum(value.nbytes for value in stored.values())
    assert SMALL[name].has_one_size or tables[0].nbytes <= nbytes
    # What is stored suffices: tables of the same build, spoilt and restored, give the same vectors.
    spoilt = copy.deepcopy(tables[0]).eval()
    with torch.no_grad():
        for parameter in spoilt.parameters():
            parameter.add_(1.0)
    spoilt.restore(stored)
    tables[0].restore(stored)
    ids = torch.from_numpy(training.log.ids[:300])
    with torch.no_grad():
        assert torch.allclose(spoilt(ids), tables[0].eval()(ids), atol=1e-6)
    assert all((spoilt.stored()[key] == value).all() for key, value in stored.items())


@every_method
def test_measured_rows_count_every_byte(name: str, training: SmallTraining) -> None:
    row = training.measured(SMALL[name](), 5.0, replace(SHORT, max_epochs=1))
    features = sum(one.count for one in training.fields)
    original = 4 * DIM * features
    assert row["ratio"] == original / row["nbytes"]
    assert SMALL[name].has_one_size or row["ratio"] >= 5
    assert row["ratio_all_in"] == (original + 8 * features) / row["bytes_all_in"]
    keyed = name in ("robe", "dhe")
    dense = 0 if keyed else 8 * features
    if name != "hash":  # whose vocabulary depends on what is hashed; see below
        assert row["bytes_all_in"] == row["nbytes"] + dense
    assert 0 < row["auc"] < 1
    assert 0 < row["validation_logloss"] < 2


@every_method
@pytest.mark.parametrize("counts", [(1,), (2, 1), (5, 3, 40)])
def test_small_fields(name: str, counts: tuple[int, ...]) -> None:
    """Fields of one row, of fewer rows than buckets, and together with larger fields."""
    fields = [field(count, 2, number) for number, count in enumerate(counts)]
    tables = built(name, fields, 100_000)
    ids = every_id(fields)
    if len(ids) == 1:
        tables.eval()
    vectors = tables(ids)
    assert vectors.shape == (len(ids), len(counts), DIM)
    assert torch.isfinite(vectors).all()
    vectors.sum().backward()
    settled = tables.settled() or tables
    settled.restore(settled.stored())
    assert torch.isfinite(settled.eval()(ids)).all()


@pytest.mark.parametrize("name", [name for name in SMALL if not SMALL[name].has_one_size])
def test_sizes_are_kept_or_refused(name: str) -> None:
    fields = [field(300, 0, 0), field(7, 0, 1)]
    rows = 4 * DIM * 307
    reached = 0
    for ratio in (2, 5, 10, 20, 50, 1000):
        try:
            tables = built(name, fields, rows // ratio)
        except BudgetError:
            break
        reached = ratio
        tables(every_id(fields))
        settled = tables.settled() or tables
        assert settled.nbytes <= rows // ratio
    assert reached >= 5
    with pytest.raises(BudgetError, match=r"needs at least .*\d+ bytes.*; 3 were allowed"):
        built(name, fields, 3)


@pytest.mark.parametrize("name", [name for name in SMALL if name not in ROUNDED])
def test_gradients_are_those_of_the_vectors(name: str) -> None:
    """Compares some elements of every parameter with central differences, in float64."""
    fields = [field(60, 3, 0), field(9, 1, 1)]
    tables = built(name, fields, 900).double()
    if name == "dhe":
        tables.float()  # its inputs are float32 by construction
    ids = every_id(fields)
    weights = torch.randn(len(ids), 2, DIM, dtype=next(tables.parameters()).dtype)

    def loss() -> Tensor:
        return (tables(ids) * weights).sum()

    loss().backward()
    step, tolerance = (1e-2, 2e-2) if name == "dhe" else (1e-4, 1e-5)
    for parameter in tables.parameters():
        assert parameter.grad is not None
        gradient = parameter.grad.to_dense().flatten()
        flat = parameter.data.view(-1)
        scale = max(float(gradient.abs().max()), 1.0)
        for place in range(0, len(flat), max(1, len(flat) // 5)):
            own = float(flat[place])
            ends = []
            for moved in (own + step, own - step):
                flat[place] = moved
                ends.append(float(loss().detach()))
            flat[place] = own
            measured = (ends[0] - ends[1]) / (2 * step)
            assert float(gradient[place]) == pytest.approx(measured, abs=tolerance * scale)


@every_method
def test_unseen_keys_get_row_0_or_a_row_by_hash(name: str) -> None:
    fields = [field(50, 20, 0)]
    tables = built(name, fields, 300).eval()
    with torch.no_grad():
        seen, unseen = tables(every_id(fields))[:, 0].split([50, 20])
    keyed = tables.vocabularies == ((50, "keys"),)
    assert keyed == (name in ("hash", "robe", "dhe"))
    if keyed:
        assert len(unseen.unique(dim=0)) > 5
    elif name == "cce":  # row 0 of clusters, and hashed rows
        assert len(unseen.unique(dim=0)) > 1
    else:
        assert (unseen == seen[0]).all()


def test_vocabularies_by_hand() -> None:
    """A hashed field has none; keys take 8 bytes with dense ids, and 12 bytes with ranks."""
    fields = [field(100, 0, 0), field(6, 0, 1)]
    hashed = built("hash", fields, 2 * DIM * (20 + 6))
    assert hashed.vocabularies == ((100, "keys"), (6, "dense"))
    assert hashed.nbytes == 2 * DIM * 26
    assert with_vocabularies(hashed.nbytes, hashed.vocabularies) == 2 * DIM * 26 + 8 * 6
    ranked = built("mixed-dim", fields, 800, blocks=2)
    assert ranked.vocabularies == ((100, "ranks"), (6, "ranks"))
    assert with_vocabularies(0, ranked.vocabularies) == 12 * 106


def test_a_log_without_keys_is_refused(clicks: Log) -> None:
    with pytest.raises(DataError, match="'simulated' was loaded without keys"):
        asked_by_keys(replace(clicks, keys=None))


def test_the_log_asks_for_unseen_keys(clicks: Log) -> None:
    log, fields = asked_by_keys(clicks)
    for place, one in enumerate(fields):
        old, new = clicks.ids[:, place], log.ids[:, place]
        assert (old[old > 0] == new[old > 0]).all()
        assert (new[old == 0] >= one.count).all()
        assert clicks.keys is not None
        assert (one.keys[new] == clicks.keys[:, place]).all()
