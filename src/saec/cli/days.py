"""``saec update`` and ``saec compact``: patches of an artifact, and one artifact of a chain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from saec.cli.common import (
    Artifact,
    Checkpoint,
    Columns,
    Frequencies,
    Logs,
    MaybeMetrics,
    Only,
    Quiet,
    Tables,
    UsageError,
    by_field,
    check_out,
    console,
    counted,
    hush,
    named,
    plain_table,
)
from saec.cli.keys import Cosine, KeyColumns, KeyFiles, key_places

if TYPE_CHECKING:
    from saec import Compressed, Update

Patches = Annotated[
    list[Path] | None,
    typer.Option(
        "--patch", metavar="FILE", help="A patch of the artifact, oldest first. Repeatable."
    ),
]
_Out = Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The file to write.")]
_Removed = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD=FILE",
        help="Keys to remove, in a file as for --keys; they get the default row. Repeatable.",
    ),
]
_Threshold = Annotated[
    float | None,
    typer.Option(metavar="NATS", help="Least saving of a new code, per bit."),
]
_MaxBytes = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Limit of the patch's size, like 2MB.")
]
_Share = Annotated[
    float | None,
    typer.Option(
        metavar="PART",
        help="Limit of the patch's size as a part of the artifact's, like 0.15.",
    ),
]
_KEYS = "FIELD=FILE, like --keys user=names.txt"


def update(
    base: Artifact,
    checkpoint: Checkpoint,
    out: _Out,
    patch: Patches = None,
    frequencies: Frequencies = None,
    log: Logs = None,
    column: Columns = None,
    key: KeyColumns = None,
    keys: KeyFiles = None,
    removed: _Removed = None,
    cosine: Cosine = False,
    metrics: MaybeMetrics = None,
    threshold: _Threshold = None,
    max_bytes: _MaxBytes = None,
    share: _Share = None,
    only: Only = None,
    table: Tables = None,
    compare: Annotated[
        bool, typer.Option(help="Forecast the result of compressing afresh.")
    ] = True,
    quiet: Quiet = False,
) -> None:
    """Write what changed since an artifact to a patch."""
    import saec
    from saec.tables.checkpoint import read_fields

    hush(quiet)
    check_out(out, base, checkpoint, frequencies, metrics, *(patch or []))
    gone = _key_files("--removed", removed or [])
    fields, known = read_fields(
        checkpoint,
        counted(frequencies, log, column),
        metrics,
        only or [],
        names=named(table),
        keys=key_places(key, keys),
        unit_rows=cosine,
        progress=not quiet,
    )
    done = saec.update(
        base,
        fields,
        out=out,
        patches=patch or [],
        removed=gone,
        metrics=known,
        threshold=threshold,
        max_bytes=max_bytes,
        share=share,
        compare=compare,
        progress=not quiet,
    )
    if not quiet:
        _tell(done, out)


def compact(
    base: Artifact,
    out: _Out,
    patch: Patches = None,
    keys: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=FILE",
            help="Today's keys of a field: .npy of integers, .txt with a key in each line, or "
            ".parquet. Repeatable.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make one artifact of a base and its patches."""
    import saec

    hush(quiet)
    check_out(out, *(patch or []))
    result = saec.compact(base, patches=patch or [], keys=_key_files("--keys", keys or []), out=out)
    if not quiet:
        typer.echo(f"wrote {out}: {decimal(result.nbytes)}")


def print_chain(result: Compressed) -> None:
    """A line for each patch of an artifact that has some."""
    from saec.format.patched import Patched

    if not isinstance(result, Patched):
        return
    columns = ("bytes", "new", "moved", "removed", "left\nout", "loss", "afresh")
    table = plain_table(columns, "patch")
    for patch in result.patches:
        counts = patch.counts
        keys = (counts.added, counts.moved, counts.removed, counts.dropped)
        losses = (patch.head.loss, patch.head.afresh)
        table.add_row(
            patch.path,
            f"{patch.nbytes:,}",
            *(f"{count:,}" for count in keys),
            *("" if loss is None else f"{loss:.2g}" for loss in losses),
        )
    console().print()
    console().print(table)
    head = result.patches[-1].head
    if head.loss is not None and head.afresh is not None:
        typer.echo(f"the base's codes cost {max(head.loss - head.afresh, 0.0):.2g} nats today")


def chain_of(result: Compressed) -> list[dict[str, Any]]:
    """What ``saec info --json`` says of patches."""
    from saec.format.patched import Patched

    if not isinstance(result, Patched):
        return []
    return [
        {
            "path": patch.path,
            "nbytes": patch.nbytes,
            **vars(patch.counts),
            "whole": patch.whole,
            "predicted_loss_increase": patch.head.loss,
            "afresh_loss_increase": patch.head.afresh,
        }
        for patch in result.patches
    ]


def _key_files(option: str, given: Sequence[str]) -> dict[str, Any]:
    """Keys by field, read from files."""
    from saec.sources.key_files import read_key_file

    if any("=" not in text for text in given):
        raise UsageError(f"{option}: give {_KEYS}")
    files = by_field(option, given, _KEYS)
    return {field: read_key_file(Path(path)) for field, path in files.items()}


def _tell(done: Update, out: Path) -> None:
    counts = done.counts
    typer.echo(
        f"wrote {out}: {decimal(done.nbytes)}; features: {counts.added:,} new, "
        f"{counts.moved:,} moved, {counts.removed:,} removed"
    )
    if counts.dropped:
        typer.echo(f"left out to keep the limit: {counts.dropped:,}")
    if done.whole:
        typer.echo(f"as a whole: {', '.join(done.whole)}")
    typer.echo(f"expected loss: {done.loss:.2g}; without this patch: {done.stale_loss:.2g}")
    if done.afresh is None:
        return
    typer.echo(
        f"compressed afresh to the {decimal(done.chain_bytes)} of base and patches: "
        f"{done.afresh.loss:.2g}; as good as these: {decimal(done.afresh.nbytes)}"
    )
    if done.afresh_is_cheaper:
        typer.echo("compressing afresh is cheaper: it takes no more bytes than this patch")
