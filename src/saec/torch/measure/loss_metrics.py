"""The Fisher information of embedding tables, from gradients at their modules' outputs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from saec.errors import ModuleError, OptionError
from saec.tables.loss_metric import LossMetrics
from saec.tables.unseen_gradients import UnseenGradients
from saec.torch.measure.labels import check_loss_fn
from saec.torch.measure.metric_sums import MetricSums, unchanged
from saec.torch.measure.unknown_sums import UnknownRows, UnknownSums
from saec.torch.measure.unseen_sums import UnseenSums
from saec.torch.model.call import (
    Batches,
    Loss,
    pairs,
)
from saec.torch.model.find_tables import Ranges, named_tables
from saec.torch.model.model_table import ModelTable
from saec.torch.model.overlooked import explained
from saec.torch.model.record_lookups import (
    recording,
)
from saec.util.progress import bar

__all__ = ["loss_metrics", "metrics_of"]

logger = logging.getLogger(__name__)

# With fewer examples a standard error is too uncertain to stop by.
LEAST_EXAMPLES = 4096


def loss_metrics(
    model: nn.Module,
    batches: Batches,
    loss_fn: Loss | None = None,
    *,
    names: Iterable[str] | None = None,
    ranges: Ranges | None = None,
    examples: int = 100_000,
    tolerance: float = 0.01,
    unseen: Batches | None = None,
    unknown: Mapping[str, int] | None = None,
    progress: bool = True,
) -> LossMetrics:
    """Measure how changes of the rows of each field affect the loss, by direction.

    The metric of a field is the Fisher information of its rows in lookups: the sum of
    h h' over all lookups, divided by the number of examples, where h is the gradient of an
    example's loss with respect to the row that it looked up. If row i changes by delta_i, the
    expected log loss grows by ``sum_i (w_i / sum w) 1/2 delta_i' G delta_i``, to second order,
    with w the field's frequencies (Amari, Natural Gradient Works Efficiently in Learning, 1998).

    One pass, in eval mode, for any model: only the outputs of its embedding
    modules are used. Model and random state are restored afterwards.

    A feature that occurs several times in an example, in one bag or by several calls of a module,
    counts as that many lookups; the correlation between them is ignored. Lookups that return the
    row at ``padding_idx`` do not count: it is stored exactly. A row that all examples of a batch
    look up together, such as one for positions, gets the gradient of all of them.

    If a model computes with a table itself, for example in a linear layer that shares its weight
    and scores all items, the gradient of all rows is added. It is estimated,
    without bias, from a batch's sum with random signs of its examples (Hutchinson, A Stochastic
    Estimator of the Trace, 1990).

    Args:
        model: ``model(*inputs)`` gives logits, (n,) or (n, 1), or the input of ``loss_fn``, a
            tensor with one entry or row for each example. Compressed modules are ignored.
        batches: (inputs, labels) pairs; inputs are one argument or a tuple of arguments. Tensors,
            and mappings of them, are moved to the device of the tables. Rows of the training log
            are suitable, because the labels of a click model are not used; sample them from the
            whole log.
        loss_fn: None or PyTorch's unweighted binary cross-entropy, of logits or of probabilities:
            the expectation over labels under the model's own predictions is used; given labels may
            be None, and otherwise are 0 or 1. PyTorch's mean squared error, of one output for each
            example: its curvature is used, which depends on no label. Another
            ``loss_fn(outputs, labels)``, the mean over a batch: gradients at the given labels.
        names: the fields, by the names of :func:`saec.torch.fields`; None for all tables.
        ranges: joint tables, as for :func:`saec.torch.fields`.
        examples: stop after this many, at the end of a batch.
        tolerance: stop earlier, but not before 4096 examples, once the standard error of each
            field's trace is at most this share of it. A field without lookups prevents this.
        unseen: labelled batches of rows that the tables have not seen, such as validation rows;
            one pass over all of them. The gradients of the loss at their rows are summed by
            feature, which takes at most about 12 bytes for each feature seen and dimension. The
            sums show where compression costs more, or less, than the metric predicts: see
            docs/mathematics.md.
        unknown: by field name, the number of the row that the model uses for unknown keys, for
            fields that will have keys. What a change of the row costs in such lookups of the
            ``unseen`` batches is measured by a further pass, over ``examples`` of them at most: a
            wrong answer to an unknown key often costs several times as much as one to other keys. A
            row that is not looked up, or is at ``padding_idx``, counts like the others.
        progress: show a progress bar.

    Returns:
        (dim, dim) float64 by field name, with the number of examples and the standard errors. A
        field that no batch looks up has zeros, and a line in the log.

    Raises:
        ModuleError: a table cannot be compressed (:func:`saec.torch.fields`), the model does not
            return a tensor, its outputs do not depend on a table that was looked up, or there is no
            such row as in ``unknown``.
        DataError: no batches; ``unseen`` is an iterator, with ``unknown``; a loss that is not a
            single number; or outputs or labels that do not fit the loss: labels of a log loss
            outside 0 to 1 or of another shape than the outputs, and, if ``loss_fn`` is None,
            outputs that all lie between 0 and 1, as after a sigmoid.
        MetricError: a loss or a gradient is not finite.
        OptionError: a number out of range, ``unknown`` without ``unseen``, or a ``loss_fn`` that
            is not a function.
    """
    check_loss_fn(loss_fn)
    if unknown and unseen is None:
        raise OptionError("unknown keys are measured on the unseen batches: give these, too")
    tables = named_tables(model, None if names is None else set(names), ranges or {})
    return metrics_of(
        model,
        tables,
        batches,
        loss_fn,
        examples=examples,
        tolerance=tolerance,
        unseen=unseen,
        unknown=UnknownRows(unknown, unseen) if unknown and unseen is not None else None,
        progress=progress,
    )


def metrics_of(
    model: nn.Module,
    tables: Sequence[ModelTable],
    batches: Batches,
    loss_fn: Loss | None,
    *,
    examples: int = 100_000,
    tolerance: float = 0.01,
    unseen: Batches | None = None,
    unknown: UnknownRows | None = None,
    progress: bool = True,
) -> LossMetrics:
    """The metrics of the fields of ``tables``; see :func:`loss_metrics`."""
    if examples < 1:
        raise OptionError(f"examples must be at least 1, not {examples}")
    if not tolerance >= 0:
        raise OptionError(f"tolerance must not be negative, not {tolerance}")
    if not tables:
        raise ModuleError(f"no embedding tables to measure: {explained(model)}")
    if unknown is not None:
        unknown.check(tables)
    with unchanged(model, tables):
        run = MetricSums(model, tables, loss_fn)
        _add_batches(run, batches, examples, tolerance, progress)
        gradients, own = None, None
        if unseen is not None:
            gradients = _on_unseen(model, tables, loss_fn, unseen, progress)
        if unknown is not None:
            sums = UnknownSums(model, tables, loss_fn, unknown.rows)
            _add_batches(sums, unknown.batches, examples, 0.0, progress)
            own = sums.unknown_matrices(run.matrices())
        return run.result(gradients, own)


def _add_batches(
    run: MetricSums, batches: Batches, examples: int, tolerance: float, progress: bool
) -> None:
    """Add batches until there are enough ``examples``, or errors are within ``tolerance``."""
    with bar("loss metric", examples, progress) as shown, recording(run.tables, run.lookups):
        for index, (inputs, labels) in enumerate(pairs(batches)):
            shown.advance(run.add(inputs, labels, index))
            converged = max(run.relative_errors().values()) <= tolerance
            if run.examples >= examples or (run.examples >= LEAST_EXAMPLES and converged):
                break


def _on_unseen(
    model: nn.Module,
    tables: Sequence[ModelTable],
    loss_fn: Loss | None,
    batches: Batches,
    progress: bool,
) -> Mapping[str, UnseenGradients]:
    """Sums over all of ``batches``, by field name."""
    with bar("gradients on unseen rows", None, progress) as shown:
        run = UnseenSums(model, tables, loss_fn)
        with recording(tables, run.lookups):
            for index, (inputs, labels) in enumerate(pairs(batches)):
                shown.advance(run.add(inputs, labels, index))
    return run.result()
