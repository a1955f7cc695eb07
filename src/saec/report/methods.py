"""Descriptions of the methods of ``saec bench``, one sentence each."""

from __future__ import annotations

__all__ = ["METHODS", "SMALL_METHODS", "TUNINGS", "explained"]

METHODS = {
    "saec": "clusters of similar features per field, as in the paper; Euclidean distance",
    "saec-metric": "the same clusters, with distances in log loss",
    "axes": "coordinates on principal axes in the loss metric, more bits for frequent features",
    "axes-remapped": "axes with rows sorted by their leading codes; ids change",
    "kmeans": "k-means over all rows, one cluster per 100 rows",
    "kmeans-weighted": "the same k-means, with rows weighted by frequency",
    "faiss-kmeans": "k-means of the package faiss, one cluster per 100 rows",
    "float16": "every value rounded to 16 bits",
    "int8": "8 bits a value, with a float16 scale and offset for each row",
    "int4": "4 bits a value, with the same",
    "int2": "2 bits a value, with the same",
    "pq": "product quantisation of the package faiss",
    "opq": "the same after a learned rotation",
    "svd": "coordinates on the first singular vectors, in float16",
    "head-mean": "the most frequent rows in float16, and one mean row for all others",
}

# Methods of ``saec bench --rivals`` only.
SMALL_METHODS = {
    "float32": "the uncompressed tables",
    "axes-keyed": "axes that are asked by keys, also by unseen ones, and need no vocabulary",
    "axes-keyed+network": "the same, and then the network is trained on",
    "float32+averaged": "the uncompressed tables of a running mean of the model's parameters",
    "axes-keyed+averaged": "axes that are asked by keys, of a running mean of the parameters",
    "float32+tuned": "the uncompressed tables of a model trained by the best of the trials",
    "axes-keyed+tuned": "axes that are asked by keys, of a model trained by the best of the trials",
    "float32+priced": "the uncompressed tables of a model trained with a price on bits",
    "saec+priced": "the paper's clusters, of a model trained with a price on bits",
    "saec-metric+priced": "clusters in the loss metric, of a model trained with a price on bits",
    "axes+priced": "axes, of a model trained with a price on bits",
    "axes-keyed+priced": "axes that are asked by keys, of a model trained with a price on bits",
    "hash": "hashing trick: features share the rows of a smaller table",
    "qr": "quotient-remainder: rows composed of rows of small tables",
    "mixed-dim": "mixed dimension: narrow rows for rare features",
    "robe": "ROBE: rows read block by block from one array, at hashed places",
    "tt": "tensor train: rows are products of small matrices",
    "semi-tt": "tensor train of semi-tensor products, whose matrices are smaller",
    "dqrm": "DQRM: trained with rounding to 4 bits",
    "alpt": "ALPT: trained as integers of 8 bits, with a learned step for each row",
    "mpe": "MPE: bits for groups of features by frequency, found by a search",
    "dhe": "DHE: a network computes rows from many hashes of the key",
    "cce": "CCE: hashed rows, clustered during training",
}

# Suffixes of a method's name after a plus.
TUNINGS = {
    "finetune": "then trained on the predictions of the uncompressed model; codes stay fixed",
    "unseen": "then also on labels of rows that the tables have not seen, nor the base",
}


def explained(method: str) -> str | None:
    """A description of ``method``, a name in a results file; None for an unknown name."""
    plain, _, tuning = method.partition("+")
    if plain not in METHODS or (tuning and tuning not in TUNINGS):
        return None
    return f"{METHODS[plain]}; {TUNINGS[tuning]}" if tuning else METHODS[plain]
