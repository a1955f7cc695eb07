"""One case of scale.py: compress a table on disk and print what it took, as JSON."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from timing import peak_bytes

import saec
from saec.streaming.rows import JoinedRows, Rows, rows_of

CODECS = {
    "axes": saec.Axes(),
    "frequency": saec.Axes(order="frequency"),
    "code": saec.Axes(order="code"),
    "clusters": saec.Clusters(),
}


def in_shards(array: np.ndarray, shards: int) -> Rows | np.ndarray:
    """The rows as if each of so many runs of them were a file."""
    if shards == 1:
        return array
    rows, count = rows_of(array), len(array)
    bounds = [count * shard // shards for shard in range(shards + 1)]
    return JoinedRows([rows.part(a, b) for a, b in pairwise(bounds)])


def loopback_bytes() -> int:
    """What client, scheduler and workers have sent to each other, as the kernel counts."""
    counters = psutil.net_io_counters(pernic=True)
    return int(counters["lo"].bytes_sent)


def sent_bytes(dask_worker: Any) -> int:
    """What a worker has sent to other workers, as it counts itself."""
    return int(dask_worker.transfer_outgoing_bytes_total)


def main() -> None:
    table, out, codec, ratio, memory, workers, shards = sys.argv[1:]
    mode = None if memory == "all" else "r"
    weights, frequencies = (
        in_shards(np.load(Path(table) / f"{name}.npy", mmap_mode=mode), int(shards))
        for name in ("weights", "frequencies")
    )
    options: dict[str, Any] = {} if memory == "all" else {"out": out, "memory": memory}
    field = saec.Field("table", weights, frequencies)
    metrics = {"table": np.diag(0.5 ** np.arange(field.dim))}
    measured: dict[str, Any] = {"worker_peaks": [], "between_workers": 0, "network": 0}
    with ExitStack() as stack:
        if int(workers):
            from saec.distributed import DaskExecutor, local_cluster

            client = stack.enter_context(local_cluster(int(workers)))
            options["executor"] = DaskExecutor(client)
        before = loopback_bytes()
        start = time.perf_counter()
        result = saec.compress(
            [field], saec.Ratio(float(ratio)), CODECS[codec], metrics=metrics, **options
        )
        if memory == "all":
            result.save(out)
        measured["seconds"] = time.perf_counter() - start
        measured["peak"] = peak_bytes()
        if int(workers):
            measured["network"] = loopback_bytes() - before
            measured["worker_peaks"] = sorted(client.run(peak_bytes).values())
            measured["between_workers"] = sum(client.run(sent_bytes).values())
    result.save(f"{out}.joined")  # the one file that shards would be
    measured["parts"] = len(field.parts)
    measured["nbytes"] = result.nbytes
    measured["ratio"] = result.compression_ratio
    measured["predicted"] = result.predicted_loss_increase
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
