"""``saec bench``, ``saec demo`` and ``saec report``: measure the loss of quality."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from saec.cli.common import Quiet, UsageError, check_out, console, hush, split
from saec.cli.rivals import KeepFolder, RunsFile, Trials, WithRivals, bench_rivals
from saec.errors import require
from saec.report.methods import METHODS, SMALL_METHODS, TUNINGS

# The names of saec.reference, which is too slow to import for a page of help; a test compares them.
TASKS = {
    "simulated": "a ten-day click log made from a seed; needs no data",
    "ml-1m": "MovieLens 1M: ratings.dat, users.dat, movies.dat, or one Parquet file",
    "ml-1m-x": "ml-1m with crosses such as user x genres; 2.3 million features",
    "globo": "ten days of clicks of a news portal, Parquet; 2.4 million features",
    "globo-days": "globo; trains on the first days and tests on the next one",
    "criteo": "Criteo Kaggle: train.txt or Parquet",
    "avazu": "Avazu: train.csv or Parquet",
    "online-retail": "UCI Online Retail, Parquet or CSV",
    "columns": "a log of your own; from Python only, with a ColumnSpec",
}
MODELS = ("deepfm", "dlrm", "wide_deep", "dcnv2")
OPTIMISERS = ("row-adagrad", "adam")


def complete_methods(incomplete: str) -> list[str]:
    """All completions of a list of methods whose last name is incomplete."""
    before, comma, last = incomplete.rpartition(",")
    method, plus, _ = last.partition("+")
    names = [f"{method}+{tuning}" for tuning in TUNINGS] if plus else list(METHODS)
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]


def _listed(title: str, words: Mapping[str, str]) -> str:
    """Names with their meaning, for the end of a help page; lines are not wrapped."""
    width = max(map(len, words))
    lines = (f"  {name.ljust(width)}  {meaning}" for name, meaning in words.items())
    return "\n".join(["\b", title, *lines])


BENCH_EPILOG = "\n\n".join(
    [
        _listed("Tasks:", TASKS),
        _listed("Methods:", METHODS),
        _listed("Further methods of --rivals:", SMALL_METHODS),
        _listed("After a method's name:", {f"+{name}": words for name, words in TUNINGS.items()}),
    ]
)


Task = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="A task from the list below.",
        autocompletion=lambda: list(TASKS.items()),
    ),
]
DataPath = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="The task's data: a file or a folder."),
]
Methods = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="Methods from the lists below, separated by commas; saec by default, or all "
        "with --rivals.",
        autocompletion=complete_methods,
    ),
]
Ratios = Annotated[str, typer.Option(metavar="RATIO,...", help="Compression ratios to aim at.")]
Seeds = Annotated[str, typer.Option(metavar="SEED,...", help="Random seeds; one run for each.")]
Model = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help=f"The click model: {', '.join(MODELS)}.",
        autocompletion=lambda: list(MODELS),
    ),
]
Dim = Annotated[int, typer.Option(min=1, metavar="DIM", help="Width of the tables.")]
TableOptimiser = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"Optimiser of the tables: {', '.join(OPTIMISERS)}.",
        autocompletion=lambda: list(OPTIMISERS),
    ),
]
BitPrice = Annotated[
    float | None,
    typer.Option(
        metavar="NATS", help="Train with a price on the bits of the tables: log loss per bit."
    ),
]
LossIncreases = Annotated[
    str,
    typer.Option(
        metavar="NATS,...",
        help="Target increases of the log loss, for methods with a loss metric.",
    ),
]
Names = Annotated[
    bool, typer.Option("--names", help="Keep the names of features for plots; takes memory.")
]
Keyed = Annotated[
    bool, typer.Option("--keyed", help="Use raw keys instead of ids for axes, also unseen keys.")
]
ResultsFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Results file to write.")
]


def bench(
    task: Task,
    path: DataPath = None,
    methods: Methods = None,
    ratios: Ratios = "10,25,50",
    seeds: Seeds = "0,1,2",
    model: Model = "deepfm",
    dim: Dim = 16,
    optimiser: TableOptimiser = "row-adagrad",
    bit_price: BitPrice = None,
    loss_increases: LossIncreases = "",
    names: Names = False,
    keyed: Keyed = False,
    rivals: WithRivals = False,
    trials: Trials = 8,
    runs: RunsFile = None,
    keep: KeepFolder = None,
    out: ResultsFile = None,
    quiet: Quiet = False,
) -> None:
    """Train a model, compress it, measure the loss of quality."""
    hush(quiet)
    if rivals:
        refused = {
            "--optimiser": optimiser != "row-adagrad",
            "--bit-price": bit_price is not None,
            "--loss-increases": loss_increases != "",
            "--names": names,
            "--keyed": keyed,
            "--json": out is not None,
        }
        for option in (name for name, given in refused.items() if given):
            raise UsageError(f"{option} cannot be used with --rivals")
        bench_rivals(task, path, methods, ratios, seeds, model, dim, trials, runs, keep, quiet)
        return
    _check_no_rivals({"--runs": runs, "--keep": keep})
    if out is not None:
        check_out(out)
    from saec.reference import experiment
    from saec.reference.benchmark import Benchmark
    from saec.reference.training_settings import Training

    benchmark = Benchmark(
        task,
        path,
        model,
        dim,
        Training(optimiser, bit_price),  # type: ignore[arg-type]
        methods=split("--methods", "saec" if methods is None else methods, str),
        ratios=split("--ratios", ratios, float),
        loss_increases=split("--loss-increases", loss_increases, float),
        seeds=split("--seeds", seeds, int),
        names=names,
        keyed=keyed,
    )
    results = experiment.bench(benchmark, progress=not quiet, on_row=None if quiet else _tell_row)
    if out is not None:
        experiment.write_json(out, results)
    if not quiet:
        _print_results(results)


def _check_no_rivals(given: Mapping[str, Path | None]) -> None:
    """Refuse options that only ``--rivals`` has."""
    for option, path in given.items():
        if path is not None:
            raise UsageError(f"{option} needs --rivals")


def demo(
    directory: Annotated[
        Path, typer.Option("-o", "--out", metavar="FOLDER", help="Folder of the results.")
    ] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, metavar="SEED", help="Random seed.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Run the whole pipeline on a simulated click log, in minutes."""
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
    results: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS",
            help="Results file of bench or demo; of bench --rivals if it ends in .jsonl.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="The HTML page to write.")
    ],
    quiet: Quiet = False,
) -> None:
    """Write an HTML report on a results file."""
    hush(quiet)
    check_out(out, results)
    from saec.report import write_report

    write_report(results, out)
    if not quiet:
        typer.echo(f"wrote {out}")


def _tell_row(row: Mapping[str, Any]) -> None:
    """One line per measurement; a bench may take hours."""
    # The plain stream, which a progress bar lets through above itself.
    sys.stderr.write(
        f"seed {row['seed']}: {row['method']} at ratio {row['ratio']:.1f} "
        f"({row['ratio_all_in']:.1f} with the vocabulary): "
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
