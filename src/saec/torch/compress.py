"""Everything in one call: count, measure, compress, put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import ArrayLike
from torch import nn

from saec.codecs.protocol import Codec
from saec.compression.budget import Budget, LossIncrease, check_budget
from saec.compression.plan import Priced, check_request
from saec.compression.run import compress_priced
from saec.errors import BudgetError, OptionError
from saec.format.compressed import Compressed
from saec.format.model_size import ModelSize
from saec.torch.measure.calibration import calibrated
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

    Measures the loss metric on ``batches``, compresses, and puts the compressed tables in the place
    of the model's own. With a :class:`saec.LossIncrease` the forecast is checked against the
    compressed model itself, see :func:`saec.torch.measure_loss_increase`, and the allocation
    corrected until that is what the budget allows.

    Args:
        model: any module with ``nn.Embedding`` or ``nn.EmbeddingBag`` modules.
        batches: (inputs, labels) pairs for the metric, see :func:`saec.torch.loss_metrics`.
        loss_fn: see there; None for the log loss of binary logits.
        budget: what the result may take or lose.
        frequencies: (vocab_size,) counts in the training log of every field to be compressed; see
            :func:`saec.torch.fields` and :func:`saec.count_columns`. If None, all tables are
            compressed, and counted as ``batches``, all of which pass through the model for that:
            then these should be the training log, and can be iterated more than once.
        calibration: labelled batches of rows that the tables have not seen; can be iterated more
            than once. A ``LossIncrease`` is met on them; with other budgets the increase is
            measured on them and stated in the result. Features that are clearly more frequent in
            them than in ``frequencies`` are counted by them, such as an id for values unseen in
            training. If None, a ``LossIncrease`` compares the compressed model's predictions with
            the uncompressed one's on ``batches``, which can be iterated more than once then, in the
            same order. That needs no labels, but it takes the model's predictions for the truth:
            the increase on unseen rows may be several times smaller or larger, the more so the
            smaller it is.
        unseen: labelled batches of other rows that the tables have not seen; can be iterated more
            than once. What they tell of the loss in first order moves bits to where they lower the
            loss on unseen rows, see :func:`saec.torch.loss_metrics`, and is in the increase that is
            predicted: without ``calibration`` a ``LossIncrease`` is met by that prediction. Rows
            that are in both lose less than others, as the bits suit them: measure on others.
        keys: of the rows of some fields, (vocab_size,) integers or strings, or
            :class:`saec.torch.TableKeys`: their modules become :class:`KeyedEmbedding` or
            :class:`KeyedEmbeddingBag`, which take keys (int64; of strings, their hashes) in place
            of ids. All batches given here have ids. :func:`saec.torch.managed_keys` gives those
            of TorchRec's managed collisions.
        codec: ``Axes()`` if None; one that renumbers features does not fit a model, whose ids stay.
        ranges: fields of joint tables; see :func:`saec.torch.fields`.
        seed: see :func:`saec.compress`.
        progress: show bars on stderr for work over two seconds.

    Tables that are in no embedding module, in a quantised one or in a plain list, and tables that
    no batch looks up, stay as they are: a :class:`saec.ModuleWarning` names each with its bytes.

    Returns:
        The compressed tables, which can be saved. Their ``compression_ratio`` is that of the tables
        alone, ``model_size.ratio`` that of the whole model with all its parameters. With
        ``LossIncrease`` or ``calibration`` their ``predicted_loss_increase`` is what was measured,
        0 if the loss fell. Where the rows are too few to tell a small increase from noise, a
        ``LossIncrease`` also uses measurements of larger ones, and logs a warning if that is not
        enough either.

    Raises:
        BudgetError: the budget is missing or cannot be met.
        OptionError: the codec renumbers features, or ``loss_fn`` is no function.
        DataError: batches that are needed more than once are an iterator, or come in another order;
            or see the functions named above.
        ModuleError, MetricError, FieldError: see there. After any error the model is as it was.
    """
    check_loss_fn(loss_fn)
    if budget is None:
        raise BudgetError("compress_ needs a budget, such as saec.LossIncrease(1e-4)")
    check_budget(budget)
    check_request(codec, seed)
    if codec is not None and codec.renumbers:
        raise OptionError(
            f"{codec} renumbers features, and the model's ids stay as they are: use "
            "order='keep'; or compress saec.torch.fields(model, frequencies) by saec.compress, map "
            "each id of the log by its field's new_ids, and call "
            "saec.torch.replace_embeddings_(model, result, renumbered=True)"
        )
    tables = named_tables(model, None if frequencies is None else set(frequencies), ranges or {})
    if frequencies is None:
        check_repeatable(batches, "batches")
    known = None
    if calibration is not None:
        known = Comparison(model, tables, calibration, loss_fn, labelled=True, keys=keys)
    elif isinstance(budget, LossIncrease) and unseen is None:
        known = Comparison(model, tables, batches, loss_fn, labelled=False, keys=keys)
    if frequencies is None:
        frequencies = count_lookups(model, tables, batches, progress=progress)
    in_training = frequencies
    for labelled, name in ((calibration, "calibration"), (unseen, "unseen")):
        if labelled is not None:
            check_repeatable(labelled, name)
            frequencies = with_unseen(frequencies, model, tables, labelled)
    options: Any = {"seed": seed, "progress": progress, "budget": budget, "unseen": unseen}
    priced, metrics = priced_tables(
        model, tables, batches, loss_fn, frequencies, codec, keys=keys, **options
    )
    if known is not None and isinstance(budget, LossIncrease):
        known.explain(more_frequent(in_training, frequencies))
    if known is not None:
        known.unknown_keys(priced.fields, metrics)
    result = _compressed(priced, budget, known)
    before = model_bytes(model)
    result.model_size = ModelSize(before, before - _weights(priced) + result.nbytes)
    replace_tables_(model, only(tables, result), result, keys=keys)
    return result


def _weights(priced: Priced) -> int:
    """Bytes of the tables in the model, which has no keys."""
    return sum(field.rows.nbytes for field in priced.fields)


def _compressed(priced: Priced, budget: Budget, known: Comparison | None) -> Compressed:
    """The tables within ``budget``, and the increase as measured on ``known`` rows, if any."""
    if known is None:
        return compress_priced(priced, budget)
    if isinstance(budget, LossIncrease):
        return calibrated(priced, budget.value, known)
    result = compress_priced(priced, budget)
    measured = Compressed(list(result.values()), max(known.of(result).value, 0.0))
    measured.slope_shares = result.slope_shares
    return measured
