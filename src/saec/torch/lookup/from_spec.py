"""Readers by what they say of themselves.

A reader is all that a table's tensors do not say, so that an operator that is given both can read
rows wherever it runs: in the module's process, or in another that loads an exported graph.
"""

from __future__ import annotations

import json
from functools import lru_cache

from saec.format.native_lookup import RowRun
from saec.format.tier_layout import Layout
from saec.torch.lookup.reader import TableReader
from saec.torch.lookup.run_reader import RunReader
from saec.torch.lookup.tier_reader import TierReader

__all__ = ["reader_of"]


@lru_cache(maxsize=4096)
def reader_of(spec: str) -> TableReader:
    """The reader whose ``spec`` this is."""
    kind, count, parts, pads = json.loads(spec)
    if kind == "runs":
        return RunReader(count, tuple(RowRun(*numbers) for numbers in parts), tuple(pads))
    return TierReader(Layout.parse(count, parts), tuple(pads))
