"""What compressing today's tables afresh is expected to give, beside a base and its patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

import saec.artifact as artifact
from saec.codecs.axes.codec import Axes
from saec.codecs.axes.keyed import keyed_options
from saec.codecs.protocol import Option
from saec.compression.allocation import frontier
from saec.compression.plan import field_rng
from saec.format.compressed import Compressed
from saec.streaming.scratch import IN_MEMORY
from saec.tables.field import Field
from saec.tables.loss_metric import Metric

__all__ = ["Afresh", "compared_afresh"]

_SAMPLED_ROWS = 1 << 11  # of a class: a sixteenth of what compression looks at
_NO_LOSS = 1e-15


@dataclass(frozen=True)
class Afresh:
    """A forecast, from a sample of rows.

    Attributes:
        loss: nats that an artifact of as many bytes as base and patches together would lose.
        nbytes: of an artifact that loses as much as base and patches together.
    """

    loss: float
    nbytes: int


def compared_afresh(
    old: Compressed,
    today: Sequence[Field],
    metrics: Mapping[str, Metric],
    chain_bytes: int,
    chain_loss: float,
) -> Afresh:
    """Forecast compressing ``today`` afresh, beside a base and patches of these bytes and loss.

    Fields of the base that are not given are left as they are.
    """
    in_nats = old.predicted_loss_increase is not None
    options = []
    for field in today:
        metric = metrics[field.name] if in_nats else None
        rng = field_rng(0, field, 0)
        unit = 1 / field.nats_as_distortion(metric=in_nats)
        options.append(
            [
                replace(option, distortion=option.distortion * unit)
                for option in _options(field, metric, rng)
            ]
        )
    others = [field for name, field in old.items() if name not in metrics]
    fixed = artifact.FIXED_BYTES + sum(artifact.entry_bytes(field.entry) for field in others)
    curve = list(frontier(options))
    sizes = np.array([fixed + step.bits // 8 for step in curve], np.float64)
    losses = np.array([max(step.distortion, _NO_LOSS) for step in curve])
    at_bytes = np.interp(np.log(chain_bytes), np.log(sizes), np.log(losses))
    falling = np.minimum.accumulate(losses)[::-1]
    at_loss = np.interp(np.log(max(chain_loss, _NO_LOSS)), np.log(falling), np.log(sizes[::-1]))
    return Afresh(float(np.exp(at_bytes)), round(float(np.exp(at_loss))))


def _options(field: Field, metric: Metric | None, rng: np.random.Generator) -> Sequence[Option]:
    if field.keys is None:
        return Axes().options(field, metric, rng, IN_MEMORY)
    return keyed_options(field, metric, rng, IN_MEMORY, sampled_rows=_SAMPLED_ROWS)
