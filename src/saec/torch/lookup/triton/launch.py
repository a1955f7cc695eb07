"""Rows and bags of compressed tables on CUDA devices, decoded in one kernel, without gradients.

Results are those of the plain tensor operations: rows of float32 tables bit for bit, because the
kernels are compiled without fusing products into sums; bags up to rounding, because their entries
are added in another order, and always in float32. A GPU cannot raise an error for an id in time:
for an id out of range the row, or its bag, is NaN, and nothing is read for it.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "ClusteredTensors",
    "Reduction",
    "TieredTensors",
    "available",
    "clustered_pool",
    "clustered_rows",
    "tiered_pool",
    "tiered_rows",
]

# Sizes for a program of 128 threads, limited by its registers: rows or entries of bags, values of
# each and codes of all; and the most entries of one bag. Triton 3.7.1
# compiles all blocks that follow from these; with others, such as 16 lanes by 4 axes, it has
# failed.
_LANES = 128
_NUMBERS = 16
_CODES = 1024
_ENTRIES = 32
_UNFUSED = {"enable_fp_fusion": False}


class ClusteredTensors(NamedTuple):
    """The tensors of a :class:`~saec.torch.table.clustered.ClusteredTable`, contiguous."""

    vocab_size: int
    codes: Tensor
    layout: Tensor
    codebook: Tensor


class TieredTensors(NamedTuple):
    """The tensors of a :class:`saec.torch.table.tiered.TieredTable` by name, contiguous."""

    vocab_size: int
    codes: Tensor
    layout: Tensor
    values: Tensor
    extents: Tensor
    axes: Tensor
    mean: Tensor
    starts: Tensor | None = None


class Reduction(NamedTuple):
    """The reduction of ids.

    bounds: (bags + 1,) int64, the start of each bag, and the end of the last one; mode: sum, mean
    or max; weights: (m,), for sums only; padding_idx: the id that is left out.
    """

    bounds: Tensor
    mode: str
    weights: Tensor | None = None
    padding_idx: int | None = None


def available(like: Tensor) -> bool:
    """Whether these functions support tables with the device and dtype of ``like``.

    They support a CPU if Triton's interpreter is enabled by its environment variable.
    """
    here = like.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    return here and like.dtype != torch.float64 and _installed()


def clustered_rows(table: ClusteredTensors, ids: Tensor) -> Tensor:
    """Rows (m, dim) of ids (m,), int32 or int64, in the codebook's dtype."""
    out = table.codebook.new_empty(len(ids), table.codebook.shape[1])
    if out.numel():
        _launch_rows(_cluster_kernels().clustered_rows, out, ids, _clustered_options(table))
    return out


def clustered_pool(table: ClusteredTensors, ids: Tensor, bags: Reduction) -> Tensor:
    """Bags (bags, dim) of ids (m,), int32 or int64, in the codebook's dtype."""
    out = table.codebook.new_empty(len(bags.bounds) - 1, table.codebook.shape[1])
    if out.numel():
        _launch_bags(_cluster_kernels().clustered_pool, out, ids, bags, _clustered_options(table))
    return out


def tiered_rows(
    table: TieredTensors, ids: Tensor, located: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Rows (m, dim) of ids (m,), int32 or int64, in the mean's dtype.

    ``located`` are tiers and places (m,), int64, where ids are no ranks; see
    :meth:`saec.torch.lookup.tier_index.locate`.
    """
    out = table.mean.new_empty(len(ids), len(table.mean))
    if out.numel():
        _launch_rows(_tier_kernels().tiered_rows, out, ids, _tiered_options(table, located))
    return out


def tiered_pool(
    table: TieredTensors,
    ids: Tensor,
    bags: Reduction,
    located: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Bags (bags, dim) of ids (m,), in the mean's dtype; arguments as of :func:`tiered_rows`."""
    out = table.mean.new_empty(len(bags.bounds) - 1, len(table.mean))
    if out.numel():
        options = _tiered_options(table, located)
        # Maxima need no block of coordinates, so more entries fit into a program.
        options["RANK"] = 1 if bags.mode == "max" else _power_of_two(table.axes.shape[0])
        _launch_bags(_tier_kernels().tiered_pool, out, ids, bags, options)
    return out


def _clustered_options(table: ClusteredTensors) -> dict[str, Any]:
    segments = table.layout.shape[1]
    centroids, dim = table.codebook.shape
    return {
        **table._asdict(),
        "codes": _aligned(table.codes),
        "segments": segments,
        "centroids": centroids,
        "dim": dim,
        "STEPS": (segments - 1).bit_length(),
        "DIM": min(_power_of_two(dim), _NUMBERS),
    }


def _tiered_options(table: TieredTensors, located: tuple[Tensor, Tensor] | None) -> dict[str, Any]:
    tiers, columns = table.layout.shape
    rank, dim = table.axes.shape
    tiers_of, places_of = (None, None) if located is None else located
    starts = 0 if table.starts is None else len(table.starts)
    return {
        **table._asdict(),
        "codes": _aligned(table.codes),
        "code_starts": table.starts,
        "starts": starts,
        "ORDERED": starts.bit_length(),
        "tiers_of": tiers_of,
        "places_of": places_of,
        "tiers": tiers,
        "columns": columns,
        "rank": rank,
        "dim": dim,
        "STEPS": (tiers - 1).bit_length(),
        "DIM": min(_power_of_two(dim), _NUMBERS),
    }


def _launch_rows(kernel: Any, out: Tensor, ids: Tensor, options: dict[str, Any]) -> None:
    programs = _cdiv(len(ids), _LANES)
    _launch(kernel, programs, out, ids=ids, count=len(ids), ROWS=_LANES, **options)


def _launch_bags(
    kernel: Any, out: Tensor, ids: Tensor, bags: Reduction, options: dict[str, Any]
) -> None:
    """Give each bag as many lanes as bags have entries on average, and each program several
    bags."""
    count = len(out)
    lanes = max(min(_CODES // options.get("RANK", 1), _LANES), 1)
    entries = min(_power_of_two(_cdiv(len(ids), count)), lanes, _ENTRIES)
    _launch(
        kernel,
        _cdiv(count, lanes // entries),
        out,
        ids=ids,
        count=len(ids),
        bounds=bags.bounds,
        bags=count,
        weights=bags.weights,
        padding=-1 if bags.padding_idx is None else bags.padding_idx,
        MODE=bags.mode,
        BAGS=lanes // entries,
        ENTRIES=entries,
        **options,
    )


def _launch(kernel: Any, programs: int, out: Tensor, **arguments: Any) -> None:
    # Triton uses the current device, not the tensors' device; -1, a CPU's, changes nothing.
    with torch.cuda.device(out.get_device()):
        kernel[(programs,)](out, **arguments, **_UNFUSED)


def _aligned(codes: Tensor) -> Tensor:
    """``codes`` in memory that allows reads of four-byte words."""
    return codes if codes.data_ptr() % 4 == 0 else codes.clone()


def _power_of_two(count: int) -> int:
    """The smallest that is at least ``count``, and 1."""
    return 1 << max(count - 1, 0).bit_length()


def _cdiv(count: int, size: int) -> int:
    return -(-count // size)


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _cluster_kernels() -> Any:
    from saec.torch.lookup.triton import clusters as triton_clusters

    return triton_clusters


def _tier_kernels() -> Any:
    from saec.torch.lookup.triton import tiers as triton_tiers

    return triton_tiers
