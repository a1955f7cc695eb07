"""Sizes in results, counted by hand."""

from __future__ import annotations

import numpy as np

from saec.bits.packing import PackedCodes, packed_bytes
from saec.format.clustered_field import ClusteredField
from saec.format.compressed import Compressed
from saec.format.raw_field import RawField
from saec.format.tier_layout import Layout
from saec.format.tiered_field import TieredField
from saec.reference.sizes import sizes
from saec.tables.field import Field


def test_sizes_by_hand() -> None:
    rows = np.ones((300, 2), np.float32)
    clustered = ClusteredField.planned(Field("x.b", rows, np.ones(300)), 20, "float32", 2)
    assert isinstance(clustered.codes, PackedCodes)
    layout = Layout.parse(300, ["5g 3", "2", ""])
    tiered = TieredField(
        "x.c",
        layout,
        np.zeros(layout.code_bytes, np.uint8),
        np.ones(layout.value_count, np.float16),
        np.ones((3, 2), np.float16),
        None,
        "float32",
    )
    result = Compressed([RawField("x.a", np.ones((3, 2), np.float16)), clustered, tiered])
    found = sizes(result, "x.")
    assert (found["nbytes"], found["ratio"]) == (result.nbytes, result.compression_ratio)
    # 8 bytes a key, and 4 more where ids are ranks; against float32 rows and keys.
    assert found["bytes_all_in"] == result.nbytes + 303 * 8 + 300 * 12
    assert found["ratio_all_in"] == 603 * 16 / found["bytes_all_in"]
    assert found["original_nbytes"] == 12 + 2400 + 2400
    assert found["field_original_bytes"] == {"a": 12, "b": 2400, "c": 2400}
    assert found["field_bytes"]["a"] == 12
    assert found["field_bytes"]["b"] == packed_bytes(300, 5) + 20 * 8  # 20 centroids of 8 bytes
    assert found["clusters"] == {"a": None, "b": 20, "c": None}
    assert found["field_tiers"] == {
        "a": [{"rows": 3, "bits": 32}],  # two numbers of float16
        "b": [{"rows": 64, "bits": 5}, {"rows": 192, "bits": 5}, {"rows": 44, "bits": 5}],
        "c": [{"rows": 64, "bits": 8}, {"rows": 192, "bits": 2}, {"rows": 44, "bits": 0}],
    }
