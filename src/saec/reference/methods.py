"""Methods of ``saec bench`` by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from saec.baselines import BASELINES, RIVALS, AfterTraining, Rival
from saec.codecs.axes.codec import Axes
from saec.codecs.clusters.codec import Clusters
from saec.codecs.protocol import Codec
from saec.errors import OptionError, did_you_mean
from saec.reference.job import Method

__all__ = ["FULL_KMEANS", "METHODS", "TUNINGS", "method_of"]


def _baseline(make: Callable[[], Codec]) -> Callable[[], Method]:
    return lambda: Method(make())


def _rival(make: Callable[[], Rival]) -> Callable[[], Method]:
    return lambda: Method(AfterTraining(make()))


# The paper's alternative to its clustering: all rows, all iterations, exact search.
FULL_KMEANS = Clusters(
    clusters=0.01,
    head_share=1.0,
    weighting=0.0,
    iterations=20,
    tolerance=0.0,
    codebook="float32",
    radius_share=1.0,
)


# Makers, because a baseline needs its package only when it is used.
METHODS: dict[str, Callable[[], Method]] = {
    "saec": lambda: Method(Clusters()),
    "saec-metric": lambda: Method(Clusters(), metric=True),
    "axes": lambda: Method(Axes(), metric=True),
    "axes-remapped": lambda: Method(Axes(order="code"), metric=True),
    "kmeans": lambda: Method(FULL_KMEANS),
    "kmeans-weighted": lambda: Method(replace(FULL_KMEANS, weighting=1.0)),
    **{name: _baseline(make) for name, make in BASELINES.items()},
    **{name: _rival(make) for name, make in RIVALS.items()},
}


# Suffixes of a method's name after a plus.
TUNINGS = ("finetune", "unseen")


def method_of(name: str) -> Method:
    """A method by its name, which may end with the tuning of the model afterwards."""
    plain, _, tuning = name.partition("+")
    if plain not in METHODS or (tuning not in TUNINGS if "+" in name else False):
        every = [*METHODS, *(f"{method}+{known}" for method in METHODS for known in TUNINGS)]
        raise OptionError(
            f"no method {name!r}; there are {', '.join(METHODS)}, each of which may be followed by "
            f"{' or '.join('+' + known for known in TUNINGS)}{did_you_mean(name, every)}"
        )
    if tuning and plain in RIVALS:
        raise OptionError(f"method {name!r}: {plain} has nothing to tune; name it alone")
    return replace(METHODS[plain](), tuning=tuning or None)
