"""Rival methods: each is one file, and one line in :data:`BASELINES`.

A baseline is a codec like ours, so that the same functions compress, count bytes and evaluate.
"""

from __future__ import annotations

from collections.abc import Callable

from saec.baselines.faiss_kmeans import FaissKMeans
from saec.codecs.protocol import Codec

__all__ = ["BASELINES", "FaissKMeans"]

BASELINES: dict[str, Callable[[], Codec]] = {
    "faiss-kmeans": FaissKMeans,
}


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
