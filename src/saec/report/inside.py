"""Charts of compressed models: bytes by field, bits by tier, pictures of clusters."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from saec.errors import DataError
from saec.report.checks import check_numbers, expect, is_number, is_text

__all__ = ["FieldSize", "Picture", "TierSummary", "check_inside", "field_sizes", "pictures_of"]

Row = dict[str, Any]

_BY_FIELD = ("field_bytes", "field_original_bytes", "field_tiers")

# Lists of a picture with one entry for each feature, and the type of an entry.
_LISTS = ("ids", "frequencies", "x", "y", "clusters")


@dataclass(frozen=True)
class TierSummary:
    """Features of a field of similar frequency: their number, and bits of the codes of each."""

    rows: float
    bits: float


@dataclass(frozen=True)
class FieldSize:
    """Bytes of one field's compressed table and of its original one; means over seeds.

    ``original_nbytes`` is None, and there are no ``tiers``, where files of earlier versions lack
    them. Tiers go from frequent to rare.
    """

    name: str
    nbytes: float
    original_nbytes: float | None
    tiers: tuple[TierSummary, ...]


@dataclass(frozen=True)
class Shown:
    """A feature in a picture: its name (or its id), frequency, place and cluster's number."""

    name: str
    frequency: float
    x: float
    y: float
    cluster: int


@dataclass(frozen=True)
class Picture:
    """Features of a field as they lie along two axes, frequent ones first, and their clusters.

    Args:
        field: its name.
        count: how many features it has.
        shares: of the variance in the metric along each of the axes.
        features: those shown.
        centers: by cluster, x and y of the row that all its features became.
    """

    field: str
    count: int
    shares: tuple[float, float]
    features: tuple[Shown, ...]
    centers: tuple[tuple[float, float], ...]

    @property
    def groups(self) -> list[list[Shown]]:
        """Features shown by cluster, frequent ones first."""
        groups: list[list[Shown]] = [[] for _ in self.centers]
        for feature in self.features:
            groups[feature.cluster].append(feature)
        return [group for group in groups if group]


def check_inside(row: Row, place: str) -> None:
    """Check what ``row`` says of fields; it may say nothing.

    Raises:
        DataError: something is missing or of the wrong type; names it.
    """
    for name in _BY_FIELD:
        found: Any = row.get(name, {})
        expect(isinstance(found, dict), place, name, found, "an object")
        for field, value in found.items():
            expect(is_text(field), place, name, field, "text")
            if name == "field_tiers":
                _check_tiers(value, f"{place}, tiers of field {field!r}")
            else:
                good = is_number(value) and value >= 0
                expect(good, f"{place}, {name}", field, value, "a finite number from 0 on")
    pictures = row.get("pictures", [])
    expect(isinstance(pictures, list), place, "pictures", pictures, "a list")
    for number, picture in enumerate(pictures):
        _check_picture(picture, f"{place}, picture {number}")


def field_sizes(rows: Sequence[Row]) -> tuple[FieldSize, ...]:
    """Means over seeds of the fields of which all ``rows`` tell, largest originals first."""
    names = [name for name in rows[0].get("field_bytes", {}) if _all_have(rows, name, _BY_FIELD[0])]
    sizes = [_field_size(rows, name) for name in names]
    return tuple(sorted(sizes, key=lambda size: -(size.original_nbytes or size.nbytes)))


def pictures_of(rows: Sequence[Row]) -> tuple[Picture, ...]:
    """Pictures of the first of ``rows`` that has some."""
    found: list[Row] = next((row["pictures"] for row in rows if row.get("pictures")), [])
    return tuple(_picture(entry) for entry in found)


def _check_tiers(tiers: object, place: str) -> None:
    if not isinstance(tiers, list):
        raise DataError(f"{place} are a {type(tiers).__name__}, not a list")
    for number, tier in enumerate(tiers):
        check_numbers(tier, ("rows", "bits"), f"{place}, tier {number}")
        for name in ("rows", "bits"):
            expect(tier[name] >= 0, f"{place}, tier {number}", name, tier[name], "0 or more")


def _check_picture(picture: object, place: str) -> None:
    check_numbers(picture, ("features",), place)
    assert isinstance(picture, dict)
    for name in ("field", "shares", "centers", *_LISTS):
        if name not in picture:
            raise DataError(f"{place}: {name!r} is missing")
    expect(is_text(picture["field"]), place, "field", picture["field"], "text")
    for name in ("shares", *_LISTS):
        expect(_are_numbers(picture[name]), place, name, picture[name], "a list of finite numbers")
    expect(len(picture["shares"]) == 2, place, "shares", picture["shares"], "two numbers")
    centers = picture["centers"]
    pairs = isinstance(centers, list) and all(
        _are_numbers(center) and len(center) == 2 for center in centers
    )
    expect(pairs, place, "centers", centers, "a list of pairs of numbers")
    names = picture.get("names", ["" for _ in picture["ids"]])
    texts = isinstance(names, list) and all(map(is_text, names))
    expect(texts, place, "names", names, "a list of texts")
    lengths = {name: len(picture[name]) for name in _LISTS} | {"names": len(names)}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{place}: lists differ in length: {lengths}")
    if not picture["ids"]:
        raise DataError(f"{place} shows no features")
    for cluster in picture["clusters"]:
        known = isinstance(cluster, int) and 0 <= cluster < len(centers)
        expect(known, place, "clusters", cluster, f"a cluster, of which there are {len(centers)}")
    for frequency in picture["frequencies"]:
        expect(frequency >= 0, place, "frequencies", frequency, "0 or more")


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(map(is_number, values))


def _all_have(rows: Sequence[Row], field: str, name: str) -> bool:
    return all(field in row.get(name, {}) for row in rows)


def _field_size(rows: Sequence[Row], name: str) -> FieldSize:
    known = _all_have(rows, name, "field_original_bytes")
    tiers: Any = ()
    if _all_have(rows, name, "field_tiers"):
        # The last tiers are of those seeds whose training rows had so many features.
        tiers = zip_longest(*(row["field_tiers"][name] for row in rows))
    return FieldSize(
        name=name,
        nbytes=statistics.fmean(row["field_bytes"][name] for row in rows),
        original_nbytes=(
            statistics.fmean(row["field_original_bytes"][name] for row in rows) if known else None
        ),
        tiers=tuple(_tier([tier for tier in same if tier is not None]) for same in tiers),
    )


def _tier(same: Sequence[Row]) -> TierSummary:
    rows = statistics.fmean(tier["rows"] for tier in same)
    return TierSummary(rows, statistics.fmean(tier["bits"] for tier in same))


def _picture(entry: Row) -> Picture:
    names = entry.get("names") or [f"id {number}" for number in entry["ids"]]
    columns = (names, *(entry[name] for name in _LISTS[1:]))
    return Picture(
        field=entry["field"],
        count=entry["features"],
        shares=(entry["shares"][0], entry["shares"][1]),
        features=tuple(Shown(*values) for values in zip(*columns, strict=True)),
        centers=tuple((x, y) for x, y in entry["centers"]),
    )
