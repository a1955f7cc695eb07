"""``saec compress``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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

if TYPE_CHECKING:
    from saec import Budget, Compressed, Field
    from saec.codecs.protocol import Codec

_NOT_WORTH_TELLING = 0.03  # of a budget


_Out = Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The artifact to write.")]
_Ratio = Annotated[
    float | None, typer.Option(metavar="RATIO", help="Original size / compressed size.")
]
_MaxBytes = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Largest size, like 161MB or 2GiB.")
]
_BitsPerFeature = Annotated[
    float | None, typer.Option(metavar="BITS", help="Bits per row, everything included.")
]
_LossIncrease = Annotated[
    float | None,
    typer.Option(
        metavar="NATS", help="Largest predicted increase of the log loss; needs --metrics."
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

    After an interruption, the same command continues where it stopped.
    """
    import saec
    from saec.errors import ArtifactError
    from saec.format.permutation_file import permutation_path
    from saec.tables.checkpoint import read_fields
    from saec.util.remote_file import refuse_url

    hush(quiet)
    budget = _budget(ratio, max_bytes, bits_per_feature, loss_increase)
    if loss_increase is not None and metrics is None:
        raise UsageError("--loss-increase needs --metrics")
    chosen = _codec(codec or "axes", codebook, order)
    if cluster is not None and workers is not None:
        raise UsageError("give --cluster or --workers, not both")
    refuse_url(out, ArtifactError)
    permutation = permutation_path(out)
    written = (out, permutation) if chosen and chosen.renumbers else (out,)
    for path in written:
        check_out(path, checkpoint, frequencies, metrics)
    counts = counted(frequencies, log, column)
    fields, known = read_fields(
        checkpoint, counts, metrics, only or [], names=named(table), progress=not quiet
    )
    with _spread(fields, cluster, workers, quiet) as spread:
        result = saec.compress(
            spread,
            budget,
            chosen,
            metrics=known,
            seed=seed,
            progress=not quiet,
            out=out,
            memory=memory,
        )
    if not quiet:
        _tell(result, budget, written)


def _tell(result: Compressed, budget: Budget, written: Iterable[Path]) -> None:
    """Print what became of the fields, the prediction, what the budget has left, and the files."""
    console().print(size_table(result))
    typer.echo(predicted(result), nl=False)
    if result.predicted_loss_increase is not None:
        typer.echo(SECOND_ORDER)
    typer.echo(_left(result, budget), nl=False)
    made = (path for path in written if path.exists())
    typer.echo(f"wrote {' and '.join(map(str, made))}")


def _left(result: Compressed, budget: Budget) -> str:
    """A line on what a budget of bytes has left, if that is more than a few per cent."""
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


def _budget(
    ratio: float | None, max_bytes: str | None, bits: float | None, loss: float | None
) -> Budget:
    from saec import BitsPerFeature, LossIncrease, MaxBytes, Ratio

    given: list[Budget] = []
    if ratio is not None:
        given.append(Ratio(ratio))
    if max_bytes is not None:
        given.append(MaxBytes(max_bytes))
    if bits is not None:
        given.append(BitsPerFeature(bits))
    if loss is not None:
        given.append(LossIncrease(loss))
    if len(given) != 1:
        raise UsageError("give one of --ratio, --max-bytes, --bits-per-feature and --loss-increase")
    return given[0]


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
def _spread(
    fields: list[Field], cluster: str | None, workers: int | None, quiet: bool
) -> Iterator[list[Field]]:
    """The fields, on a cluster if one is wanted."""
    if cluster is None and workers is None:
        yield fields
        return
    from saec.distributed import connect, local_cluster, spread

    with connect(cluster) if cluster is not None else local_cluster(workers or 1) as client:
        if not quiet:
            typer.echo(f"dashboard: {client.dashboard_link}", err=True)
        yield spread(fields, client)
