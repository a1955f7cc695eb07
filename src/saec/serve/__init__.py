"""A server for rows of an artifact, or scores of an ONNX model or of both together.

It implements the Open Inference Protocol v2, with REST and gRPC. Needs the extra ``saec[serve]``.
"""

from saec.errors import require

for _module in ("fastapi", "uvicorn", "httptools", "grpc", "google.protobuf", "prometheus_client"):
    require(_module, "serve")

from saec.serve.batching import BatchLimits  # noqa: E402
from saec.serve.server import Address, serve  # noqa: E402
from saec.serve.service import Limits  # noqa: E402

__all__ = ["Address", "BatchLimits", "Limits", "serve"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
