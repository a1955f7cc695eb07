"""Updates of fields whose changes save more or less than the metric forecasts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from daily_tables import METRICS, Day
from numpy.typing import NDArray

import saec
from saec.errors import OptionError

pytestmark = pytest.mark.usefixtures("coarse_prices")
DAYS = [Day.first()]
DAYS += [DAYS[0].next(1)]


@pytest.fixture(scope="module", params=[True, False], ids=["keys", "ids"])
def base(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, coarse_prices: None
) -> Path:
    """The artifact of a day, with keys or with ids."""
    path = tmp_path_factory.mktemp("days") / ("keys.saec" if request.param else "ids.saec")
    field = DAYS[0].either(request.param)
    saec.compress([field], saec.Ratio(6), metrics=METRICS, progress=False, out=path)
    return path


def updated(base: Path, out: Path, **options: object) -> saec.Update:
    given = {"metrics": METRICS, "compare": False, "whole_rows": 0} | options
    fields = [DAYS[1].either(base.stem != "ids")]
    return saec.update(base, fields, out=out, **given)  # type: ignore[arg-type]


def rows_of(base: Path, patches: list[Path]) -> NDArray[np.float32]:
    """Of all features that the first day had."""
    field = saec.load(base, patches=patches)["user"]
    keys = DAYS[0].keys if base.stem == "keys" else np.arange(len(DAYS[0].keys))
    found: NDArray[np.float32] = field.lookup(keys)
    return found


def test_above_one_bits_of_the_field_cost_so_much_less(base: Path, tmp_path: Path) -> None:
    price = 4e-8  # of a bit, in nats
    plain = updated(base, tmp_path / "plain.patch", threshold=price)
    more = updated(base, tmp_path / "worth.patch", threshold=price, worth={"user": 4.0})
    assert more.counts.moved > plain.counts.moved
    assert more.nbytes > plain.nbytes
    assert more.stale_loss == plain.stale_loss
    assert more.loss < plain.loss
    if base.stem == "keys":  # the same patch as by a metric of four times as many nats
        metrics = {"user": 4.0 * METRICS["user"]}
        other = updated(base, tmp_path / "other.patch", threshold=price, metrics=metrics)
        assert (4 * more.loss, 4 * more.stale_loss) == pytest.approx((other.loss, other.stale_loss))
    else:
        other = updated(base, tmp_path / "other.patch", threshold=price / 4)
        assert more.loss == other.loss
    assert (more.nbytes, more.counts) == (other.nbytes, other.counts)


def test_below_one_what_rows_lose_now_counts_less(base: Path, tmp_path: Path) -> None:
    full = updated(base, tmp_path / "full.patch")
    less = updated(base, tmp_path / "less.patch", worth={"user": 0.25})
    assert less.counts.moved < full.counts.moved
    before, with_less, with_full = (
        rows_of(base, patches)
        for patches in ([], [tmp_path / "less.patch"], [tmp_path / "full.patch"])
    )
    changed = (with_less != before).any(axis=1)
    assert 0 < changed.sum() < (with_full != before).any(axis=1).sum()
    # A row that is coded at all has the codes that it has without worth: their errors count fully.
    # Other keys may be taken for one of the patch, by chance, in one patch and not in the other.
    same = (with_less == with_full).all(axis=1)
    assert same[changed].mean() > 0.98


@pytest.mark.parametrize("worth", [0.1, 10.0])
def test_stated_losses_are_those_of_lookups(base: Path, tmp_path: Path, worth: float) -> None:
    plain = updated(base, tmp_path / "plain.patch")
    done = updated(base, tmp_path / "worth.patch", worth={"user": worth})
    assert done.stale_loss == plain.stale_loss
    loss, plain_loss = (
        DAYS[1].nats(saec.load(base, patches=[tmp_path / name])["user"])
        for name in ("worth.patch", "plain.patch")
    )
    # The loss of unknown keys, 0.3 of all lookups, is the same but for those taken for others.
    known = 0.7 if base.stem == "keys" else 1.0
    assert done.loss - plain.loss == pytest.approx(known * (loss - plain_loss), rel=0.1, abs=2e-6)
    assert saec.load(base, patches=[tmp_path / "worth.patch"]).predicted_loss_increase == done.loss


@pytest.mark.parametrize("keyed", [True, False])
def test_a_limit_leaves_more_bytes_to_fields_of_more_worth(keyed: bool, tmp_path: Path) -> None:
    metrics = dict.fromkeys(("a", "b"), METRICS["user"])

    def fields(day: Day) -> list[saec.Field]:
        keys = {"keys": day.keys, "unseen": np.zeros(4)} if keyed else {}
        return [
            saec.Field(name, day.weights, day.frequencies, **keys)  # type: ignore[arg-type]
            for name in metrics
        ]

    path, out = tmp_path / "base.saec", tmp_path / "day.patch"
    saec.compress(fields(DAYS[0]), saec.Ratio(6), metrics=metrics, progress=False, out=path)

    def changed(worth: dict[str, float]) -> list[int]:
        most = 1800 if keyed else 1300
        options = {"metrics": metrics, "max_bytes": most, "compare": False, "whole_rows": 0}
        saec.update(path, fields(DAYS[1]), out=out, worth=worth, **options)  # type: ignore[arg-type]
        before, after = saec.load(path), saec.load(path, patches=[out])
        asked = DAYS[0].keys if keyed else np.arange(len(DAYS[0].keys))
        return [
            int((after[name].lookup(asked) != before[name].lookup(asked)).any(axis=1).sum())
            for name in metrics
        ]

    plain, more = changed({}), changed({"a": 8.0})
    assert more[0] > plain[0]
    assert more[1] < plain[1]
    assert changed({"a": 1.0, "b": 1.0}) == plain


def test_worth_of_a_field_that_is_compressed_afresh(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "whole.patch"
    done = updated(base, out, whole_rows=1 << 15, worth={"user": 1e6}, compare=True)
    assert done.whole == ("user",)  # bits cost next to nothing
    assert done.loss < updated(base, out, whole_rows=1 << 15).loss
    least = updated(base, out, whole_rows=1 << 15, worth={"user": 1e-6})
    assert least.whole == ()  # nothing that rows lose now counts
    assert least.counts.moved == 0


def test_wrong_worth_is_refused(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "none.patch"
    with pytest.raises(OptionError, match="worth is given of field 'item', and its table is not"):
        updated(base, out, worth={"item": 1.0})
    for wrong in (0.0, -1.0, float("nan"), float("inf"), "much", 1e300):
        with pytest.raises(OptionError, match="worth of field 'user' is a number from 1e-06 to"):
            updated(base, out, worth={"user": wrong})
    for wrong in (2.0, 0, ["user"], "user"):
        with pytest.raises(OptionError, match="worth is a number by field name, not"):
            updated(base, out, worth=wrong)
    plain = tmp_path / "plain.saec"
    saec.compress([DAYS[0].field()], saec.Ratio(6), progress=False, out=plain)
    with pytest.raises(OptionError, match="compressed without metrics: worth cannot be given"):
        updated(plain, out, worth={"user": 2.0}, metrics=None)
    assert not out.exists()
