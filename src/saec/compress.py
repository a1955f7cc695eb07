"""Compress tables to a budget."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saec import artifact
from saec.allocation import Option, allocate, allocate_within
from saec.budget import Budget, LossIncrease, SizeBudget
from saec.codecs.axes import Axes
from saec.codecs.clusters import Clusters
from saec.codecs.codec import Codec
from saec.compressed import LONGEST_FACTS, Compressed
from saec.errors import BudgetError
from saec.metric import Metric, check_metrics
from saec.progress import bar, track
from saec.stored.field import CompressedField
from saec.stored.raw import RawField
from saec.table import Field, check_fields

__all__ = ["Priced", "compress", "loss_increase"]

_RAW = "raw"  # the choice to keep a table as it is
_COMPARED_ROWS = 1 << 18
_CORRECTIONS = 12  # of an allocation, by the size of the file that it makes
_SLACK_BITS = 8 * 2  # not worth another allocation

# A packed description may get longer by as much when numbers in it change, above all the clusters
# that remain in use: on the whole, and per field. Seen are 19 more than the tensors shrink by.
_SPARE_BYTES, _SPARE_BYTES_PER_FIELD = 24, 2


def compress(
    fields: Iterable[Field],
    budget: Budget | None = None,
    codec: Codec | None = None,
    *,
    metrics: Mapping[str, ArrayLike] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Compressed:
    """Compress ``fields`` so that the artifact, as saved, stays within ``budget``.

    Args:
        fields: tables with frequencies; names must be unique.
        budget: ``Ratio``, ``MaxBytes``, ``BitsPerFeature``, or with metrics ``LossIncrease``. None
            only if the codec leaves nothing to be decided, as ``Clusters(clusters=...)``.
        codec: if None, ``Axes()`` with metrics and ``Clusters()`` without.
        metrics: (dim, dim) matrix of every field, as of :func:`saec.torch.loss_metrics`: errors
            then count in nats of log loss, and the result predicts the increase of the loss.
            Without, distances are Euclidean.
        seed: the result depends on it, the options and the fields' contents, and on nothing else.
        progress: show bars on stderr for work over two seconds.

    Bits go where they lower the loss, or without metrics the frequency-weighted squared error,
    most. A field that would not get smaller stays as it is.

    Raises:
        BudgetError: the budget cannot be met; names the smallest that can.
        FieldError: names are not unique, or there are no fields.
        MetricError: a metric is missing or malformed.
    """
    return Priced.of(fields, codec, metrics, seed=seed, progress=progress).compress(budget)


@dataclass(frozen=True, eq=False)
class Priced:
    """Fields with all ways in which each may be stored, measured once for any number of budgets.

    Attributes:
        fields: what is to be compressed.
        codec: what prices and codes them.
        metrics: by field name; None for Euclidean distance.
        options: for each field the codec's, and to keep it as it is.
    """

    fields: tuple[Field, ...]
    codec: Codec
    metrics: Mapping[str, Metric] | None
    options: tuple[Sequence[Option], ...]
    seed: int
    progress: bool

    @classmethod
    def of(
        cls,
        fields: Iterable[Field],
        codec: Codec | None,
        metrics: Mapping[str, ArrayLike] | None,
        *,
        seed: int,
        progress: bool,
    ) -> Priced:
        """Measure the options; arguments and errors as of :func:`compress`."""
        checked = check_fields(fields)
        known = None if metrics is None else check_metrics(checked, metrics)
        if codec is None:
            codec = Clusters() if known is None else Axes()
        options = tuple(
            _with_raw(
                field,
                codec.options(
                    field, None if known is None else known[field.name], _rng(seed, field, 0)
                ),
            )
            for field in track(checked, description="measuring fields", show=progress)
        )
        return cls(checked, codec, known, options, seed, progress)

    @property
    def has_one_size(self) -> bool:
        """Whether the codec leaves a budget nothing to choose."""
        return all(len(options) <= 2 for options in self.options)

    def compress(self, budget: Budget | None) -> Compressed:
        """Choose within the budget and code; see :func:`compress`."""
        compressed: list[CompressedField] = []
        with bar("coding fields", len(self.fields), self.progress) as shown:
            for field, option in zip(self.fields, self.chosen(budget), strict=True):
                if option.choice == _RAW:
                    compressed.append(RawField(field.name, _kept(field)))
                    shown.advance(1)
                else:
                    rng = _rng(self.seed, field, 1)
                    coded = self.codec.encode(field, option.choice, rng, shown.advance)
                    compressed.append(coded)
        if self.metrics is None:
            return Compressed(compressed)
        lost = [
            loss_increase(field, coded, self.metrics[field.name])
            for field, coded in zip(self.fields, compressed, strict=True)
        ]
        return Compressed(compressed, sum(lost))

    def file_bytes(self, chosen: Sequence[Option]) -> int:
        """Bytes at most of the file with the fields stored as ``chosen``, in whatever order."""
        entries = [
            RawField(field.name, field.weights).entry
            if option.choice == _RAW
            else self.codec.plan(field, option.choice).entry
            for field, option in sorted(
                zip(self.fields, chosen, strict=True), key=lambda pair: pair[0].name
            )
        ]
        facts = {} if self.metrics is None else LONGEST_FACTS
        spare = _SPARE_BYTES + _SPARE_BYTES_PER_FIELD * len(entries)
        return artifact.file_bytes(entries, facts, spare)

    def chosen(self, budget: Budget | None) -> list[Option]:
        """One option per field, within the budget; errors as of :func:`compress`."""
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
        best = allocate(self.options, least, names)
        size = self.file_bytes(best)
        if size > limit:
            raise BudgetError(
                f"{budget} allows {limit} bytes; the smallest possible is {size} bytes, "
                f"ratio {original / size:.1f}"
            )
        return self._filling(limit, 8 * limit - (8 * size - least), best)

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


def _bits(chosen: Sequence[Option]) -> int:
    return sum(option.bits for option in chosen)


def loss_increase(field: Field, coded: CompressedField, metric: Metric) -> float:
    """Nats that the loss is expected to grow by if ``coded`` takes the place of ``field``.

    sum_i (w_i / sum w) 1/2 delta_i' G delta_i, delta_i the change of row i, to second order.
    """
    if isinstance(coded, RawField):
        return 0.0
    total = 0.0
    shares = field.frequencies / field.frequencies.sum()
    for start in range(0, field.vocab_size, _COMPARED_ROWS):
        new = np.arange(start, min(start + _COMPARED_ROWS, field.vocab_size))
        old = new if coded.permutation is None else coded.permutation[new]
        error = (coded.lookup(new) - field.weights[old].astype(np.float64)) @ metric.root
        # No dot product: its last digits depend on the number of threads.
        total += float((shares[old] * np.einsum("nd,nd->n", error, error)).sum()) / 2
    return total


def _kept(field: Field) -> NDArray[Any]:
    """The table as it is now: a model may go on training; a mapped file is left where it is."""
    return field.weights if isinstance(field.weights, np.memmap) else field.weights.copy()


def _rng(seed: int, field: Field, purpose: int) -> np.random.Generator:
    """Its own stream for every field, so that other fields and their order change nothing."""
    return np.random.default_rng([seed, zlib.crc32(field.name.encode()), purpose])


def _with_raw(field: Field, options: Sequence[Option]) -> list[Option]:
    """Options that are smaller than the table itself, and the table."""
    whole = RawField(field.name, field.weights)
    raw = Option(8 * artifact.entry_bytes(whole.entry), 0.0, _RAW)
    return [*(option for option in options if option.bits < raw.bits), raw]
