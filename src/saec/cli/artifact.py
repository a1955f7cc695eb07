"""``saec info`` and ``saec lookup``: the content of an artifact."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from saec.cli.common import (
    Artifact,
    Quiet,
    UsageError,
    check_out,
    cluster_count,
    console,
    hush,
    plain_table,
    predicted,
    size_table,
)
from saec.cli.days import Patches, chain_of, print_chain
from saec.cli.keys import print_bill
from saec.errors import FieldError, IdError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from saec import Compressed, CompressedField
    from saec.format.tiered_field import TieredField


def info(
    artifact: Artifact,
    patch: Patches = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Quiet = False,
) -> None:
    """Show the fields, sizes and layout of an artifact."""
    import saec
    from saec.artifact import FORMAT

    hush(quiet)
    result = saec.load(artifact, patches=patch or [])
    if as_json:
        described = {
            "path": str(artifact),
            "format": FORMAT,
            **_sizes(result),
            "shards": result.shard_count,
            "predicted_loss_increase": result.predicted_loss_increase,
            "fields": [_described(field) for field in result.values()],
            "patches": chain_of(result),
        }
        typer.echo(json.dumps(described, indent=2))
    else:
        console().print(size_table(result))
        _print_tiers(result)
        print_bill(result)
        print_chain(result)
        shards = f", shards: {result.shard_count}" if result.shard_count else ""
        typer.echo(f"{_renumbered(result)}{predicted(result)}format {FORMAT}{shards}")


def lookup(
    artifact: Artifact,
    field: Annotated[str, typer.Argument(metavar="FIELD", help="The field's name.")],
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID...]", help="Row numbers; - reads them from stdin."),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="A key, for a field with keys. Repeatable."),
    ] = None,
    patch: Patches = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write a float32 .npy file.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Look up rows; one line each, values separated by spaces."""
    import saec
    from saec.util.messages import listed

    hush(quiet)
    result = saec.load(artifact, patches=patch or [])
    if field not in result:
        raise FieldError(
            f"{artifact} has no field {field!r}; it has {listed(result)}"
            f"{did_you_mean(field, result)}"
        )
    if out is not None:
        if as_json:
            raise UsageError("give --json or --out, not both")
        check_out(out, artifact)
    asked = _asked(result[field], ids or [], key or [])
    rows = result[field].lookup(asked)
    if out is not None:
        _save_rows(out, rows)
        if not quiet:
            typer.echo(f"wrote {out}: {len(rows)} x {rows.shape[1]} float32")
    elif as_json:
        # By way of text, for the shortest digits that give the same float32.
        values = [[float(str(value)) for value in row] for row in rows]
        typer.echo(json.dumps({"field": field, "keys" if key else "ids": asked, "rows": values}))
    else:
        typer.echo("".join(" ".join(map(str, row)) + "\n" for row in rows), nl=False)


def _asked(field: CompressedField, ids: list[str], keys: list[str]) -> list[Any]:
    """The ids or keys of a command line, in the form that the field takes."""
    from saec.format.keyed_field import KeyedField
    from saec.keys.kinds import KeyKind

    if not isinstance(field, KeyedField):
        if keys or not ids:
            raise UsageError(f"field {field.name!r} has ids: give row numbers, and no --key")
        return _ids(ids, field)
    if ids or not keys:
        raise UsageError(f"field {field.name!r} has keys: give --key, and no row numbers")
    if field.key_kind == KeyKind.TEXT:
        return list(keys)
    try:
        return [int(text) for text in keys]
    except ValueError as error:
        raise IdError(f"field {field.name!r}: its keys are whole numbers; {error}") from error


def _described(field: CompressedField) -> dict[str, Any]:
    clusters = cluster_count(field)
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


def _renumbered(result: Compressed) -> str:
    """A line on the fields that take new ids; empty if there are none."""
    names = [name for name, field in result.items() if field.renumbered]
    if not names:
        return ""
    known = all(result[name].permutation_known for name in names)
    old_ids = "beside the artifact" if known else "missing beside the artifact"
    return f"renumbered, takes new ids: {', '.join(names)} (old ids: {old_ids})\n"


def _print_tiers(result: Compressed) -> None:
    """A table of the tiers of all fields in tiers."""
    from saec.format.tiered_field import TieredField

    tiered = [field for field in result.values() if isinstance(field, TieredField)]
    if tiered:
        console().print()
        console().print(_tier_table(tiered))


def _tier_table(fields: Iterable[TieredField]) -> Table:
    table = plain_table(("tier", "rows", "bits per\nrow"), "field")
    table.add_column("axes", no_wrap=True)
    for field in fields:
        layout = field.layout
        for tier, text in enumerate(layout.texts):
            rows = int(layout.bounds[tier + 1] - layout.bounds[tier])
            cells = (str(tier), f"{rows:,}", str(sum(layout.widths(tier))), text or "mean")
            table.add_row("" if tier else field.name, *cells)
    return table


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

    from saec.util.atomic_file import whole_file

    with whole_file(out) as stream:
        np.save(stream, rows)
