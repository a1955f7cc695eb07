"""Click models by name: DeepFM, DLRM, Wide & Deep, DCN-V2, each over one table per field."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from saec.errors import DataError
from saec.reference.models.base import ClickModel
from saec.reference.models.dcnv2 import DCNv2
from saec.reference.models.deepfm import DeepFM
from saec.reference.models.dlrm import DLRM
from saec.reference.models.wide_deep import WideDeep

__all__ = ["MODELS", "ClickModel", "build"]

MODELS: dict[str, Callable[[Mapping[str, int], int], ClickModel]] = {
    "deepfm": DeepFM,
    "dlrm": DLRM,
    "wide_deep": WideDeep,
    "dcnv2": DCNv2,
}


def build(name: str, vocab_sizes: Mapping[str, int], dim: int = 16, seed: int = 0) -> ClickModel:
    """A new model by name, the same for the same seed; torch's own random state is not touched.

    Args:
        name: a key of `MODELS`.
        vocab_sizes: rows of each field's table, by field name, in the order of the ids' columns.
        dim: width of all tables.
        seed: of the initial weights.

    Raises:
        DataError: an unknown name, or fields that cannot be used.
    """
    if name not in MODELS:
        raise DataError(f"no model is called {name!r}; there are {', '.join(sorted(MODELS))}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](vocab_sizes, dim)
