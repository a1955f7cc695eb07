"""Compress a model in one call: count, measure, compress, replace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike
from torch import nn

from saec.codecs.protocol import Codec
from saec.compression.budget import Budget, LossIncrease, check_budget
from saec.compression.plan import Priced, check_request
from saec.compression.run import compress_chosen, compress_priced
from saec.errors import BudgetError, OptionError
from saec.format.compressed import Compressed
from saec.format.model_size import ModelSize
from saec.torch.measure.calibration import calibrated, expecting
from saec.torch.measure.judging_rows import JudgingRows
from saec.torch.measure.labels import check_loss_fn
from saec.torch.measure.loss_increase import Comparison
from saec.torch.measure.plan_tables import priced_tables
from saec.torch.model.call import (
    Batches,
    Loss,
    check_repeatable,
)
from saec.torch.model.count_lookups import count_lookups, more_frequent, with_unseen
from saec.torch.model.find_tables import Ranges, named_tables, only
from saec.torch.model.overlooked import model_bytes
from saec.torch.model.replace import replace_tables_
from saec.torch.model.table_keys import KeysByField

__all__ = ["compress_"]


def compress_(
    model: nn.Module,
    batches: Batches,
    loss_fn: Loss | None = None,
    budget: Budget | None = None,
    *,
    frequencies: Mapping[str, ArrayLike] | None = None,
    calibration: Batches | None = None,
    unseen: Batches | None = None,
    keys: KeysByField | None = None,
    codec: Codec | None = None,
    ranges: Ranges | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Compressed:
    """Compress the embedding tables of ``model`` to a budget, in place.

    Measures the loss metric on ``batches``, compresses, and replaces the model's tables by the
    compressed ones. With a :class:`saec.LossIncrease` the increase is measured on the compressed
    model, see :func:`saec.torch.measure_loss_increase`, and the allocation is corrected until it
    matches the budget.

    Args:
        model: any module with ``nn.Embedding`` or ``nn.EmbeddingBag`` modules.
        batches: (inputs, labels) pairs for the metric, see :func:`saec.torch.loss_metrics`.
        loss_fn: see there; None for the log loss of binary logits.
        budget: limit of the size or of the increase of the loss.
        frequencies: (vocab_size,) counts in the training log of every field to be compressed; see
            :func:`saec.torch.fields` and :func:`saec.count_columns`. If None, all tables are
            compressed, and their features are counted in ``batches``, all of which pass through the
            model: these should then be the training log, and must allow more than one iteration.
        calibration: labelled batches of rows that the tables have not seen, for more than one
            iteration. A ``LossIncrease`` is met on them; with other budgets the increase is
            measured on them and reported in the result. Features that are clearly more frequent in
            them than in ``frequencies``, such as an id for values unseen in training, get their
            counts from them. If None, a ``LossIncrease`` compares the predictions of the compressed
            and the uncompressed model on ``batches``, which must then allow more than one
            iteration, in the same order. This needs no labels, but assumes that the model's
            predictions are right: the increase on unseen rows may be several times smaller or
            larger, especially if it is small.
        unseen: other labelled batches of rows that the tables have not seen, for more than one
            iteration. Their first-order information moves bits to where they lower the loss on
            unseen rows, see :func:`saec.torch.loss_metrics`. The bits are fitted to these rows, so
            their loss grows less than that of other rows: measure on others.
            Without ``calibration`` the increase is predicted, for the log loss of rows that come in
            the same order each time, from what these rows show and what their slopes forecast, and
            otherwise from the slopes alone. A ``LossIncrease`` is met by that prediction.
        keys: keys of the rows of some fields, (vocab_size,) integers or strings, or
            :class:`saec.torch.TableKeys`. If these name the row of unknown keys, what wrong rows
            cost such keys is measured on ``unseen`` or ``calibration`` rows. Their modules become
            :class:`KeyedEmbedding` or :class:`KeyedEmbeddingBag`, which take keys (int64; for
            strings, their hashes) instead of ids. All batches given here have ids.
            :func:`saec.torch.managed_keys` returns the keys of TorchRec's managed collisions.
        codec: ``Axes()`` if None. It must not renumber features, because the model's ids stay.
        ranges: fields of joint tables; see :func:`saec.torch.fields`.
        seed: see :func:`saec.compress`.
        progress: show progress bars on stderr for work over two seconds.

    Some tables stay unchanged: those that are in no embedding module, in a quantised one or in a
    plain list, and those that no batch looks up. A :class:`saec.ModuleWarning` names each with its
    bytes.

    Returns:
        The compressed tables, which can be saved. Their ``compression_ratio`` is that of the tables
        alone, ``model_size.ratio`` that of the whole model with all its parameters. With
        ``LossIncrease`` or ``calibration`` their ``predicted_loss_increase`` is measured, or 0 if
        the loss fell; with ``unseen`` alone it is predicted as said there. If there are too few
        rows to distinguish a small increase from noise, a ``LossIncrease`` also uses measurements
        of larger increases, and logs a warning if these do not suffice either.

    Raises:
        BudgetError: the budget is missing or cannot be met.
        OptionError: the codec renumbers features, or ``loss_fn`` is not a function.
        DataError: batches that are needed more than once are an iterator, or come in another order;
            or see the functions named above.
        ModuleError, MetricError, FieldError: see there. After any error the model is unchanged.
    """
    check_loss_fn(loss_fn)
    if budget is None:
        raise BudgetError("compress_ needs a budget, such as saec.LossIncrease(1e-4)")
    check_budget(budget)
    check_request(codec, seed)
    _check_order_kept(codec)
    tables = named_tables(model, None if frequencies is None else set(frequencies), ranges or {})
    if frequencies is None:
        check_repeatable(batches, "batches")
    labelled_rows = {"calibration": calibration, "unseen": unseen}
    for name, own in labelled_rows.items():
        if own is not None:
            check_repeatable(own, name)
    compared: Any = {"loss_fn": loss_fn, "keys": keys}
    judging = None
    if calibration is not None:
        judging = JudgingRows(Comparison(model, tables, calibration, labelled=True, **compared))
    elif unseen is not None:
        known = Comparison(model, tables, unseen, labelled=True, **compared)
        judging = JudgingRows(known, fitted=True) if known.knows_divergence else None
    elif isinstance(budget, LossIncrease):
        judging = JudgingRows(Comparison(model, tables, batches, labelled=False, **compared))
    if frequencies is None:
        frequencies = count_lookups(model, tables, batches, progress=progress)
    in_training = frequencies
    for own in labelled_rows.values():
        if own is not None:
            frequencies = with_unseen(frequencies, model, tables, own)
    options: Any = {"seed": seed, "progress": progress, "budget": budget, "keys": keys}
    options |= labelled_rows
    priced, metrics = priced_tables(model, tables, batches, loss_fn, frequencies, codec, **options)
    if judging is not None:
        if isinstance(budget, LossIncrease) and not judging.fitted:
            judging.comparison.explain(more_frequent(in_training, frequencies))
        judging.comparison.unknown_keys(priced.fields, metrics)
    result = _compressed(priced, budget, judging)
    before = model_bytes(model)
    result.model_size = ModelSize(before, before - _weights(priced) + result.nbytes)
    replace_tables_(model, only(tables, result), result, keys=keys)
    return result


def _check_order_kept(codec: Codec | None) -> None:
    if codec is not None and codec.renumbers:
        raise OptionError(
            f"{codec} renumbers features, and the model's ids stay as they are: use "
            "order='keep'; or compress saec.torch.fields(model, frequencies) by saec.compress, map "
            "each id of the log by its field's new_ids, and call "
            "saec.torch.replace_embeddings_(model, result, renumbered=True)"
        )


def _weights(priced: Priced) -> int:
    """Bytes of the tables in the model, without keys."""
    return sum(field.rows.nbytes for field in priced.fields)


def _compressed(priced: Priced, budget: Budget, judging: JudgingRows | None) -> Compressed:
    """The tables within ``budget``, and the increase by the judging rows, if there are any."""
    if judging is None:
        return compress_priced(priced, budget)
    if isinstance(budget, LossIncrease):
        return calibrated(priced, budget.value, judging)
    chosen = priced.chosen(budget)
    result = compress_chosen(priced, chosen)
    return expecting(result, judging.believed(judging.increase(result, chosen)))
