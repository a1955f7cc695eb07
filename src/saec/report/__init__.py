"""Reports on results files: what compression cost, as one HTML page that needs nothing else.

Reads what ``saec bench`` and ``saec demo`` write. The page needs the extra ``saec[report]``.
"""

from saec.report.page import render, write_report
from saec.report.results import Experiment, Measured, Spread, read_results, summarise

__all__ = [
    "Experiment",
    "Measured",
    "Spread",
    "read_results",
    "render",
    "summarise",
    "write_report",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
