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
            less than that of other rows.
    """

    comparison: Comparison
    fitted: bool = False

    def increase(self, result: Compressed, chosen: Sequence[Option]) -> MeasuredIncrease:
        """The expected increase of the loss on rows like these, with ``result`` in place.

        For fitted rows it is the divergence of the predictions, which needs no labels, and the mean
        of two first-order parts: the one that these rows show, which is too low, and the one that
        was forecast from their slopes for the ``chosen`` options, which shrinkage has made too
        small in general. At least a tenth of the divergence is left. See docs/mathematics.md,
        "Slopes on unseen rows".
        """
        found = self.comparison.of(result)
        if not self.fitted:
            return found
        second = found.divergence  # of losses without logits to second order
        if second is None:
            second = sum(option.second_order for option in chosen)
        forecast = sum(option.first_order for option in chosen)
        expected = expected_loss(second, (found.value - second + forecast) / 2)
        return replace(found, value=expected, explained=second)
