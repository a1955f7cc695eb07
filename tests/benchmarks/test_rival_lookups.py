"""benchmarks/rival_lookups.py: all tables are built and timed in turn."""

from __future__ import annotations

import pytest
import rival_lookups as own
import torch

from saec.reference.simulated import simulate
from saec.reference.small import SMALL
from saec.reference.small.training import SmallTraining
from saec.reference.training_settings import Training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("method", SMALL)
def test_untrained_tables_are_of_the_kind_that_training_leaves(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(own, "DIM", 4)
    small = SmallTraining.of(simulate(1000, seed=1, keys=True), "deepfm", 4, 0)
    tables = own.untrained(small, method, 4.0)
    short = Training(batch_size=500, max_epochs=1, evaluations_per_epoch=1)
    net, _ = small.trained(SMALL[method](), sum(4 * 4 * f.count for f in small.fields) // 4, short)
    assert type(tables) is type(net.embeddings)
    assert tables(torch.from_numpy(small.log.ids[:5])).shape == (5, len(small.fields), 4)


def test_rounds_take_all_in_turn() -> None:
    """Medians of 3, 1, 2 and of 30, 10, 20."""
    asked, times = [], {"a": iter([3.0, 1.0, 2.0]), "b": iter([30.0, 10.0, 20.0])}

    def timed(name: str) -> float:
        asked.append(name)
        return next(times[name])

    found = own.in_turn({("a", None): lambda: timed("a"), ("b", 8.0): lambda: timed("b")}, 3)
    assert found == {("a", None): 2.0, ("b", 8.0): 20.0}
    assert asked == ["a", "b"] * 3


def test_every_method_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "DIM", 4)
    log = simulate(1000, seed=1, keys=True)
    methods = ("float32", "int4", "axes-keyed", "axes-remapped", "hash", "qr")
    found = dict(own.lookups(log, methods, [3.0, 100.0], None))
    assert [known for known in found if known[1] != 100] == [
        ("float32", None),
        ("int4", None),
        *((name, 3.0) for name in methods[2:]),
    ]
    assert ("qr", 100.0) not in found  # there is no such table
    lines = [
        {"method": method, "target_ratio": ratio, "lookup_ns": timed()}
        for (method, ratio), timed in found.items()
    ]
    assert own.table(lines).splitlines()[2].endswith(" | 1.00 |")
