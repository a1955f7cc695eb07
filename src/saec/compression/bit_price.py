"""What a bit of a patch costs, in nats: the price of the base's bits, and more under a limit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from saec.format.compressed import Compressed
from saec.format.keyed_field import KeyedField
from saec.format.patched import Patched

__all__ = ["common_price", "raised_threshold"]


def common_price(old: Compressed) -> float:
    """The price of a bit at which the base of ``old`` was compressed, one for all fields with keys;
    0 if none states a price.

    Each field states that of its own option, of which small fields have few, so these prices differ
    by factors of up to a thousand. The median by bytes is that of the large fields. Prices of whole
    fields in patches do not count: under a limit they are higher, and would rise day by day.
    """
    base = old.base if isinstance(old, Patched) else old
    stated = sorted(
        (field.price, field.nbytes)
        for field in base.values()
        if isinstance(field, KeyedField) and field.price > 0
    )
    if not stated:
        return 0.0
    prices, sizes = zip(*stated, strict=True)
    up_to = np.cumsum(sizes)
    return float(prices[int(np.searchsorted(up_to, up_to[-1] / 2))])


def raised_threshold(threshold: float, factor: float, price: Callable[[], float]) -> float:
    """The nats that a changed row must save for each bit if bits cost ``factor`` times their
    ``price``: more than ``threshold`` also where this is 0. The price is not asked for where the
    factor is 1."""
    if factor == 1:
        return threshold
    return threshold + (factor - 1) * max(threshold, price())
