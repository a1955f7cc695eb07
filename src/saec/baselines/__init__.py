"""Rival methods: each is one file, and one line in :data:`BASELINES`.

A baseline is a codec like ours, so that the same functions compress, count bytes and evaluate.
Those in :data:`RIVALS` store what no reader of ours knows: ``saec bench`` counts the bytes of it,
and evaluates the rows that it decodes to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from saec.baselines.faiss_kmeans import FaissKMeans
from saec.baselines.float16_rows import Float16Rows
from saec.baselines.head_mean import HeadMean
from saec.baselines.int_rows import IntRows
from saec.baselines.product_quantisation import ProductQuantisation
from saec.baselines.rival import AfterTraining, Rival, RivalField
from saec.baselines.svd import TruncatedSvd
from saec.codecs.protocol import Codec

__all__ = ["BASELINES", "RIVALS", "AfterTraining", "FaissKMeans", "Rival", "RivalField"]

BASELINES: dict[str, Callable[[], Codec]] = {
    "faiss-kmeans": FaissKMeans,
}

RIVALS: dict[str, Callable[[], Rival]] = {
    "float16": Float16Rows,
    "int8": partial(IntRows, 8),
    "int4": partial(IntRows, 4),
    "int2": partial(IntRows, 2),
    "pq": ProductQuantisation,
    "opq": partial(ProductQuantisation, rotated=True),
    "svd": TruncatedSvd,
    "head-mean": HeadMean,
}


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
