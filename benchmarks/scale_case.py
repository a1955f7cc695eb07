"""One case of scale.py: compress a table on disk and print what it took, as JSON."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from timing import peak_bytes

import saec


def _sent_bytes(dask_worker: Any) -> int:
    return int(dask_worker.transfer_outgoing_bytes_total)


def main() -> None:
    folder, codec, ratio, memory, workers, out = sys.argv[1:]
    mode = None if memory == "all" else "r"
    weights, frequencies = (
        np.load(Path(folder) / f"{name}.npy", mmap_mode=mode) for name in ("weights", "frequencies")
    )
    options = {} if memory == "all" else {"out": out, "memory": memory}
    field = saec.Field("table", weights, frequencies)
    metrics = {"table": np.diag(0.5 ** np.arange(field.dim))}
    peaks: list[int] = []
    sent = 0
    with ExitStack() as stack:
        fields = [field]
        if int(workers):
            from saec.distributed import local_cluster, spread

            client = stack.enter_context(local_cluster(int(workers)))
            fields = spread(fields, client)
        start = time.perf_counter()
        result = saec.compress(
            fields,
            saec.Ratio(float(ratio)),
            {"clusters": saec.Clusters(), "frequency": saec.Axes(order="frequency")}.get(codec),
            metrics=metrics,
            **options,
        )
        if memory == "all":
            result.save(out)
        seconds = time.perf_counter() - start
        if int(workers):
            peaks = sorted(client.run(peak_bytes).values())
            sent = sum(client.run(_sent_bytes).values())
    print(
        json.dumps(
            {
                "seconds": seconds,
                "peak": peak_bytes(),
                "worker_peaks": peaks,
                "sent_between_workers": sent,
                "nbytes": result.nbytes,
                "ratio": result.compression_ratio,
                "predicted": result.predicted_loss_increase,
            }
        )
    )


if __name__ == "__main__":
    main()
