"""Interface of served models: a signature, and a function from inputs to outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from numpy.typing import NDArray

from saec.format.cold_tables import ReadCounts
from saec.serve.protocol import InferRequest, RefusedError, Status, TensorSpec, invalid

__all__ = ["Model", "check_known", "check_size"]


class Model(ABC):
    """A model that several threads may call at once.

    inputs, outputs: its signature. nbytes: bytes of its file, or files. read_counts: what it has
    read from the file, if it was opened with a limit of its memory.

    Requests are computed in two stages, :meth:`look_up` and :meth:`score`. Those whose rows do not
    depend on each other can be computed together (serve/joining.py). parameters: those of a request
    that change its outputs. offsets: inputs with starts of bags, and the inputs with their ids.
    """

    platform: ClassVar[str]
    parameters: ClassVar[tuple[str, ...]] = ()
    offsets: Mapping[str, str] = MappingProxyType({})
    read_counts: ReadCounts | None = None
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    nbytes: int

    @classmethod
    @abstractmethod
    def open(cls, path: Path) -> Model:
        """Read and check a file; raises ArtifactError."""

    def infer(self, request: InferRequest, most_bytes: int) -> dict[str, NDArray[Any]]:
        """Compute the requested outputs, by name.

        Args:
            request: inputs, parameters and names of outputs.
            most_bytes: limit of the size of all outputs.

        Raises:
            RefusedError: the request does not fit the model, or its outputs are too large.
            ArtifactError: the file is damaged.
        """
        return self.score(self.look_up(request, most_bytes), most_bytes)

    @abstractmethod
    def look_up(self, request: InferRequest, most_bytes: int) -> Any:
        """The first stage: check a request and look up its rows; raises as :meth:`infer`."""

    @abstractmethod
    def score(self, found: Any, most_bytes: int) -> dict[str, NDArray[Any]]:
        """The second stage: outputs from what :meth:`look_up` gave; raises as :meth:`infer`."""

    @abstractmethod
    def output_lengths(self, request: InferRequest) -> dict[str, int] | None:
        """First lengths of a request's outputs; None if it must be computed alone.

        Not all of the request is checked: a wrong one may have lengths, but what is in its inputs
        can then not reach the outputs of another request.
        """

    @abstractmethod
    def check_batches(self) -> None:
        """Raise ArtifactError if requests can never be computed together."""


def check_known(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise RefusedError for a name that is not ``known``; the message lists the known ones."""
    for name in names:
        if name not in known:
            raise invalid(f"there is no {what} {name!r}; there are: {', '.join(known) or 'none'}")


def check_size(what: str, nbytes: int, most_bytes: int) -> None:
    """Raise RefusedError if rows or outputs are too large."""
    if nbytes > most_bytes:
        raise RefusedError(
            Status.TOO_LARGE, f"the {what} take {nbytes} bytes; at most {most_bytes} are given"
        )
