"""The data of the charts as tables of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from saec.report.charts import comparable, frequencies_of, tier_names
from saec.report.inside import FieldSize, Picture
from saec.report.results import Measured, Spread

__all__ = ["ReportTable", "cluster_table", "decile_table", "field_table", "tier_tables"]

_LARGEST_CLUSTERS = 3
_NAMES = 6
_STRONGEST = 512  # bits, of a row of 16 float32 numbers


@dataclass(frozen=True)
class ReportTable:
    """A table: its title, head, and rows of cells as text.

    Args:
        title: in words.
        head: of the columns.
        rows: their cells.
        wordy: whether the last column is words, not a number.
        tints: how strongly each cell of ``rows`` but the first is tinted, from 0 to 1; or none.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    wordy: bool = False
    tints: list[list[float]] | None = None


def decile_table(measured: Sequence[Measured]) -> ReportTable | None:
    """Change of log loss, a line per decile and a column per method; None if there are none."""
    chosen = comparable([point for point in measured if point.deciles])
    if not chosen:
        return None
    longest = max((point.deciles for point in chosen), key=len)
    return ReportTable(
        "Change of log loss by decile of test rows",
        ["rarest feature's frequency", *map(_sized, chosen)],
        [
            [
                frequencies_of(decile),
                *(
                    _change(point.deciles[place].logloss_change)
                    if place < len(point.deciles)
                    else ""
                    for point in chosen
                ),
            ]
            for place, decile in enumerate(longest)
        ],
    )


def field_table(measured: Sequence[Measured]) -> ReportTable | None:
    """Bytes, a line per field and a column per method; None if no method tells of fields."""
    chosen = comparable([point for point in measured if point.fields and not point.finetuned])
    if not chosen:
        return None
    sizes = [{field.name: field for field in point.fields} for point in chosen]
    names = dict.fromkeys(name for own in sizes for name in own)
    return ReportTable(
        "Bytes by field",
        ["field", "uncompressed", *map(_sized, chosen)],
        [
            [
                name,
                _original([own[name] for own in sizes if name in own]),
                *(f"{own[name].nbytes:,.0f}" if name in own else "" for own in sizes),
            ]
            for name in names
        ],
    )


def tier_tables(measured: Sequence[Measured]) -> Iterator[ReportTable]:
    """Bits of a feature's code, a table per method, with a line per field and a column per tier."""
    for point in comparable([p for p in measured if p.fields and not p.finetuned]):
        count = max(len(field.tiers) for field in point.fields)
        if count:
            bits = [[tier.bits for tier in field.tiers] for field in point.fields]
            yield ReportTable(
                f"Bits per feature by frequency tier: {_sized(point)}",
                ["field", *tier_names(count)],
                [
                    [field.name, *(f"{value:.3g}" for value in own)]
                    for field, own in zip(point.fields, bits, strict=True)
                ],
                tints=[[_tint(value) for value in own] for own in bits],
            )


def cluster_table(pictures: Sequence[Picture]) -> ReportTable | None:
    """Clusters of which each picture shows the most features, two or more; None without such."""
    rows = []
    for picture in pictures:
        shared = [group for group in picture.groups if len(group) > 1]
        for group in sorted(shared, key=lambda group: -len(group))[:_LARGEST_CLUSTERS]:
            names = ", ".join(feature.name for feature in group[:_NAMES])
            more = ", \u2026" if len(group) > _NAMES else ""
            number = str(group[0].cluster + 1)
            rows.append([picture.field, number, str(len(group)), names + more])
    head = ["field", "cluster", "features shown", "most frequent"]
    return ReportTable("Largest clusters", head, rows, wordy=True) if rows else None


def _change(change: Spread) -> str:
    return str(change).replace("-", "\u2212")


def _sized(point: Measured) -> str:
    return f"{point.label}, ratio {point.ratio:.1f}"


def _original(same: Sequence[FieldSize]) -> str:
    size = same[0].original_nbytes
    return "" if size is None else f"{size:,.0f}"


def _tint(bits: float) -> float:
    return min(math.log2(1 + bits) / math.log2(1 + _STRONGEST), 1.0)
