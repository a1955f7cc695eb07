"""``saec compress``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.filesize import decimal

from saec.cli.common import (
    SECOND_ORDER,
    Checkpoint,
    Columns,
    Frequencies,
    Logs,
    MaybeMetrics,
    Only,
    Order,
    Quiet,
    Seed,
    Tables,
    UsageError,
    check_out,
    console,
    counted,
    hush,
    named,
    one_of,
    predicted,
    size_table,
)
from saec.cli.keys import Cosine, KeyColumns, KeyFiles, key_places, print_bill

if TYPE_CHECKING:
    from saec import Budget, Compressed, Field
    from saec.codecs.protocol import Codec
    from saec.streaming.map_reduce import Executor

_NOT_WORTH_TELLING = 0.03  # of a budget
_PLACE = "{}"  # of the budget in the name of an artifact


_Out = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        metavar="FILE",
        help="The artifact to write. With several budgets, {} stands for the budget: "
        "model-{}.saec.",
    ),
]
_Ratio = Annotated[
    list[float] | None,
    typer.Option(metavar="RATIO", help="Original size / compressed size. Repeatable."),
]
_MaxBytes = Annotated[
    list[str] | None,
    typer.Option(metavar="SIZE", help="Largest size, like 161MB or 2GiB. Repeatable."),
]
_BitsPerFeature = Annotated[
    list[float] | None,
    typer.Option(metavar="BITS", help="Bits per row, everything included. Repeatable."),
]
_LossIncrease = Annotated[
    list[float] | None,
    typer.Option(
        metavar="NATS",
        help="Largest predicted increase of the log loss; needs --metrics. Repeatable.",
    ),
]
_Codec = Annotated[
    str | None,
    typer.Option(help="Default: axes.", **one_of("axes", "clusters")),
]
_Codebook = Annotated[
    str | None,
    typer.Option(
        help="Type of stored centroids. Default: int8.", **one_of("float32", "float16", "int8")
    ),
]
_Memory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Memory limit of the process, like 2GB. Default: none."),
]
_Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="Work on the Dask cluster with this scheduler, tcp://host:port."
    ),
]
_Workers = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Work in N processes of this machine.")
]


def compress(
    checkpoint: Checkpoint,
    out: _Out,
    frequencies: Frequencies = None,
    log: Logs = None,
    column: Columns = None,
    key: KeyColumns = None,
    keys: KeyFiles = None,
    cosine: Cosine = False,
    metrics: MaybeMetrics = None,
    ratio: _Ratio = None,
    max_bytes: _MaxBytes = None,
    bits_per_feature: _BitsPerFeature = None,
    loss_increase: _LossIncrease = None,
    only: Only = None,
    table: Tables = None,
    codec: _Codec = None,
    codebook: _Codebook = None,
    order: Order = None,
    memory: _Memory = None,
    cluster: _Cluster = None,
    workers: _Workers = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Compress the tables of a checkpoint to a budget.

    After an interruption, the same command continues where it stopped, unless it has several
    budgets: these share one measurement, which is held in memory.
    """
    from saec.errors import ArtifactError
    from saec.format.permutation_file import permutation_path
    from saec.tables.checkpoint import read_fields
    from saec.util.remote_file import refuse_url

    hush(quiet)
    wanted = _by_file(out, _budgets(ratio, max_bytes, bits_per_feature, loss_increase))
    if loss_increase and metrics is None:
        raise UsageError("--loss-increase needs --metrics")
    if memory is not None and len(wanted) > 1:
        raise UsageError("--memory goes with one budget: several are compressed in memory")
    chosen = _codec(codec or "axes", codebook, order)
    if cluster is not None and workers is not None:
        raise UsageError("give --cluster or --workers, not both")
    refuse_url(out, ArtifactError)
    for path in wanted:
        for written in (path, permutation_path(path)) if chosen.renumbers else (path,):
            check_out(written, checkpoint, frequencies, metrics)
    counts = counted(frequencies, log, column)
    fields, known = read_fields(
        checkpoint,
        counts,
        metrics,
        only or [],
        names=named(table),
        keys=key_places(key, keys),
        unit_rows=cosine,
        progress=not quiet,
    )
    options: dict[str, Any] = {"metrics": known, "seed": seed, "progress": not quiet}
    with _executor(cluster, workers, quiet) as options["executor"]:
        for path, result in _written(fields, wanted, chosen, options, memory):
            if not quiet:
                _tell(result, wanted[path], path)


def _written(
    fields: list[Field],
    wanted: Mapping[Path, Budget],
    codec: Codec,
    options: Mapping[str, Any],
    memory: str | None,
) -> Iterator[tuple[Path, Compressed]]:
    """Write an artifact for each budget; several share one measurement, which is held in memory."""
    import saec
    from saec.compression.plan import check_reachable
    from saec.compression.run import compress_chosen
    from saec.streaming.scratch import Workspace

    if len(wanted) == 1:
        ((path, budget),) = wanted.items()
        yield path, saec.compress(fields, budget, codec, out=path, memory=memory, **options)
        return
    space = Workspace(executor=options["executor"])
    for budget in wanted.values():
        check_reachable(fields, budget, codec, space)
    measured = saec.measure(fields, codec, **options)
    # All of them before the first file is written: a budget may turn out to be out of reach.
    choices = {path: measured.chosen(budget) for path, budget in wanted.items()}
    for path, choice in choices.items():
        result = compress_chosen(measured, choice)
        result.save(path)
        yield path, result


def _tell(result: Compressed, budget: Budget, path: Path) -> None:
    """Print the fields' sizes, the prediction, the unused budget and the files."""
    from saec.format.permutation_file import permutation_path

    console().print(size_table(result))
    print_bill(result)
    typer.echo(predicted(result), nl=False)
    if result.predicted_loss_increase is not None:
        typer.echo(SECOND_ORDER)
    typer.echo(_left(result, budget), nl=False)
    made = (made for made in (path, permutation_path(path)) if made.exists())
    typer.echo(f"wrote {' and '.join(map(str, made))}")


def _left(result: Compressed, budget: Budget) -> str:
    """A line on the unused part of a budget of bytes, if it is more than a few per cent."""
    from saec import LossIncrease

    if isinstance(budget, LossIncrease):
        return ""
    features = sum(field.vocab_size for field in result.values())
    allowed = budget.max_bytes(result.original_nbytes, features)
    left = allowed - result.nbytes
    if left <= _NOT_WORTH_TELLING * allowed:
        return ""
    unused = f"{decimal(left)} of {decimal(allowed)} are left"
    return f"{unused}: no larger choice that fits loses less\n"


def _budgets(
    ratios: Sequence[float] | None,
    sizes: Sequence[str] | None,
    bits: Sequence[float] | None,
    losses: Sequence[float] | None,
) -> list[tuple[str, Budget]]:
    """All given budgets, each with its text for file names."""
    from saec import BitsPerFeature, LossIncrease, MaxBytes, Ratio

    given: list[tuple[str, Budget]] = [
        *((f"{ratio:g}", Ratio(ratio)) for ratio in ratios or ()),
        *((size, MaxBytes(size)) for size in sizes or ()),
        *((f"{number:g}", BitsPerFeature(number)) for number in bits or ()),
        *((f"{loss:g}", LossIncrease(loss)) for loss in losses or ()),
    ]
    if not given:
        raise UsageError("give one of --ratio, --max-bytes, --bits-per-feature and --loss-increase")
    return given


def _by_file(out: Path, budgets: Sequence[tuple[str, Budget]]) -> dict[Path, Budget]:
    """The budget of each file to be written.

    Raises:
        UsageError: two budgets would be written to one file.
    """
    if len(budgets) > 1 and _PLACE not in str(out):
        raise UsageError(
            f"{len(budgets)} budgets need {_PLACE} in -o, which stands for the budget, "
            f"like -o model-{_PLACE}.saec; not {out}"
        )
    files: dict[Path, Budget] = {}
    for text, budget in budgets:
        path = Path(str(out).replace(_PLACE, text))
        if path in files:
            raise UsageError(f"two budgets would be written to {path}")
        files[path] = budget
    return files


def _codec(name: str, codebook: str | None, order: str | None) -> Codec:
    from saec import Axes, Clusters

    if name == "axes":
        if codebook is not None:
            raise UsageError("--codebook goes with --codec clusters")
        return Axes(order=cast("Any", order or "keep"))
    if order is not None:
        raise UsageError("--order goes with --codec axes")
    return Clusters(codebook=cast("Any", codebook or "int8"))


@contextmanager
def _executor(cluster: str | None, workers: int | None, quiet: bool) -> Iterator[Executor | None]:
    """The executor of passes: a cluster if one is given."""
    if cluster is None and workers is None:
        yield None
        return
    from saec.distributed import DaskExecutor, connect, local_cluster

    with connect(cluster) if cluster is not None else local_cluster(workers or 1) as client:
        if not quiet:
            typer.echo(f"dashboard: {client.dashboard_link}", err=True)
        yield DaskExecutor(client)
