"""The reference pipeline: logs, click models, training and evaluation on them.

It shows what compression costs, on public click logs and on a simulated one, and needs the extra
``saec[reference]``.
"""

from saec.errors import require

# Every module here reads logs; name the missing extra instead of failing during an import.
require("polars", "reference")

from saec.reference.datasets import ColumnSpec, load, tasks  # noqa: E402
from saec.reference.encode import encode  # noqa: E402
from saec.reference.log import Log  # noqa: E402
from saec.reference.simulated import best_reachable, simulate  # noqa: E402

__all__ = ["ColumnSpec", "Log", "best_reachable", "encode", "load", "simulate", "tasks"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
