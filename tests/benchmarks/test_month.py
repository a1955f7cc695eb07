"""benchmarks/month.py: frequencies that are expected of features that are kept for some days."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from month import course


@pytest.mark.parametrize("window", [1, 14])
def test_frequencies_are_expected_of_the_features_that_are_kept(
    tmp_path: Path, window: int
) -> None:
    days = course(6400, tmp_path, 9, window)
    expected, counts = days.expected(9), days.counts(9)
    for name, own in counts.items():
        assert len(expected[name].frequencies) == len(own)
        assert (expected[name].frequencies[own > 0] > 0).all()
    seen = [int((own > 0).sum()) for own in counts.values()]
    assert 0 < sum(seen) < sum(map(len, counts.values()))
    assert np.all(days.days[days.known(9)] > 9 - window)
