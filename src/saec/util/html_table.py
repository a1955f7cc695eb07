"""Text and HTML forms of objects in notebooks and consoles: small tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["html_table", "text_table"]

_MOST_ROWS = 60  # more fields are too long for a notebook

_NUMBER = ' style="text-align: right"'
_NAME = ' style="text-align: left"'


def html_table(caption: str, heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with names in the first column and numbers in the others; all text is escaped.

    Args:
        caption: above the table; its lines are kept.
        heading: (m,) names of the columns.
        rows: (m,) cells each; those in the middle of a long table are left out, and counted.
    """
    every = list(rows)
    shown = [_row("td", row) for row in every]
    if len(every) > _MOST_ROWS:
        half = _MOST_ROWS // 2
        left_out = len(every) - 2 * half
        gap = f'<tr><td colspan="{len(heading)}"{_NAME}>and {left_out:,} more</td></tr>'
        shown = [*shown[:half], gap, *shown[-half:]]
    above = "<br>".join(escape(line) for line in caption.splitlines())
    return (
        f'<table><caption style="text-align: left">{above}</caption>'
        f"<thead>{_row('th', heading)}</thead><tbody>{''.join(shown)}</tbody></table>"
    )


def text_table(caption: str, heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same table as lines of text; arguments as of :func:`html_table`, with all rows."""
    lines = [heading, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join([*(_aligned(line, widths) for line in lines), *caption.splitlines()])


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = cells
    padded = [name.ljust(widths[0])]
    padded += [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
    return "  ".join(padded).rstrip()


def _row(tag: str, cells: Sequence[str]) -> str:
    styles = [_NAME, *[_NUMBER] * (len(cells) - 1)]
    inner = (
        f"<{tag}{style}>{escape(cell)}</{tag}>" for style, cell in zip(styles, cells, strict=True)
    )
    return f"<tr>{''.join(inner)}</tr>"
