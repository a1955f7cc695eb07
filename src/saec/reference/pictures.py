"""Pictures of clusterings: where features lie in the loss metric, and which of them became one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saec.codecs.moments_and_samples import moments_of
from saec.format.compressed_field import CompressedField
from saec.tables.field import Field
from saec.tables.loss_metric import Metric

__all__ = ["FIELDS", "HEAD", "LEAST_FEATURES", "SAMPLED", "View", "views"]

# A picture of more shows less, and a results file is to stay small.
FIELDS = 6
LEAST_FEATURES = 50  # fewer are seldom clustered
HEAD = 250
SAMPLED = 150

_DIGITS = 4


@dataclass(frozen=True, eq=False)
class View:
    """Some features of a field, seen along the two axes in which its rows differ most.

    Args:
        field: its name.
        features: how many it has.
        ids: (m,) int64, frequent features first.
        frequencies: (m,) float64.
        names: (m,) strings, or None if nobody knows them.
        mean: (dim,) float64, of all rows, weighted by frequency.
        axes: (dim, 2) float64; ``(row - mean) @ axes`` are coordinates, half of whose square is
            nats (docs/design.md).
        nats: what it costs if all rows become their mean.
        shares: of that, along each of the two axes.
        rows: (m, dim) float32, of the uncompressed table.
    """

    field: str
    features: int
    ids: NDArray[np.int64]
    frequencies: NDArray[np.float64]
    names: list[str] | None
    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    nats: float
    shares: tuple[float, float]
    rows: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        field: Field,
        metric: Metric,
        names: NDArray[Any] | None,
        rng: np.random.Generator,
        head: int = HEAD,
        sampled: int = SAMPLED,
    ) -> View:
        """The ``head`` most frequent features of ``field`` and ``sampled`` of the others."""
        moments = moments_of(field)
        variances, vectors = np.linalg.eigh(metric.root @ moments.covariance @ metric.root)
        axes = metric.root @ np.pad(vectors, ((0, 0), (1, 0)))[:, -2:][:, ::-1]  # if dim is 1
        leading = np.pad(variances, (1, 0))[-2:][::-1] / max(float(variances.sum()), 1e-300)
        ids = _chosen(field.frequencies, head, sampled, rng)
        return cls(
            field=field.name,
            features=field.vocab_size,
            ids=ids,
            frequencies=field.frequencies[ids],
            names=None if names is None else [str(name) for name in names[ids]],
            mean=moments.mean,
            axes=_steady(axes),
            nats=float(variances.sum()) / 2,
            shares=(float(leading[0]), float(leading[1])),
            rows=np.concatenate([field.rows.read(i, i + 1) for i in ids.tolist()]).astype("f4"),
        )

    def picture(self, stored: CompressedField) -> dict[str, Any]:
        """What a results file holds of the field compressed to ``stored``.

        Returns:
            ``field``, ``features``, ``shares``; ``ids``, ``frequencies``, ``x``, ``y`` and, where
            known, ``names`` of the features shown, frequent ones first; ``clusters``: the number
            of each one's cluster, features that decode to equal rows being a cluster; ``centers``:
            by cluster, x and y of that row.
        """
        decoded, first, inverse = np.unique(
            stored.lookup(stored.new_ids[self.ids]), axis=0, return_index=True, return_inverse=True
        )
        order = np.argsort(first)  # cluster 0 is that of the most frequent feature
        places = self._places(self.rows)
        return {
            "field": self.field,
            "features": self.features,
            "shares": _short(np.array(self.shares)),
            "ids": self.ids.tolist(),
            "frequencies": _short(self.frequencies),
            **({} if self.names is None else {"names": self.names}),
            "x": _short(places[:, 0]),
            "y": _short(places[:, 1]),
            "clusters": np.argsort(order)[inverse.reshape(-1)].tolist(),
            "centers": [_short(place) for place in self._places(decoded[order])],
        }

    def _places(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        places: NDArray[np.float64] = (rows.astype(np.float64) - self.mean) @ self.axes
        return places


def views(
    fields: Sequence[Field],
    metrics: Mapping[str, NDArray[np.float64]],
    names: Mapping[str, NDArray[Any]],
    prefix: str,
    seed: int,
) -> dict[str, View]:
    """Views of the :data:`FIELDS` fields that matter most and have :data:`LEAST_FEATURES` or more.

    A field matters as much as it costs, in nats, if all its rows become their mean.

    Args:
        fields: uncompressed.
        metrics: by field name. Fields whose metric is all zero, as nobody looked them up, do not
            matter.
        names: (vocab_size,) by field name without ``prefix``, of the fields whose features' names
            are known.
        prefix: of fields' names, which views do without.
        seed: draws features.

    Returns:
        By full field name, those that matter most first.
    """
    found = {}
    for field in fields:
        if field.vocab_size >= LEAST_FEATURES and metrics[field.name].any():
            plain = field.name.removeprefix(prefix)
            metric = Metric.of(metrics[field.name], plain, field.dim)
            view = View.of(field, metric, names.get(plain), np.random.default_rng(seed))
            found[field.name] = replace(view, field=plain)
    most = sorted(found, key=lambda name: -found[name].nats)[:FIELDS]
    return {name: found[name] for name in most}


def _chosen(
    frequencies: NDArray[np.float64], head: int, sampled: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Ids of the most frequent features and of some of the rest, frequent ones first."""
    order = np.argsort(-frequencies, kind="stable").astype(np.int64)
    rest = order[head:]
    drawn = np.sort(rng.choice(len(rest), min(sampled, len(rest)), replace=False))
    return np.concatenate([order[:head], rest[drawn]])


def _steady(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same axes, each pointing to where its largest number is positive."""
    largest = np.abs(axes).argmax(axis=0)
    signs = np.where(axes[largest, np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    return axes * signs


def _short(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]
