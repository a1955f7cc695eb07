"""benchmarks/recorded_runs.py: what was finished is kept."""

from __future__ import annotations

from pathlib import Path

from recorded_runs import RecordedRuns


def test_a_line_that_was_cut_off_is_run_again(tmp_path: Path) -> None:
    runs = RecordedRuns(tmp_path / "lines.jsonl")
    assert runs.lines() == []
    runs.add({"seed": 0})
    with runs.path.open("a") as file:
        file.write('{"seed": 1, "au')
    assert runs.lines() == [{"seed": 0}]
    assert not runs.hold({"seed": 1})
    runs.add({"seed": 1, "auc": 0.5})
    assert runs.lines() == [{"seed": 0}, {"seed": 1, "auc": 0.5}]
    assert runs.hold({"seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["lines.jsonl"]
