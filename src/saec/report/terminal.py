"""The same figures as a table in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saec.report.results import Experiment, Measured

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["results_table"]

_NUMBERS = ("ratio", "size", "AUC", "dAUC", "log loss", "dlogloss", "predicted", "seconds", "seeds")


def results_table(experiment: Experiment) -> Table:
    """Uncompressed, every method at every size, and the best reachable if it is known."""
    from rich.filesize import decimal
    from rich.table import Table

    table = Table(
        box=None, pad_edge=False, header_style="bold", title=experiment.title, title_justify="left"
    )
    table.add_column("method", overflow="fold", min_width=8)
    for column in _NUMBERS:
        table.add_column(column, justify="right", no_wrap=True)
    size = decimal(round(experiment.original_nbytes))
    base = (f"{experiment.base_auc:.4f}", "", f"{experiment.base_logloss:.4f}")
    table.add_row("uncompressed", "1.0", size, *base)
    for point in experiment.measured:
        table.add_row(*_cells(point))
    if experiment.best_auc is not None and experiment.best_logloss is not None:
        best = (f"{experiment.best_auc:.4f}", "", f"{experiment.best_logloss:.4f}")
        table.add_row("best reachable", "", "", *best)
    return table


def _cells(point: Measured) -> list[str]:
    from rich.filesize import decimal

    return [
        point.label,
        f"{point.ratio:.1f}",
        decimal(round(point.nbytes)),
        f"{point.auc:.4f}",
        str(point.auc_change),
        f"{point.logloss:.4f}",
        str(point.logloss_change),
        "" if point.predicted is None else f"{point.predicted:+.5f}",
        f"{point.compress_seconds:.1f}",
        str(point.seeds),
    ]
