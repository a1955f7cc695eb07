"""The clusters codec: settings, stated bits and losses of options, and the head it learns from."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from coding_calls import encode as encode_checked
from coding_calls import lost_nats, offers
from numpy.typing import NDArray

from saec.codecs.clusters.choice import ClustersChoice
from saec.codecs.clusters.codec import Clusters
from saec.codecs.protocol import Option
from saec.errors import OptionError
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.tables.field import Field
from saec.tables.loss_metric import Metric


def table(rng: np.random.Generator, count: int = 600, dim: int = 4) -> NDArray[np.float32]:
    return rng.standard_normal((count, dim)).astype(np.float32)


def zipf(count: int) -> NDArray[np.float64]:
    return np.ceil(1000 / np.arange(1, count + 1))


def steep(rng: np.random.Generator, dim: int = 4, scale: float = 1.0) -> Metric:
    """A metric with eigenvalues from scale to 1000 scale, in random directions."""
    turn, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    return Metric((turn * (scale * np.logspace(0, 3, dim))) @ turn.T)


def encode(
    field: Field, codec: Clusters, metric: Metric | None = None, seed: int = 0
) -> ClusteredField:
    """The field coded by the first option, the only one if the number of clusters is fixed."""
    return encode_as(field, codec, offers(codec, field, metric)[0], metric, seed)


def encode_as(
    field: Field, codec: Clusters, option: Option, metric: Metric | None = None, seed: int = 1
) -> ClusteredField:
    coded = encode_checked(codec, field, option.choice, metric, seed)
    assert isinstance(coded, ClusteredField)
    assert 8 * coded.nbytes <= option.bits
    return coded


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("clusters", 0),
        ("clusters", -3),
        ("clusters", 2**31),
        ("clusters", 0.0),
        ("clusters", 1.0),
        ("clusters", float("nan")),
        ("head_share", -0.1),
        ("head_share", 1.1),
        ("head_share", float("nan")),
        ("rows_per_cluster", 0.5),
        ("weighting", -1),
        ("weighting", 2.5),
        ("iterations", 0),
        ("tolerance", -1e-9),
        ("seeding", "kmeans++"),
        ("codebook", "float64"),
        ("radius_share", -0.1),
        ("radius_share", 1.5),
    ],
)
def test_options_out_of_range(option: str, value: object) -> None:
    with pytest.raises(OptionError, match=re.escape(f"{option} cannot be {value!r}")):
        Clusters(**{option: value})  # type: ignore[arg-type]


def test_by_hand() -> None:
    # Four points with weights 3, 1, 1, 3: the means are (0.125, 0) and (0.875, 1).
    rows = np.array([[0, 0], [0.5, 0], [0.5, 1], [1, 1]], np.float32)
    field = Field("x", rows, np.array([3, 1, 1, 3]))
    coded = encode(field, Clusters(clusters=2, head_share=1, weighting=1, codebook="float32"))
    decoded = [[0.125, 0], [0.125, 0], [0.875, 1], [0.875, 1]]
    assert coded.decode().tolist() == decoded
    # With equal weights they are (0.25, 0) and (0.75, 1).
    coded = encode(field, Clusters(clusters=2, head_share=1, weighting=0, codebook="float32"))
    assert coded.decode().tolist() == [[0.25, 0], [0.25, 0], [0.75, 1], [0.75, 1]]
    # With frequency ** 2 they are (0.05, 0) and (0.95, 1).
    coded = encode(field, Clusters(clusters=2, head_share=1, weighting=2, codebook="float32"))
    np.testing.assert_allclose(coded.decode()[[0, 3]], [[0.05, 0], [0.95, 1]], rtol=1e-6)


# Corners of a rectangle of 1 by 2, which is one of 10 by 2 in the metric diag(100, 1).
CORNERS = Field("x", np.array([[0, 0], [0, 2], [1, 0], [1, 2]], np.float32), np.ones(4))
WIDE = Metric(np.diag([100.0, 1]))


def test_nearest_centroids_in_a_metric_by_hand() -> None:
    codec = Clusters(clusters=2, head_share=1, codebook="float32")
    apart, level = [[0, 1], [1, 1]], [[0.5, 0], [0.5, 2]]
    found = encode(CORNERS, codec, WIDE).decode()
    np.testing.assert_allclose(found, np.repeat(apart, 2, axis=0), atol=1e-6)
    assert encode(CORNERS, codec).decode().tolist() == level * 2


def test_nats_by_hand() -> None:
    # One cluster is at (0.5, 1): all rows lose 1/2 (100 / 4 + 1). Two lose 1/2.
    # One seed in fifty makes k-means start with the wrong two corners; 0 is one of these.
    options = offers(Clusters(codebook="float32"), CORNERS, WIDE, seed=1)
    nats = {(o.choice.clusters, o.choice.rank): o.distortion for o in options}
    assert nats[1, 2] == pytest.approx(13)
    assert nats[2, 2] == pytest.approx(0.5)
    assert (2, 1) not in nats  # the axis takes more bytes than it saves
    options = offers(Clusters(codebook="float32"), CORNERS)
    assert options[-1].choice.rank == 2
    assert {o.choice.clusters: o.distortion for o in options if o.choice.rank == 2}[
        1
    ] == pytest.approx(5)


def test_the_identity_metric_changes_nothing(rng: np.random.Generator) -> None:
    field, codec = Field("x", table(rng), zipf(600)), Clusters()
    plain, same = (offers(codec, field, metric) for metric in (None, Metric.euclidean(4)))
    assert [option.bits for option in plain] == [option.bits for option in same]
    np.testing.assert_allclose(
        [option.distortion for option in plain],
        [option.distortion * 2 * field.frequencies.sum() for option in same],
        rtol=1e-12,
    )
    for one, other in list(zip(plain, same, strict=True))[::10]:
        a, b = (
            encode_as(field, codec, option, metric)
            for option, metric in ((one, None), (other, Metric.euclidean(4)))
        )
        assert np.array_equal(a.decode(), b.decode())


def test_a_metric_equals_clustering_mapped_rows(rng: np.random.Generator) -> None:
    rows, codec = table(rng), Clusters(clusters=40, codebook="float32")
    metric = steep(rng)
    there = (rows @ metric.root).astype(np.float32)
    found = encode(Field("x", rows, zipf(600)), codec, metric)
    expected = encode(Field("x", there, zipf(600)), codec)
    assert np.array_equal(found.codes.unpack(), expected.codes.unpack())
    np.testing.assert_allclose(found.decode() @ metric.root, expected.decode(), atol=1e-4)


@pytest.mark.parametrize("codec", [Clusters(clusters=30, codebook="float32"), Clusters()])
def test_scale_of_the_metric_does_not_matter(codec: Clusters, rng: np.random.Generator) -> None:
    field, metric = Field("x", table(rng), zipf(600)), steep(rng)
    options = offers(codec, field, metric)
    for scale in (2.0**-200, 2.0**200):
        scaled = offers(codec, field, Metric(scale * metric.matrix))
        for a, b in list(zip(options, scaled, strict=True))[::20]:
            assert b.distortion == pytest.approx(scale * a.distortion, rel=1e-6)
            one = encode_as(field, codec, a, metric)
            other = encode_as(field, codec, b, Metric(scale * metric.matrix))
            np.testing.assert_allclose(one.decode(), other.decode(), rtol=1e-5, atol=1e-6)


def test_clusters_in_the_metric_lose_fewer_nats(rng: np.random.Generator) -> None:
    field, codec, metric = Field("x", table(rng), zipf(600)), Clusters(), steep(rng)
    for number in (20, 60, -20):
        option = offers(codec, field, metric)[number]
        assert isinstance(option.choice, ClustersChoice)
        euclidean = replace(option.choice.row_map, root=None, reach=None)
        unit = 4.0**euclidean.exponent
        plain = replace(option.choice, metric=None, unit=unit, row_map=euclidean)
        lost = []
        for choice, near in ((option.choice, metric), (plain, None)):
            coded = encode_as(field, codec, replace(option, choice=choice), near)
            lost.append(lost_nats(field, coded, metric))
        assert lost[0] < 0.8 * lost[1]


def test_clusters_are_learned_from_the_head_and_assigned_to_all() -> None:
    # The head is 0 and 10; 4 and 100 are too rare to move a centroid.
    field = Field("x", np.array([[0], [10], [4], [100]], np.float32), np.array([50, 50, 1, 1]))
    head = Clusters(clusters=2, head_share=0.9, rows_per_cluster=1, codebook="float32")
    assert encode(field, head).decode().ravel().tolist() == [0, 10, 0, 10]
    all_rows = Clusters(clusters=2, head_share=1, weighting=0, codebook="float32")
    assert encode(field, all_rows).decode()[3] == 100


def test_rows_per_cluster_widens_the_head() -> None:
    field = Field("x", np.array([[0], [10], [4], [100]], np.float32), np.array([50, 50, 1, 1]))
    codec = Clusters(clusters=1, head_share=0, rows_per_cluster=3, weighting=0, codebook="float32")
    assert encode(field, codec).decode()[0] == pytest.approx(14 / 3)


def test_unseen_features_are_coded_but_not_learned_from() -> None:
    field = Field("x", np.array([[0], [10], [1000]], np.float32), np.array([1, 1, 0]))
    codec = Clusters(clusters=2, head_share=1, weighting=0, codebook="float32")
    assert encode(field, codec).decode().ravel().tolist() == [0, 10, 10]


@pytest.mark.parametrize(
    ("clusters", "vocab_size", "expected"),
    [(5, 600, 5), (5, 3, 3), (0.25, 600, 150), (0.01, 600, 64), (0.01, 40, 40)],
)
def test_number_of_clusters(
    clusters: float, vocab_size: int, expected: int, rng: np.random.Generator
) -> None:
    field = Field("x", table(rng, vocab_size), np.ones(vocab_size))
    coded = encode(field, Clusters(clusters=clusters, codebook="float32"))
    assert coded.codebook.clusters == expected


@pytest.mark.parametrize("with_metric", [False, True])
@pytest.mark.parametrize("codebook", ["float32", "float16", "int8"])
def test_every_row_is_coded_by_its_nearest_stored_centroid(
    codebook: str, with_metric: bool, rng: np.random.Generator
) -> None:
    field = Field("x", table(rng), zipf(600))
    metric = steep(rng) if with_metric else None
    codec = Clusters(clusters=50, codebook=codebook, radius_share=1)  # type: ignore[arg-type]
    coded = encode(field, codec, metric)
    apart = field.weights[:, None] - coded.codebook.values.astype(np.float64)
    squared = ((apart if metric is None else apart @ metric.root) ** 2).sum(axis=2)
    chosen = squared[np.arange(600), coded.codes.unpack()]
    assert np.allclose(chosen, squared.min(axis=1), rtol=1e-5, atol=1e-6)


def test_clusters_without_rows_are_not_stored() -> None:
    # The coarse int8 grid rounds the two lowest centroids to the same value.
    field = Field("x", np.array([[0], [1e-4], [100]], np.float32), np.ones(3))
    coded = encode(field, Clusters(clusters=3, head_share=1, codebook="int8"))
    assert coded.codebook.clusters == 2
    assert coded.codes.bits == 1
    np.testing.assert_allclose(coded.decode().ravel(), [0, 0, 100], atol=1e-3)


def test_duplicate_rows_share_a_cluster() -> None:
    field = Field("x", np.array([[1], [2]] * 20, np.float32), np.ones(40))
    coded = encode(field, Clusters(clusters=30, codebook="float32"))
    assert coded.codebook.clusters == 2
    assert np.array_equal(coded.decode(), field.weights)


def test_options_have_exact_bits_and_falling_distortion(rng: np.random.Generator) -> None:
    field = Field("x", table(rng), zipf(600))
    codec = Clusters()
    options = offers(codec, field)
    by_rank: dict[int, list[tuple[int, float]]] = {}
    for option in options:
        by_rank.setdefault(option.choice.rank, []).append((option.bits, option.distortion))
    assert max(by_rank) == 4
    for pairs in by_rank.values():
        bits, distortion = zip(*pairs, strict=True)
        assert list(bits) == sorted(bits)
        assert all(b <= a for a, b in pairwise(distortion))
    assert all(np.isfinite(option.distortion) for option in options)
    for option in options[:: len(options) // 7]:
        encode_as(field, codec, option)


def test_expected_nats_approximate_the_measured_loss(rng: np.random.Generator) -> None:
    field, metric = Field("x", table(rng, 2000), zipf(2000)), steep(rng)
    codec = Clusters(radius_share=1)
    for option in offers(codec, field, metric)[::18]:
        if option.choice.clusters > 1800:
            continue  # almost a cluster for each row: rounding is what is left
        coded = encode_as(field, codec, option, metric)
        assert lost_nats(field, coded, metric) == pytest.approx(option.distortion, rel=0.35)


def test_expected_distortion_approximates_the_measured_one(rng: np.random.Generator) -> None:
    field = Field("x", table(rng, 2000), zipf(2000))
    codec = Clusters(radius_share=1)
    for option in offers(codec, field)[::9]:
        if option.choice.clusters > 0.9 * field.vocab_size:
            continue  # almost a cluster for each row: rounding is what is left
        coded = encode_as(field, codec, option)
        lost = ((coded.decode() - field.weights) ** 2).sum(axis=1) @ field.frequencies
        assert lost == pytest.approx(option.distortion, rel=0.35)


def test_advance_adds_up_to_one(rng: np.random.Generator) -> None:
    field = Field("x", table(rng), zipf(600))
    codec = Clusters(clusters=40, iterations=5, tolerance=0)
    shares: list[float] = []
    encode_checked(codec, field, offers(codec, field)[0].choice, advance=shares.append)
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats_equal_their_float32(dtype: object, rng: np.random.Generator) -> None:
    narrow = table(rng).astype(dtype)
    a, b = (
        encode(Field("x", rows, zipf(600)), Clusters(clusters=70))
        for rows in (narrow, narrow.astype(np.float32))
    )
    assert np.array_equal(a.decode(), b.decode())
    assert a.dtype == np.dtype(dtype).name


def test_scale_of_the_frequencies_does_not_matter(rng: np.random.Generator) -> None:
    # At extreme scales, squares underflow or overflow.
    rows = table(rng, 300)
    expected = encode(Field("x", rows, zipf(300)), Clusters(clusters=9, weighting=2))
    for scale in (2.0**-600, 2.0**600):
        found = encode(Field("x", rows, scale * zipf(300)), Clusters(clusters=9, weighting=2))
        assert np.array_equal(found.decode(), expected.decode())


def test_a_small_radius_share_adds_little_distortion(rng: np.random.Generator) -> None:
    field = Field("x", table(rng, 3000, 8), np.ones(3000))
    lost = {}
    for share in (0.5, 1.0):
        coded = encode(field, Clusters(clusters=400, radius_share=share))
        lost[share] = ((coded.decode() - field.weights) ** 2).sum()
    assert lost[1.0] < lost[0.5] * 1.02
    assert lost[0.5] < lost[1.0] * 1.15


def test_as_many_int8_clusters_as_rows_are_an_option(
    rng: np.random.Generator,
) -> None:
    # In int8, a centroid for every row takes a quarter of the bytes, so that is an option.
    field = Field("x", table(rng, 600, 8), np.ones(600))
    offered = {option.choice.clusters for option in offers(Clusters(), field)}
    assert max(offered) == 600


def test_codebooks_have_the_requested_dtype(rng: np.random.Generator) -> None:
    field = Field("x", table(rng), zipf(600))
    coded = encode(field, Clusters(clusters=20, codebook="float16"))
    assert isinstance(coded.codebook, Codebook)
    assert coded.codebook.stored.dtype == np.float16
