"""Updating an artifact by patches: what is coded again, what it costs, and bad input."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from daily_tables import DIM, METRICS, Day, patched, write_chain
from keyed_example import random_keys

import saec
from saec.artifact import entry_bytes
from saec.codecs.axes.frozen import FrozenCoder
from saec.compression.bit_price import common_price
from saec.compression.day_plan import plan_of
from saec.compression.field_worth import FieldWorth
from saec.errors import BudgetError, FieldError, KeysError, MetricError, OptionError, PatchError
from saec.format.bags import Bags
from saec.format.keyed_field import KeyedField
from saec.tables.loss_metric import Metric

pytestmark = pytest.mark.usefixtures("coarse_prices")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, coarse_prices: None) -> Path:
    """base.saec of a day, 1.patch and 2.patch of the next ones."""
    folder = tmp_path_factory.mktemp("days")
    write_chain(folder / "base.saec", DAYS)
    return folder


DAYS = [Day.first()]
DAYS += [DAYS[0].next(1)]
DAYS += [DAYS[1].next(2)]


def base_of(folder: Path) -> saec.Compressed:
    return saec.load(folder / "base.saec")


def chain_of(folder: Path, patches: int = 2) -> saec.Compressed:
    return saec.load(
        folder / "base.saec", patches=[folder / "1.patch", folder / "2.patch"][:patches]
    )


def updated(folder: Path, day: Day, out: Path, **options: object) -> saec.Update:
    given = {"metrics": METRICS, "compare": False, "whole_rows": 0} | options
    field = day.field() if "fields" not in given else None
    fields = given.pop("fields", [field])
    return saec.update(folder / "base.saec", fields, out=out, **given)  # type: ignore[arg-type]


def nats_with(folder: Path, patch: Path) -> float:
    """Of the second day's rows, by the base and a patch."""
    return DAYS[1].nats(saec.load(folder / "base.saec", patches=[patch])["user"])


def test_patch_restores_most_of_what_moved_and_new_rows_lose(folder: Path) -> None:
    base, chain = base_of(folder), chain_of(folder, 1)
    now, then = DAYS[1].nats(chain["user"]), DAYS[1].nats(base["user"])
    assert now < then / 3
    assert (folder / "1.patch").stat().st_size < base.nbytes / 4


def test_a_frequency_whose_share_is_lost_in_float64(folder: Path, tmp_path: Path) -> None:
    moved = DAYS[1].weights.copy()
    moved[7] += 50
    counts = 0.4 * DAYS[1].frequencies / DAYS[1].frequencies.sum()
    counts[7] = 5e-324  # the smallest; its share times the total is 0
    day = Day(moved, counts, DAYS[1].keys)
    updated(folder, day, tmp_path / "rare.patch", fields=[day.field(unseen_share=0.44)])
    base, found = (
        saec.load(folder / "base.saec", patches=patches)["user"].lookup(DAYS[1].keys[7:8])
        for patches in ([], [tmp_path / "rare.patch"])
    )
    assert np.array_equal(found, base)


def test_stated_losses_are_those_of_lookups(folder: Path, tmp_path: Path) -> None:
    done = updated(folder, DAYS[1], tmp_path / "1.patch")
    base, chain = base_of(folder)["user"], chain_of(folder, 1)["user"]
    unknown = []
    for field in (chain, base):
        rows = field.lookup(random_keys(200_000)).astype(np.float64)
        unknown.append(
            0.3 * float(np.einsum("nd,de,ne->n", rows, METRICS["user"], rows).mean() / 2)
        )
    # The part of unknown keys is a sample on both sides, with an error of 1.5 % of the first sum.
    # Of ten lookups, seven have a key with a row.
    assert done.loss == pytest.approx(0.7 * DAYS[1].nats(chain) + unknown[0], rel=0.05)
    assert done.stale_loss == pytest.approx(0.7 * DAYS[1].nats(base) + unknown[1], rel=0.02)
    assert chain_of(folder, 1).predicted_loss_increase == done.loss


def test_rows_that_stopped_moving_are_not_coded(folder: Path) -> None:
    first = patched(chain_of(folder)).patches[0].counts
    assert 50 < first.moved <= 110  # of 3,000 rows 100 moved; a few are coded again for safety
    assert 50 < first.added <= 150


def test_keys_outside_of_the_patch_keep_their_rows(folder: Path) -> None:
    chain, base = chain_of(folder, 1)["user"], base_of(folder)["user"]
    stale = np.all(DAYS[1].weights[:3000] == DAYS[0].weights, axis=1)
    keys = DAYS[0].keys[stale]
    same = np.all(chain.lookup(keys) == base.lookup(keys), axis=1)
    assert same.mean() > 0.9  # the others are frequent, and coded again for safety
    unknown = random_keys(20_000)
    differs = np.any(chain.lookup(unknown) != base.lookup(unknown), axis=1)
    assert differs.mean() <= 2 * patched(chain_of(folder, 1)).patches[0].changed.share + 1e-3


def test_all_lookups_of_a_chain_agree(folder: Path) -> None:
    field = patched(chain_of(folder))
    keys = np.concatenate([DAYS[2].keys, random_keys(3000), DAYS[2].keys[:50]])
    rows = field.lookup(keys)
    singly = np.concatenate([field.lookup(keys[i : i + 1]) for i in range(0, len(keys), 97)])
    assert np.array_equal(rows[::97], singly)
    assert np.array_equal(field.lookup(keys, threads=3), rows)
    links = [patch.rows for patch in field.patches]
    hashes = field.hashes_of(keys)
    expected = field.base.rows_of_hashes(hashes)
    for patch, own in zip(field.patches, links, strict=True):  # the newest one comes last
        known = patch.classes(hashes) > -2
        expected[known] = own.rows(hashes[known])
    assert np.array_equal(rows, expected)
    offsets = np.arange(0, len(keys), 7)
    sums = np.add.reduceat(rows.astype(np.float64), offsets)
    assert np.allclose(field.pool(keys, offsets), sums, atol=1e-4)
    bags = Bags(hashes.view(np.int64), offsets, None, "sum")
    scalar = field._rows.pooled(hashes, bags, isa="scalar")
    assert scalar is not None
    assert np.array_equal(field.pool(keys, offsets), scalar)
    joined = chain_of(folder).lookup({"user": keys})
    assert np.array_equal(joined, rows)


def test_removed_keys_have_the_default_row_and_may_come_back(folder: Path, tmp_path: Path) -> None:
    base = base_of(folder)["user"]
    assert isinstance(base, KeyedField)
    known = np.flatnonzero(base.contains(DAYS[0].keys))[50:60]
    gone = DAYS[0].keys[known]
    left = DAYS[0].only(~np.isin(DAYS[0].keys, gone))
    done = updated(folder, left, tmp_path / "1.patch", removed={"user": [*gone, gone[0], 5]})
    assert done.counts.removed >= 10  # once each; 5 was no key
    path = folder / "base.saec"
    chain = patched(saec.load(path, patches=[tmp_path / "1.patch"]))
    assert not chain.contains(gone).any()
    assert np.array_equal(chain.lookup(gone), np.tile(base.axes[-1].astype(np.float32), (10, 1)))
    saec.update(
        path,
        [DAYS[0].field()],
        out=tmp_path / "2.patch",
        patches=[tmp_path / "1.patch"],
        metrics=METRICS,
        whole_rows=0,
        compare=False,
    )
    back = patched(saec.load(path, patches=[tmp_path / "1.patch", tmp_path / "2.patch"]))
    assert back.patches[1].counts.added >= 8
    assert back.contains(gone).sum() >= 8


def test_nothing_changed_gives_next_to_no_bytes(folder: Path, tmp_path: Path) -> None:
    done = updated(folder, DAYS[0], tmp_path / "1.patch", threshold=1e9)
    assert done.counts.changed == 0
    assert done.nbytes < 1000
    same = saec.load(folder / "base.saec", patches=[tmp_path / "1.patch"])["user"]
    keys = np.concatenate([DAYS[0].keys, random_keys(1000)])
    assert np.array_equal(same.lookup(keys), base_of(folder)["user"].lookup(keys))


def test_all_rows_changed_says_that_compressing_afresh_is_cheaper(
    folder: Path, tmp_path: Path
) -> None:
    mixed = Day(DAYS[0].weights[::-1].copy(), DAYS[0].frequencies, DAYS[0].keys)
    done = updated(folder, mixed, tmp_path / "1.patch", compare=True)
    assert done.afresh is not None
    assert done.afresh_is_cheaper
    some = updated(folder, DAYS[1], tmp_path / "2.patch", compare=True)
    assert not some.afresh_is_cheaper
    assert some.frozen_cost is not None
    assert 0 <= some.frozen_cost < some.loss


@pytest.mark.exhaustive
def test_limit_of_bytes_drops_rows_that_save_least(folder: Path, tmp_path: Path) -> None:
    free = updated(folder, DAYS[1], tmp_path / "free.patch")
    limit = free.nbytes * 6 // 10
    done = updated(folder, DAYS[1], tmp_path / "less.patch", max_bytes=limit)
    assert 0.7 * limit < done.nbytes <= limit
    assert (tmp_path / "less.patch").stat().st_size == done.nbytes
    assert done.counts.dropped > 0
    assert done.counts.changed + done.counts.dropped == pytest.approx(free.counts.changed, abs=5)
    assert free.loss < done.loss < free.stale_loss
    gone = DAYS[0].keys[:1000]
    with pytest.raises(BudgetError, match="a patch of 400 bytes cannot be made: the least is"):
        updated(
            folder,
            DAYS[1].only(~np.isin(DAYS[1].keys, gone)),
            tmp_path / "no.patch",
            removed={"user": gone},
            max_bytes=400,
        )
    assert not (tmp_path / "no.patch").exists()


def test_lower_threshold_codes_more_rows_and_loses_less(folder: Path, tmp_path: Path) -> None:
    priced = updated(folder, DAYS[1], tmp_path / "priced.patch")
    free = updated(folder, DAYS[1], tmp_path / "free.patch", threshold=0)
    assert free.counts.changed > priced.counts.changed
    # Unknown keys lose more: there are more keys that they may be taken for.
    assert nats_with(folder, tmp_path / "free.patch") < nats_with(folder, tmp_path / "priced.patch")


def test_exact_fields_store_every_new_key(tmp_path: Path) -> None:
    saec.compress(
        [DAYS[0].field(exact=16)],
        saec.Ratio(4),
        metrics=METRICS,
        progress=False,
        out=tmp_path / "base.saec",
    )
    day = Day(DAYS[1].weights, DAYS[1].frequencies.copy(), DAYS[1].keys)
    day.frequencies[-3:] = 0  # keys that did not occur yet
    updated(tmp_path, day, tmp_path / "1.patch", fields=[day.field(exact=16)])
    field = patched(saec.load(tmp_path / "base.saec", patches=[tmp_path / "1.patch"]))
    assert field.contains(day.keys).all()
    assert field.patches[0].changed.share <= 2**-16
    assert field.contains(random_keys(100_000)).mean() < 2e-4


def test_base_without_metrics_is_updated_without(tmp_path: Path) -> None:
    saec.compress([DAYS[0].field()], saec.Ratio(10), progress=False, out=tmp_path / "base.saec")
    done = updated(tmp_path, DAYS[1], tmp_path / "1.patch", metrics=None)
    assert done.loss < done.stale_loss
    chain = saec.load(tmp_path / "base.saec", patches=[tmp_path / "1.patch"])
    assert chain.predicted_loss_increase is None
    assert DAYS[1].nats(chain["user"]) < DAYS[1].nats(base_of(tmp_path)["user"])
    with pytest.raises(MetricError, match="compressed without metrics"):
        updated(tmp_path, DAYS[1], tmp_path / "2.patch")


@pytest.mark.exhaustive
def test_string_keys(tmp_path: Path) -> None:
    names = [Day(d.weights, d.frequencies, np.array([f"u{k}" for k in d.keys])) for d in DAYS[:2]]
    saec.compress(
        [names[0].field()],
        saec.Ratio(10),
        metrics=METRICS,
        progress=False,
        out=tmp_path / "base.saec",
    )
    updated(tmp_path, names[1], tmp_path / "1.patch")
    chain = saec.load(tmp_path / "base.saec", patches=[tmp_path / "1.patch"])
    assert names[1].nats(chain["user"]) < names[1].nats(base_of(tmp_path)["user"]) / 2


def test_small_fields_are_compressed_afresh_where_that_costs_less(
    folder: Path, tmp_path: Path
) -> None:
    mixed = Day(DAYS[0].weights[::-1].copy(), DAYS[0].frequencies, DAYS[0].keys)
    path, first, second = folder / "base.saec", tmp_path / "1.patch", tmp_path / "2.patch"
    done = updated(folder, mixed, first, whole_rows=3000)
    assert done.whole == ("user",)
    chain = saec.load(path, patches=[first])
    assert DAYS[0].nats(base_of(folder)["user"]) * 1.5 > mixed.nats(chain["user"])
    known = 0.7 * mixed.nats(chain["user"])  # of ten lookups, seven have a key with a row
    assert known < done.loss < 2 * known
    day = mixed.next(1)
    again = updated(folder, day, second, patches=[first])  # changes of the new codes
    assert again.whole == ()
    longer = saec.load(path, patches=[first, second])
    assert day.nats(longer["user"]) < day.nats(chain["user"]) / 2
    made = saec.compact(longer, keys={"user": day.keys}, out=tmp_path / "one.saec")["user"]
    known = patched(longer).contains(day.keys)
    assert np.array_equal(made.lookup(day.keys[known]), longer["user"].lookup(day.keys[known]))


@pytest.mark.exhaustive
def test_no_limit_makes_a_patch_with_which_rows_lose_more_than_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Compressed afresh as coarsely as possible, the field takes fewer bytes than a patch without
    # rows, and loses 16 times as much as without an update.
    monkeypatch.setattr("saec.compression.update._SMALL_PATCH", 0)
    first, base = Day.first(600), tmp_path / "base.saec"
    then, today = (
        [day.field(unseen=None, unseen_share=0.0)] for day in (first, first.next(1, new=50))
    )
    saec.compress(then, saec.Ratio(3), metrics=METRICS, progress=False, out=base)
    options = {"fields": today, "whole_rows": 1 << 14, "share": 1e-3}
    done = updated(tmp_path, first, tmp_path / "1.patch", **options)
    assert done.whole == ()
    assert done.loss <= done.stale_loss


def test_wrong_fields_are_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "no.patch"
    day = DAYS[1]
    other = saec.Field("item", day.weights, day.frequencies, keys=day.keys)
    wide = saec.Field("user", np.tile(day.weights, 2), day.frequencies, keys=day.keys)
    ids = saec.Field("user", day.weights, day.frequencies)
    texts = saec.Field("user", day.weights, day.frequencies, keys=[str(key) for key in day.keys])
    cases = [
        ([], "no fields were given"),
        ([other], "has no field 'item'"),
        ([wide], "is float32 of dim 8; in the artifact it is float32 of dim 4"),
        ([ids], "today it has no keys, and in the artifact it has keys"),
        ([texts], "keys are strings; in the artifact integers"),
    ]
    for fields, message in cases:
        metrics = {field.name: np.eye(field.dim) for field in fields}
        with pytest.raises(FieldError, match=message):
            updated(folder, day, out, fields=fields, metrics=metrics)
    with pytest.raises(MetricError, match="was compressed with metrics: give today's"):
        updated(folder, day, out, metrics=None)
    for threshold in (-1, True, float("inf")):
        with pytest.raises(OptionError, match=f"at least 0, not {threshold!r}"):
            updated(folder, day, out, threshold=threshold)
    with pytest.raises(KeysError, match="1 removed keys are in its table"):
        updated(folder, day, out, removed={"user": day.keys[:1]})
    with pytest.raises(FieldError, match="keys of field 'item' are removed, and its table"):
        updated(folder, day, out, removed={"item": day.keys[:1]})
    with pytest.raises(OptionError, match="patches go with the path of a base"):
        saec.update(base_of(folder), [day.field()], out=out, patches=[out], metrics=METRICS)
    assert not out.exists()


def test_base_that_states_no_price_needs_a_threshold(folder: Path, tmp_path: Path) -> None:
    field = base_of(folder)["user"]
    assert isinstance(field, KeyedField)
    field.price = 0.0
    base = saec.Compressed([field], 1e-3)
    options = {"out": tmp_path / "1.patch", "metrics": METRICS, "compare": False, "whole_rows": 0}
    with pytest.raises(OptionError, match="does not state the price of a bit: give a threshold"):
        saec.update(base, [DAYS[1].field()], **options)  # type: ignore[arg-type]
    saec.update(base, [DAYS[1].field()], threshold=1e-7, **options)  # type: ignore[arg-type]


def test_fields_that_are_not_given_do_not_change(tmp_path: Path) -> None:
    day = DAYS[0]
    hours = saec.Field("hour", np.eye(DIM, dtype=np.float32), np.arange(1, 5))
    base = saec.compress(
        [day.field(), hours],
        saec.Ratio(15),
        metrics=METRICS | {"hour": np.eye(DIM)},
        progress=False,
        out=tmp_path / "base.saec",
    )
    updated(tmp_path, DAYS[1], tmp_path / "1.patch")
    chain = saec.load(tmp_path / "base.saec", patches=[tmp_path / "1.patch"])
    assert np.array_equal(chain["hour"].decode(), base["hour"].decode())
    assert chain.nbytes == base.nbytes + (tmp_path / "1.patch").stat().st_size


def test_chains_are_pickled(folder: Path) -> None:
    field = patched(chain_of(folder))
    rows = field.lookup(DAYS[2].keys)
    again = pickle.loads(pickle.dumps(field))
    assert np.array_equal(again.lookup(DAYS[2].keys), rows)


def test_chain_cannot_be_saved_as_one_file(folder: Path, tmp_path: Path) -> None:
    chain = chain_of(folder)
    with pytest.raises(PatchError, match="cannot save a base with 2 patches to one file"):
        chain.save(tmp_path / "no.saec")
    with pytest.raises(PatchError, match=r"has 2 patches: saec.compact makes one"):
        _ = chain["user"].entry
    assert not (tmp_path / "no.saec").exists()


def test_share_limits_a_patch_by_the_base_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = (folder / "base.saec").stat().st_size
    free = updated(folder, DAYS[1], tmp_path / "free.patch", share=None)
    assert free.nbytes > 0.1 * base
    small = updated(folder, DAYS[1], tmp_path / "small.patch", share=0.1)
    assert small.nbytes == free.nbytes  # less than 16 KiB
    monkeypatch.setattr("saec.compression.update._SMALL_PATCH", 0)
    less = updated(folder, DAYS[1], tmp_path / "1.patch", share=0.1)
    assert 0.06 * base < less.nbytes <= 0.1 * base
    assert less.counts.dropped > 0
    chain = {"patches": [tmp_path / "1.patch"], "share": 0.1}
    assert updated(folder, DAYS[2], tmp_path / "2.patch", **chain).nbytes <= 0.1 * base
    again = updated(folder, DAYS[1], tmp_path / "2b.patch", share=np.float32(0.1))
    assert again.nbytes == less.nbytes
    for share in (0, True, float("nan"), "0.1"):
        with pytest.raises(OptionError, match="share is a positive part of the base's bytes, or"):
            updated(folder, DAYS[1], tmp_path / "no.patch", share=share)


def test_rows_out_of_reach_of_a_class_are_coded_by_the_one_that_is_best_for_each() -> None:
    result = saec.compress([DAYS[0].field()], saec.Ratio(6), metrics=METRICS, progress=False)
    base = result["user"]
    assert isinstance(base, KeyedField)
    coder = FrozenCoder(base, Metric.of(METRICS["user"], "user", DIM))
    rows = DAYS[0].weights[2000:2200].copy()
    rows[::50] *= 5  # four of them
    shares, price = np.full(200, 1e-4), base.price
    number = len(coder.coders) - 1
    alone = coder.code(number, rows, 1e-4, price)
    parts = list(coder.by_class(number, rows, shares, price))
    assert np.sort(np.concatenate([own for own, _ in parts])).tolist() == list(range(200))
    lost = np.empty(200)
    for own, coded in parts:
        lost[own] = coded.lost
    assert len(parts) > 1
    assert lost[::50].sum() < 0.6 * alone.lost[::50].sum()
    assert (lost <= alone.lost + 1e-12).all()
    near = 1e-4 * alone.lost < price
    assert lost[near] == pytest.approx(alone.lost[near])
    # Also where no other row of the band is within reach.
    [(own, lone)] = coder.by_class(number, rows[:1], shares[:1], price)
    assert own.tolist() == [0]
    assert lone.number != number
    assert lone.lost[0] == pytest.approx(lost[0])


def test_a_patch_without_changes_has_no_lengths(folder: Path, tmp_path: Path) -> None:
    done = updated(folder, DAYS[0], tmp_path / "none.patch", threshold=1e9)
    assert done.counts.changed == 0
    chain = saec.load(folder / "base.saec", patches=[tmp_path / "none.patch"])
    [patch] = patched(chain).patches
    assert patch.tensors["lengths"].shape == (0,)
    rows = chain["user"].lookup(DAYS[0].keys)
    assert np.array_equal(rows, base_of(folder)["user"].lookup(DAYS[0].keys))


def test_planned_bytes_of_a_field_without_changes_have_no_lengths(folder: Path) -> None:
    base, metric = base_of(folder), Metric.of(METRICS["user"], "user", DIM)
    rows = plan_of(base, DAYS[0].field(), metric, FieldWorth(1.0), 1e9, {}, common_price(base))
    chosen = rows.at(1.0)
    made = entry_bytes(rows.built(chosen).entry)
    # A record is counted as 96 bytes and the name. Lengths would take a byte a symbol more.
    assert rows.base.layout.first_roots[-1] > 10
    assert made <= rows.planned_bytes(chosen) == 96 + 4


def test_a_bit_has_the_price_of_the_field_with_most_bytes_in_all_fields_and_patches(
    tmp_path: Path,
) -> None:
    small = saec.Field("hour", DAYS[0].weights[:24], np.ones(24), keys=np.arange(24))
    fields = [DAYS[0].field(), small]
    metrics = METRICS | {"hour": METRICS["user"]}
    base = saec.compress(fields, saec.Ratio(6), metrics=metrics, progress=False)
    user, hour = base["user"], base["hour"]
    assert isinstance(user, KeyedField)
    assert isinstance(hour, KeyedField)
    assert user.nbytes > hour.nbytes
    assert common_price(base) == user.price != hour.price
    base.save(tmp_path / "base.saec")
    # As a whole, at a price that the limit raised: that is not the price of the next day.
    turned = Day(-DAYS[0].weights[:, ::-1], DAYS[0].frequencies, DAYS[0].keys)
    done = updated(
        tmp_path, turned, tmp_path / "1.patch", max_bytes=user.nbytes // 3, whole_rows=3000
    )
    assert done.whole == ("user",)
    chain = saec.load(tmp_path / "base.saec", patches=[tmp_path / "1.patch"])
    now = chain["user"]
    assert isinstance(now, KeyedField)
    assert now.price > user.price
    assert common_price(chain) == user.price
    plain = saec.Field("user", DAYS[0].weights, DAYS[0].frequencies)
    ids = saec.compress([plain], saec.Ratio(6), metrics=METRICS, progress=False)
    assert common_price(ids) == 0.0


def test_a_threshold_of_zero_keeps_limits(folder: Path, tmp_path: Path) -> None:
    free = updated(folder, DAYS[1], tmp_path / "free.patch", threshold=0)
    limit = free.nbytes // 8
    done = updated(folder, DAYS[1], tmp_path / "less.patch", threshold=0, max_bytes=limit)
    assert 0.8 * limit < done.nbytes <= limit
    assert done.loss < done.stale_loss
    assert nats_with(folder, tmp_path / "free.patch") < nats_with(folder, tmp_path / "less.patch")
    assert done.counts.dropped > 1000  # every row gets nearer by codes of its own


def test_removed_keys_may_take_more_than_the_share(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saec.compression.update._SMALL_PATCH", 0)
    base = base_of(folder)["user"]
    assert isinstance(base, KeyedField)
    gone = DAYS[0].keys[base.contains(DAYS[0].keys)][:300]
    left = DAYS[0].only(~np.isin(DAYS[0].keys, gone))
    done = updated(folder, left, tmp_path / "1.patch", removed={"user": gone}, share=1e-3)
    assert done.nbytes > 1e-3 * base_of(folder).nbytes
    assert done.counts.removed >= 300
    chain = patched(saec.load(folder / "base.saec", patches=[tmp_path / "1.patch"]))
    assert not chain.contains(gone).any()


def test_codes_are_shorter_at_a_higher_price(folder: Path) -> None:
    base = base_of(folder)["user"]
    assert isinstance(base, KeyedField)
    coder = FrozenCoder(base, Metric.of(METRICS["user"], "user", DIM))
    some = slice(200, 1000)
    shares = DAYS[0].frequencies[some] / DAYS[0].frequencies.sum()
    bits, lost = [], []
    for price in (base.price, 64 * base.price):
        [number] = coder.classes_for({0: (DAYS[0].weights[some], shares)}, price).values()
        coded = coder.code(number, DAYS[0].weights[some], float(shares.mean()), price)
        first = coder.coders[number].coders[0].lengths[coded.symbols[0]]
        bits.append(int((first + coded.later_bits).sum()))
        lost.append(float(shares @ coded.lost))
    assert bits[1] < 0.8 * bits[0]
    assert lost[0] < lost[1]
