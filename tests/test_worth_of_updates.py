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


def field_of(day: Day, keyed: bool) -> saec.Field:
    return day.field() if keyed else saec.Field("user", day.weights, day.frequencies)


@pytest.fixture(scope="module", params=[True, False], ids=["keys", "ids"])
def base(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, coarse_prices: None
) -> Path:
    """The artifact of a day, with keys or with ids."""
    path = tmp_path_factory.mktemp("days") / ("keys.saec" if request.param else "ids.saec")
    field = field_of(DAYS[0], request.param)
    compressed(field, path)
    return path


def compressed(field: saec.Field, path: Path) -> None:
    saec.compress([field], saec.Ratio(6), metrics=METRICS, progress=False, out=path)


def updated(base: Path, out: Path, **options: object) -> saec.Update:
    given = {"metrics": METRICS, "compare": False, "whole_rows": 0} | options
    fields = [field_of(DAYS[1], base.stem == "keys")]
    return saec.update(base, fields, out=out, **given)  # type: ignore[arg-type]


def rows_of(base: Path, patches: list[Path]) -> NDArray[np.float32]:
    """Of all features that the first day had."""
    field = saec.load(base, patches=patches)["user"]
    keys = DAYS[0].keys if base.stem == "keys" else np.arange(len(DAYS[0].keys))
    found: NDArray[np.float32] = field.lookup(keys)
    return found


def test_above_one_all_nats_of_the_field_weigh_so_much_more(base: Path, tmp_path: Path) -> None:
    one = updated(base, tmp_path / "worth.patch", worth={"user": 4.0})
    other = updated(base, tmp_path / "metric.patch", metrics={"user": 4.0 * METRICS["user"]})
    assert (tmp_path / "worth.patch").stat().st_size == (tmp_path / "metric.patch").stat().st_size
    assert (one.loss, one.stale_loss) == pytest.approx((other.loss, other.stale_loss))
    assert one.counts == other.counts


def test_below_one_only_what_changes_save_weighs_less(base: Path, tmp_path: Path) -> None:
    full = updated(base, tmp_path / "full.patch")
    half = updated(base, tmp_path / "half.patch", worth={"user": 0.25})
    assert half.counts.moved < full.counts.moved
    before, with_half, with_full = (
        rows_of(base, patches)
        for patches in ([], [tmp_path / "half.patch"], [tmp_path / "full.patch"])
    )
    changed = (with_half != before).any(axis=1)
    assert 0 < changed.sum() < (with_full != before).any(axis=1).sum()
    # A row that is coded at all has the codes that it has without worth: their errors weigh fully.
    # Other keys may be taken for one of the patch, by chance, in one patch and not in the other.
    same = (with_half == with_full).all(axis=1)
    assert same[changed].mean() > 0.98


def test_stale_loss_of_ids_is_weighed_exactly(tmp_path: Path) -> None:
    compressed(field_of(DAYS[0], False), tmp_path / "ids.saec")
    full = updated(tmp_path / "ids.saec", tmp_path / "full.patch")
    half = updated(tmp_path / "ids.saec", tmp_path / "half.patch", worth={"user": 0.25})
    assert half.stale_loss == pytest.approx(full.stale_loss / 4)


def test_wrong_worth_is_refused(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "none.patch"
    with pytest.raises(OptionError, match="worth is given of field 'item', and its table is not"):
        updated(base, out, worth={"item": 1.0})
    for wrong in (0.0, -1.0, float("nan"), float("inf"), "much"):
        with pytest.raises(OptionError, match="worth of field 'user' is a positive number, not"):
            updated(base, out, worth={"user": wrong})
    with pytest.raises(OptionError, match="worth is of nats that the metrics forecast"):
        updated(base, out, worth={"user": 2.0}, metrics=None)
    assert not out.exists()
