"""``saec export``: puts compressed tables into an ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.table import Table

from saec.cli.common import Artifact, Quiet, by_field, check_out, console, hush, plain_table

if TYPE_CHECKING:
    from saec.onnx import Rewritten


def export(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="The ONNX model that has the tables.")
    ],
    artifact: Artifact,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="The ONNX model to write.")
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            metavar="FIELD=TABLE",
            help="Name of a field's table in the model, where it differs. Repeatable.",
        ),
    ] = None,
    packed: Annotated[
        bool,
        typer.Option("--packed", help="Codes without unused bits: smaller, and slower to read."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Replace the tables of an ONNX model by compressed ones.

    The model uses standard operators only.
    """
    import saec.onnx

    hush(quiet)
    check_out(out, model, artifact)
    names = by_field("--table", name or [], "FIELD=TABLE")
    written = saec.onnx.compress(model, artifact, out, names=names, packed=packed)
    if not quiet:
        console().print(_table(written))
        typer.echo(
            f"tables {decimal(written.original_nbytes)} before, {decimal(written.nbytes)} after, "
            f"ratio {written.compression_ratio:.1f} (of the artifact: {written.artifact_ratio:.1f})"
        )
        for table in written.tables:
            if table.kept_for:
                typer.echo(f"{table.table} stays, too: {', '.join(table.kept_for)} need it")
        typer.echo(f"wrote {out}")


def _table(written: Rewritten) -> Table:
    table = plain_table(("lookups", "before"), "field")
    table.add_column("table", overflow="fold")
    for one in written.tables:
        table.add_row(one.field, str(one.lookups), decimal(one.original_nbytes), one.table)
    return table
