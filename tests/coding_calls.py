"""The loss of a coded field, computed row by row, and helpers that call codecs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from saec.codecs.protocol import Codec, Option
from saec.format.compressed_field import CompressedField
from saec.streaming.map_reduce import Advance, silent
from saec.streaming.scratch import IN_MEMORY
from saec.tables.field import Field
from saec.tables.loss_metric import Metric


def lost_nats(field: Field, coded: CompressedField, metric: Metric) -> float:
    """sum_i w_i / sum w 1/2 delta_i' G delta_i over the changes delta_i of all rows at once."""
    old = np.arange(field.vocab_size) if coded.permutation is None else coded.permutation
    rows = field.rows.read(0, field.vocab_size).astype(np.float64)
    error = coded.decode().astype(np.float64) - rows[old]
    each = np.einsum("nd,de,ne->n", error, metric.matrix, error) / 2
    return float(each @ field.frequencies[old] / field.frequencies.sum())


def offers(
    codec: Codec, field: Field, metric: Metric | None = None, seed: int = 0
) -> Sequence[Option]:
    """The options of ``codec``, in memory; checks that there is at least one."""
    offered = codec.options(field, metric, np.random.default_rng(seed), IN_MEMORY)
    assert offered
    return offered


def encode(
    codec: Codec,
    field: Field,
    choice: object,
    metric: Metric | None = None,
    seed: int = 0,
    advance: Advance = silent,
) -> CompressedField:
    """``field`` coded in memory, after checking the loss that the codec states.

    metric: the one in which the option of ``choice`` was measured.
    """
    coded = codec.encode(field, choice, np.random.default_rng(seed), advance, IN_MEMORY)
    known = Metric.euclidean(field.dim) if metric is None else metric
    lost = lost_nats(field, coded.field, known)
    # Rows are decoded as float32: each moves, and half a squared length a^2 by 2 a b + b^2.
    largest = float(np.square(coded.field.decode().astype(np.float64)).sum(axis=1).max())
    moved = (
        float(np.finfo(np.float32).eps) ** 2 * largest * float(np.linalg.norm(known.matrix, 2)) / 2
    )
    rounding = 2 * float(np.sqrt(moved * lost)) + moved
    assert coded.lost == pytest.approx(lost, rel=1e-5, abs=rounding)
    return coded.field
