"""``saec bench --rivals``: every method at every size, run by run into a file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from saec.cli.common import console, plain_table, split

WithRivals = Annotated[
    bool,
    typer.Option(
        "--rivals",
        help="Compare with methods that train small tables; see the list below. Resumes an "
        "interrupted comparison.",
    ),
]
Trials = Annotated[
    int,
    typer.Option(
        min=1, metavar="NUMBER", help="With --rivals: settings tried for each method and ratio."
    ),
]
RunsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="With --rivals: file of finished runs, one per line; only missing runs are done. "
        "Default: rivals-TASK.jsonl.",
    ),
]
KeepFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        exists=True,
        file_okay=False,
        help="With --rivals: keeps trained uncompressed models; later calls take them from there.",
    ),
]


def bench_rivals(
    task: str,
    path: str | None,
    methods: str | None,
    ratios: str,
    seeds: str,
    model: str,
    dim: int,
    trials: int,
    runs: Path | None,
    keep: Path | None,
    quiet: bool,
) -> None:
    """Do the runs that the results file lacks, and show all."""
    from saec.reference.rivals import RIVAL_METHODS, RivalBenchmark

    benchmark = RivalBenchmark(
        task,
        path,
        model,
        dim,
        methods=RIVAL_METHODS if methods is None else split("--methods", methods, str),
        ratios=split("--ratios", ratios, float),
        seeds=split("--seeds", seeds, int),
        trials=trials,
        keep=keep,
    )
    target = Path(f"rivals-{task}.jsonl") if runs is None else runs
    file = benchmark.run(target, _ignore if quiet else _say, progress=not quiet)
    if not quiet:
        _print_tables([row for row in file.rows if benchmark.same_model(row)], target)


def _print_tables(runs: Sequence[dict[str, Any]], target: Path) -> None:
    from saec.report.comparison import UNCOMPRESSED
    from saec.report.comparison_page import comparisons
    from saec.report.rival_runs import RUNS_SUFFIX

    found = list(comparisons(runs))
    if not found:
        _say(f"no table: changes are counted from {UNCOMPRESSED} of the same seed; it is not there")
    for one in found:
        for of in (*one.tables, one.beside):
            table = plain_table(of.head[1:], of.head[0])
            table.title, table.title_justify = of.title, "left"
            for row in of.rows:
                table.add_row(*row)
            console().print(table, "")
        for line in filter(None, (one.least, *one.impossible)):
            console().print(line)
        if target.suffix == RUNS_SUFFIX:
            _say(f"saec report {shlex.quote(str(target))} -o report.html draws it")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _ignore(line: str) -> None:
    pass
