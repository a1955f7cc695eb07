"""Rows by keys: plain operations of PyTorch against the native core, in turn, on one thread.

    python benchmarks/keyed_plain.py

Says what tables that are asked by keys would cost where only standard operators are at hand, as in
ONNX.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

import saec
from saec.format.keyed_field import KeyedField
from saec.torch.lookup.keyed_plain import PlainKeys

ROWS, DIM, ASKED, ROUNDS = 5_000, 16, 4096, 5
REPEATED = 20  # lookups, each of which is short


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def lookups(field: KeyedField, keys: NDArray[np.int64]) -> None:
    for _ in range(REPEATED):
        field.lookup(keys, threads=1)


def main() -> None:
    """Print the ratio of the two times, a median."""
    rng = np.random.default_rng(0)
    torch.set_num_threads(1)
    counts = ROWS // np.arange(1, ROWS + 1)
    weights = rng.standard_normal((ROWS, DIM)).astype(np.float32) * np.log1p(counts)[:, None]
    keys = rng.integers(0, 1 << 62, ROWS)
    own = saec.Field("user", weights.astype(np.float32), counts, keys=keys)
    field = saec.compress([own], saec.Ratio(20), progress=False)["user"]
    assert isinstance(field, KeyedField)
    plain = PlainKeys(field, torch.device("cpu"))
    asked = rng.choice(keys, ASKED)
    tensor = torch.from_numpy(asked)
    assert np.array_equal(plain.rows(tensor).numpy(), field.lookup(asked, threads=1))
    pairs = [
        (seconds(lambda: plain.rows(tensor)), seconds(lambda: lookups(field, asked)) / REPEATED)
        for _ in range(ROUNDS)
    ]
    ratio = statistics.median(slow / fast for slow, fast in pairs)
    print(f"plain operations / native core: {ratio:.0f}")


if __name__ == "__main__":
    main()
