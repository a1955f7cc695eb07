"""Processes that share work under ``torch.distributed``, and the messages between them.

Every rank iterates over the same batches and processes its slice of each. The results of the
slices are summed by one ``all_reduce`` per batch. The same message contains a check of each
rank's batch and whether the rank failed: so all ranks raise an error when one does, and none
waits for another forever.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, distributed, nn

from saec.errors import DataError, SaecError

__all__ = ["Exchange", "Gradients", "Ranks", "Share", "checksum"]

# Notes go with float32 sums, which hold whole numbers up to 2^24 exactly.
_CHECK_BITS = 20
_FAILED = 0

# Rows of a batch that enter its check.
_SAMPLED_ROWS = 64


@dataclass(frozen=True)
class Share:
    """A rank's slice of a batch.

    Attributes:
        inputs: arguments of the model.
        labels: labels for the loss.
        examples: number of rows, 0 in a batch of fewer rows than there are ranks; None if a
            process is alone, which processes whole batches.
        check: distinguishes the whole batch from others.
    """

    inputs: Any
    labels: Any
    examples: int | None
    check: int


@dataclass(frozen=True)
class Ranks:
    """The processes that share work, and the rank of this one; one process is alone."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """The processes of the default process group, if there is one."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def part(self, rows: int) -> slice:
        """This rank's part of ``rows`` rows; the parts' lengths differ by one at most."""
        return slice(rows * self.rank // self.count, rows * (self.rank + 1) // self.count)

    def share(self, inputs: Any, labels: Any = None) -> Share:
        """This rank's slice of a batch, of every tensor in it that is not a single number.

        Raises:
            DataError: these have different numbers of rows, or there are none, or an argument holds
                rows that cannot be sliced.
        """
        if self.count == 1:
            return Share(inputs, labels, None, 0)
        arrays = [tensor for tensor in _tensors((inputs, labels)) if tensor.ndim]
        rows = {len(array) for array in arrays}
        if len(rows) != 1:
            raise DataError(
                f"ranks take slices of a batch, whose tensors have {sorted(rows) or 'no'} rows; "
                "they need the same number, one for each example (bags: a matrix of ids)"
            )
        part = self.part(rows.pop())
        check = 0
        for array in arrays:
            check = checksum([array[:_SAMPLED_ROWS]], check + len(array))
        return Share(_cut(inputs, part), _cut(labels, part), part.stop - part.start, check)

    def together(self, what: str, like: Tensor | None = None) -> Exchange:
        """The next exchange, which all ranks leave together: see :class:`Exchange`."""
        return Exchange(self, what, torch.empty(0) if like is None else like)


class Exchange:
    """Work of all ranks that ends with the sum of their values; a context manager.

    On exit ``value``, of the shape (n,) and dtype (float32 or float64) of ``like``, becomes
    the sum over the ranks. If a process is alone, it is unchanged.

    Attributes:
        value: this rank's value; the sum after exit.
        check: identifies the work; must be the same on all ranks.

    Raises:
        SaecError: on exit, another rank raised an error instead.
        DataError: on exit, ranks worked on different things.
    """

    def __init__(self, ranks: Ranks, what: str, like: Tensor) -> None:
        self._ranks, self._what = ranks, what
        self.value = self._like = like
        self.check = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        # An interrupted rank ends at once, without a last message; the others notice that it is
        # gone.
        if self._ranks.count == 1 or (kind is not None and not issubclass(kind, Exception)):
            return
        own = _FAILED if kind is not None else 1 + self.check % (1 << _CHECK_BITS)
        value = self.value if kind is None else torch.zeros_like(self._like)
        notes = value.new_zeros(self._ranks.count)
        notes[self._ranks.rank] = own
        message = torch.cat([value, notes]).to(_device())
        distributed.all_reduce(message)
        self.value = message[: len(value)].to(value.device)
        if kind is None:
            self._compare(message[len(value) :].tolist(), own)

    def _compare(self, notes: Sequence[float], own: int) -> None:
        for rank, note in enumerate(notes):
            if note == _FAILED:
                raise SaecError(f"{self._what}: rank {rank} failed; its own error says why")
        for rank, note in enumerate(notes):
            if note != own:
                raise DataError(
                    f"{self._what}: rank {rank} has something else than rank {self._ranks.rank}; "
                    "all ranks need the same model, rows, batches in the same order, and options"
                )


class Gradients:
    """Gradients of ``parameters`` in one tensor, for the exchange between ranks.

    It holds the sums over a share's examples, for each parameter 1 if it has a gradient at all
    (an optimizer skips those without), and the number of examples.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._sizes = [parameter.numel() for parameter in parameters]
        self._dtype = torch.float32
        for parameter in parameters:
            self._dtype = torch.promote_types(self._dtype, parameter.dtype)

    @property
    def like(self) -> Tensor:
        """Zeros of the shape (n,), dtype and device of the exchanged tensor."""
        size = sum(self._sizes) + len(self._sizes) + 1
        return torch.zeros(size, dtype=self._dtype, device=self._parameters[0].device)

    def sums(self, examples: int) -> Tensor:
        """The tensor for the present gradients, which are means over ``examples`` examples."""
        result = self.like
        *parts, present, count = self._split(result)
        for index, (parameter, part) in enumerate(zip(self._parameters, parts, strict=True)):
            if parameter.grad is not None:
                part.copy_(parameter.grad.reshape(-1)).mul_(examples)
                present[index] = 1
        count.fill_(examples)
        return result

    def set_means(self, sums: Tensor) -> None:
        """Set the parameters' gradients to the means over all examples."""
        *parts, present, count = self._split(sums)
        for parameter, part, found in zip(self._parameters, parts, present.tolist(), strict=True):
            mean = (part / count).reshape(parameter.shape).to(parameter)
            parameter.grad = mean if found else None

    def _split(self, sums: Tensor) -> tuple[Tensor, ...]:
        return torch.split(sums, [*self._sizes, len(self._sizes), 1])


def checksum(tensors: Iterable[Tensor], start: int = 0) -> int:
    """A check of the content of tensors."""
    for tensor in tensors:
        data = tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8)
        start = zlib.crc32(data.numpy().data, start)
    return start


def _device() -> torch.device:
    """The device for collectives: NCCL supports GPUs only."""
    if distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _cut(value: Any, part: slice) -> Any:
    if isinstance(value, Tensor):
        return value[part] if value.ndim else value
    if isinstance(value, dict):
        return {name: _cut(entry, part) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        entries = [_cut(entry, part) for entry in value]
        return tuple(entries) if isinstance(value, tuple) else entries
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise DataError(
        f"ranks take slices of a batch, and a {type(value).__name__} in it cannot be sliced"
    )
