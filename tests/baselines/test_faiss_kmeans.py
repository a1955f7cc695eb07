"""faiss as a baseline: results by hand, learning from all rows, no output, missing package."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from coding_calls import encode as encode_checked
from coding_calls import lost_nats, offers
from numpy.typing import NDArray

from saec import Field, compress
from saec.baselines import BASELINES, FaissKMeans
from saec.baselines.faiss_kmeans import KmeansChoice
from saec.errors import OptionalDependencyError, OptionError
from saec.format.clustered_field import ClusteredField
from saec.tables.loss_metric import Metric


def encode(rows: NDArray[np.float32], clusters: int, seed: int = 0) -> ClusteredField:
    field = Field("f", rows, np.ones(len(rows)))
    done: list[float] = []
    choice = KmeansChoice(clusters, Metric.euclidean(field.dim))
    coded = encode_checked(FaissKMeans(), field, choice, seed=seed, advance=done.append)
    assert isinstance(coded, ClusteredField)
    assert sum(done) == 1
    return coded


def test_two_pairs_of_points() -> None:
    rows = np.array([[0, 5], [2, 5], [10, 5], [12, 5]], np.float32)
    coded = encode(rows, 2)
    assert coded.decode().tolist() == [[1, 5], [1, 5], [11, 5], [11, 5]]
    assert (coded.codes.bits, coded.codebook.dtype) == (1, "float32")


def test_it_learns_from_all_rows() -> None:
    # faiss alone would look at 256 rows per centroid.
    rows = np.zeros((5000, 1), np.float32)
    rows[::1000] = 1000
    assert encode(rows, 1).decode()[0] == pytest.approx(1)


def test_frequencies_do_not_count() -> None:
    rows = np.arange(600, dtype=np.float32).reshape(300, 2) % 7
    tables = [
        encode_checked(FaissKMeans(), Field("f", rows, w), KmeansChoice(20, Metric.euclidean(2)))
        for w in (np.ones(300), np.arange(300.0))
    ]
    assert np.array_equal(tables[0].decode(), tables[1].decode())


@pytest.mark.parametrize(
    ("features", "clusters"), [(1, 1), (63, 63), (6399, 64), (6449, 64), (6451, 65), (20_000, 200)]
)
def test_a_cluster_for_every_hundred_features(features: int, clusters: int) -> None:
    field = Field("f", np.zeros((features, 1), np.float32), np.ones(features))
    (option,) = offers(FaissKMeans(), field)
    assert isinstance(option.choice, KmeansChoice)
    assert option.choice.clusters == clusters


def test_metrics_change_nothing() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 2)).astype(np.float32)
    fields, metrics = [Field("f", rows, np.ones(300))], {"f": np.diag([100.0, 1])}
    plain, other = (
        compress(fields, None, FaissKMeans(), metrics=given, progress=False)
        for given in (None, metrics)
    )
    assert np.array_equal(plain["f"].decode(), other["f"].decode())
    # Only what is lost is told in them.
    lost = lost_nats(fields[0], other["f"], Metric.of(metrics["f"], "f", 2))
    assert other.predicted_loss_increase == pytest.approx(lost, rel=1e-5)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    # By default faiss prints a warning when there are fewer than 39 rows per centroid.
    encode(np.random.default_rng(0).standard_normal((80, 3)).astype(np.float32), 64)
    assert capfd.readouterr() == ("", "")


def test_iterations_are_checked() -> None:
    with pytest.raises(OptionError, match="iterations cannot be 0"):
        FaissKMeans(iterations=0)


def test_the_missing_package_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)  # Python's own mark of what is not there
    with pytest.raises(OptionalDependencyError, match=r"pip install 'saec\[bench\]'"):
        BASELINES["faiss-kmeans"]()
