"""Arguments, checks and tables that several commands share."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from saec.errors import DataError, MetricWarning, did_you_mean
from saec.util.atomic_file import checked_target, whole_file
from saec.util.remote_file import as_url, check_url

if TYPE_CHECKING:
    from saec import Compressed, CompressedField
    from saec.tables.checkpoint import LogColumns


def one_of(*names: str) -> dict[str, Any]:
    """Keywords of a ``typer.Option`` whose value is one of ``names``; errors suggest the nearest
    name."""

    def parse(value: str) -> str:
        if value not in names:
            known = ", ".join(map(repr, names))
            meant = did_you_mean(value, names) or "."
            raise typer.BadParameter(f"{value!r} is not one of {known}{meant}")
        return value

    return {
        "parser": parse,
        "metavar": f"<{'|'.join(names)}>",
        "autocompletion": lambda incomplete: [n for n in names if n.startswith(incomplete)],
    }


# Typer exports no base of its usage errors and has kept it in different places.
UsageError = cast("type[Exception]", typer.BadParameter.__base__)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Artifact = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="A file written by compress or result.save.")
]
Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="Tables: .safetensors or their index, .npz, .npy, a torch state_dict or distributed "
        "checkpoint, .parquet, .onnx; a file, a folder or a 'pattern*'.",
    ),
]
Frequencies = Annotated[
    Path | None,
    typer.Option(
        "--frequencies",
        metavar="FILE",
        help="Number of occurrences of each feature, in files of the same kinds. Parquet tables "
        "may have them in a column.",
    ),
]
Logs = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="FILE",
        help="Count frequencies in these .parquet or .csv files. Repeatable.",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="FIELD=COLUMN", help="The log's column with a field's ids. Repeatable."
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Compress these tables only: a name or a pattern like 'embeddings.*'. Repeatable.",
    ),
]
Tables = Annotated[
    list[str] | None,
    typer.Option(
        "--table",
        metavar="FIELD=NAME",
        help="Name of a field's table in the checkpoint, if it differs. Repeatable.",
    ),
]
_METRICS = typer.Option(
    "--metrics", metavar="FILE", help="Loss metrics, written by saec.save_metrics."
)
Metrics = Annotated[Path, _METRICS]
MaybeMetrics = Annotated[Path | None, _METRICS]
Order = Annotated[
    str | None,
    typer.Option(
        "--order",
        help="Order of rows: keep ids; renumber them by frequency; or renumber so that rows are "
        "sorted by their codes, which takes the fewest bytes. For axes. Default: keep.",
        **one_of("keep", "frequency", "code"),
    ),
]
Seed = Annotated[int, typer.Option(min=0, metavar="SEED", help="Random seed.")]

SECOND_ORDER = (
    "predicted to second order: rows that the tables have not seen may lose much less or more"
)

_SIZE_COLUMNS = ("before", "after", "bits per\nfeature", "ratio")


def hush(quiet: bool) -> None:
    """Warnings of the library go to stderr unless told otherwise."""
    if quiet:
        logging.getLogger("saec").setLevel(logging.ERROR)
        warnings.simplefilter("ignore", MetricWarning)


def check_out(out: Path, *inputs: Path | None) -> None:
    """Check that ``out`` can be written before the work starts."""
    if str(out) == "-":
        raise DataError("cannot write to standard output (-): give the name of a file")
    url = as_url(out)
    if url is not None:
        check_url(url, DataError)
        return
    target = checked_target(out)
    if not target.parent.is_dir():
        raise DataError(f"cannot write {out}: there is no directory {target.parent}")
    for path in inputs:
        if path is not None and out.exists() and path.exists() and out.samefile(path):
            raise DataError(f"cannot write {out}: it is the input")


def counted(
    frequencies: Path | None, log: list[str] | None, columns: list[str] | None
) -> Path | LogColumns | None:
    """Where the frequencies are, or are to be counted."""
    from saec.tables.checkpoint import LogColumns

    if frequencies is not None and log:
        raise UsageError("give --frequencies or --log, not both")
    if bool(log) != bool(columns):
        raise UsageError("--log and --column FIELD=COLUMN go together")
    wanted = "FIELD=COLUMN, like --column user=user_id"
    return LogColumns(log, by_field("--column", columns or [], wanted)) if log else frequencies


def named(tables: list[str] | None) -> dict[str, str]:
    """The checkpoint's tables by field, for fields with other names than their tables."""
    return by_field("--table", tables or [], "FIELD=NAME, like --table user=towers.0.user")


def by_field(
    option: str, given: Sequence[str], wanted: str, nameless: bool = False
) -> dict[str, str]:
    """The values of an option by field, each given as ``FIELD=VALUE``; with ``nameless``, also as
    ``=VALUE`` for the only field.

    Raises:
        UsageError: a text does not have the ``wanted`` form, or a field is given twice.
    """
    pairs = [text.partition("=") for text in given]
    for (field, _, value), text in zip(pairs, given, strict=True):
        if not value or not (field or nameless):
            raise UsageError(f"{option} {text}: give {wanted}")
    values = {field: value for field, _, value in pairs}
    if len(values) < len(pairs):
        raise UsageError(f"{option}: a field was given twice")
    return values


def write_text(out: Path, text: str) -> None:
    """Write a text file atomically."""
    with whole_file(out) as stream:
        stream.write(text.encode())


def write_json(out: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_text(out, json.dumps(value, indent=2) + "\n")


def console() -> Console:
    """The console for tables."""
    # Names may hold brackets; in a pipe, rich would cut tables at 80 columns.
    width = None if sys.stdout.isatty() else 160
    return Console(width=width, markup=False, highlight=False, emoji=False)


def plain_table(columns: Sequence[str], name: str | None = None) -> Table:
    """A table of right-aligned ``columns``, after a column of names if its heading is given."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    if name is not None:
        table.add_column(name, overflow="fold", min_width=8)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def size_table(result: Compressed) -> Table:
    """Sizes of each field, and of the whole file."""
    table = plain_table(("rows", "dim", "codec", "code\nbits", *_SIZE_COLUMNS), "field")
    for name, field in result.items():
        codec, code_bits = _codec_cells(field)
        size = _size_cells(field, field.vocab_size)
        table.add_row(name, f"{field.vocab_size:,}", str(field.dim), codec, code_bits, *size)
    features = sum(field.vocab_size for field in result.values())
    table.add_row("file", f"{features:,}", "", "", "", *_size_cells(result, features))
    return table


def predicted(result: Compressed) -> str:
    """A line on the predicted increase of the loss; empty if it is unknown."""
    loss = result.predicted_loss_increase
    return "" if loss is None else f"predicted log-loss increase {loss:.2g} nats\n"


def cluster_count(field: CompressedField) -> int | None:
    """The number of clusters, or None for a table stored in another way."""
    from saec.format.clustered_field import ClusteredField

    return field.codebook.clusters if isinstance(field, ClusteredField) else None


def _codec_cells(field: CompressedField) -> tuple[str, str]:
    """The number of clusters or axes, and the bits of a code, from most to least."""
    from saec.format.tiered_field import TieredField

    if isinstance(field, TieredField):
        bits = [sum(field.layout.widths(tier)) for tier in range(len(field.layout.tiers))]
        between = f"{bits[0]}" if len(set(bits)) == 1 else f"{max(bits)} to {min(bits)}"
        return f"{field.layout.rank} axes", between
    clusters = cluster_count(field)
    if clusters is None:
        return field.codec, ""
    return f"{clusters:,} {field.codec}", str(field.description["code_bits"])


def _size_cells(compressed: Compressed | CompressedField, features: int) -> list[str]:
    return [
        decimal(compressed.original_nbytes),
        decimal(compressed.nbytes),
        f"{8 * compressed.nbytes / features:.2f}",
        f"{compressed.original_nbytes / compressed.nbytes:.1f}",
    ]


def split(option: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    """The values of an option that takes a comma-separated list."""
    try:
        return [kind(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f"{option} takes numbers separated by commas, not {text!r}") from error
