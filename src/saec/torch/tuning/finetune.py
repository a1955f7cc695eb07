"""Train the parameters of compressed tables; codes and network stay fixed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from saec.errors import OptionError
from saec.torch.measure.labels import (
    check_loss_fn,
)
from saec.torch.model.call import (
    Batches,
    Loss,
)
from saec.torch.tuning.ranks import Ranks
from saec.torch.tuning.run import FineTuneResult, FineTuning, Schedule
from saec.torch.tuning.teacher import log_loss, predictions, targets_of

__all__ = ["FineTuneResult", "finetune", "finetune_on_unseen_rows", "predictions"]


def finetune(
    model: nn.Module,
    batches: Batches,
    *,
    validation: Batches,
    teacher: nn.Module | Sequence[Tensor] | None = None,
    loss_fn: Loss | None = None,
    learning_rate: float = 3e-4,
    epochs: int = 1,
    evaluations: int = 4,
    patience: int = 4,
    progress: bool = True,
) -> FineTuneResult:
    """Train a compressed model on the uncompressed model's predictions; keep the best state.

    Codebooks, and values, axes and means, are trained with Adam. This is distillation, the safe way
    to use the rows that trained the model: the loss is the binary cross-entropy against the sigmoid
    of the teacher's logits, and labels are ignored. For labelled rows that the tables have not
    seen, use :func:`finetune_on_unseen_rows`, which needs a ``loss_fn``.

    Before each evaluation tables are rounded as an artifact would store them. The rounded state
    with the lowest validation loss is kept; the state before the first step is one of them. So the
    model never gets worse on ``validation``, and :func:`saec.torch.sync_codebooks_` changes nothing
    further.

    The model runs in eval mode (no dropout, frozen batch statistics). All flags and gradients are
    restored afterwards. Batches are used in the given order; seed your own shuffling.

    After ``torch.distributed.init_process_group`` all ranks call this with the same model, the same
    batches in the same order, and the same options. Each rank processes its slice of every batch,
    also in validation and for the teacher. Gradients and losses are means over the whole batch, so
    all ranks take the steps that one process would, and end with the same state. A
    batch's tensors must then all have one row for each example (bags: a matrix of ids), outputs
    must not depend on other examples, and ``loss_fn`` must be a mean over examples. If a rank
    fails, all do.

    Args:
        model: holds compressed modules; ``model(*inputs)`` gives logits, (n,) or (n, 1), or
            the input of ``loss_fn``.
        batches: (inputs, labels) pairs that can be iterated more than once, such as a list or a
            DataLoader; inputs are a tensor or a tuple of arguments. Tensors are moved to the
            device of the tables.
        validation: the same, of rows that trained neither tables nor codebooks.
        teacher: the uncompressed model, or its :func:`predictions`, one tensor of
            logits for each batch. Batches must come in the same order each time.
        loss_fn: instead of a teacher, see :func:`finetune_on_unseen_rows`.
        learning_rate: of Adam.
        epochs: passes over ``batches``.
        evaluations: evaluations for each epoch, evenly spaced.
        patience: stop after this many evaluations in a row without improvement.
        progress: show a progress bar.

    Raises:
        ModuleError: the model has no compressed module, is in a wrapper, such as
            DistributedDataParallel, or compiled.
        DataError: batches or validation are empty or cannot be iterated twice, or the teacher's
            logits do not fit the batches or these come in another order the second time; or labels
            do not fit the log loss, see :func:`saec.torch.loss_metrics`.
        OptionError: not exactly one of ``teacher`` and ``loss_fn``, or a number out of range.
        SaecError: another rank failed.
    """
    ranks = Ranks.here()
    progress = progress and ranks.rank == 0
    with ranks.together("preparing to fine-tune") as joint:
        check_loss_fn(loss_fn)
        if (teacher is None) == (loss_fn is None):
            raise OptionError("give either a teacher or a loss_fn")
        schedule = Schedule(learning_rate, epochs, evaluations, patience, progress)
        run = FineTuning(model, batches, validation, loss_fn or log_loss, schedule, ranks)
        joint.check = run.check
        targets = (
            None if teacher is None else targets_of(teacher, batches, run.count, ranks, progress)
        )
    return run.train(targets)


def finetune_on_unseen_rows(
    model: nn.Module,
    batches: Batches,
    loss_fn: Loss | None = None,
    *,
    validation: Batches,
    learning_rate: float = 3e-4,
    epochs: int = 1,
    evaluations: int = 4,
    patience: int = 4,
    progress: bool = True,
) -> FineTuneResult:
    """Train tables on labels of rows that they have not seen; otherwise like :func:`finetune`.

    Use only such rows. A rare feature's row is overfitted to the labels of its few examples, so on
    those examples the tables look far better than they are, and training on them makes the model
    rely on what does not generalise. In our experiments one such epoch cost 0.04 of AUC. For the
    same reason ``validation`` must hold unseen rows.

    Args:
        model: see :func:`finetune`, also for everything not described here.
        batches: (inputs, labels) pairs of rows that trained no table.
        loss_fn: ``loss_fn(outputs, labels)``, the mean over a batch, in training and validation;
            None for the log loss of logits.
        validation: further unseen rows.
        learning_rate: of Adam.
        epochs: passes over ``batches``.
        evaluations: evaluations for each epoch, evenly spaced.
        patience: stop after this many evaluations in a row without improvement.
        progress: show a progress bar.

    Raises:
        ModuleError, DataError, OptionError: see :func:`finetune`.
    """
    return finetune(
        model,
        batches,
        validation=validation,
        loss_fn=loss_fn or log_loss,
        learning_rate=learning_rate,
        epochs=epochs,
        evaluations=evaluations,
        patience=patience,
        progress=progress,
    )
