"""Random lookups in an artifact opened with a limit of its memory, beside the mapped one."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from saec.format.compressed import Compressed

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


def check_random_lookups(cold: Compressed, mapped: Compressed, data: st.DataObject) -> None:
    """Rows and bags of some fields are equal to the last bit."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    names = data.draw(st.lists(st.sampled_from(list(mapped)), min_size=1, unique=True))
    count = data.draw(st.sampled_from([0, 1, 7, 300]))
    form = {"dtype": data.draw(st.sampled_from(DTYPES)), "threads": data.draw(st.integers(1, 2))}
    ids: dict[str, Any] = {
        name: rng.integers(0, mapped[name].vocab_size, count).astype(
            data.draw(st.sampled_from([np.int32, np.int64]))
        )
        for name in names
    }
    assert cold.lookup(ids, **form).tobytes() == mapped.lookup(ids, **form).tobytes()
    starts = {name: np.arange(0, count, 3) for name in names}
    for own in starts.values():
        own[1:] += rng.integers(0, 4, len(own[1:]))  # bags of 0 to 6 ids
        np.minimum(own, count, out=own)
    mode = data.draw(st.sampled_from(["sum", "mean", "max"]))
    weighted = mode == "sum" and data.draw(st.booleans())
    weights = {name: rng.standard_normal(count) for name in names} if weighted else None
    arguments: Any = (ids, starts, weights, mode)
    assert cold.pool(*arguments, **form).tobytes() == mapped.pool(*arguments, **form).tobytes()
