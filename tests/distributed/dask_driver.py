"""A process that compresses on a cluster of its own, to be killed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

import saec
from saec import distributed
from saec.distributed import output_windows as windows
from saec.streaming import chunks as parts

NAMES = ("user", "city")
ROWS, DIM = 3_000, 4
PART_VALUES, LEAST_WINDOW = 4_000, 1 << 10


def write_tables(folder: Path) -> None:
    rng = np.random.default_rng(1)
    for name in NAMES:
        np.save(folder / f"{name}.npy", rng.standard_normal((ROWS, DIM), dtype=np.float32))
        np.save(folder / f"{name}.counts.npy", rng.zipf(1.3, ROWS).clip(max=10_000))


def fields(folder: Path) -> list[saec.Field]:
    return [
        saec.Field(
            name,
            np.load(folder / f"{name}.npy", mmap_mode="r"),
            np.load(folder / f"{name}.counts.npy", mmap_mode="r"),
        )
        for name in NAMES
    ]


def compress(
    fields: list[saec.Field], out: Path, executor: distributed.DaskExecutor | None = None
) -> None:
    metrics = {name: np.diag([1.0, 0.5, 0.25, 0.1]) for name in NAMES}
    saec.compress(
        fields, saec.Ratio(4), metrics=metrics, out=out, progress=False, executor=executor
    )


def main(folder: Path) -> None:
    """Print the worker's process id, then compress."""
    parts._PART_VALUES = PART_VALUES
    windows._LEAST = LEAST_WINDOW
    with distributed.local_cluster(1, "1GB") as client:
        sys.stdout.write(" ".join(map(str, client.run(os.getpid).values())) + "\n")
        sys.stdout.flush()
        executor = distributed.DaskExecutor(client)
        compress(fields(folder), folder / "many.saec", executor)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
