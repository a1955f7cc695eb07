"""Compress, save, load, look up: run where nothing is installed but the wheel."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import saec
from saec import _native


def main() -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((40, 8), dtype=np.float32)[rng.integers(0, 40, 5000)]
    table += 0.05 * rng.standard_normal(table.shape, dtype=np.float32)
    field = saec.Field("user", table, 10_000 // np.arange(1, 5001))
    result = saec.compress([field], saec.Ratio(12), progress=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "user.saec"
        result.save(path)
        assert path.stat().st_size == result.nbytes <= table.nbytes / 12
        small = saec.load(path)
        rows = small["user"].lookup([0, 4999])
        assert np.array_equal(rows, result["user"].decode()[[0, 4999]])
        assert np.array_equal(small["user"].pool([0, 4999], [0]), rows.sum(axis=0, keepdims=True))
        assert np.corrcoef(small["user"].decode().ravel(), table.ravel())[0, 1] > 0.9
        del small, rows  # a mapped file cannot be removed everywhere
    assert not {"torch", "polars", "dask"} & set(sys.modules)
    core = Path(_native.__file__).name
    sys.stdout.write(f"saec {saec.__version__}, {core}: ratio {result.compression_ratio:.1f}\n")


main()
