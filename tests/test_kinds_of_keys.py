"""Fields with exact keys, with words as keys, with few rows, and in clusters."""

from __future__ import annotations

import numpy as np
import pytest
from keyed_example import DIM, Example, keyed, random_keys

import saec
from saec.errors import KeysError

pytestmark = pytest.mark.usefixtures("coarse_prices")


@pytest.fixture(scope="module")
def example() -> Example:
    return Example()


def test_exact_keys_are_all_known_and_others_are_not(example: Example) -> None:
    field = example.field(exact=8)
    result = saec.compress([field], saec.Ratio(12), metrics=example.metrics, progress=False)
    assert keyed(result).contains(example.keys).all()
    assert keyed(result).false_positive_rate <= 2**-8
    assert keyed(result).contains(random_keys(100_000)).mean() < 2**-8 + 0.0015
    everywhere = saec.compress(
        [example.field(exact=True)], saec.Ratio(4), metrics=example.metrics, progress=False
    )
    assert keyed(everywhere).false_positive_rate <= 2**-32
    assert not keyed(everywhere).contains(random_keys(100_000)).any()


def test_strings_of_any_kind_beside_a_plain_field(example: Example) -> None:
    pl = pytest.importorskip("polars")
    pa = pytest.importorskip("pyarrow")
    words = [f"user {number}" for number in range(300)]
    words[3], words[4] = "", "ä" * (1 << 19)
    weights, counts = example.weights[:300], example.frequencies[:300]
    fields = [
        saec.Field("word", weights, counts, keys=pl.Series(words)),
        saec.Field("plain", weights, counts),
    ]
    metrics = {"word": example.metric, "plain": example.metric}
    result = saec.compress(fields, saec.Ratio(10), metrics=metrics, progress=False)
    rows = result["word"].lookup(words)
    for same in (np.array(words), pl.Series(words), pa.array(words), np.array(words, object)):
        assert np.array_equal(result["word"].lookup(same), rows)
    assert example.nats(rows[:9], weights[:9]).max() < 0.1 * example.nats(weights, 0 * rows).max()
    both = result.lookup({"plain": np.arange(9), "word": words[:9]})
    assert np.array_equal(both[:, DIM:], rows[:9])
    with pytest.raises(KeysError, match="field 'word': keys are strings, and integers were given"):
        result["word"].lookup(np.arange(3))
    with pytest.raises(KeysError, match="does not store its keys"):
        result["word"].decode()


def test_one_key_and_rows_that_are_all_alike(example: Example) -> None:
    one = saec.Field("one", example.weights[:1], [5], keys=["only"], unseen_share=0.5)
    alike = saec.Field("alike", np.ones((90, 3), np.float32), np.ones(90), keys=np.arange(90))
    result = saec.compress([one, alike], saec.MaxBytes(2000), progress=False)
    assert np.allclose(result["one"].lookup(["only"]), example.weights[:1], atol=1e-3)
    assert np.allclose(result["alike"].lookup(np.arange(90)), 1, atol=1e-3)
    assert result["one"].lookup([]).shape == (0, DIM)


@pytest.mark.exhaustive
def test_row_of_unknown_keys_is_no_key(example: Example) -> None:
    keys = example.keys.copy()
    keys[0] = keys[1]  # the key of the row of unknown keys is not looked at
    weights = example.weights.copy()
    weights[0] = [3, 2, 1, 0.5]
    field = saec.Field("user", weights, example.frequencies, keys=keys, unseen=0)
    result = saec.compress([field], saec.Ratio(30), metrics=example.metrics, progress=False)
    unknown = random_keys(1000)
    default = result["user"].lookup(unknown[~keyed(result).contains(unknown)])
    assert np.array_equal(default, np.broadcast_to(weights[0], default.shape))
    assert example.nats(result["user"].lookup(keys[1:2]), weights[1:2]) < 0.01


@pytest.mark.exhaustive
def test_clusters_of_rows_with_keys(example: Example) -> None:
    """Within the budget, with a forecast that holds, and worse than axes."""
    priced = saec.measure(
        [example.field()], saec.Clusters(), metrics=example.metrics, progress=False
    )
    result = saec.compress(priced, saec.Ratio(30), progress=False)
    field, shares = keyed(result), example.frequencies / example.frequencies.sum()
    assert result.nbytes <= result.original_nbytes / 30
    assert all(len(parts) == 1 for parts in field.layout.classes)
    seen = 0.7 * (shares @ example.nats(field.lookup(example.keys), example.weights))
    unknown = field.lookup(random_keys(400_000))
    harm = 0.3 * example.nats(unknown, np.zeros_like(unknown)).mean()
    assert result.predicted_loss_increase == pytest.approx(seen + harm, rel=0.05)
    assert seen + harm < 0.5 * (shares @ example.nats(example.weights, 0 * example.weights))


def test_two_clusters_of_four_rows_by_hand() -> None:
    rows = np.array([[1, 1], [1, 1], [5, 5], [5, 5]], np.float32)
    own = saec.Field("f", rows, [9, 9, 9, 9], keys=[1, 2, 3, 4], unseen_share=0.0)
    codec = saec.Clusters(clusters=2)
    result = saec.compress([own], saec.MaxBytes(800), codec, progress=False)
    assert np.allclose(result["f"].lookup([1, 2, 3, 4]), rows, atol=1e-2)


@pytest.mark.exhaustive
def test_clusters_with_exact_keys(example: Example) -> None:
    field = example.field(exact=8)
    result = saec.compress(
        [field], saec.Ratio(10), saec.Clusters(), metrics=example.metrics, progress=False
    )
    assert keyed(result).contains(example.keys).all()
    assert keyed(result).false_positive_rate <= 2**-8
