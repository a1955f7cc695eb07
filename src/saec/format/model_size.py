"""What a whole model takes, before and after its tables are compressed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelSize"]


@dataclass(frozen=True)
class ModelSize:
    """Bytes of a whole model, of all its parameters and buffers.

    Args:
        before: with its plain tables.
        after: with the compressed ones, counted as they are saved.
    """

    before: int
    after: int

    @property
    def ratio(self) -> float:
        """Bytes before / bytes after."""
        return self.before / self.after
