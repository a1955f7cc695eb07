"""Compress tables to a budget: in memory, or with bounded memory directly into a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from numpy.typing import ArrayLike

from saec.codecs.protocol import Codec, Coded, Option, expected_loss
from saec.compression.budget import Budget, check_budget
from saec.compression.fingerprint import fingerprint
from saec.compression.plan import DEFAULT_CODEC, CodecChoice, Priced, check_request, field_rng
from saec.compression.resume import Resumable
from saec.errors import OptionError
from saec.format.compressed import Compressed
from saec.format.load import load
from saec.format.permutation_file import permutation_path, remove_permutations, save_permutations
from saec.streaming.map_reduce import Executor
from saec.streaming.scratch import IN_MEMORY, Workspace, held_bytes
from saec.tables.field import Field, check_fields
from saec.util.progress import bar

__all__ = ["compress", "compress_chosen", "compress_priced"]


def compress(
    fields: Iterable[Field] | Priced,
    budget: Budget | None = None,
    codec: Codec | None = None,
    *,
    metrics: Mapping[str, ArrayLike] | None = None,
    seed: int = 0,
    progress: bool = True,
    out: str | os.PathLike[str] | None = None,
    memory: int | str | None = None,
    executor: Executor | None = None,
) -> Compressed:
    """Compress ``fields`` so that the artifact, as saved, stays within ``budget``.

    Bits go where they lower the loss most or, without metrics, the frequency-weighted squared
    error. A field that would not get smaller is stored unchanged.

    Args:
        fields: tables with frequencies; names must be unique. Or a result of :func:`saec.measure`,
            with its codec, metrics and seed.
        budget: ``Ratio``, ``MaxBytes``, ``BitsPerFeature``, or with metrics ``LossIncrease``. None
            only if the codec leaves no choice, as ``Clusters(clusters=...)``.
        codec: ``Axes()`` if None.
        metrics: (dim, dim) matrix of every field, as from :func:`saec.torch.loss_metrics`. Errors
            are then measured in nats of log loss, and the result predicts the increase of the loss.
            Without metrics, distances are Euclidean.
        seed: random seed. The result depends only on it, the options and the fields' contents.
        progress: show progress bars on stderr for work over two seconds.
        out: write the artifact to this path instead of holding it in memory, and return it loaded.
            Finished parts are kept in ``<out>.partial`` until everything is finished: after an
            interruption the same call resumes, and gives the same artifact. If features are
            renumbered, the old ids are written to ``<out>.permutation.safetensors``.
        memory: with ``out``, the process's memory limit, in bytes or as ``"2GB"``; rows of a head
            that do not fit are read again for each iteration. None for no limit.
        executor: works on the rows, for example a :class:`saec.distributed.DaskExecutor`; None for
            this process. The result is the same, to the last bit.

    Raises:
        BudgetError: the budget cannot be met, and the message names the smallest possible one; or
            ``memory`` is less than the work takes.
        FieldError: names are not unique, or there are no fields.
        MetricError: a metric is missing or malformed.
        ArtifactError: ``out`` cannot be written, or another process is writing it.
        OptionError: ``memory`` is given without ``out``; or codec or seed are invalid.
    """
    check_budget(budget)
    check_request(codec, seed)
    if isinstance(fields, Priced):
        if out is not None:
            raise OptionError("out needs the fields themselves, not what saec.measure gave of them")
    else:
        fields = check_fields(fields)
    if out is None:
        if memory is not None:
            raise OptionError(f"memory={memory!r} needs out: a result in memory has no limit")
        space = Workspace(executor=executor)
        priced = Priced.of(
            fields, codec, metrics, seed=seed, progress=progress, space=space, budget=budget
        )
        return compress_priced(priced, budget)
    assert not isinstance(fields, Priced), "it was refused"
    asked = codec or DEFAULT_CODEC
    held = Workspace.held if memory is None else _held(memory, fields, asked)
    mark = fingerprint(fields, budget, codec, metrics, seed)
    with Resumable(Path(out), mark, held) as run:
        priced = Priced.of(
            fields,
            codec,
            metrics,
            seed=seed,
            progress=progress,
            space=replace(run.space(0), executor=executor),
            budget=budget,
        )
        result = compress_priced(priced, budget, run)
        renumbered = any(field.renumbered for field in result.values())
        old_ids = partial(save_permutations, fields=result)
        run.finish(result, {permutation_path(out): old_ids} if renumbered else {})
        if not renumbered:
            remove_permutations(out)  # files of a previous artifact at this path
    loaded = load(out)
    loaded.slope_shares = result.slope_shares
    return loaded


def _held(memory: int | str, fields: Sequence[Field], codec: Codec) -> int:
    """Bytes of rows that the process may hold with the limit ``memory``."""
    largest = max(fields, key=codec.sampled_bytes)
    return held_bytes(memory, largest.dim, codec.sampled_bytes(largest))


def compress_priced(
    priced: Priced, budget: Budget | None, run: Resumable | None = None
) -> Compressed:
    """Choose options within the budget and code them; see :func:`compress_chosen`."""
    return compress_chosen(priced, priced.chosen(budget), run)


def compress_chosen(
    priced: Priced, chosen: Sequence[Option], run: Resumable | None = None
) -> Compressed:
    """Code the fields as chosen, each once even if a ``run`` is resumed."""
    coded: list[Coded] = []
    with bar("coding fields", len(priced.fields), priced.progress) as shown:
        for number, (field, option) in enumerate(zip(priced.fields, chosen, strict=True)):
            space = IN_MEMORY if run is None else run.space(number)
            space = replace(space, executor=priced.executor)
            choice: CodecChoice = option.choice
            rng = field_rng(priced.seed, field, 1)
            code = partial(choice.encode, field, rng, shown.advance, space)
            if run is None or choice.codec.only_copies:
                coded.append(code())
            else:
                coded.append(run.once(number, code))
    lost = None
    if priced.metrics is not None:
        first_order = sum(option.first_order for option in chosen)
        lost = expected_loss(sum(one.lost for one in coded), first_order)
    result = Compressed([one.field for one in coded], lost)
    result.slope_shares = {
        field.name: option.share
        for field, option in zip(priced.fields, chosen, strict=True)
        if option.share is not None
    }
    return result
