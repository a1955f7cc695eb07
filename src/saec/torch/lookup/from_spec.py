"""Readers from their text form.

A reader has all parameters of a table besides its tensors. So an operator with both as arguments
can
read rows in any process: in the module's, or in another one that loads an exported graph.
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
    """The reader with this ``spec``."""
    kind, count, parts, pads = json.loads(spec)
    if kind == "runs":
        return RunReader(count, tuple(RowRun(*numbers) for numbers in parts), tuple(pads))
    return TierReader(Layout.parse(count, parts), tuple(pads))
