"""Bands of frequencies, each of which is coded by one class of a base."""

from __future__ import annotations

import numpy as np

from saec.codecs.axes.frozen import bands_of


def test_a_band_ends_at_four_times_its_first_frequency() -> None:
    found = bands_of(np.array([0.25, 1.0, 3.9, 4.0, 15.9, 16.0]))
    assert found.tolist() == [-1, 0, 0, 1, 1, 2]


def test_frequencies_too_small_for_float64_are_in_the_lowest_band() -> None:
    # The smallest normal number is 2^-1022 = 4^-511.
    assert bands_of(np.array([0.0, 5e-324, 2.0**-1022, 2.0**-1020])).tolist() == [-511] * 3 + [-510]
