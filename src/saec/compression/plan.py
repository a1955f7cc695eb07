"""Bytes and distortion of each option of the fields, and the choice among them for a budget."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike

import saec.artifact as artifact
from saec.codecs.axes.codec import Axes
from saec.codecs.clusters.codec import Clusters
from saec.codecs.protocol import Codec, Coded, Option
from saec.codecs.raw import Raw
from saec.compression.allocation import allocate_confirmed, allocate_within, frontier
from saec.compression.budget import Budget, LossIncrease, SizeBudget, check_budget
from saec.errors import BudgetError, OptionError
from saec.streaming.map_reduce import Advance, Executor, passes_over
from saec.streaming.scratch import IN_MEMORY, Workspace
from saec.tables.field import Field, check_fields
from saec.tables.loss_metric import Metric, check_metrics
from saec.util.progress import track

__all__ = [
    "DEFAULT_CODEC",
    "CodecChoice",
    "Priced",
    "check_reachable",
    "check_request",
    "field_rng",
    "measure",
]

DEFAULT_CODEC: Codec = Axes()


@dataclass(frozen=True, eq=False)
class CodecChoice:
    """A codec's choice for a field, and the codec that carries it out."""

    codec: Codec
    choice: object

    def encode(
        self, field: Field, rng: np.random.Generator, advance: Advance, space: Workspace
    ) -> Coded:
        """See :meth:`saec.codecs.protocol.Codec.encode`."""
        return self.codec.encode(field, self.choice, rng, advance, space)


@dataclass(frozen=True, eq=False)
class Priced:
    """Fields with all options of each, measured once for any number of budgets.

    :func:`saec.measure` makes one; :func:`saec.inspect`, :func:`saec.forecast` and
    :func:`saec.compress` take it in place of the fields.

    Attributes:
        fields: the fields to compress.
        codec: the codec that measures and codes them.
        metrics: by field name; None for Euclidean distance.
        options: for each field the codec's options and last the uncompressed table; the choice of
            each is a :class:`CodecChoice`.
        seed: random seed.
        progress: whether to show progress bars.
        given: the metrics as they were given, with their standard errors if these are known.
        executor: works on the fields' rows; None for this process.
    """

    fields: tuple[Field, ...]
    codec: Codec
    metrics: Mapping[str, Metric] | None
    options: tuple[Sequence[Option], ...]
    seed: int
    progress: bool
    given: Mapping[str, ArrayLike] | None = None
    executor: Executor | None = None

    @classmethod
    def of(
        cls,
        fields: Iterable[Field] | Priced,
        codec: Codec | None,
        metrics: Mapping[str, ArrayLike] | None,
        *,
        seed: int,
        progress: bool,
        space: Workspace = IN_MEMORY,
        budget: Budget | None = None,
    ) -> Priced:
        """Measure the options; arguments and errors as in :func:`saec.compress`.

        A ``budget`` that cannot be reached is rejected first. A ``Measured`` is returned unchanged,
        with its own codec and metrics.
        """
        check_request(codec, seed)
        if isinstance(fields, Priced):
            _check_unused(codec, metrics, space.executor)
            return fields
        checked = check_fields(fields)
        known = None if metrics is None else check_metrics(checked, metrics)
        codec = codec or DEFAULT_CODEC
        _check_keys(checked, codec)
        check_reachable(checked, budget, codec, space)
        options = tuple(
            _offered(
                codec,
                field,
                codec.options(
                    field,
                    None if known is None else known[field.name],
                    field_rng(seed, field, 0),
                    space,
                ),
            )
            for field in track(checked, description="measuring fields", show=progress)
        )
        return cls(checked, codec, known, options, seed, progress, metrics, space.executor)

    def __repr__(self) -> str:
        number = sum(map(len, self.options))
        unit = "squared distances" if self.metrics is None else "nats"
        return (
            f"Priced({len(self.fields)} fields, {_original(self.fields)} bytes, {self.codec}, "
            f"{number} options, losses in {unit})"
        )

    def file_bytes(self, chosen: Sequence[Option]) -> int:
        """Bytes of the file with the fields stored as ``chosen``."""
        return artifact.FIXED_BYTES + sum(option.bits for option in chosen) // 8

    def chosen(self, budget: Budget | None) -> list[Option]:
        """One option per field, within the budget; errors as in :func:`saec.compress`."""
        check_budget(budget)
        if budget is None:
            if not self.codec.has_one_size:
                raise BudgetError("a codec that does not fix the number of clusters needs a budget")
            return [options[0] for options in self.options]
        if isinstance(budget, LossIncrease):
            if self.metrics is None or self.codec.has_one_size:
                raise BudgetError(
                    f"{budget} needs metrics, and a codec that leaves the number of clusters open"
                )
            within = allocate_within(self.options, budget.value)
            if within is None:  # only fields with keys lack an option without loss
                least = min(step.expected for step in frontier(self.options))
                raise BudgetError(f"{budget} cannot be met: the least predicted is {least:.3g}")
            return within
        return self._within(budget)

    def _within(self, budget: SizeBudget) -> list[Option]:
        limit = _limit(budget, self.fields)
        smallest = [min(row, key=lambda option: option.bits) for row in self.options]
        size = self.file_bytes(smallest)
        if size > limit:
            raise _unreachable(budget, limit, size, self.fields)
        names = [field.name for field in self.fields]
        return allocate_confirmed(self.options, 8 * (limit - artifact.FIXED_BYTES), names)


def check_reachable(
    fields: Sequence[Field], budget: Budget | None, codec: Codec, space: Workspace = IN_MEMORY
) -> None:
    """Reject a size that no choice can reach, before anything is measured.

    Raises:
        BudgetError: even the smallest file that ``codec`` could make is too large.
    """
    if space.executor is not None:
        for field in fields:  # now, as a later use computes it in this process
            field.take_census(passes_over(field.parts, space))
    if not isinstance(budget, SizeBudget):
        return
    limit = _limit(budget, fields)
    size = artifact.FIXED_BYTES + sum(
        min(
            artifact.entry_bytes(one.least(field, space).entry)
            for one in ((codec, Raw()) if field.keys is None else (codec,))
        )
        for field in fields
    )
    if size > limit:
        raise _unreachable(budget, limit, size, fields)


def _limit(budget: SizeBudget, fields: Sequence[Field]) -> int:
    """Largest number of bytes of the artifact of ``fields``."""
    return budget.max_bytes(_original(fields), sum(field.vocab_size for field in fields))


def _original(fields: Sequence[Field]) -> int:
    return sum(field.nbytes for field in fields)


def _unreachable(budget: SizeBudget, limit: int, size: int, fields: Sequence[Field]) -> BudgetError:
    return BudgetError(
        f"{budget} allows {limit} bytes; the smallest possible is {size} bytes, "
        f"ratio {_original(fields) / size:.1f}"
    )


def _check_keys(fields: Sequence[Field], codec: Codec) -> None:
    """Reject fields with keys if the codec does not support them.

    Raises:
        OptionError: in this case; names the field.
    """
    keyed = [field.name for field in fields if field.keys is not None]
    if keyed and not isinstance(codec, Axes | Clusters):
        raise OptionError(
            f"field {keyed[0]!r} has keys, which {codec!r} cannot code; use saec.Axes() or "
            "saec.Clusters()"
        )


def check_request(codec: object, seed: object) -> None:
    """Reject an invalid codec or seed.

    Raises:
        OptionError: in these cases; the message suggests what may have been meant.
    """
    if codec is not None and (isinstance(codec, type) or not hasattr(codec, "options")):
        name = codec.__name__ if isinstance(codec, type) else str(codec)
        meant = {"axes": "saec.Axes()", "clusters": "saec.Clusters()"}.get(name.lower())
        raise OptionError(
            f"codec cannot be {codec!r}; write {meant or 'saec.Axes() or saec.Clusters()'}"
        )
    if not isinstance(seed, Integral) or isinstance(seed, bool) or seed < 0:
        raise OptionError(f"seed cannot be {seed!r}; it is a whole number of 0 or more")


def measure(
    fields: Iterable[Field],
    codec: Codec | None = None,
    *,
    metrics: Mapping[str, ArrayLike] | None = None,
    seed: int = 0,
    progress: bool = True,
    executor: Executor | None = None,
) -> Priced:
    """Measure once what :func:`inspect`, :func:`forecast` and :func:`compress` of ``saec`` need.

    This is most of their work. They take the result in place of the fields, and each further
    budget then needs only the coding. The fields must not change meanwhile.

    Args:
        fields: tables with frequencies; names must be unique.
        codec: see :func:`saec.compress`, also for the following arguments.
        metrics: as from :func:`saec.torch.loss_metrics`.
        seed: random seed.
        progress: show progress bars on stderr for work over two seconds.
        executor: works on the rows, also when the result is coded.

    Raises:
        FieldError: names are not unique, or there are no fields.
        MetricError: a metric is missing or malformed.
    """
    space = Workspace(executor=executor)
    return Priced.of(fields, codec, metrics, seed=seed, progress=progress, space=space)


def _check_unused(
    codec: Codec | None, metrics: Mapping[str, ArrayLike] | None, executor: Executor | None
) -> None:
    for name, value in (("codec", codec), ("metrics", metrics), ("executor", executor)):
        if value is not None:
            raise OptionError(f"these fields are measured already: give {name} to saec.measure")


def field_rng(seed: int, field: Field, purpose: int) -> np.random.Generator:
    """A separate random stream for every field, independent of the other fields and their order."""
    return np.random.default_rng([seed, zlib.crc32(field.name.encode()), purpose])


def _offered(codec: Codec, field: Field, options: Sequence[Option]) -> list[Option]:
    """Options of ``codec`` that are smaller than the table itself, and the table; for a field with
    keys only the codec's options."""
    if field.keys is not None:
        return [replace(option, choice=CodecChoice(codec, option.choice)) for option in options]
    raw = Raw().option(field)
    own = [
        replace(option, choice=CodecChoice(codec, option.choice))
        for option in options
        if option.bits < raw.bits
    ]
    return [*own, replace(raw, choice=CodecChoice(Raw(), raw.choice))]
