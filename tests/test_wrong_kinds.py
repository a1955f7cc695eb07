"""Arguments of a wrong kind end in an error of saec that says what to write."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import saec
from saec import BudgetError, Field, FieldError, IdError, MetricError, OptionError, Ratio
from saec.tables.counting import count_batches, count_ids

ROWS = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
COUNTS = 300 / np.arange(1, 301)
EYE = {"user": np.eye(4)}


class Sparse:
    """What sparse matrices of scipy have."""

    def tocsr(self) -> Sparse:
        return self

    def toarray(self) -> np.ndarray:
        return ROWS


def field(weights: Any = ROWS, counts: Any = COUNTS) -> Field:
    return Field("user", weights, counts)


def compressed(*args: Any, **options: Any) -> saec.Compressed:
    return saec.compress([field()], *args, progress=False, **options)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("name", ["weights", "counts"])
@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (lambda x: np.ma.masked_greater(x, 1), r"a masked array, .* as \.filled\(0\)"),
        (np.matrix, r"a numpy\.matrix; give numpy\.asarray"),
        (lambda x: Sparse(), r"a sparse Sparse; give its \.toarray\(\)"),
    ],
)
def test_arrays_that_are_more_than_arrays(
    name: str, wrong: Callable[[Any], Any], match: str
) -> None:
    given = wrong(ROWS if name == "weights" else COUNTS)
    what = "frequencies" if name == "counts" else name
    with pytest.raises(FieldError, match=f"'user': {what} cannot be {match}"):
        field(**{name: given})


def test_masks_of_metrics_and_ids() -> None:
    masked = np.ma.masked_less(np.eye(4), 0.5)
    with pytest.raises(MetricError, match="'user': the metric cannot be a masked array"):
        compressed(Ratio(4), metrics={"user": masked})
    ids = np.ma.masked_equal([1, 2, 3], 2)
    result = compressed(Ratio(4))["user"]
    for call in (
        lambda: result.lookup(ids),
        lambda: result.pool(ids, [0]),
        lambda: count_ids(ids, 5),
        lambda: count_batches([{"a": ids}], progress=False),
    ):
        with pytest.raises(IdError, match="ids cannot be a masked array"):
            call()


@pytest.mark.parametrize(
    ("budget", "meant"),
    [
        (8, r"8 is no budget; write saec\.Ratio\(8\)"),
        (np.float32(2.5), r"write saec\.Ratio\(2\.5\)"),
        ("1MB", r"write saec\.MaxBytes\('1MB'\)"),
        (Ratio, r"write saec\.Ratio\(27\) or"),
    ],
)
def test_budgets(budget: Any, meant: str) -> None:
    with pytest.raises(BudgetError, match=meant):
        compressed(budget)


@pytest.mark.parametrize(
    ("codec", "meant"),
    [
        ("axes", r"'axes'; write saec\.Axes\(\)$"),
        (saec.Clusters, r"write saec\.Clusters\(\)$"),
        (3, r"write saec\.Axes\(\) or saec\.Clusters\(\)"),
    ],
)
def test_codecs(codec: Any, meant: str) -> None:
    with pytest.raises(OptionError, match=meant):
        compressed(Ratio(4), codec)
    with pytest.raises(OptionError, match=meant):
        saec.forecast([field()], EYE, codec, progress=False)


@pytest.mark.parametrize("seed", [None, -1, 1.5, True, "1"])
def test_seeds(seed: Any, tmp_path: Any) -> None:
    for call in (
        lambda: compressed(Ratio(4), seed=seed),
        lambda: compressed(Ratio(4), seed=seed, out=tmp_path / "a.saec"),
        lambda: saec.forecast([field()], EYE, seed=seed, progress=False),
        lambda: saec.inspect([field()], seed=seed, progress=False),
    ):
        with pytest.raises(OptionError, match=f"seed cannot be {seed!r}; it is a whole number"):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ratio(10**400), "a ratio must be a number of at least 1, not 1000"),
        (lambda: saec.LossIncrease(10**400), "must be a number above 0, not 1000"),
        (lambda: compressed(10**400), "is no budget"),
    ],
)
def test_numbers_too_large_for_floats(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(BudgetError, match=re.escape(message)):
        make()


def test_more_bits_than_any_table_has() -> None:
    assert compressed(saec.BitsPerFeature(1e308)).nbytes >= ROWS.nbytes


def test_a_field_or_a_mapping_in_place_of_a_list() -> None:
    for wrong, kind in ((field(), "Field"), (None, "NoneType"), ({"user": field()}, "dict")):
        with pytest.raises(FieldError, match=f"fields must be a list of Field, not {kind}"):
            saec.compress(wrong, Ratio(4), progress=False)  # type: ignore[arg-type]
    with pytest.raises(MetricError, match="must be a mapping of field names to matrices, not list"):
        compressed(Ratio(4), metrics=[np.eye(4)])


def test_what_is_no_array() -> None:
    ragged: Any = [[1.0], [1.0, 2.0]]
    learns = torch.ones(300, requires_grad=True)
    for wrong, reason in ((ragged, "inhomogeneous"), (learns, "requires grad")):
        with pytest.raises(FieldError, match=f"'user': frequencies cannot be read.*{reason}"):
            field(counts=wrong)
        with pytest.raises(MetricError, match=f"'user': the metric cannot be read.*{reason}"):
            compressed(Ratio(4), metrics={"user": wrong})
        with pytest.raises(IdError, match=f"ids cannot be read as an array: .*{reason}"):
            compressed(Ratio(4))["user"].lookup(wrong)
        with pytest.raises(FieldError, match=f"'user': unseen cannot be read.*{reason}"):
            Field("user", ROWS, COUNTS, keys=range(300), unseen=wrong)
