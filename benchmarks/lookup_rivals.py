"""Ways to read rows of a table, each behind the same call, and timed in turn on the same ids."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timing import interleave
from torch import Tensor, nn

from saec.format.compressed_field import CompressedField
from saec.format.raw_field import RawField
from saec.torch.model.modules import CompressedEmbedding, CompressedEmbeddingBag
from saec.torch.table.joint import compressed_table

__all__ = [
    "BAG",
    "GATHER",
    "IDS_PER_CALL",
    "KEPT",
    "Batch",
    "Rival",
    "compressed",
    "fbgemm",
    "float32",
    "module",
    "quantised",
    "time_in_turn",
]

BAG, GATHER = "nn.EmbeddingBag", "native float32 gather"
KEPT = ", ids kept"

# 4096 bags of 20. Outputs of more than 32 MB would be mapped anew for every call.
IDS_PER_CALL = 81_920

_KINDS = {8: "byte", 4: "4bit"}


@dataclass(frozen=True, eq=False)
class Batch:
    """Ids and bags in the form in which each rival wants them; all bags have ``bag`` ids."""

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    bag: int
    tensor: Tensor
    starts: Tensor
    int32: Tensor
    int32_ends: Tensor

    @classmethod
    def of(cls, ids: NDArray[np.int64], bag: int) -> Batch:
        """``ids`` (m,), bag after bag."""
        ends = np.arange(0, len(ids) + 1, bag)
        offsets = ends[:-1].copy()
        tensor = torch.from_numpy(ids)
        starts, int32_ends = torch.from_numpy(offsets), torch.from_numpy(ends).int()
        return cls(ids, offsets, bag, tensor, starts, tensor.int(), int32_ends)


@dataclass(frozen=True)
class Rival:
    """``read(batch, threads)`` returns the batch's rows, (m, dim), or their sums by bag.

    nbytes: of the table. kept: reads the ids of an owner who did not renumber by frequency.
    """

    name: str
    nbytes: int
    read: Callable[[Batch, int], object]
    kept: bool = False


def float32(table: Tensor, kept: bool = False) -> Iterator[Rival]:
    """The float32 table itself, one memory for all."""
    array, rows = table.numpy(), nn.Embedding.from_pretrained(table)
    bags = nn.EmbeddingBag.from_pretrained(table, mode="sum")
    gather = compressed(GATHER, RawField("table", array), kept)

    def embedding(batch: Batch, _: int) -> Tensor:
        return _pooled(rows(batch.tensor), batch)

    def take(batch: Batch, _: int) -> NDArray[np.float32]:
        return _pooled(np.take(array, batch.ids, axis=0), batch)

    yield _named(BAG, array.nbytes, lambda b, _: bags(b.tensor, b.starts), kept)
    yield gather
    if not kept:  # who reads scattered ids shows on the first two
        yield Rival("nn.Embedding", array.nbytes, embedding)
        yield Rival("numpy.take", array.nbytes, take)


def quantised(table: Tensor, bits: int) -> Rival:
    """PyTorch's own bag over rows of 8 or 4 bits, with a scale and an offset per row."""
    kind = _KINDS[bits]
    packed = getattr(torch.ops.quantized, f"embedding_bag_{kind}_prepack")(table)
    pool = getattr(torch.ops.quantized, f"embedding_bag_{kind}_rowwise_offsets")
    return Rival(f"torch {kind} bag", packed.nbytes, lambda b, _: pool(packed, b.tensor, b.starts))


def fbgemm(rows: int, dim: int, bits: int) -> Rival:
    """fbgemm's table-batched bags in the form for inference, one table of ``bits``-bit rows.

    Raises:
        ImportError: fbgemm-gpu-cpu is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own use of what Python and PyTorch deprecate
        from fbgemm_gpu import split_table_batched_embeddings_ops_common as common
        from fbgemm_gpu import split_table_batched_embeddings_ops_inference as inference
        from fbgemm_gpu.split_embedding_configs import SparseType

    kind = SparseType(f"int{bits}")
    pool = inference.IntNBitTableBatchedEmbeddingBagsCodegen(
        [("table", rows, dim, kind, common.EmbeddingLocation.HOST)],
        device="cpu",
        pooling_mode=common.PoolingMode.SUM,
        output_dtype=SparseType.FP32,
    )
    pool.fill_random_weights()
    nbytes = pool.weights_host.nbytes
    return Rival(f"fbgemm int{bits}", nbytes, lambda b, _: pool(b.int32, b.int32_ends))


def compressed(name: str, field: CompressedField, kept: bool = False) -> Rival:
    """A field of an artifact, through the NumPy interface."""

    def read(batch: Batch, threads: int) -> NDArray[np.float32]:
        if batch.bag == 1:
            return field.lookup(batch.ids, threads=threads)
        return field.pool(batch.ids, batch.offsets, threads=threads)

    return _named(name, field.nbytes, read, kept)


def module(name: str, field: CompressedField) -> Rival:
    """The same field inside a PyTorch model."""
    table = compressed_table([field], {}, like=torch.empty(0))
    rows, bags = CompressedEmbedding(table), CompressedEmbeddingBag(table, mode="sum")

    def read(batch: Batch, _: int) -> Tensor:
        return rows(batch.tensor) if batch.bag == 1 else bags(batch.tensor, batch.starts)

    return Rival(f"{name}, module", field.nbytes, read)


def time_in_turn(
    rivals: Sequence[Rival],
    ids: NDArray[np.int64],
    places: NDArray[np.int64] | None,
    bag: int,
    threads: int,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each repeat by rival.

    Before each timed reading a rival reads other ids, so that caches hold what they would hold if
    nobody else had had a turn. None reads ids that the one before it, perhaps in the same table,
    has just read, and none reads any twice.

    Args:
        rivals: take turns in this order.
        ids: (2 * (repeats + 1), m), by order of frequency; read in calls of ``IDS_PER_CALL``.
        places: (rows,) id of each rank, for rivals that read kept ids.
        bag: ids per bag.
        threads: of each rival.
        repeats: after the first.
        clock: gives seconds.
    """
    assert len(ids) == 2 * (repeats + 1)
    torch.set_num_threads(threads)
    batches = {False: [_batches(vector, bag) for vector in ids]}
    if places is not None:
        batches[True] = [_batches(places[vector], bag) for vector in ids]
    runs: dict[str, Callable[[], None]] = {}
    for turn, rival in enumerate(rivals):
        own, first = batches[rival.kept], turn % len(ids)
        read = _reader(rival, own[first:] + own[:first], threads)
        runs[f"{rival.name}, warming up"] = runs[rival.name] = read
    with torch.inference_mode():
        seconds = interleave(runs, repeats, clock)
    return {rival.name: seconds[rival.name] for rival in rivals}


def _batches(ids: NDArray[np.int64], bag: int) -> list[Batch]:
    starts = range(0, len(ids), IDS_PER_CALL)
    return [Batch.of(ids[start : start + IDS_PER_CALL], bag) for start in starts]


def _reader(rival: Rival, batches: Sequence[Sequence[Batch]], threads: int) -> Callable[[], None]:
    left = iter(batches)

    def read() -> None:
        for batch in next(left):
            rival.read(batch, threads)

    return read


def _named(name: str, nbytes: int, read: Callable[[Batch, int], object], kept: bool) -> Rival:
    return Rival(name + KEPT if kept else name, nbytes, read, kept)


def _pooled(rows: Any, batch: Batch) -> Any:
    """Rows, or their sums by bag, of a tensor or an array."""
    return rows if batch.bag == 1 else rows.reshape(-1, batch.bag, rows.shape[1]).sum(1)
