"""``saec inspect`` and ``saec forecast``: expected results of a compression."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.filesize import decimal
from rich.table import Table

from saec.cli.common import (
    SECOND_ORDER,
    Checkpoint,
    Columns,
    Frequencies,
    Logs,
    MaybeMetrics,
    Metrics,
    Only,
    Order,
    Quiet,
    Seed,
    Tables,
    check_out,
    console,
    counted,
    hush,
    named,
    plain_table,
    write_json,
    write_text,
)
from saec.cli.keys import KeyColumns, KeyFiles, key_places
from saec.errors import require

if TYPE_CHECKING:
    from saec import Forecast, Inspection

_SHOWN = 12  # points of the curve


def forecast(
    checkpoint: Checkpoint,
    metrics: Metrics,
    frequencies: Frequencies = None,
    log: Logs = None,
    column: Columns = None,
    key: KeyColumns = None,
    keys: KeyFiles = None,
    order: Order = None,
    only: Only = None,
    table: Tables = None,
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the whole curve as JSON.")
    ] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the curve as SVG.")] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Forecast the increase of the log loss for every size.

    The forecast is a second-order sum. Only a measurement on unseen rows shows the actual increase.
    """
    import saec
    from saec.tables.checkpoint import read_fields

    hush(quiet)
    for out in (as_json, svg):
        if out is not None:
            check_out(out, checkpoint, frequencies, metrics)
    if svg is not None:
        require("matplotlib", "report")  # not after the work
    counts = counted(frequencies, log, column)
    fields, known = read_fields(
        checkpoint,
        counts,
        metrics,
        only or [],
        names=named(table),
        keys=key_places(key, keys),
        progress=not quiet,
    )
    assert known is not None
    codec = saec.Axes(order=cast("Any", order or "keep"))
    curve = saec.forecast(fields, known, codec, seed=seed, progress=not quiet)
    if as_json is not None:
        write_json(as_json, _as_json(curve))
    if svg is not None:
        from saec.report.curves import forecast_curve

        write_text(svg, forecast_curve(list(curve.rows()), "forecast") + "\n")
    if not quiet:
        console().print(_curve_table(curve))
        typer.echo(SECOND_ORDER)
        for out in (as_json, svg):
            if out is not None:
                typer.echo(f"wrote {out}")


def inspect(
    checkpoint: Checkpoint,
    frequencies: Frequencies = None,
    log: Logs = None,
    column: Columns = None,
    metrics: MaybeMetrics = None,
    ratio: Annotated[
        float, typer.Option(metavar="RATIO", help="Show where the bytes would go at this ratio.")
    ] = 50.0,
    only: Only = None,
    table: Tables = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Show the tables of a checkpoint and where the bytes would go."""
    import saec
    from saec.tables.checkpoint import read_fields

    hush(quiet)
    counts = counted(frequencies, log, column)
    fields, known = read_fields(
        checkpoint, counts, metrics, only or [], names=named(table), progress=not quiet
    )
    inspection = saec.inspect(fields, known, ratio, seed=seed, progress=not quiet)
    console().print(_inspection_table(inspection))
    measured = "in the loss metric" if inspection.in_loss_metric else "in Euclidean distance"
    typer.echo(f"directions: effective number {measured}")
    for remark in inspection.remarks:
        typer.echo(remark)
    typer.echo(_planned(inspection))


def _as_json(curve: Forecast) -> dict[str, Any]:
    return {
        "points": list(curve.rows()),
        "fields": {name: nbytes.tolist() for name, nbytes in curve.fields.items()},
    }


def _curve_table(curve: Forecast) -> Table:
    """A table of some points that show the shape of the curve."""
    table = plain_table(("ratio", "size", "predicted\nincrease", "low", "high"))
    points = list(curve.rows())
    for place in curve.told_apart(_SHOWN):
        point = points[place]
        nats = (f"{point[key]:.2g}" for key in ("predicted_loss_increase", "low", "high"))
        table.add_row(f"{point['ratio']:,.1f}", decimal(point["nbytes"]), *nats)
    return table


def _inspection_table(inspection: Inspection) -> Table:
    columns = ("rows", "dim", "size", "rows\nonce", "of occur-\nrences", "direc-\ntions")
    table = plain_table((*columns, "would\ntake", "bits per\nfeature"), "field")
    for field in inspection.fields:
        table.add_row(
            field.name,
            f"{field.vocab_size:,}",
            str(field.dim),
            decimal(field.nbytes),
            f"{100 * field.rows_once:.1f} %",
            f"{100 * field.occurrences_once:.1f} %",
            f"{field.directions:.2f}",
            decimal(field.planned_nbytes),
            f"{field.planned_bits_per_feature:.2f}",
        )
    return table


def _planned(inspection: Inspection) -> str:
    loss = inspection.planned_loss_increase
    cost = "" if loss is None else f", predicted log-loss increase {loss:.2g} nats, to second order"
    size = f"{decimal(inspection.nbytes)} would become {decimal(inspection.planned_nbytes)}"
    return f"{size}, ratio {inspection.planned_ratio:.1f}{cost}"
