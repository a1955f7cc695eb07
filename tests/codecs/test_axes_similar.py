"""Rows sorted by code: the new ids, the saved bytes, and independence of parts and ties."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from coding_calls import encode, offers
from numpy.typing import NDArray
from placed_rows import in_parts

import saec
from saec.artifact import entry_bytes
from saec.codecs.axes.codec import Axes
from saec.format.tier_index import Order
from saec.format.tiered_field import TieredField
from saec.tables.field import Field

ROWS = 2000


def field_of(in_order: bool, rows: int = ROWS) -> Field:
    """A field whose rows vary along two directions, with several tiers."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((rows, 4)) * [3, 1, 0.1, 0.1]
    counts = 1000.0 / np.arange(1, rows + 1)
    counts = counts if in_order else rng.permutation(np.floor(counts))
    return Field("f", table.astype(np.float32), counts)


def compressed(field: Field, order: Order, ratio: float = 30) -> TieredField:
    metrics = {"f": np.eye(4)}
    result = saec.compress(
        [field], saec.Ratio(ratio), Axes(order=order), metrics=metrics, progress=False
    )["f"]
    assert isinstance(result, TieredField)
    return result


def lost(field: Field, result: TieredField) -> float:
    old = np.arange(field.vocab_size) if result.permutation is None else result.permutation
    error = np.square(result.decode() - field.rows.read(0, field.vocab_size)[old]).sum(axis=1)
    return float(error @ field.frequencies[old] / field.frequencies.sum())


@pytest.mark.parametrize("in_order", [False, True])
def test_code_order_loses_less_at_the_same_ratio(in_order: bool) -> None:
    field = field_of(in_order)
    plain, similar = (compressed(field, order) for order in ("frequency", "code"))
    assert similar.layout.any_ordered
    assert similar.nbytes <= field.nbytes / 30
    assert lost(field, similar) < 0.5 * lost(field, plain)


@pytest.mark.parametrize("in_order", [False, True])
def test_new_ids_are_sorted_by_code_within_tiers(in_order: bool) -> None:
    field = field_of(in_order)
    result = compressed(field, "code")
    assert result.renumbered
    assert result.index is None
    old = result.permutation
    assert old is not None
    assert np.array_equal(np.sort(old), np.arange(ROWS))
    bounds, counts = result.layout.bounds, field.frequencies[old]
    for tier, (low, high) in enumerate(pairwise(bounds.tolist())):
        # Tiers are still by frequency. Within a tier, rows are sorted by code, and rows of equal
        # code by their old ids.
        assert counts[low:high].min() >= counts[high:].max(initial=0)
        bits = result.layout.ordered_bits(tier)
        if bits:
            codes = joined(result, tier, bits)
            assert np.array_equal(np.lexsort((old[low:high], codes)), np.arange(high - low))


def joined(result: TieredField, tier: int, bits: int) -> NDArray[np.int64]:
    """The ordered codes of each row as one number, by the widths of the parts."""
    total, shift = 0, 0
    for codes, part in zip(result.tier_codes(tier).T, result.layout.tiers[tier], strict=True):
        if part.ordered:
            total, shift = total + (codes.astype(np.int64) << shift), shift + part.bits
    assert shift == bits
    return np.asarray(total)


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("part_rows", [7, 64, 1999])
@pytest.mark.parametrize("in_order", [False, True])
def test_results_do_not_depend_on_the_parts(in_order: bool, part_rows: int) -> None:
    field = field_of(in_order)
    codec = Axes(order="code")
    choices = [option.choice for option in offers(codec, field)]
    choice = [one for one in choices if one.layout(field.vocab_size).any_ordered][-1]
    whole = encode(codec, field, choice)
    parts = encode(codec, in_parts(field, part_rows), choice)
    assert isinstance(whole, TieredField)
    assert whole.layout.any_ordered
    for role, tensor in whole.tensors.items():
        assert np.array_equal(parts.tensors[role], tensor)
    assert np.array_equal(parts.permutation, whole.permutation)


def test_options_state_the_exact_size() -> None:
    field, codec = field_of(False), Axes(order="code")
    for option in offers(codec, field)[::25]:
        found = encode(codec, field, option.choice)
        assert option.bits == 8 * entry_bytes(found.entry)


def test_a_saved_file_reads_the_same(tmp_path: Path) -> None:
    field = field_of(False)
    result = saec.compress([field], saec.Ratio(30), Axes(order="code"), progress=False)
    result.save(tmp_path / "a.saec")
    loaded = saec.load(tmp_path / "a.saec")["f"]
    assert loaded.renumbered
    assert np.array_equal(loaded.decode(), result["f"].decode())
    ids = np.random.default_rng(0).integers(0, ROWS, 500)
    assert np.array_equal(loaded.lookup(ids), result["f"].decode()[ids])


@pytest.mark.parametrize("rows", [1, 2, 60])
def test_tables_of_few_rows(rows: int) -> None:
    field = field_of(True, rows)
    for option in offers(Axes(order="code"), field):
        found = encode(Axes(order="code"), field, option.choice)
        assert (found.permutation is not None) == found.renumbered == found.layout.any_ordered
