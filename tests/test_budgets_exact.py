"""Sizes are additive: budgets are met to the byte, by choices that no single field can improve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import saec
from saec import Axes, BitsPerFeature, BudgetError, Clusters, Field, MaxBytes, Ratio
from saec.artifact import entry_bytes
from saec.codecs.protocol import Codec, Option
from saec.compression.budget import SizeBudget
from saec.compression.plan import Priced
from saec.compression.run import compress_priced

SETS, BUDGETS = 20, 10  # 200 cases

CODECS: list[Codec] = [
    Axes(),
    Axes(order="frequency"),
    Axes(order="code"),
    Clusters(),
    Clusters(codebook="float16"),
    Clusters(codebook="float32"),
]
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


def drawn_field(rng: np.random.Generator, number: int, half: bool) -> Field:
    """A small table of any shape and dtype, whose rows may repeat; ``half``: float16 holds it."""
    rows, dim = int(2 ** rng.uniform(0, 9)), int(rng.integers(1, 13))
    weights = rng.standard_normal((rows, dim)) * rng.uniform(0.3, 1) ** np.arange(dim)
    if rng.random() < 0.2:
        weights = weights[rng.integers(0, rows, rows) // 7]
    dtype = DTYPES[rng.integers(3)]
    scale = 10.0 ** (rng.integers(-2, 3) if half or dtype == np.float16 else rng.integers(-9, 10))
    frequencies = rng.zipf(1.5, rows).clip(1, 10**6)
    if rng.random() < 0.3:
        frequencies = -np.sort(-frequencies)
    name = "f" * int(rng.integers(1, 200)) + str(number)
    return Field(name, (weights * scale).astype(dtype), frequencies)


@cache
def drawn_set(seed: int) -> Priced:
    rng = np.random.default_rng(seed)
    codec = CODECS[seed % len(CODECS)]
    half = codec == Clusters(codebook="float16")
    fields = [drawn_field(rng, number, half) for number in range(rng.integers(1, 5))]
    metrics = None
    if rng.random() < 0.5:
        roots = {field.name: rng.standard_normal((field.dim, field.dim)) for field in fields}
        metrics = {name: root @ root.T for name, root in roots.items()}
    return saec.measure(fields, codec, metrics=metrics, seed=seed, progress=False)


def drawn_budgets(priced: Priced, rng: np.random.Generator) -> Iterator[SizeBudget]:
    """Budgets of every kind between the smallest and a little above the largest size."""
    original = sum(field.nbytes for field in priced.fields)
    features = sum(field.vocab_size for field in priced.fields)
    least = size(priced, [min(row, key=lambda option: option.bits) for row in priced.options])
    most = size(priced, [row[-1] for row in priced.options])
    yield MaxBytes(least)
    for number in range(1, BUDGETS):
        limit = int(least * (1.05 * most / least) ** rng.random())
        kinds: list[SizeBudget] = [MaxBytes(limit), BitsPerFeature(8 * limit / features)]
        if limit <= original:
            kinds.append(Ratio(original / limit))
        yield kinds[number % len(kinds)]


def size(priced: Priced, chosen: Sequence[Option]) -> int:
    return priced.file_bytes(chosen)


def check_best(priced: Priced, chosen: Sequence[Option], limit: int) -> None:
    """Check that no field has another option with less loss that still fits."""
    left = 8 * (limit - size(priced, chosen))
    for row, taken in zip(priced.options, chosen, strict=True):
        for option in row:
            if option.distortion < taken.distortion:
                assert option.bits - taken.bits > left


def check_file(priced: Priced, chosen: Sequence[Option], budget: SizeBudget, path: Path) -> None:
    """Check that the file has the stated size, or less by clusters to which no row is nearest."""
    result = compress_priced(priced, budget)
    result.save(path)
    stored = [entry_bytes(field.entry) for field in result.values()]
    for field, planned, actual in zip(result.values(), chosen, stored, strict=True):
        fewer = field.codec == "clusters" and 8 * actual < planned.bits
        assert 8 * actual == planned.bits or fewer
    assert path.stat().st_size == result.nbytes == 264 + sum(stored)


@pytest.mark.exhaustive(keep=6)
@pytest.mark.parametrize("seed", range(SETS))
def test_budgets_are_met_to_the_byte(seed: int, tmp_path: Path) -> None:
    priced = drawn_set(seed)
    original = sum(field.nbytes for field in priced.fields)
    features = sum(field.vocab_size for field in priced.fields)
    for budget in drawn_budgets(priced, np.random.default_rng([seed, 1])):
        limit = budget.max_bytes(original, features)
        chosen = priced.chosen(budget)
        assert size(priced, chosen) <= limit
        check_best(priced, chosen, limit)
        check_file(priced, chosen, budget, tmp_path / "a.saec")


@pytest.mark.parametrize("seed", range(SETS))
def test_the_smallest_size_named_can_be_had_before_and_after_measuring(seed: int) -> None:
    priced = drawn_set(seed)
    least = size(priced, [min(row, key=lambda option: option.bits) for row in priced.options])
    for fields in (priced, priced.fields):
        given = {} if fields is priced else {"codec": priced.codec, "metrics": priced.given}
        with pytest.raises(BudgetError, match="the smallest possible is") as error:
            saec.compress(fields, MaxBytes(least - 1), progress=False, **given)
        assert f"the smallest possible is {least} bytes, " in str(error.value)
    assert saec.compress(priced, MaxBytes(least)).nbytes == least


def test_two_fields_by_hand() -> None:
    """One cluster a field: 1 code bit a row and 7 bytes, 2 float32 values; records by hand."""
    fields = [Field(name, np.ones((80, 2), np.float32), np.ones(80)) for name in ("a", "bcd")]
    result = saec.compress(fields, codec=Clusters(clusters=1, codebook="float32"), progress=False)
    # Codec, name, dtype, rows, dim, details, number of tensors; codes (17,), codebook (1, 2).
    records = [1 + (1 + name) + 1 + 1 + 1 + 2 + 1 + 3 + 4 for name in (1, 3)]
    assert result.nbytes == 256 + 8 + sum(records) + 2 * (10 + 7 + 8)
