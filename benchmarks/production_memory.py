"""Peak memory of a server that builds a compressed model, plainly and on the meta device.

    python benchmarks/production_memory.py --json production_memory.json

A model of two tables is stored as codes of 12 bits (random numbers: memory depends on sizes alone)
and a file of its other weights. Processes of their own then start from these files, and tell their
peak resident memory: one imports only, one builds the whole model and replaces its tables, one
builds it on the meta device. All of them score a batch, and must give the same.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import saec
import saec.torch
from saec.bits.packing import PackedCodes
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.reference.experiment import write_json
from saec.reference.machine import machine

WAYS = ("imports only", "plain", "meta")
BITS = 12


class Clicks(nn.Module):
    """Two fields and a network."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.user = nn.Embedding(rows, dim)
        self.item = nn.Embedding(rows, dim)
        self.top = nn.Sequential(nn.Linear(2 * dim, 256), nn.ReLU(), nn.Linear(256, 1))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        logits: Tensor = self.top(torch.cat([self.user(user), self.item(item)], 1)).squeeze(1)
        return logits


def store(folder: Path, rows: int, dim: int) -> saec.Compressed:
    """Write the artifact and the other weights."""
    rng = np.random.default_rng(0)
    fields = []
    for name in ("user", "item"):
        codes = PackedCodes.pack(rng.integers(0, 1 << BITS, rows), BITS)
        centroids = rng.standard_normal((1 << BITS, dim)).astype(np.float32)
        fields.append(ClusteredField(name, codes, Codebook.round(centroids, "int8"), "float32"))
    result = saec.Compressed(fields)
    result.save(folder / "model.saec")
    torch.manual_seed(0)
    torch.save(Clicks(1, dim).top.state_dict(), folder / "top.pt")
    return result


def built(way: str, folder: Path, rows: int, dim: int) -> nn.Module:
    """The model, ready to serve."""
    with torch.device("meta" if way == "meta" else "cpu"):
        model = Clicks(rows, dim)
    saec.torch.replace_embeddings_(model, saec.load(folder / "model.saec"))
    model.top.load_state_dict(torch.load(folder / "top.pt"), assign=True)
    return model.eval()


def serve(way: str, folder: Path, rows: int, dim: int) -> None:
    """Print the peak in bytes, and the sum of a batch's logits."""
    total = 0.0
    if way != "imports only":
        model = built(way, folder, rows, dim)
        ids = torch.randint(rows, (2, 1024), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            total = float(model(*ids).sum())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak * (1 if sys.platform == "darwin" else 1024), total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], Path(options.serve[1]), options.rows, options.dim)
        return
    sizes = ["--rows", str(options.rows), "--dim", str(options.dim)]
    found, sums = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        result = store(Path(folder), options.rows, options.dim)
        tables = {"plain": result.original_nbytes, "compressed": result.nbytes}
        for way in WAYS:
            command = [sys.executable, __file__, *sizes, "--serve", way, folder]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            peak, total = run.stdout.split()
            found[way], sums[way] = int(peak), float(total)
    assert sums["plain"] == sums["meta"], sums
    for name, size in tables.items():
        print(f"tables, {name}: {size / 1e6:,.0f} MB")
    for way, peak in found.items():
        print(f"peak, {way}: {peak / 1e6:,.0f} MB")
    if options.json:
        write_json(options.json, {"machine": machine(), "tables": tables, "peak": found})


if __name__ == "__main__":
    main()
