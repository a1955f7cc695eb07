"""Patches of fields without keys, whose ids only grow."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from daily_tables import METRIC, METRICS, Day
from numpy.typing import NDArray

import saec
from saec.artifact import read_patch, write_patch
from saec.artifact.entry import Entry
from saec.bits.packing import PackedCodes
from saec.codecs.frozen_ids import frozen_ids
from saec.compression.field_worth import FieldWorth
from saec.compression.id_plan import IdDay
from saec.errors import ArtifactError, BudgetError, FieldError, PatchError
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.id_patch import CodedIds, IdPatch
from saec.format.merged_ids import merged_ids, tiers_of_ids
from saec.format.patched import next_patch, with_following
from saec.format.raw_field import RawField
from saec.format.tiered_field import TieredField
from saec.tables.loss_metric import Metric

ROWS = 1500
NAMES = ("ranked", "mixed", "clusters", "raw")


def days_of(name: str) -> list[Day]:
    """Three days of a field; ``mixed`` has no order of frequency, and its tiers an index."""
    days = [Day.first(ROWS)]
    days += [days[0].next(1, 60, 80)]
    days += [days[1].next(2, 60, 80)]
    order = np.random.default_rng(3).permutation(ROWS) if name == "mixed" else np.arange(ROWS)
    for day in days:
        day.weights[:ROWS], day.frequencies[:ROWS] = day.weights[order], day.frequencies[order]
    return days


DAYS = {name: days_of(name) for name in NAMES}


def field_of(day: Day, name: str = "user") -> saec.Field:
    return saec.Field(name, day.weights, day.frequencies)


def nats(day: Day, field: saec.CompressedField) -> float:
    error = (field.decode() - day.weights).astype(np.float64)
    each = np.einsum("nd,de,ne->n", error, METRIC, error) / 2
    return float(day.frequencies @ each / day.frequencies.sum())


def updated(base: Path, day: Day, out: Path, **options: object) -> saec.Update:
    given = {"metrics": METRICS, "compare": False, "whole_rows": 0} | options
    fields = given.pop("fields", [field_of(day)])
    return saec.update(base, fields, out=out, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each form its base, as NAME.saec, and NAME1.patch and NAME2.patch of the next days."""
    folder = tmp_path_factory.mktemp("ids")
    for name, (first, *others) in DAYS.items():
        codec = saec.Clusters() if name == "clusters" else saec.Axes()
        base = folder / f"{name}.saec"
        if name == "raw":
            saec.Compressed([RawField("user", first.weights)], 0.0).save(base)
        else:
            ratio = saec.Ratio(8)
            saec.compress(
                [field_of(first)], ratio, codec=codec, metrics=METRICS, progress=False, out=base
            )
        for number, day in enumerate(others, 1):
            before = [folder / f"{name}1.patch"][: number - 1]
            updated(base, day, folder / f"{name}{number}.patch", patches=before)
    return folder


def chain_of(folder: Path, name: str, patches: int = 2) -> saec.Compressed:
    paths = [folder / f"{name}{number}.patch" for number in range(1, patches + 1)]
    return saec.load(folder / f"{name}.saec", patches=paths)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("name", NAMES)
def test_ids_of_a_chain_have_todays_rows(folder: Path, name: str) -> None:
    base, chain = chain_of(folder, name, 0)["user"], chain_of(folder, name)["user"]
    today = DAYS[name][2]
    assert chain.vocab_size == ROWS + 160
    same = np.all(today.weights[:ROWS] == DAYS[name][0].weights, axis=1)
    if isinstance(base, TieredField) and isinstance(chain, TieredField):
        same &= tiers_of_ids(base) == tiers_of_ids(chain)[:ROWS]
    assert np.array_equal(chain.lookup(np.flatnonzero(same)), base.lookup(np.flatnonzero(same)))
    first = replaced(today, base.decode())
    assert nats(today, chain) < first / 2
    if name == "raw":
        assert np.array_equal(chain.decode(), today.weights)
    bags = chain.pool([0, ROWS + 1, 5, ROWS + 159], [0, 2])
    assert np.allclose(bags, chain.decode()[[[0, ROWS + 1], [5, ROWS + 159]]].sum(1), atol=1e-5)


def replaced(day: Day, rows: NDArray[np.float32]) -> float:
    """What a day's rows lose if old ones are ``rows``, and new ones zeros."""
    error = day.weights.astype(np.float64)
    error[: len(rows)] -= rows
    each = np.einsum("nd,de,ne->n", error, METRIC, error) / 2
    return float(day.frequencies @ each / day.frequencies.sum())


@pytest.mark.parametrize("name", NAMES)
def test_stated_loss_is_that_of_lookups(folder: Path, tmp_path: Path, name: str) -> None:
    done = updated(folder / f"{name}.saec", DAYS[name][1], tmp_path / "1.patch")
    chain = chain_of(folder, name, 1)
    assert done.loss == pytest.approx(nats(DAYS[name][1], chain["user"]), rel=0.01, abs=1e-12)
    assert chain.predicted_loss_increase == done.loss < done.stale_loss
    assert done.counts.added == 80
    # And rows that change places with others; without losses every bit counts.
    assert 0 < done.counts.moved <= (60 if name in ("ranked", "clusters") else 80)
    assert chain.nbytes == chain_of(folder, name, 0).nbytes + done.nbytes


@pytest.mark.parametrize("name", NAMES)
def test_compacted_chain_is_a_field_with_the_same_rows(
    folder: Path, tmp_path: Path, name: str
) -> None:
    chain = chain_of(folder, name)
    made = saec.compact(chain, out=tmp_path / "one.saec")
    assert np.array_equal(made["user"].decode(), chain["user"].decode())
    assert type(made["user"]) is type(chain_of(folder, name, 0)["user"])
    assert made.nbytes == (tmp_path / "one.saec").stat().st_size
    assert set(tmp_path.iterdir()) == {tmp_path / "one.saec"}


def test_without_a_threshold_every_row_gets_the_nearest_centroid(
    folder: Path, tmp_path: Path
) -> None:
    base, today = folder / "clusters.saec", DAYS["clusters"][1]
    updated(base, today, tmp_path / "1.patch", threshold=0)
    made = saec.compact(base, patches=[tmp_path / "1.patch"], out=tmp_path / "one.saec")["user"]
    old = saec.load(base)["user"]
    assert isinstance(made, ClusteredField)
    assert isinstance(old, ClusteredField)
    root = np.sqrt(METRIC)  # which is diagonal
    away = (today.weights[:, None] - old.codebook.values[None]).astype(np.float64) @ root
    nearest = np.argmin(np.square(away).sum(axis=2), axis=1)
    assert (made.codes.unpack() == nearest).mean() > 0.999  # but for ties in float32
    assert np.array_equal(made.codebook.stored, old.codebook.stored)


def test_rows_that_became_frequent_change_places_with_rare_ones(
    folder: Path, tmp_path: Path
) -> None:
    base, day = folder / "mixed.saec", DAYS["mixed"][0].next(9, 0, 20)
    old = saec.load(base)["user"]
    assert isinstance(old, TieredField)
    last = len(old.layout.tiers) - 1
    risen = np.flatnonzero(tiers_of_ids(old) == last)[:20]
    risen = np.concatenate([risen, np.arange(ROWS, ROWS + 20)])  # and new ones
    day.frequencies[risen] = np.sort(day.frequencies)[-100]  # are among the 140 most frequent
    day.weights[risen] *= 3
    done = updated(base, day, tmp_path / "1.patch")
    chain = saec.load(base, patches=[tmp_path / "1.patch"])["user"]
    assert isinstance(chain, TieredField)
    assert (tiers_of_ids(chain)[risen] < last).mean() > 0.8
    assert done.loss == pytest.approx(nats(day, chain), rel=0.01)
    fallen = np.flatnonzero(tiers_of_ids(chain)[:ROWS] > tiers_of_ids(old))
    assert len(fallen) == (tiers_of_ids(chain)[risen] < last).sum()
    assert day.frequencies[fallen].max() < day.frequencies[risen].min()
    field = saec.Field("user", day.weights, day.frequencies)
    metric = Metric.of(METRIC, "user", 4)
    survey = IdDay(field, old, frozen_ids(old, metric), metric, FieldWorth(1.0), 0.0).survey()
    staying = survey.now - sum(float((own.now - own.coded).sum()) for own in survey.changed)
    assert done.loss < 0.7 * staying


def test_without_a_threshold_days_in_between_do_not_matter(folder: Path, tmp_path: Path) -> None:
    base, (_, one, two) = folder / "ranked.saec", DAYS["ranked"]
    first, second, both = (tmp_path / f"{number}.patch" for number in range(3))
    updated(base, one, first, threshold=0)
    updated(base, two, second, threshold=0, patches=[first])
    updated(base, two, both, threshold=0)
    by_days, at_once = saec.load(base, patches=[first, second]), saec.load(base, patches=[both])
    old, found = at_once["user"], by_days["user"]
    assert isinstance(old, TieredField)
    assert isinstance(found, TieredField)
    assert np.array_equal(tiers_of_ids(old), tiers_of_ids(found))
    differ = np.any(old.decode() != found.decode(), axis=1)
    assert differ.mean() < 0.01  # only rows between two codes


def test_limit_of_bytes_leaves_out_rows_that_save_least(folder: Path, tmp_path: Path) -> None:
    base, today = folder / "mixed.saec", DAYS["mixed"][1]
    free = updated(base, today, tmp_path / "free.patch")
    limit = free.nbytes - 100
    done = updated(base, today, tmp_path / "less.patch", max_bytes=limit)
    assert limit - 100 < done.nbytes <= limit
    assert done.counts.dropped > 0
    assert free.loss < done.loss < done.stale_loss
    assert read_patch(tmp_path / "less.patch")[1][0].vocab_size == ROWS + 80
    with pytest.raises(BudgetError, match="a patch of 300 bytes cannot be made: the least is"):
        updated(base, today, tmp_path / "no.patch", max_bytes=300)


@pytest.mark.parametrize("whole_rows", [0, ROWS + 80])
def test_a_threshold_of_zero_keeps_limits(folder: Path, tmp_path: Path, whole_rows: int) -> None:
    base, today = folder / "mixed.saec", DAYS["mixed"][1]
    options = {"threshold": 0, "whole_rows": whole_rows}
    free = updated(base, today, tmp_path / "free.patch", threshold=0)
    limit = free.nbytes // 2
    done = updated(base, today, tmp_path / "less.patch", max_bytes=limit, **options)
    assert done.nbytes <= limit
    assert done.loss < done.stale_loss


def test_all_rows_changed_says_that_compressing_afresh_is_cheaper(
    folder: Path, tmp_path: Path
) -> None:
    day = DAYS["mixed"][0]
    turned = Day(day.weights[::-1].copy(), day.frequencies, day.keys)
    done = updated(folder / "mixed.saec", turned, tmp_path / "1.patch", compare=True)
    assert done.afresh_is_cheaper
    some = updated(folder / "mixed.saec", DAYS["mixed"][1], tmp_path / "2.patch", compare=True)
    assert not some.afresh_is_cheaper


def test_small_fields_are_compressed_afresh_where_that_costs_less(
    folder: Path, tmp_path: Path
) -> None:
    base, first, second = folder / "ranked.saec", tmp_path / "1.patch", tmp_path / "2.patch"
    day = DAYS["ranked"][0]
    turned = Day(day.weights[::-1].copy(), day.frequencies, day.keys)
    assert updated(base, turned, first, whole_rows=ROWS).whole == ("user",)
    whole = saec.load(base, patches=[first])["user"]
    changes = updated(base, turned, tmp_path / "changes.patch")
    assert changes.whole == ()
    assert nats(turned, whole) < changes.loss
    after = turned.next(5, 60, 80)
    updated(base, after, second, patches=[first])
    assert nats(after, saec.load(base, patches=[first, second])["user"]) < replaced(
        after, whole.decode()
    )


def test_keyed_and_plain_fields_in_one_patch(tmp_path: Path, coarse_prices: None) -> None:
    today, then = DAYS["mixed"][1], DAYS["mixed"][0]
    metrics = METRICS | {"item": METRIC}
    base = tmp_path / "base.saec"
    both = [[day.field(), field_of(day, "item")] for day in (then, today)]
    saec.compress(both[0], saec.Ratio(6), metrics=metrics, progress=False, out=base)
    done = updated(base, today, tmp_path / "1.patch", fields=both[1], metrics=metrics)
    assert done.counts.added > 80
    chain = saec.load(base, patches=[tmp_path / "1.patch"])
    rows = chain.lookup({"user": today.keys[-3:], "item": [ROWS, ROWS + 1, 0]})
    apart = [chain["user"].lookup(today.keys[-3:]), chain["item"].lookup([ROWS, ROWS + 1, 0])]
    assert np.array_equal(rows, np.concatenate(apart, axis=1))
    made = saec.compact(chain, keys={"user": today.keys}, out=tmp_path / "one.saec")
    assert np.array_equal(made["item"].decode(), chain["item"].decode())
    with pytest.raises(FieldError, match="field 'user' has patches: give its keys"):
        saec.compact(chain, out=tmp_path / "no.saec")


def test_wrong_fields_are_refused(folder: Path, tmp_path: Path) -> None:
    base, out, day = folder / "mixed.saec", tmp_path / "no.patch", DAYS["mixed"][1]
    fewer = saec.Field("user", day.weights[:1499], day.frequencies[:1499])
    wide = saec.Field("user", np.tile(day.weights, 2), day.frequencies)
    cases = [
        (fewer, "has 1499 rows, and in the artifact 1500: without keys, ids stay"),
        (wide, "is float32 of dim 8; in the artifact it is float32 of dim 4"),
        (day.field(), "today it has keys, and in the artifact it has ids"),
        (field_of(day, "item"), "has no field 'item'"),
    ]
    for field, message in cases:
        with pytest.raises(FieldError, match=message):
            updated(base, day, out, fields=[field], metrics={field.name: np.eye(field.dim)})
    with pytest.raises(FieldError, match="field 'user' has no keys that could be removed"):
        updated(base, day, out, removed={"user": [1]})
    with pytest.raises(FieldError, match="0 x 4, an empty table"):
        updated(base, Day(day.weights[:0], day.frequencies[:0], day.keys[:0]), out)
    assert not out.exists()


def test_renumbered_fields_are_refused(tmp_path: Path) -> None:
    base, (first, today, _) = tmp_path / "base.saec", DAYS["mixed"]
    codec = saec.Axes(order="frequency")
    field = field_of(first)
    saec.compress([field], saec.Ratio(8), codec=codec, metrics=METRICS, progress=False, out=base)
    with pytest.raises(FieldError, match="features of field 'user' were renumbered"):
        updated(base, today, tmp_path / "1.patch")


def test_wrong_chains_are_refused(folder: Path, tmp_path: Path) -> None:
    base, one, two = (folder / name for name in ("mixed.saec", "mixed1.patch", "mixed2.patch"))
    for paths, message in [
        ([two], "patches before it are missing or out of order"),
        ([one, one], "given twice"),
        ([two, one], "patches before it are missing or out of order"),
        ([folder / "ranked1.patch"], "is a patch of another artifact"),
    ]:
        with pytest.raises(PatchError, match=message):
            saec.load(base, patches=paths)
    short = tmp_path / "short.patch"
    short.write_bytes(one.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"short\.patch"):
        saec.load(base, patches=[short])
    with pytest.raises(BudgetError, match="patches are held in memory"):
        saec.load(base, patches=[one], memory="1MB")


@pytest.mark.exhaustive
def test_served_patches_of_a_folder(folder: Path, tmp_path: Path) -> None:
    base = saec.load(folder / "mixed.saec")
    (tmp_path / "b.patch").write_bytes((folder / "mixed1.patch").read_bytes())
    (tmp_path / "a.patch").write_bytes((folder / "mixed2.patch").read_bytes())
    found, expected = with_following(base, tmp_path), chain_of(folder, "mixed")
    assert np.array_equal(found["user"].decode(), expected["user"].decode())


def small_base() -> ClusteredField:
    """Rows of codes 0, 1, 2, 3, 0, 1; centroid c is (10 c, 1)."""
    centroids = np.array([[0, 1], [10, 1], [20, 1], [30, 1]], np.float32)
    codes = PackedCodes.pack(np.array([0, 1, 2, 3, 0, 1]), 2)
    return ClusteredField("user", codes, Codebook(centroids), "float32")


def small_patch() -> IdPatch:
    """Ids 1 and 4 get centroid 3, new id 7 gets 2; new ids 6 and 8 have the default, 1."""
    coded = CodedIds(np.array([1, 4, 7]), np.array([[3], [3], [2]], np.uint32))
    return IdPatch(small_base(), 6, 9, (coded,), np.array([[1]], np.uint32))


def test_patch_of_ids_by_hand() -> None:
    merged = merged_ids(small_base(), [small_patch()])
    assert merged.lookup(range(9))[:, 0].tolist() == [0, 30, 20, 30, 30, 10, 10, 20, 10]
    tensors = small_patch().tensors
    # Old ids 1 and 4 of 6: low bits 1 and 0; high parts 0 and 2 in unary, 1 and 0 0 1: bits 0 and
    # 3. New id 7 is 1 of 3: low bit 1, high part 0. Codes: default 1, then 3, 3, 2.
    assert tensors["starts"].tolist() == [0b01, 0b1001, 0b1, 0b1]
    assert tensors["codes"].tolist() == [0b10_11_11_01, *[0] * 7]
    assert list(small_patch().details) == [6, 0, 2, 1]


def spoiled(**changes: object) -> Callable[[Entry], Entry]:
    return lambda entry: replace(entry, **changes)  # type: ignore[arg-type]


def with_tensor(role: str, values: list[int]) -> Callable[[Entry], Entry]:
    array = np.array(values, np.uint8)
    return lambda entry: replace(entry, tensors={**entry.tensors, role: array})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (spoiled(details=bytes([5, 0, 2, 1])), "it goes from 5 to 9 rows, after 6"),
        (spoiled(details=bytes([6, 0, 2, 1, 0])), "1 bytes follow its details"),
        (spoiled(vocab_size=5), "it goes from 6 to 5 rows, after 6"),
        (spoiled(details=bytes([6, 0, 7, 1])), "of 6 and 3"),
        (with_tensor("starts", [1, 9, 1]), "ids take 4 bytes, not uint8"),
        (with_tensor("starts", [1, 1, 1, 1]), "1 codes start where 2 should"),
        (with_tensor("starts", [0, 0b11, 1, 1]), "an id is given twice"),
        (with_tensor("starts", [1, 9, 1, 0b100]), "starts of codes do not ascend"),
        (with_tensor("codes", [0] * 7), "codes take 8 bytes, not uint8"),
        (with_tensor("weights", [0]), "it has tensors codes, starts, weights"),
    ],
)
def test_damaged_patches_are_refused(
    tmp_path: Path, damage: Callable[[Entry], Entry], message: str
) -> None:
    path = tmp_path / "1.patch"
    base = saec.Compressed([small_base()])
    base.save(tmp_path / "base.saec")
    sound = small_patch().entry
    head = next_patch(base, {}, None, None).head
    write_patch(path, head, [sound])
    assert saec.load(tmp_path / "base.saec", patches=[path])["user"].lookup([7])[0, 0] == 20
    write_patch(path, head, [damage(sound)])
    with pytest.raises(ArtifactError, match=message):
        saec.load(tmp_path / "base.saec", patches=[path])


@pytest.mark.parametrize(("before", "most"), [(6, 1 << 20), (1 << 17, 1 << 21)])
def test_patch_that_claims_too_many_rows_is_refused(before: int, most: int) -> None:
    none = CodedIds(np.zeros(0, np.int64), np.zeros((0, 1), np.uint32))
    default = np.zeros((1, 1), np.uint32)
    IdPatch(small_base(), before, most, (none,), default)
    with pytest.raises(
        ArtifactError, match=f"it has {most + 1} rows, and {before} before; .* {most} "
    ):
        IdPatch(small_base(), before, most + 1, (none,), default)


@pytest.mark.parametrize("name", ["raw", "clusters", "mixed"])
def test_new_rows_that_do_not_fit_into_memory_are_refused_before_they_take_any(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """They take no bytes of the patch."""
    base = saec.load(folder / f"{name}.saec")["user"]
    if isinstance(base, TieredField):
        widths = [len(parts) for parts in base.layout.tiers]
        default = np.zeros((1, widths[-1]), np.uint32)
    else:
        widths = [4 if name == "raw" else 1]
        default = np.zeros((1, *widths), np.float32 if name == "raw" else np.uint32)
    none = [CodedIds(np.zeros(0, np.int64), np.zeros((0, own), default.dtype)) for own in widths]
    patch = IdPatch(base, ROWS, 1 << 20, tuple(none), default)  # type: ignore[arg-type]
    least = (4 * default.nbytes + 41) << 20  # what it takes, measured
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": least // 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    with pytest.raises(ArtifactError, match=r"merging all patches would take .* fewer patches"):
        merged_ids(base, [patch])  # type: ignore[arg-type]
    pages["SC_PHYS_PAGES"] *= 3
    assert merged_ids(base, [patch]).vocab_size == 1 << 20  # type: ignore[arg-type]


def test_table_that_grows_too_much_for_a_patch(tmp_path: Path) -> None:
    rows = np.zeros(((1 << 20) + 1, 1), np.float32)
    today = saec.Field("a", rows, np.ones(len(rows)))
    message = "'a' has 1048577 rows, and in the artifact 5: a patch makes them 1048576 at most"
    with pytest.raises(saec.FieldError, match=message):
        saec.update(saec.Compressed([RawField("a", rows[:5])]), [today], out=tmp_path / "p")


def test_tiers_keep_their_sizes(folder: Path) -> None:
    for name, message in (("mixed", "with its patches tiers have"), ("ranked", "outside")):
        base = saec.load(folder / f"{name}.saec")["user"]
        assert isinstance(base, TieredField)
        last = int(np.flatnonzero(tiers_of_ids(base) == len(base.layout.tiers) - 1)[0])
        empty = [
            CodedIds(np.zeros(0, np.int64), np.zeros((0, len(parts)), np.uint32))
            for parts in base.layout.tiers
        ]
        parts = len(base.layout.tiers[0])
        moved = [CodedIds(np.array([last]), np.zeros((1, parts), np.uint32)), *empty[1:]]
        default = np.zeros((1, len(base.layout.tiers[-1])), np.uint32)
        patch = IdPatch(base, ROWS, ROWS, tuple(moved), default)
        with pytest.raises(ArtifactError, match=message):
            merged_ids(base, [patch])
