"""Arguments of bags, as ``nn.EmbeddingBag`` takes them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saec.errors import IdError
from saec.torch.lookup.recorded_calls import recorded

__all__ = ["FlatBags", "check_weights", "flat_bags"]


class FlatBags(NamedTuple):
    """Bags of one run of ids.

    Attributes:
        ids: (m,).
        starts: (bags,) int64, the start of each bag.
        surplus: whether the last bag has ids that belong to none, and must be dropped.
    """

    ids: Tensor
    starts: Tensor
    surplus: bool = False


def check_weights(ids: Tensor, weights: Tensor | None, mode: str) -> None:
    """Reject weights that do not fit the ids or the mode.

    Raises:
        ValueError: they do not.
    """
    if weights is None:
        return
    if mode != "sum":
        raise ValueError(f"per_sample_weights go with mode 'sum', not {mode!r}")
    if weights.shape != ids.shape:
        raise ValueError(
            f"ids have shape {tuple(ids.shape)}, per_sample_weights {tuple(weights.shape)}"
        )


def flat_bags(
    ids: Tensor, offsets: Tensor | None, include_last_offset: bool, open_end: bool, place: str
) -> FlatBags:
    """Bags of a matrix of ids (bags, width), or of ids (m,) with offsets.

    Args:
        ids: int32 or int64.
        offsets: (bags,) integers or, with ``include_last_offset``, (bags + 1,).
        include_last_offset: whether the last offset is the end of the last bag.
        open_end: whether ids may follow that end, which belong to no bag. PyTorch itself leaves
            them out only in plain sums; in other modes it counts some of them in the last bag.
        place: name of the table in errors.

    Raises:
        IdError: on a CPU, ids follow the last offset, or it is beyond them.
        ValueError: shapes do not fit together.
    """
    if ids.dim() == 2:
        if offsets is not None:
            raise ValueError("a matrix of ids has a bag in each row, and no offsets")
        count, width = ids.shape
        return FlatBags(ids.reshape(-1), torch.arange(count, device=ids.device) * width)
    if ids.dim() != 1:
        raise ValueError(f"ids are a vector or a matrix, not of shape {tuple(ids.shape)}")
    if offsets is None or offsets.dim() != 1:
        raise ValueError("a vector of ids needs a vector of offsets")
    offsets = offsets.long().contiguous()
    if not include_last_offset:
        return FlatBags(ids, offsets)
    if offsets.shape[0] < 1:
        raise ValueError("with include_last_offset there is at least one offset")
    if not ids.is_cpu:
        return FlatBags(ids, offsets[:-1])  # as PyTorch's kernels do there, in all modes
    return (_recorded_end if recorded() else _checked_end)(ids, offsets, open_end, place)


def _checked_end(ids: Tensor, offsets: Tensor, open_end: bool, place: str) -> FlatBags:
    """Bags that end at the last offset."""
    end = int(offsets[-1])
    if not 0 <= end <= len(ids):
        raise IdError(f"{place}: offsets must ascend from 0 to at most {len(ids)}, not to {end}")
    if end < len(ids) and not open_end:
        raise IdError(f"{place}: {_end_message(end, len(ids))}")
    return FlatBags(ids[:end], offsets[:-1])


def _recorded_end(ids: Tensor, offsets: Tensor, open_end: bool, place: str) -> FlatBags:
    """The same in a graph, whose shapes must not depend on values in tensors."""
    if not open_end:
        here = offsets[-1] == ids.shape[0]
        torch._assert_async(here, f"{place}: {_end_message('an offset', 'their number')}")
        return FlatBags(ids, offsets[:-1])
    inside = torch.arange(ids.shape[0], device=ids.device) < offsets[-1]
    return FlatBags(torch.where(inside, ids, 0), offsets, surplus=True)


def _end_message(end: int | str, count: int | str) -> str:
    return (
        f"with include_last_offset the last offset is the number of ids, {count}, not {end}; "
        "only sums without padding_idx leave out ids that follow: pass ids[:offsets[-1]]"
    )
