"""Predictions of a click model, and their AUC and log loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saec.errors import DataError, IdError, require
from saec.reference.log import Log
from saec.reference.models import ClickModel
from saec.torch.model.call import call, evaluating
from saec.torch.tuning.ranks import Ranks, checksum
from saec.util.progress import track

__all__ = ["Score", "Split", "check_labels", "divergence", "evaluate", "predict", "score"]

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Score:
    """Quality on some rows.

    Attributes:
        auc: area under the ROC curve, 0.5 for chance.
        logloss: mean negative log likelihood of the labels, in nats.
    """

    auc: float
    logloss: float


def evaluate(
    model: nn.Module,
    log: Log,
    split: Split = "test",
    *,
    batch_size: int = 16384,
    progress: bool = True,
) -> Score:
    """Score the model on one part of a log; ranks share the rows, see :func:`predict`.

    Raises:
        DataError: the part is empty, holds one class only, or a prediction is NaN.
    """
    rows = log.rows(split)
    labels = log.labels[rows]
    check_labels(labels, f"the {split} rows of {log.name!r}")
    return score(labels, predict(model, log.ids[rows], batch_size=batch_size, progress=progress))


def predict(
    model: nn.Module, ids: NDArray[Any], *, batch_size: int = 16384, progress: bool = True
) -> NDArray[np.float32]:
    """Click probabilities ``(rows,)`` float32 of ``ids (rows, fields)``, any integer type.

    The model runs in evaluation mode and without gradients; its modules' modes are restored.

    After ``torch.distributed.init_process_group`` all ranks call this with the same model and ids.
    Each predicts its share of the rows, and gets all predictions in the end. If a rank fails, all
    do.

    Args:
        model: maps an int32 or int64 tensor ``(B, fields)`` to logits ``(B,)``, on the device of
            its first parameter.
        ids: feature ids, one column per field.
        batch_size: rows per forward pass.
        progress: whether to show a bar.

    Raises:
        DataError: no rows, ids of another shape or type, a batch size below 1, a NaN prediction.
        IdError: an id outside the vocabulary of one of a `ClickModel`'s fields.
        SaecError: another rank failed.
    """
    ranks = Ranks.here()
    with ranks.together("preparing to predict") as joint:
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; it must be at least 1")
        _check_ids(model, ids)
        joint.check = len(ids) + checksum([_batch(ids[:: max(len(ids) // 64, 1)])])
    with ranks.together("predicting", torch.zeros(len(ids))) as joint:
        # Rows of other ranks stay 0, so that the sum over the ranks has everybody's.
        rows = ranks.part(len(ids))
        own, part = ids[rows], joint.value[rows].numpy()
        starts = range(0, len(own), batch_size)
        device = next((parameter.device for parameter in model.parameters()), None)
        with evaluating(model):
            for start in track(starts, None, "predicting", progress and ranks.rank == 0):
                logits = call(model, _batch(own[start : start + batch_size]), device)
                part[start : start + batch_size] = torch.sigmoid(logits).cpu().numpy()
    out: NDArray[np.float32] = joint.value.numpy()
    if np.isnan(out).any():
        raise DataError(f"the prediction for row {int(np.isnan(out).argmax())} is NaN")
    return out


def _batch(ids: NDArray[Any]) -> Tensor:
    """A copy: logs may be read-only memory maps, which torch does not take."""
    return torch.from_numpy(ids.astype(np.int32 if ids.dtype == np.int32 else np.int64))


def score(labels: NDArray[Any], probabilities: NDArray[Any]) -> Score:
    """AUC and log loss by scikit-learn's definitions, in float64.

    Probabilities of exactly 0 or 1 are clipped to float64's machine epsilon, as in
    ``sklearn.metrics.log_loss``.

    Args:
        labels: ``(rows,)``, 0 or 1.
        probabilities: ``(rows,)``, in [0, 1].

    Raises:
        DataError: no rows, unequal lengths, labels other than 0 and 1 or of one class only, or a
            probability that is NaN or outside [0, 1].
        OptionalDependencyError: scikit-learn is not installed.
    """
    metrics = require("sklearn.metrics", "reference")
    check_labels(labels, "the rows to score")
    if labels.shape != probabilities.shape:
        raise DataError(
            f"labels have shape {labels.shape}, probabilities have shape {probabilities.shape}"
        )
    wide = np.asarray(probabilities, dtype=np.float64)
    bad = ~((wide >= 0) & (wide <= 1))
    if bad.any():
        row = int(bad.argmax())
        raise DataError(f"the probability of row {row} is {wide[row]}; it must be in [0, 1]")
    return Score(
        auc=float(metrics.roc_auc_score(labels, wide)),
        logloss=float(metrics.log_loss(labels, wide, labels=[0, 1])),
    )


def check_labels(labels: NDArray[Any], what: str) -> None:
    """Make sure that AUC is defined: both classes, and nothing else.

    Raises:
        DataError: ``what`` is empty, holds another label than 0 and 1, or one class only.
    """
    if len(labels) == 0:
        raise DataError(f"{what}: there are none")
    other = (labels != 0) & (labels != 1)
    if other.any():
        row = int(other.argmax())
        raise DataError(f"{what}: the label of row {row} is {labels[row]}; it must be 0 or 1")
    if labels.min() == labels.max():
        raise DataError(
            f"{what}: all {len(labels)} labels are {int(labels[0])}; AUC needs both classes"
        )


def _check_ids(model: nn.Module, ids: NDArray[Any]) -> None:
    if ids.ndim != 2 or len(ids) == 0 or ids.dtype.kind not in "iu":
        raise DataError(
            f"ids must be integers of shape (rows, fields), rows >= 1; "
            f"they are {ids.dtype} of shape {ids.shape}"
        )
    if not isinstance(model, ClickModel):
        return
    if ids.shape[1] != len(model.field_names):
        raise DataError(
            f"ids have {ids.shape[1]} columns, the model {len(model.field_names)} fields"
        )
    # One field at a time: a minimum over the rows of a row-major array is several times slower.
    for column, (name, size) in zip(ids.T, model.vocab_sizes.items(), strict=True):
        for value in (int(column.min()), int(column.max())):
            if not 0 <= value < size:
                raise IdError(f"id {value} of field {name!r} is outside its vocabulary of {size}")


def divergence(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Mean KL(p || p') of two predictions, in nats."""
    least = np.finfo(np.float64).eps
    p, q = (np.clip(values.astype(np.float64), least, 1 - least) for values in (before, after))
    return float(np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))))
