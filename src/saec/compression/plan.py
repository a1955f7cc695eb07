"""What each way of storing the fields takes and loses, and the choice among them for a budget."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike

import saec.artifact as artifact
from saec.codecs.axes.codec import Axes
from saec.codecs.clusters.codec import Clusters
from saec.codecs.protocol import Codec, Option
from saec.compression.allocation import allocate, allocate_within
from saec.compression.budget import Budget, LossIncrease, SizeBudget, check_budget
from saec.errors import BudgetError, OptionError
from saec.format.compressed import LONGEST_FACTS
from saec.format.raw_field import RawField
from saec.streaming.scratch import IN_MEMORY, Workspace
from saec.tables.field import Field, check_fields
from saec.tables.loss_metric import Metric, check_metrics
from saec.util.progress import track

__all__ = ["RAW", "Priced", "check_reachable", "check_request", "field_rng", "measure"]

RAW = "raw"  # the choice to keep a table as it is
_CORRECTIONS = 12  # of an allocation, by the size of the file that it makes
_SLACK_BITS = 8 * 2  # not worth another allocation

# A packed description may get longer by as much when numbers in it change, above all the clusters
# that remain in use: on the whole, and per field. Seen are 19 more than the tensors shrink by.
_SPARE_BYTES, _SPARE_BYTES_PER_FIELD = 24, 2


@dataclass(frozen=True, eq=False)
class Priced:
    """Fields with all ways in which each may be stored, measured once for any number of budgets.

    :func:`saec.measure` makes one; :func:`saec.inspect`, :func:`saec.forecast` and
    :func:`saec.compress` take it in place of the fields.

    Attributes:
        fields: what is to be compressed.
        codec: what prices and codes them.
        metrics: by field name; None for Euclidean distance.
        options: for each field the codec's, and to keep it as it is.
        seed: that everything drawn at random depends on.
        progress: whether to show bars.
        given: the metrics as they were given, with their standard errors if these are known.
    """

    fields: tuple[Field, ...]
    codec: Codec
    metrics: Mapping[str, Metric] | None
    options: tuple[Sequence[Option], ...]
    seed: int
    progress: bool
    given: Mapping[str, ArrayLike] | None = None

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
        """Measure the options; arguments and errors as of :func:`saec.compress`.

        A ``budget`` that cannot be reached is refused before. What was measured is returned as it
        is; codec and metrics are its own then.
        """
        check_request(codec, seed)
        if isinstance(fields, Priced):
            _check_unused(codec, metrics)
            return fields
        checked = check_fields(fields)
        known = None if metrics is None else check_metrics(checked, metrics)
        if codec is None:
            codec = Clusters() if known is None else Axes()
        check_reachable(checked, budget, codec, known is not None)
        options = tuple(
            _with_raw(
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
        return cls(checked, codec, known, options, seed, progress, metrics)

    @property
    def has_one_size(self) -> bool:
        """Whether the codec leaves a budget nothing to choose."""
        return all(len(options) <= 2 for options in self.options)

    def file_bytes(self, chosen: Sequence[Option]) -> int:
        """Bytes at most of the file with the fields stored as ``chosen``, in whatever order."""
        entries = [
            _raw(field).entry
            if option.choice == RAW
            else self.codec.plan(field, option.choice).entry
            for field, option in sorted(
                zip(self.fields, chosen, strict=True), key=lambda pair: pair[0].name
            )
        ]
        return _file_bytes(entries, self.metrics is not None)

    def chosen(self, budget: Budget | None) -> list[Option]:
        """One option per field, within the budget; errors as of :func:`saec.compress`."""
        check_budget(budget)
        if budget is None:
            if not self.has_one_size:
                raise BudgetError("a codec that does not fix the number of clusters needs a budget")
            return [options[0] for options in self.options]
        if isinstance(budget, LossIncrease):
            if self.metrics is None or self.has_one_size:
                raise BudgetError(
                    f"{budget} needs metrics, and a codec that leaves the number of clusters open"
                )
            return allocate_within(self.options, budget.value)
        return self._within(budget)

    def _within(self, budget: SizeBudget) -> list[Option]:
        names = [field.name for field in self.fields]
        original = sum(field.nbytes for field in self.fields)
        limit = budget.max_bytes(original, sum(field.vocab_size for field in self.fields))
        least = sum(min(option.bits for option in row) for row in self.options)
        smallest = [allocate(self.options, least, names), *self._plainly_small()]
        best = min(smallest, key=self.file_bytes)
        size = self.file_bytes(best)
        if size > limit:
            raise _unreachable(budget, limit, size, original)
        return self._filling(limit, 8 * limit - (8 * size - _bits(best)), best)

    def _plainly_small(self) -> Iterator[list[Option]]:
        """Choices that take more bits than the least, and maybe fewer bytes: the header names each
        kind of tensor once, and tables that stay as they are have one kind.
        """
        yield [row[-1] for row in self.options]
        yield list(map(self._as_checked, self.fields, self.options))

    def _as_checked(self, field: Field, row: Sequence[Option]) -> Option:
        """What :func:`check_reachable` takes for the smallest."""
        bits = 8 * artifact.entry_bytes(self.codec.least(field).entry)
        if row[-1].bits <= bits:
            return row[-1]
        same = (option for option in row if option.bits == bits)
        return next(same, min(row, key=lambda option: option.bits))

    def _filling(self, limit: int, asked: int, best: list[Option]) -> list[Option]:
        """The largest allocation found whose file fits into ``limit`` bytes; ``best`` is one.

        What fields share of the header, and what packing it saves, is known only afterwards: the
        size of one file corrects the ``asked`` bits of the next allocation. A file that is too
        large asks for more than its excess back each time, so that some allocation fits.
        """
        names = [field.name for field in self.fields]
        most: int | None = None
        margin = 8 * 8
        for _ in range(_CORRECTIONS):
            if asked <= _bits(best):
                break
            chosen = allocate(self.options, asked, names)
            excess = 8 * (self.file_bytes(chosen) - limit)
            if excess > 0:
                most = asked
                asked = min(asked, _bits(chosen)) - excess - margin
                margin *= 2
                continue
            if _bits(chosen) > _bits(best):
                best = chosen
            larger = asked - excess if most is None else min(asked - excess, (asked + most) // 2)
            if larger - asked < _SLACK_BITS:
                break
            asked = larger
        return best


def check_reachable(
    fields: Sequence[Field], budget: Budget | None, codec: Codec, in_nats: bool
) -> None:
    """Refuse a size that no choice can reach, before anything is measured.

    Raises:
        BudgetError: even the smallest file that ``codec`` could make is too large.
    """
    if not isinstance(budget, SizeBudget):
        return
    original = sum(field.nbytes for field in fields)
    limit = budget.max_bytes(original, sum(field.vocab_size for field in fields))
    ordered = sorted(fields, key=lambda field: field.name)
    raw = [_raw(field).entry for field in ordered]
    least = [
        min((entry, codec.least(field).entry), key=artifact.entry_bytes)
        for field, entry in zip(ordered, raw, strict=True)
    ]
    size = min(_file_bytes(entries, in_nats) for entries in (least, raw))
    if size > limit:
        raise _unreachable(budget, limit, size, original)


def _unreachable(budget: SizeBudget, limit: int, size: int, original: int) -> BudgetError:
    return BudgetError(
        f"{budget} allows {limit} bytes; the smallest possible is {size} bytes, "
        f"ratio {original / size:.1f}"
    )


def _file_bytes(entries: Sequence[artifact.Entry], in_nats: bool) -> int:
    """Bytes of a file, at most."""
    spare = _SPARE_BYTES + _SPARE_BYTES_PER_FIELD * len(entries)
    return artifact.file_bytes(entries, LONGEST_FACTS if in_nats else {}, spare)


def check_request(codec: object, seed: object) -> None:
    """Refuse a codec or a seed that is none.

    Raises:
        OptionError: in these cases; names what may have been meant.
    """
    if codec is not None and (isinstance(codec, type) or not hasattr(codec, "options")):
        name = codec.__name__ if isinstance(codec, type) else str(codec)
        meant = {"axes": "saec.Axes()", "clusters": "saec.Clusters()"}.get(name.lower())
        raise OptionError(
            f"codec cannot be {codec!r}; write {meant or 'saec.Axes() or saec.Clusters()'}"
        )
    if not isinstance(seed, Integral) or isinstance(seed, bool) or seed < 0:
        raise OptionError(f"seed cannot be {seed!r}; it is a whole number of 0 or more")


def _bits(chosen: Sequence[Option]) -> int:
    return sum(option.bits for option in chosen)


def measure(
    fields: Iterable[Field],
    codec: Codec | None = None,
    *,
    metrics: Mapping[str, ArrayLike] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Priced:
    """Measure once what :func:`inspect`, :func:`forecast` and :func:`compress` of ``saec`` need.

    That is most of the work of each of them: they take the result in place of the fields, and any
    number of budgets then costs the coding alone. The fields must not change meanwhile.

    Args:
        fields: tables with frequencies; names must be unique.
        codec: see :func:`saec.compress`, as for all that follows.
        metrics: as of :func:`saec.torch.loss_metrics`.
        seed: random seed.
        progress: show bars on stderr for work over two seconds.

    Raises:
        FieldError: names are not unique, or there are no fields.
        MetricError: a metric is missing or malformed.
    """
    return Priced.of(fields, codec, metrics, seed=seed, progress=progress)


def _check_unused(codec: Codec | None, metrics: Mapping[str, ArrayLike] | None) -> None:
    for name, value in (("codec", codec), ("metrics", metrics)):
        if value is not None:
            raise OptionError(f"these fields are measured already: give {name} to saec.measure")


def field_rng(seed: int, field: Field, purpose: int) -> np.random.Generator:
    """A stream of its own for every field, so that other fields and their order change nothing."""
    return np.random.default_rng([seed, zlib.crc32(field.name.encode()), purpose])


def _with_raw(field: Field, options: Sequence[Option]) -> list[Option]:
    """Options that are smaller than the table itself, and the table."""
    raw = Option(8 * artifact.entry_bytes(_raw(field).entry), 0.0, RAW)
    return [*(option for option in options if option.bits < raw.bits), raw]


def _raw(field: Field) -> RawField:
    """The field kept as it is, with zeros that take no memory: for its size."""
    return RawField(field.name, np.broadcast_to(np.zeros((), field.dtype), field.rows.shape))
