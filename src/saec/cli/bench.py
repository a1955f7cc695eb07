"""``saec bench``, ``saec demo`` and ``saec report``: what compression cost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from saec.cli.common import Quiet, UsageError, check_out, console, hush
from saec.errors import require


def bench(
    task: Annotated[str, typer.Argument(help="simulated, ml-1m, globo, ...")],
    path: Annotated[str | None, typer.Option(help="The task's data; simulated needs none.")] = None,
    methods: Annotated[str, typer.Option(help="Names, apart by commas.")] = "saec",
    ratios: Annotated[str, typer.Option(help="Compression ratios to aim at.")] = "10,25,50",
    seeds: Annotated[str, typer.Option(help="Everything is done once for each.")] = "0,1,2",
    model: Annotated[str, typer.Option(help="The click model.")] = "deepfm",
    dim: Annotated[int, typer.Option(min=1, help="Width of the tables.")] = 16,
    optimiser: Annotated[str, typer.Option(help="Of the tables: row-adagrad or adam.")] = (
        "row-adagrad"
    ),
    bit_price: Annotated[
        float | None,
        typer.Option(help="Nats of log loss that training charges a bit of the tables."),
    ] = None,
    loss_increases: Annotated[
        str, typer.Option(help="Increases of the log loss to aim at, by methods with a metric.")
    ] = "",
    names: Annotated[
        bool, typer.Option("--names", help="Keep features' names for pictures; takes memory.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Results file to write.")] = None,
    quiet: Quiet = False,
) -> None:
    """Measure what compression costs: train, compress, evaluate."""
    hush(quiet)
    if out is not None:
        check_out(out)
    from saec.reference import experiment

    results = experiment.bench(
        task,
        path,
        model=model,
        dim=dim,
        optimiser=optimiser,  # type: ignore[arg-type]
        bit_price=bit_price,
        methods=_split("--methods", methods, str),
        ratios=_split("--ratios", ratios, float),
        loss_increases=_split("--loss-increases", loss_increases, float),
        seeds=_split("--seeds", seeds, int),
        names=names,
        progress=not quiet,
        on_row=None if quiet else _tell_row,
    )
    if out is not None:
        experiment.write_json(out, results)
    if not quiet:
        _print_results(results)


def demo(
    directory: Annotated[Path, typer.Option("-o", "--out", help="Where results go.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Everything follows from it.")] = 0,
    quiet: Quiet = False,
) -> None:
    """See it work on a simulated click log, in minutes."""
    hush(quiet)
    for module in ("jinja2", "matplotlib"):  # not after minutes of training
        require(module, "report")
    from saec.reference import experiment
    from saec.report import write_report

    results = experiment.demo(
        directory, seed=seed, progress=not quiet, on_row=None if quiet else _tell_row
    )
    write_report(directory / "results.json", directory / "report.html")
    if not quiet:
        _print_results(results)
        typer.echo(f"wrote {directory / 'results.json'} and {directory / 'report.html'}")


def report(
    results: Annotated[Path, typer.Argument(help="What bench or demo wrote.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The HTML page to write.")],
    quiet: Quiet = False,
) -> None:
    """Make one HTML page of a results file."""
    hush(quiet)
    check_out(out, results)
    from saec.report import write_report

    write_report(results, out)
    if not quiet:
        typer.echo(f"wrote {out}")


def _split(option: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f"{option} takes numbers apart by commas, not {text!r}") from error


def _tell_row(row: Mapping[str, Any]) -> None:
    """One line per measurement; a bench may take hours."""
    # The plain stream, which a progress bar lets through above itself.
    sys.stderr.write(
        f"seed {row['seed']}: {row['method']} at ratio {row['ratio']:.1f}: "
        f"dAUC {row['auc'] - row['base_auc']:+.5f}, "
        f"dlogloss {row['logloss'] - row['base_logloss']:+.5f}{_predicted(row)}\n"
    )


def _predicted(row: Mapping[str, Any]) -> str:
    predicted = row["predicted_loss_increase"]
    return "" if predicted is None else f" (predicted {predicted:+.5f})"


def _print_results(results: dict[str, Any]) -> None:
    from saec.report import summarise
    from saec.report.terminal import results_table

    for experiment in summarise(results):
        console().print(results_table(experiment))
