"""``saec bench --rivals``: every method at every size, run by run into a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from saec.cli.common import split

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
    """Do the runs that the results file lacks."""
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
    benchmark.run(target, _ignore if quiet else _say, progress=not quiet)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _ignore(line: str) -> None:
    pass
