"""Unknown keys of a field: how many are taken for stored ones, against the share that is stated.

    python benchmarks/unknown_keys.py --asked 10000000

Random keys of 64 bits are asked; all but the stated share must have the default row.
"""

from __future__ import annotations

import argparse

import numpy as np

import saec

DIM = 16


def field(rows: int) -> saec.Field:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((rows, DIM)).astype(np.float32)
    frequencies = 10 * rows // np.arange(1, rows + 1) + 1
    keys = rng.permutation(4 * rows)[:rows]
    return saec.Field("user", weights, frequencies, keys=keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--asked", type=int, default=10_000_000)
    parser.add_argument("--ratio", type=float, default=40)
    options = parser.parse_args()
    stored = saec.compress([field(options.rows)], saec.Ratio(options.ratio))["user"]
    default = stored.tensors["axes"][-1].astype(np.float32)
    rng = np.random.default_rng(1)
    taken = other = asked = 0
    while asked < options.asked:
        count = min(1_000_000, options.asked - asked)
        keys = rng.integers(2**40, 2**63, count)
        known = stored.contains(keys)
        rows = stored.lookup(keys)
        taken += int(known.sum())
        other += int((rows != default).any(axis=1)[~known].sum())
        asked += count
    stated = stored.false_positive_rate
    deviation = (stated * (1 - stated) / asked) ** 0.5
    print(f"{asked} unknown keys: {taken / asked:.6f} taken for stored ones, stated {stated:.6f}")
    print(f"{(taken / asked - stated) / deviation:+.2f} standard deviations")
    print(f"{other} of the others have another row than the default one")


if __name__ == "__main__":
    main()
