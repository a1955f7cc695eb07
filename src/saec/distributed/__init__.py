"""Tables that are too large for one machine, worked on by a Dask cluster.

``connect`` to a scheduler or start a ``local_cluster``, and ``spread`` fields over it: all that is
done with them is then done by its workers. ``count_columns`` and ``renumber`` make frequencies from
a log, and an order of features from frequencies.
"""

from saec.errors import require

require("distributed", "distributed")

from saec.distributed.cluster import connect, local_cluster  # noqa: E402
from saec.distributed.counting import count_columns  # noqa: E402
from saec.distributed.map_reduce import DaskHeld, DaskPasses  # noqa: E402
from saec.distributed.renumbering import renumber  # noqa: E402
from saec.distributed.spread import field, spread  # noqa: E402

__all__ = [
    "DaskHeld",
    "DaskPasses",
    "connect",
    "count_columns",
    "field",
    "local_cluster",
    "renumber",
    "spread",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
