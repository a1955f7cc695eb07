"""Puts compressed embedding tables into ONNX models, with standard operators only."""

from saec.errors import require

require("onnx", "onnx")

from saec.onnx.compressing import Rewritten, TableReport, compress, fields, tables  # noqa: E402

__all__ = ["Rewritten", "TableReport", "compress", "fields", "tables"]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
