"""Keys of tables on the command line: their places, and the sizes of tables with keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from saec.cli.common import by_field, console, plain_table

if TYPE_CHECKING:
    from saec import Compressed
    from saec.tables.key_places import KeyPlaces

KeyColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--key",
        metavar="[FIELD=]COLUMN",
        help="Column of the checkpoint's Parquet files with the key of each row. Lookups then "
        "take keys instead of ids. Repeatable.",
    ),
]
KeyFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--keys",
        metavar="[FIELD=]FILE",
        help="Like --key, with the keys in a file: .npy of integers, .txt with a key in each line, "
        "or .parquet. Repeatable.",
    ),
]
Cosine = Annotated[
    bool,
    typer.Option(
        "--cosine", help="Scale rows to length 1, for vectors that are compared by cosine."
    ),
]


def key_places(columns: list[str] | None, files: list[str] | None) -> KeyPlaces | None:
    """The places of keys by table; a place without a field is that of the only table.

    Raises:
        UsageError: a table is given twice.
    """
    from saec.tables.key_places import KeyPlaces

    if not columns and not files:
        return None
    return KeyPlaces(
        *(
            by_field(
                option,
                [text if "=" in text else f"={text}" for text in given or []],
                "[FIELD=]VALUE",
                nameless=True,
            )
            for option, given in (("--key", columns), ("--keys", files))
        )
    )


def print_bill(result: Compressed) -> None:
    """The parts of the size of fields with keys, compared with float32 rows and 8-byte keys."""
    from saec.format.keyed_field import KeyedField

    keyed = [field for field in result.values() if isinstance(field, KeyedField)]
    if not keyed:
        return
    columns = (
        "function:\ncodes",
        "function:\nfingerprints",
        "values of\nsymbols",
        "axes",
        "float32 rows\nand keys",
        "unknown keys\ntaken for known",
    )
    table = plain_table(columns, "field")
    for field in keyed:
        bytes_ = [f"{nbytes:,}" for nbytes in (*field.bill.values(), field.uncompressed_nbytes)]
        table.add_row(field.name, *bytes_, f"{100 * field.false_positive_rate:.2g} %")
    console().print()
    console().print(table)
