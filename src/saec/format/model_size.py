"""The size of a whole model before and after its tables are compressed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelSize"]


@dataclass(frozen=True)
class ModelSize:
    """Bytes of a whole model, over all its parameters and buffers.

    Args:
        before: with its plain tables.
        after: with the compressed ones, in their saved size.
    """

    before: int
    after: int

    @property
    def ratio(self) -> float:
        """Bytes before / bytes after."""
        return self.before / self.after
