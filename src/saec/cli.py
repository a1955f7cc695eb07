"""The command line: thin, one verb each; what a command needs is imported when it runs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from saec.errors import CheckpointError, DataError, FieldError, IdError, SaecError, require

try:
    import typer
except ImportError:  # main() has no way yet to say so
    sys.exit("saec: typer is not installed; run: pip install 'saec[cli]'")

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from saec import Budget, Compressed, CompressedField

__all__ = ["app", "main"]

BAD_INPUT = 2
INTERRUPTED = 130  # as a shell reports it

# Typer exports no base of its usage errors and has kept it in different places.
UsageError = cast("type[Exception]", typer.BadParameter.__base__)

app = typer.Typer(
    name="saec",
    help="Make the embedding tables of recommendation models small.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Artifact = Annotated[Path, typer.Argument(help="What compress or result.save wrote.")]


class CodebookName(StrEnum):
    """Dtypes that centroids can be stored in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; ``arguments`` default to those of the process.

    Returns:
        The exit code: 0, 2 for bad input (one line on stderr), 130 if interrupted.
    """
    try:
        code = app(arguments, prog_name="saec", standalone_mode=False)
    except UsageError as error:
        return _fail(cast("typer.BadParameter", error).format_message())
    except SaecError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    line = " ".join(part.strip() for part in message.splitlines())
    sys.stderr.write(f"saec: {line}\n")
    return BAD_INPUT


def _show_version(wanted: bool) -> None:
    if wanted:
        from saec import __version__

        typer.echo(f"saec {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("compress")
def _compress(
    checkpoint: Annotated[
        Path, typer.Argument(help="Tables: .safetensors, .npz, .npy, or a torch state_dict.")
    ],
    frequencies: Annotated[
        Path,
        typer.Option(
            "--frequencies", help="How often each feature occurs: .npz, .safetensors, .npy."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The artifact to write.")],
    ratio: Annotated[float | None, typer.Option(help="Original size / compressed size.")] = None,
    max_bytes: Annotated[str | None, typer.Option(help="Size at most, like 161MB or 2GiB.")] = None,
    bits_per_feature: Annotated[
        float | None, typer.Option(help="Bits per row, all included.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave other tables out; a name or a pattern like 'embeddings.*'. Repeatable."
        ),
    ] = None,
    codebook: Annotated[
        CodebookName, typer.Option(help="How centroids are stored.")
    ] = CodebookName.INT8,
    seed: Annotated[int, typer.Option(min=0, help="The result depends on it.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Compress the tables of a checkpoint to a budget."""
    import saec
    from saec.checkpoint import read_frequencies, read_tables

    _hush(quiet)
    budget = _budget(ratio, max_bytes, bits_per_feature)
    _check_out(out, checkpoint, frequencies)
    tables = _chosen(_by_field(read_tables(checkpoint)), only or [])
    counts = read_frequencies(frequencies)
    if len(tables) == len(counts) == 1 and ".npy" in (checkpoint.suffix, frequencies.suffix):
        counts = dict(zip(tables, counts.values(), strict=True))  # its name is the file's, no more
    pairs = _pair(tables, _by_field(counts), only or [])
    fields = [saec.Field(name, table, counts) for name, (table, counts) in pairs.items()]
    codec = saec.Clusters(codebook=codebook.value)
    result = saec.compress(fields, budget, codec, seed=seed, progress=not quiet)
    result.save(out)
    if not quiet:
        _console().print(_size_table(result))
        typer.echo(f"wrote {out}")


def _budget(ratio: float | None, max_bytes: str | None, bits: float | None) -> Budget:
    from saec import BitsPerFeature, MaxBytes, Ratio

    if sum(value is not None for value in (ratio, max_bytes, bits)) != 1:
        raise UsageError("give one of --ratio, --max-bytes and --bits-per-feature")
    if ratio is not None:
        return Ratio(ratio)
    return MaxBytes(max_bytes) if max_bytes is not None else BitsPerFeature(cast("float", bits))


def _pair(
    tables: Mapping[str, NDArray[Any]], counts: Mapping[str, NDArray[Any]], only: Sequence[str]
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Tables with their frequencies by field name; every one of both has its partner."""
    bare = [name for name in tables if name not in counts]
    if bare:
        raise CheckpointError(
            f"no frequencies for {_listed(bare)}, but for {_listed(counts)}; "
            "name the tables to compress with --only"
        )
    lost = [name for name in counts if name not in tables and (not only or _matches(name, only))]
    if lost:
        raise CheckpointError(f"no tables for frequencies {_listed(lost)}, but {_listed(tables)}")
    return {name: (table, counts[name]) for name, table in tables.items()}


def _by_field(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """By the path of the module that holds a weight, which is how saec.torch names a field."""
    named = {name.removesuffix(".weight"): array for name, array in arrays.items()}
    if len(named) < len(arrays):
        twice = next(name for name in named if name in arrays and f"{name}.weight" in arrays)
        raise CheckpointError(f"{twice} and {twice}.weight are the same field")
    return named


def _chosen(tables: dict[str, NDArray[Any]], only: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Those whose name matches one of ``only``; all, if that is empty."""
    for pattern in only:
        if not any(_matches(name, [pattern]) for name in tables):
            raise CheckpointError(f"no table matches --only {pattern}; there are {_listed(tables)}")
    return {name: table for name, table in tables.items() if not only or _matches(name, only)}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern.removesuffix(".weight")) for pattern in patterns)


@app.command("info")
def _info(
    artifact: Artifact,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
    quiet: Quiet = False,
) -> None:
    """Show what an artifact holds."""
    import saec
    from saec.artifact import FORMAT

    _hush(quiet)
    result = saec.load(artifact)
    if as_json:
        described = {
            "path": str(artifact),
            "format": FORMAT,
            **_sizes(result),
            "fields": [_described(field) for field in result.values()],
        }
        typer.echo(json.dumps(described, indent=2))
    else:
        _console().print(_size_table(result))
        typer.echo(f"format {FORMAT}")


def _described(field: CompressedField) -> dict[str, Any]:
    clusters = _clusters(field)
    return {
        **field.description,
        **({} if clusters is None else {"clusters": clusters}),
        **_sizes(field),
    }


def _sizes(compressed: Compressed | CompressedField) -> dict[str, Any]:
    return {
        "nbytes": compressed.nbytes,
        "original_nbytes": compressed.original_nbytes,
        "compression_ratio": compressed.original_nbytes / compressed.nbytes,
    }


@app.command("lookup", context_settings={"ignore_unknown_options": True})  # -1 is an id, a bad one
def _lookup(
    artifact: Artifact,
    field: Annotated[str, typer.Argument(help="The field's name.")],
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Row numbers; - reads stdin.")],
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write a float32 .npy file instead.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Look up rows: a line each, values apart by spaces."""
    import saec

    _hush(quiet)
    result = saec.load(artifact)
    if field not in result:
        raise FieldError(f"{artifact} has no field {field!r}; it has {_listed(result)}")
    if out is not None:
        if as_json:
            raise UsageError("give --json or --out, not both")
        _check_out(out, artifact)
    numbers = _ids(ids, result[field])
    rows = result[field].lookup(numbers)
    if out is not None:
        _save_rows(out, rows)
        if not quiet:
            typer.echo(f"wrote {out}: {len(rows)} x {rows.shape[1]} float32")
    elif as_json:
        # By way of text, for the shortest digits that give the same float32.
        values = [[float(str(value)) for value in row] for row in rows]
        typer.echo(json.dumps({"field": field, "ids": numbers, "rows": values}))
    else:
        typer.echo("".join(" ".join(map(str, row)) + "\n" for row in rows), nl=False)


def _ids(words: Iterable[str], field: CompressedField) -> list[int]:
    numbers = []
    for word in words:
        for text in sys.stdin.read().split() if word == "-" else [word]:
            try:
                numbers.append(int(text))
            except ValueError as error:
                raise IdError(f"an id is a whole number, not {text!r}") from error
            if abs(numbers[-1]) >= 2**63:  # beyond what numpy can hold
                raise IdError(f"field {field.name!r}: id {text} is outside [0, {field.vocab_size})")
    return numbers


def _save_rows(out: Path, rows: NDArray[np.float32]) -> None:
    import numpy as np

    from saec.files import whole_file

    with whole_file(out) as stream:
        np.save(stream, rows)


@app.command("bench")
def _bench(
    task: Annotated[str, typer.Argument(help="simulated, ml-1m, globo, ...")],
    path: Annotated[str | None, typer.Option(help="The task's data; simulated needs none.")] = None,
    methods: Annotated[str, typer.Option(help="Names, apart by commas.")] = "saec",
    ratios: Annotated[str, typer.Option(help="Compression ratios to aim at.")] = "10,25,50",
    seeds: Annotated[str, typer.Option(help="Everything is done once for each.")] = "0,1,2",
    model: Annotated[str, typer.Option(help="The click model.")] = "deepfm",
    dim: Annotated[int, typer.Option(min=1, help="Width of the tables.")] = 16,
    finetune: Annotated[
        bool, typer.Option("--finetune/--no-finetune", help="Measure again after distillation.")
    ] = True,
    out: Annotated[Path | None, typer.Option("--json", help="Results file to write.")] = None,
    quiet: Quiet = False,
) -> None:
    """Measure what compression costs: train, compress, evaluate."""
    _hush(quiet)
    if out is not None:
        _check_out(out)
    from saec.reference import experiment

    results = experiment.bench(
        task,
        path,
        model=model,
        dim=dim,
        methods=_split("--methods", methods, str),
        ratios=_split("--ratios", ratios, float),
        seeds=_split("--seeds", seeds, int),
        finetune=finetune,
        progress=not quiet,
        on_row=None if quiet else _tell_row,
    )
    if out is not None:
        experiment.write_json(out, results)
    if not quiet:
        _print_results(results)


@app.command("demo")
def _demo(
    directory: Annotated[Path, typer.Option("-o", "--out", help="Where results go.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Everything follows from it.")] = 0,
    quiet: Quiet = False,
) -> None:
    """See it work on a simulated click log, in minutes."""
    _hush(quiet)
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


@app.command("report")
def _report(
    results: Annotated[Path, typer.Argument(help="What bench or demo wrote.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The HTML page to write.")],
    quiet: Quiet = False,
) -> None:
    """Make one HTML page of a results file."""
    _hush(quiet)
    _check_out(out, results)
    from saec.report import write_report

    write_report(results, out)
    if not quiet:
        typer.echo(f"wrote {out}")


def _hush(quiet: bool) -> None:
    """Warnings of the library go to stderr unless told otherwise."""
    if quiet:
        logging.getLogger("saec").setLevel(logging.ERROR)


def _check_out(out: Path, *inputs: Path) -> None:
    """Before the work, not after it."""
    if out.is_dir():
        raise DataError(f"cannot write {out}: it is a directory")
    if not out.parent.is_dir():
        raise DataError(f"cannot write {out}: there is no directory {out.parent}")
    for path in inputs:
        if out.exists() and path.exists() and out.samefile(path):
            raise DataError(f"cannot write {out}: it is the input")


def _split(option: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f"{option} takes numbers apart by commas, not {text!r}") from error


def _listed(names: Iterable[str], most: int = 8) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "none") + more


def _console() -> Console:
    # Names may hold brackets; in a pipe, rich would cut tables at 80 columns.
    width = None if sys.stdout.isatty() else 160
    return Console(width=width, markup=False, highlight=False, emoji=False)


def _size_table(result: Compressed) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("field", overflow="fold", min_width=8)
    for column in ("rows", "dim", "codec", "code\nbits", *_SIZE_COLUMNS):
        table.add_column(column, justify="right", no_wrap=True)
    for name, field in result.items():
        clusters, described = _clusters(field), field.description
        table.add_row(
            name,
            f"{field.vocab_size:,}",
            str(field.dim),
            field.codec if clusters is None else f"{clusters:,} {field.codec}",
            str(described.get("code_bits", "")),
            *_size_cells(field, field.vocab_size),
        )
    features = sum(field.vocab_size for field in result.values())
    table.add_row("file", f"{features:,}", "", "", "", *_size_cells(result, features))
    return table


_SIZE_COLUMNS = ("before", "after", "bits per\nfeature", "ratio")


def _size_cells(compressed: Compressed | CompressedField, features: int) -> list[str]:
    return [
        decimal(compressed.original_nbytes),
        decimal(compressed.nbytes),
        f"{8 * compressed.nbytes / features:.2f}",
        f"{compressed.original_nbytes / compressed.nbytes:.1f}",
    ]


def _clusters(field: CompressedField) -> int | None:
    """Their number, or None for a table kept as it is."""
    from saec.compressed import ClusteredField

    return field.codebook.clusters if isinstance(field, ClusteredField) else None


def _tell_row(row: Mapping[str, Any]) -> None:
    """One line per measurement; a bench may take hours."""
    tuned = ", fine-tuned" if row["finetuned"] else ""
    # The plain stream, which a progress bar lets through above itself.
    sys.stderr.write(
        f"seed {row['seed']}: {row['method']}{tuned} at ratio {row['ratio']:.1f}: "
        f"dAUC {row['auc'] - row['base_auc']:+.5f}, "
        f"dlogloss {row['logloss'] - row['base_logloss']:+.5f}\n"
    )


def _print_results(results: dict[str, Any]) -> None:
    from saec.report import summarise
    from saec.report.terminal import results_table

    for experiment in summarise(results):
        _console().print(results_table(experiment))
