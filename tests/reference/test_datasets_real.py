"""The real data sets: their well-known figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from saec.reference import Log, load
from saec.reference.datasets import LOADERS
from saec.reference.encode import encode

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def globo(data_dir: Path) -> Log:
    return load("globo", data_dir / "globo.parquet")


def features(log: Log) -> int:
    return sum(log.vocab_sizes.values())


def parts(log: Log) -> list[int]:
    return np.bincount(log.split).tolist()


@pytest.mark.exhaustive
def test_movielens(data_dir: Path) -> None:
    log = load("ml-1m", data_dir / "movielens_1m.parquet")
    assert parts(log) == [720150, 80017, 200042]
    assert len(log.field_names) == 10
    assert features(log) == pytest.approx(17_415, abs=100)
    assert log.vocab_sizes["user"] == 6041
    assert log.labels.mean() == pytest.approx(0.575, abs=0.001)


@pytest.mark.exhaustive
def test_movielens_crossed(data_dir: Path) -> None:
    rows = LOADERS["ml-1m-x"](data_dir / "movielens_1m.parquet", 0)
    assert len(rows.columns) == 17
    train = encode(rows.columns, rows.labels, rows.split, "train")
    assert features(train) == pytest.approx(2_301_000, rel=0.002)
    # Laboratory figures of 2.49 M features count the validation rows too.
    both = np.where(rows.split == 2, 2, 0)
    assert features(encode(rows.columns, rows.labels, both, "both")) == pytest.approx(
        2_491_000, rel=0.002
    )


@pytest.mark.exhaustive
def test_globo(globo: Log) -> None:
    assert globo.ids.shape == (2_663_640, 12)
    assert globo.labels.mean() == 0.5
    assert np.array_equal(globo.split[::2], globo.split[1::2])
    assert features(globo) == pytest.approx(2_416_000, rel=0.002)
    # A negative is another article than the positive, but for popular ones.
    article = globo.ids[:, globo.field_names.index("article")].reshape(-1, 2)
    assert 0.95 < (article[:, 0] != article[:, 1]).mean() < 1


@pytest.mark.exhaustive
def test_good_turing_foresees_unseen_features_of_globo(globo: Log) -> None:
    """Compares the estimate per training row with the share of unseen ids in validation rows."""
    train, validation = globo.rows("train"), globo.rows("validation")
    for name, low, high in (("user|article//200", 0.7, 0.95), ("prev|article", 0.1, 0.2)):
        ids = globo.ids[validation, globo.field_names.index(name)]
        predicted = globo.frequencies[name][0] / len(train)
        assert low < predicted < high
        # Rows of a session come together, which the estimate knows nothing about.
        assert (ids == 0).mean() == pytest.approx(predicted, abs=0.15)


@pytest.mark.exhaustive
def test_globo_days(data_dir: Path) -> None:
    log = load("globo-days", data_dir / "globo.parquet", days=2)
    train, validation, test = parts(log)
    assert validation == round(0.1 * (train + validation))
    # Clicks of 3 October with an earlier one in the session, and a negative each.
    assert 200_000 < test < 2 * 261_159


def test_criteo_and_avazu_samples(data_dir: Path) -> None:
    criteo = load("criteo", data_dir / "criteo_8k.parquet")
    assert criteo.ids.shape == (8000, 39)
    assert criteo.labels.mean() == pytest.approx(0.216, abs=0.001)
    avazu = load("avazu", data_dir / "avazu_9k.parquet")
    assert avazu.ids.shape == (8999, 23)
    assert avazu.labels.mean() == pytest.approx(0.174, abs=0.001)


def test_online_retail(data_dir: Path) -> None:
    log = load("online-retail", data_dir / "online_retail.parquet")
    assert log.ids.shape == (738_678, 8)
    assert log.labels.mean() == 0.5
    assert features(log) == pytest.approx(507_000, rel=0.002)
