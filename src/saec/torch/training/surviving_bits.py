"""Bits of the tables that survive noise, and what a batch is charged for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saec.errors import DataError
from saec.tables.field import Field
from saec.torch.model.model_table import ModelTable
from saec.torch.model.record_lookups import single_precision, split_fields
from saec.torch.training.noisy_lookups import NoisyLookup

__all__ = ["BatchBits", "TableBits", "bits_of_rows"]


def bits_of_rows(samples: Tensor, counts: Tensor, noise: float) -> Tensor:
    """Bits of a row that survive noise, for fields of which ``samples (fields, m, dim)`` were
    looked up.

    1/2 log2 det(I + C / noise^2) for rows of covariance C: the capacity of parallel Gaussian
    channels (Cover and Thomas, Elements of Information Theory, section 9.4). Rows are looked up in
    proportion to their ``counts (fields, m)``, and each is to count once in C: lookups weigh
    1 / count, and the weights are divided by their sum (Hájek's estimator; Särndal, Swensson and
    Wretman, Model Assisted Survey Sampling, 1992, section 5.7).
    """
    weights = (1 / counts).unsqueeze(2)
    weights = weights / weights.sum(1, keepdim=True)
    mean = (weights * samples.detach()).sum(1, keepdim=True)
    about = (samples - mean) * weights.sqrt()
    covariance = about.transpose(1, 2) @ about
    identity = torch.eye(samples.shape[2], dtype=samples.dtype, device=samples.device)
    return torch.logdet(identity + covariance / noise**2) / (2 * math.log(2))


@dataclass(frozen=True, eq=False)
class BatchBits:
    """What a batch says of the tables that it looked up.

    Attributes:
        bits: that survive the noise, of all rows of these tables; a scalar with gradients.
        lengths: squared lengths of the rows looked up, each divided by the frequency of its
            feature, summed; a scalar with gradients.
        examples: in the batch.
        epochs: the batch's share of the lookups of an epoch.
    """

    bits: Tensor
    lengths: Tensor
    examples: int
    epochs: float


class TableBits:
    """Sizes and frequencies of tables, by which their bits are counted."""

    def __init__(self, tables: Iterable[ModelTable], fields: Mapping[str, Field]) -> None:
        """``fields``: of all parts of the tables, by name."""
        self._sizes = {name: field.vocab_size for name, field in fields.items()}
        self._totals = {name: _total(field) for name, field in fields.items()}
        self._counts = {
            table.path: torch.cat(
                [torch.from_numpy(fields[part.name].frequencies.clip(1)) for part in table.parts]
            ).float()
            for table in tables
        }

    def of(self, lookups: Iterable[NoisyLookup], noise: float) -> BatchBits:
        """The bits of a batch; its rows stand for their tables.

        Raises:
            DataError: the frequencies of a field sum to less than the batch looks up.
        """
        lookups = list(lookups)
        counts = [self._counts_of(lookup) for lookup in lookups]
        found = self._by_field(lookups, counts)
        seen = {name: len(rows) for name, (rows, _) in found.items()}
        for name, count in seen.items():
            if count > self._totals[name] * (1 + 1e-6):
                raise DataError(
                    f"a batch looks up {count} features of {name!r}, whose frequencies sum to "
                    f"{self._totals[name]:g}: they must be counts of an epoch of the training log"
                )
        return BatchBits(
            self._bits(found, noise),
            torch.stack([*map(_lengths, lookups, counts)]).sum(),
            min(lookup.examples for lookup in lookups),
            sum(seen.values()) / sum(self._totals[name] for name in seen),
        )

    def _by_field(
        self, lookups: Iterable[NoisyLookup], counts: Iterable[Tensor]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Rows (m, dim) of each field that has some, and their frequencies (m,)."""
        found: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for lookup, own in zip(lookups, counts, strict=True):
            rows = single_precision(lookup.rows)
            for name, chosen in split_fields(lookup.table, lookup.ids):
                if len(part := rows[chosen]):
                    found.setdefault(name, []).append((part, own[chosen]))
        return {
            name: (torch.cat([rows for rows, _ in parts]), torch.cat([own for _, own in parts]))
            for name, parts in found.items()
        }

    def _bits(self, found: Mapping[str, tuple[Tensor, Tensor]], noise: float) -> Tensor:
        """Bits of all rows of the fields; those of one shape are computed together."""
        alike: dict[torch.Size, list[str]] = {}
        for name, (rows, _) in found.items():
            alike.setdefault(rows.shape, []).append(name)
        bits = []
        for names in alike.values():
            rows, counts = (torch.stack([found[name][part] for name in names]) for part in (0, 1))
            each = bits_of_rows(rows, counts, noise)
            sizes = [float(self._sizes[name]) for name in names]
            bits.append((each * each.new_tensor(sizes)).sum())
        return torch.stack(bits).sum()

    def _counts_of(self, lookup: NoisyLookup) -> Tensor:
        """(m,) frequencies of the rows of a lookup, at least 1."""
        counts = self._counts[lookup.table.path]
        if counts.device != lookup.ids.device:
            counts = self._counts[lookup.table.path] = counts.to(lookup.ids.device)
        return counts[lookup.ids.long()]


def _lengths(lookup: NoisyLookup, counts: Tensor) -> Tensor:
    """Squared lengths of the rows of a lookup, divided by their frequencies (m,), summed."""
    return (single_precision(lookup.rows).square().sum(1) / counts).sum()


def _total(field: Field) -> float:
    """Lookups of the field in an epoch."""
    return float(field.census.total)
