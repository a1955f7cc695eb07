"""Tables of values and grids at the limits of float16."""

from __future__ import annotations

import numpy as np

from saec.clustering.scalar import measure_columns
from saec.codecs.axes.quantizer import evenly_spaced, within_float16
from saec.codecs.axes.symbols import grid_coder

LARGEST = 65504.0  # of float16
LEAST = 2.0**-14  # with all digits


def test_values_out_of_range_become_the_ends_of_the_range() -> None:
    values = np.array([1e9, LARGEST, 1.5, -np.inf])
    assert within_float16(values).tolist() == [LARGEST, LARGEST, 1.5, -LARGEST]


def test_grids_at_the_limits() -> None:
    for low, step in ((LARGEST, 1.0), (-LARGEST, LARGEST), (0.0, LEAST)):
        found = evenly_spaced(low, step)
        assert found is not None
        assert found.tolist() == [low, step]
    for low, step in ((LARGEST + 1, 1.0), (0.0, LARGEST + 1), (0.0, LEAST / 2), (0.0, 0.0)):
        assert evenly_spaced(low, step) is None


def test_fields_with_ids_and_with_keys_have_the_same_limits() -> None:
    counts = np.ones(4)
    for low, step in ((LARGEST, 1.0), (0.0, LEAST), (LARGEST + 1, 1.0), (0.0, LEAST / 2)):
        keyed = grid_coder(low, step, counts)
        rows = np.array([[low], [low + 3 * step]], np.float32)
        [own] = measure_columns(rows, np.ones(2), [], [2])
        assert (keyed is None) == np.isinf(own.grid_left[0])
        if keyed is not None:
            assert keyed.values.tolist() == own.grids[0].tolist() == [low, step]
