"""Interface of alternative methods, and the codec for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

import saec.artifact as artifact
from saec.artifact import entry_bytes
from saec.codecs.protocol import Coded, Option
from saec.errors import ArtifactError
from saec.format.compressed_field import CompressedField
from saec.format.native_lookup import LookupTable, RowRun, run_table
from saec.streaming.chunks import check_float16
from saec.streaming.map_reduce import Advance
from saec.streaming.scratch import Workspace
from saec.tables.field import Field
from saec.tables.loss_metric import Metric
from saec.util.absent_arrays import absent

__all__ = ["AfterTraining", "Choice", "OneSize", "Rival", "RivalField", "Table", "as_half"]

Choice = tuple[int, ...]
"""A size on offer: what it means is the rival's own affair; () where there is one size."""


@dataclass(frozen=True, eq=False)
class Table:
    """What rivals see of a field.

    Args:
        name: of the field, for errors.
        rows: (n, dim) float32.
        frequencies: (n,) float64.
    """

    name: str
    rows: NDArray[np.float32]
    frequencies: NDArray[np.float64]

    @classmethod
    def of(cls, field: Field) -> Self:
        """All rows of ``field``, in memory."""
        rows = np.ascontiguousarray(field.rows.read(0, field.vocab_size), dtype=np.float32)
        return cls(field.name, rows, field.frequencies)


class Rival(Protocol):
    """A way to compress one table after training, as a frozen dataclass."""

    @property
    def has_one_size(self) -> bool:
        """Whether :meth:`choices` has one element for every table."""

    def choices(self, count: int, dim: int) -> Sequence[Choice]:
        """The sizes on offer for a table of ``count`` rows."""

    def planned(self, count: int, dim: int, choice: Choice) -> dict[str, NDArray[Any]]:
        """Tensors by role, of the shapes and dtypes of :meth:`encode` for a table (count, dim);
        their values are undefined."""

    def losses(
        self, table: Table, choices: Sequence[Choice], rng: np.random.Generator
    ) -> list[float]:
        """The expected squared error of each choice, weighted by frequency and summed over rows."""

    def encode(
        self, table: Table, choice: Choice, rng: np.random.Generator
    ) -> dict[str, NDArray[Any]]:
        """Tensors, by role of the artifact, with everything that decoding needs.

        Raises:
            FieldError: values are too large for the rival's numbers.
        """

    def rows(
        self,
        tensors: Mapping[str, NDArray[Any]],
        ids: NDArray[np.int64],
        shape: tuple[int, int],
        choice: Choice,
    ) -> NDArray[np.float32]:
        """The rows (m, dim) of ``ids`` (m,) in the stored table, of ``shape`` (count, dim)."""


class OneSize:
    """Base class of methods that have one size for every table."""

    has_one_size = True

    def choices(self, count: int, dim: int) -> Sequence[Choice]:
        """One."""
        return [()]

    def losses(
        self, table: Table, choices: Sequence[Choice], rng: np.random.Generator
    ) -> list[float]:
        """0: nothing is decided by the loss of the only size."""
        return [0.0]


class RivalField(CompressedField):
    """A table as a rival stores it, beside its decoded rows, which lookups read.

    Sizes are those of the stored tensors. It is for measuring: :func:`saec.load` does not read it.
    """

    codec = "rival"
    kind = 255

    def __init__(
        self,
        field: Field,
        rival: Rival,
        choice: Choice,
        tensors: dict[str, NDArray[Any]],
        rows: NDArray[Any],
    ) -> None:
        super().__init__(field.name, field.vocab_size, field.dim, field.dtype.name)
        self._rival = rival
        self._choice = choice
        self._tensors = tensors
        self._rows = rows

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors that the method stores."""
        return self._tensors

    @property
    def details(self) -> bytes:
        """The choice, four bytes a number."""
        return np.array(self._choice, np.uint32).tobytes()

    def from_stored(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """The rows (m, dim) of ``ids`` (m,), computed from the stored tensors as a server
        would."""
        return self._rival.rows(self._tensors, ids, (self.vocab_size, self.dim), self._choice)

    def _lookup_table(self) -> LookupTable:
        codes = np.zeros(0, dtype=np.uint8)
        return run_table(self.vocab_size, [RowRun(0, 0, 0, 0)], codes, self._rows)

    @classmethod
    def _from_entry(cls, entry: artifact.Entry) -> Self:
        raise ArtifactError("rivals are measured, and not read from files")


@dataclass(frozen=True)
class AfterTraining:
    """A rival as a codec; see :class:`~saec.codecs.protocol.Codec`.

    Where a rival has several sizes, the allocation over fields is ours: each field gets the size
    that lowers the squared error, weighted by frequency, most for its bits.
    """

    renumbers = False
    only_copies = False

    rival: Rival

    @property
    def has_one_size(self) -> bool:
        """As the rival has it."""
        return self.rival.has_one_size

    def sampled_bytes(self, field: Field) -> int:
        """All rows as float32, and some copies of them."""
        return 16 * field.vocab_size * field.dim

    def options(
        self, field: Field, metric: Metric | None, rng: np.random.Generator, space: Workspace
    ) -> Sequence[Option]:
        """All sizes, in Euclidean distance whatever the metric."""
        choices = self.rival.choices(field.vocab_size, field.dim)
        lost = self.rival.losses(Table.of(field), choices, rng)
        return [
            Option(8 * entry_bytes(self._planned(field, choice).entry), loss, choice)
            for choice, loss in zip(choices, lost, strict=True)
        ]

    def least(self, field: Field, space: Workspace) -> RivalField:
        """The smallest size."""
        planned = [
            self._planned(field, choice)
            for choice in self.rival.choices(field.vocab_size, field.dim)
        ]
        return min(planned, key=lambda one: entry_bytes(one.entry))

    def encode(
        self,
        field: Field,
        choice: object,
        rng: np.random.Generator,
        advance: Advance,
        space: Workspace,
    ) -> Coded:
        """Encode, and decode the stored tensors."""
        assert isinstance(choice, tuple)
        table = Table.of(field)
        tensors = self.rival.encode(table, choice, rng)
        shape = field.vocab_size, field.dim
        rows = self.rival.rows(tensors, np.arange(field.vocab_size), shape, choice)
        squared = np.square((rows - table.rows).astype(np.float64)).sum(axis=1)
        advance(1.0)
        lost = float(table.frequencies @ squared) / (2 * field.census.total)
        return Coded(RivalField(field, self.rival, choice, tensors, rows), lost)

    def _planned(self, field: Field, choice: Choice) -> RivalField:
        shape = field.vocab_size, field.dim
        none = absent(np.float32, *shape)
        return RivalField(field, self.rival, choice, self.rival.planned(*shape, choice), none)


def as_half(values: NDArray[Any], name: str) -> NDArray[np.float16]:
    """``values`` of a field rounded to float16.

    Raises:
        FieldError: one is beyond the largest that float16 holds.
    """
    check_float16(name, float(np.abs(values).max(initial=0.0)))
    return values.astype(np.float16)
