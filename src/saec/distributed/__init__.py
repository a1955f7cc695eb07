"""Compression of tables that are too large for one machine, on a Dask cluster.

``connect`` to a scheduler or start a ``local_cluster``, and pass ``DaskExecutor(client)`` to
functions that work on fields: the workers of the cluster then do the work. ``count_columns`` and
``renumber`` compute frequencies from a log, and an order of features from frequencies.
"""

from saec.errors import require

require("distributed", "distributed")

from saec.distributed.cluster import connect, local_cluster  # noqa: E402
from saec.distributed.counting import count_columns  # noqa: E402
from saec.distributed.executor import DaskExecutor, field  # noqa: E402
from saec.distributed.renumbering import renumber  # noqa: E402

__all__ = [
    "DaskExecutor",
    "connect",
    "count_columns",
    "field",
    "local_cluster",
    "renumber",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
