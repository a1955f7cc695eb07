"""Rows by which compressed tables are judged, where bits may be fitted to the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from saec.codecs.protocol import Option, expected_loss
from saec.format.compressed import Compressed
from saec.torch.measure.loss_increase import Comparison
from saec.torch.measure.measured_increase import MeasuredIncrease

__all__ = ["JudgingRows"]


@dataclass(frozen=True, eq=False)
class JudgingRows:
    """Rows on which a compressed model is compared with the uncompressed one.

    Args:
        comparison: on these rows.
        fitted: whether they gave the slopes by which bits are allocated. Their own loss then grows
            less than that of other rows. The comparison must know the divergence.
    """

    comparison: Comparison
    fitted: bool = False

    def increase(self, result: Compressed, chosen: Sequence[Option]) -> MeasuredIncrease:
        """The expected increase of the loss on rows like these, with ``result`` in place.

        For fitted rows it is the divergence of the predictions, which needs no labels and is the
        explained part, and the mean of two first-order parts: the one that these rows show, to
        which bits were fitted, and the one that their slopes forecast for the ``chosen`` options,
        which is smoothed and shrunk. The standard error stays that of the rows' labels. See
        docs/mathematics.md, "Slopes on unseen rows".
        """
        found = self.comparison.of(result)
        if not self.fitted:
            return found
        assert found.divergence is not None
        forecast = sum(option.first_order for option in chosen)
        first = (found.value - found.divergence + forecast) / 2
        return replace(found, value=found.divergence + first, explained=found.divergence)

    def believed(self, increase: MeasuredIncrease) -> float:
        """The increase in nats; of fitted rows at least a tenth of their divergence."""
        if not self.fitted:
            return increase.value
        return expected_loss(increase.explained, increase.rest)
