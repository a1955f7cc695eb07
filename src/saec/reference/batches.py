"""Batches of a log for PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saec.reference.log import Log

__all__ = ["BATCH", "Batches"]


BATCH = 4096


class Batches:
    """Batches of the given rows of a log, made as they are asked for."""

    def __init__(self, log: Log, rows: NDArray[np.intp]) -> None:
        self._log, self._rows = log, rows

    def __len__(self) -> int:
        return -(-len(self._rows) // BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self._rows), BATCH):
            rows = self._rows[start : start + BATCH]
            yield torch.from_numpy(self._log.ids[rows]), torch.from_numpy(self._log.labels[rows])
