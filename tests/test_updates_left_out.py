"""Coded rows that are left out of the choice do not change patches."""

from __future__ import annotations

from pathlib import Path

import pytest
from daily_tables import METRICS, Day

import saec
import saec.compression.changed_rows as changed_rows
from saec.compression.changed_rows import DayField
from saec.compression.day_rows import CodedDay, DaySurvey


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("left_out") / "base.saec"
    field = Day.first().field(unseen_share=0.0)
    saec.compress([field], saec.Ratio(12), metrics=METRICS, progress=False, out=path)
    return path


@pytest.mark.parametrize(("moved", "passes"), [(100, [False]), (3000, [False, True])])
def test_rows_that_are_left_out_do_not_change_the_patch(
    moved: int, passes: list[bool], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where most rows moved, a key takes few bits, so all rows are coded again and none is left
    out."""
    field = Day.first().next(5, moved=moved).field(unseen_share=0.0)
    monkeypatch.setattr(changed_rows, "_HEAVY_ROWS", 16)  # others are looked at for what they save
    asked: list[bool] = []
    kept: list[int] = []
    plain = DayField.coded

    def noted(day: DayField, survey: DaySurvey, factor: float, every: bool) -> CodedDay:
        asked.append(every)
        found = plain(day, survey, factor, every)
        kept.append(sum(len(one.positions) for one in found.rows))
        return found

    def of_all(day: DayField, survey: DaySurvey, factor: float, every: bool) -> CodedDay:
        return noted(day, survey, factor, True)

    written = []
    for name, coded in (("some", noted), ("all", of_all)):
        monkeypatch.setattr(DayField, "coded", coded)
        path = tmp_path / name
        saec.update(
            base, [field], out=path, metrics=METRICS, whole_rows=0, compare=False, progress=False
        )
        written.append(path.read_bytes())
    assert written[0] == written[1]
    assert asked == [*passes, True]
    assert kept[0] < kept[-1]  # some were left out at first
