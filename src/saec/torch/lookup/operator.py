"""Lookup and pooling as one operator, which ``torch.compile`` and ``torch.export`` treat as a unit.

On a CPU it runs the native core, on a GPU one kernel by Triton if that is installed, and otherwise
plain tensor operations. Gradients repeat the lookup with plain operations, so the rows of a batch
need not be kept until then.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

import saec._native as _native
from saec.format.lookup_errors import fail
from saec.format.native_lookup import LookupTable, pool_request
from saec.torch.lookup.from_spec import reader_of
from saec.torch.lookup.reader import TableReader, plain
from saec.torch.lookup.recorded_calls import refuse_onnx
from saec.torch.lookup.triton import launch as gpu
from saec.util.cores import usable_cores

__all__ = ["DTYPES", "Place", "Prepared", "most_threads", "native_pool", "pool"]

# Dtypes of tables that the core reads, by its numbers for them.
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


# Conditions under which direct access must not replace operations that PyTorch sees.
_RECORDERS = [
    torch.is_grad_enabled,
    torch._C._get_tracing_state,
    torch._C._len_torch_dispatch_stack,
]
_exchange = _native.Exchange(torch.Tensor, _RECORDERS, torch.get_num_threads)


def _share_threads() -> None:
    """Let lookups run on the threads of PyTorch's own operations, from PyTorch 2.10 on.

    Threads of the core's own would wait for a core on which one of PyTorch's spins, waiting for its
    next operation.
    """
    function = getattr(ctypes.CDLL(torch._C.__file__), "torch_parallel_for", None)
    if function is not None:
        _native.set_pytorch_team(ctypes.cast(function, ctypes.c_void_p).value or 0)


_share_threads()

Place = tuple[dict[str, Any], str]


class _Made(NamedTuple):
    """A native table, and the tensors that it was made from."""

    table: LookupTable
    reader: TableReader
    watch: _native.Watch


class Prepared:
    """The native table of some tensors, made again when they change.

    Args:
        places: of the tensors, in the order of their reader: dictionaries, and the names under
            which these hold the tensors; empty where a shortcut is not useful.

    Attributes:
        shortcut: fast access to rows of a table that was made before; None otherwise,
            and if PyTorch is too old to have DLPack's C exchange API.
    """

    def __init__(self, places: Sequence[Place] = ()) -> None:
        self.places = list(places)
        self._made: _Made | None = None  # replaced as a whole: lookups may run in threads
        self.shortcut: _native.Shortcut | None = None

    def forget(self) -> None:
        """Release the table, which keeps tensors in memory that the module may no longer hold."""
        self._made = self.shortcut = None

    def table(self, reader: TableReader, tensors: Sequence[Tensor]) -> LookupTable:
        """The core's table for ``tensors``, which are on a CPU."""
        made = self._made
        if made is None or made.reader != reader or not made.watch.holds(tensors):
            table = reader.table(tensors)
            watch = _native.Watch(_exchange, tensors, reader.uses(table, tensors))
            self._made = made = _Made(table, reader, watch)
            if self.places and _exchange.has_api:
                element = DTYPES[reader.dtype(tensors)]
                names = reader.names[: len(tensors)]
                self.shortcut = _native.Shortcut(table, watch, self.places, names, element)
        return made.table


def most_threads() -> int:
    """The largest number of threads of a lookup."""
    return min(torch.get_num_threads(), usable_cores())


def native_pool(
    table: LookupTable,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    mode: str,
    skipped: int,
    dtype: torch.dtype,
    place: str,
) -> Tensor:
    """Rows (m, dim) of flat contiguous ids, or bags (bags, dim) if there are int64 offsets.

    Raises:
        IdError: an id or an offset is out of range.
        ArtifactError: a code or a tier vector is damaged.
    """
    count = ids.shape[0]
    bags = count if offsets is None else offsets.shape[0]
    out = torch.empty((bags, table.dim), dtype=dtype, device="cpu")  # not the default
    request = pool_request(
        table,
        ids.data_ptr(),
        ids.itemsize,
        count,
        0 if offsets is None else offsets.data_ptr(),
        bags,
        0 if weights is None else weights.data_ptr(),
        mode,
        out.data_ptr(),
        table.dim * out.itemsize,
        skipped,
    )
    failure = _native.pool([request], DTYPES[dtype], most_threads(), in_pytorch=True)
    if failure[0]:
        fail(failure, ids, table, place)
    return out


# Directly: torch.library.custom_op checks every call in Python, which takes as long as some
# lookups.
_torch_library: Any = torch.library  # parts of which have no types
_LIBRARY = _torch_library.Library("saec", "FRAGMENT")
_LIBRARY.define(
    "pool(Tensor ids, Tensor? offsets, Tensor? weights, Tensor[] tensors, str reader, str mode, "
    "int skipped) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order),
)


def _pool(
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    tensors: Sequence[Tensor],
    reader: str,
    mode: str,
    skipped: int,
) -> Tensor:
    """Rows (m, dim) of ids (m,), or bags (bags, dim) if there are offsets.

    Args:
        ids: (m,) int32 or int64, contiguous.
        offsets: (bags,) int64, the start of each bag, or None.
        weights: (m,) of the table's dtype, for sums, or None.
        tensors: of the table, in the order of its reader.
        reader: the reader's ``spec``.
        mode: sum, mean or max.
        skipped: id that is left out of bags, or, without bags, gets no gradient; or -1.

    Raises:
        IdError: on a CPU, an id or an offset is out of range.
    """
    found = reader_of(reader)
    if gpu.available(tensors[0]):
        return found.fused(ids, offsets, weights, tensors, mode, skipped)
    dtype = found.dtype(tensors)
    if ids.device.type == "cpu" and dtype in DTYPES:
        factors = None if weights is None else weights.float()
        table = _prepared(tensors[found.parameters]).table(found, tensors)
        left_out = -1 if offsets is None else skipped
        return native_pool(table, ids, offsets, factors, mode, left_out, dtype, "table")
    return plain(found, ids, offsets, weights, tensors, mode, skipped).contiguous()


_LIBRARY.impl("pool", _pool, "CompositeExplicitAutograd")


def _pool_shape(
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    tensors: Sequence[Tensor],
    reader: str,
    mode: str,
    skipped: int,
) -> Tensor:
    refuse_onnx()
    found = reader_of(reader)
    rows = ids.shape[0] if offsets is None else offsets.shape[0]
    return tensors[0].new_empty((rows, found.dim(tensors)), dtype=found.dtype(tensors))


_torch_library.register_fake("saec::pool", _pool_shape, lib=_LIBRARY)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ids, offsets, weights, tensors, ctx.reader, ctx.mode, ctx.skipped = inputs
    ctx.count = len(tensors)
    ctx.optional = (offsets is not None, weights is not None)
    ctx.save_for_backward(ids, *(t for t in (offsets, weights) if t is not None), *tensors)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    ids, *rest = ctx.saved_tensors
    offsets = rest.pop(0) if ctx.optional[0] else None
    weights = rest.pop(0) if ctx.optional[1] else None
    found = reader_of(ctx.reader)
    with torch.enable_grad():
        learning = [tensor.detach().requires_grad_() for tensor in rest[: found.parameters]]
        factors = None if weights is None else weights.detach().requires_grad_()
        held = [*learning, *rest[found.parameters :]]
        out = plain(found, ids, offsets, factors, held, ctx.mode, ctx.skipped)
        wanted = learning if factors is None else [*learning, factors]
        gradients = list(torch.autograd.grad(out, wanted, gradient, allow_unused=True))
    of_weights = None if weights is None else gradients.pop()
    of_tensors = [*gradients, *[None] * (ctx.count - len(gradients))]
    return None, None, of_weights, of_tensors, None, None, None


_torch_library.register_autograd("saec::pool", _backward, setup_context=_setup, lib=_LIBRARY)


def _pool_each(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensor, int]:
    """One call after the other."""

    def of(index: int, argument: Any, dim: Any) -> Any:
        if isinstance(argument, Sequence) and isinstance(dim, Sequence):
            return [of(index, *pair) for pair in zip(argument, dim, strict=True)]
        return argument if dim is None else argument.select(dim, index).contiguous()

    calls = [
        pool(*(of(index, *pair) for pair in zip(arguments, in_dims, strict=True)))
        for index in range(info.batch_size)
    ]
    return torch.stack(calls), 0


_torch_library.register_vmap("saec::pool", _pool_each, lib=_LIBRARY)

# The operator as a Python function.
pool = torch.ops.saec.pool.default

_kept: Any = WeakIdKeyDictionary()  # which has no types


def _prepared(codes: Tensor) -> Prepared:
    """The native table prepared for the tensors with these codes, as long as they exist."""
    prepared: Prepared | None = _kept.get(codes)
    if prepared is None:
        prepared = _kept[codes] = Prepared()
    return prepared
