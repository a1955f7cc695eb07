"""What every click model here shares: one embedding table per field, read through modules only."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from saec.errors import DataError
from saec.torch.model.field_embeddings import FieldEmbeddings

__all__ = ["ClickModel", "FieldLinear", "mlp"]

INITIAL_STD = 0.01


class ClickModel(nn.Module):
    """Base of the click models: ``ids (B, F) -> logits (B,)``.

    ``embeddings`` holds one module per field, in the order of ``field_names``; each maps ``(B,)``
    integer ids to ``(B, dim)`` vectors. They start as ``nn.Embedding(vocab_size, dim,
    sparse=True)``, and any of them may be replaced by a module with the same call, such as a
    compressed table. All that a model learns per feature lies in these tables, so that their size
    is the whole size to compress: there are no separate first-order tables.

    Row 0 (unseen in training) starts at zero and, never being looked up in training, stays there;
    the other rows start as small normal numbers.

    Args:
        vocab_sizes: rows of each field's table, by field name.
        dim: width of all tables.

    Raises:
        DataError: no fields, a vocabulary or dim below 1, or a field name that PyTorch cannot
            take as a module's name.
    """

    def __init__(self, vocab_sizes: Mapping[str, int], dim: int) -> None:
        super().__init__()
        _check(vocab_sizes, dim)
        self.vocab_sizes = dict(vocab_sizes)
        self.field_names = tuple(vocab_sizes)
        self.dim = dim
        self.embeddings = FieldEmbeddings()
        for name, size in vocab_sizes.items():
            if "." in name or name == "" or hasattr(self.embeddings, name):
                raise DataError(f"field name {name!r} cannot name a PyTorch module; rename it")
            self.embeddings[name] = _table(size, dim)

    def embed(self, ids: Tensor) -> Tensor:
        """Look up ``ids (B, F)``, int32 or int64, as vectors ``(B, F, dim)``."""
        vectors: Tensor = self.embeddings(ids)
        return vectors

    def interact(self, vectors: Tensor) -> Tensor:
        """Turn the fields' vectors ``(B, F, dim)`` into logits ``(B,)``."""
        raise NotImplementedError

    def forward(self, ids: Tensor) -> Tensor:
        """Logits ``(B,)`` of the examples ``ids (B, F)``, int32 or int64."""
        return self.interact(self.embed(ids))


class FieldLinear(nn.Module):
    """First-order term read off the embeddings: ``sum_f <e_f, w_f>``, one learned w_f per field.

    It takes the place of a table of one weight per feature (Pan et al., Field-weighted
    Factorization Machines, WWW 2018, section 4.3.2: linear terms "FiLV"), which would be a
    second thing to compress.
    """

    def __init__(self, fields: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fields, dim) / (fields * dim) ** 0.5)

    def forward(self, vectors: Tensor) -> Tensor:
        """``(B, F, dim) -> (B,)``."""
        return vectors.flatten(1) @ self.weight.flatten()


def mlp(inputs: int, hidden: tuple[int, ...], outputs: int | None = None) -> nn.Sequential:
    """Linear layers with ReLU between, and a last plain one if ``outputs`` is given."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    if outputs is not None:
        layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers)


def _table(size: int, dim: int) -> nn.Embedding:
    # Sparse gradients: a batch touches thousands of rows, a table has millions.
    table = nn.Embedding(size, dim, sparse=True)
    with torch.no_grad():
        table.weight.mul_(INITIAL_STD)  # PyTorch has drawn standard normal numbers
        table.weight[0] = 0.0
    return table


def _check(vocab_sizes: Mapping[str, int], dim: int) -> None:
    if not vocab_sizes:
        raise DataError("a model needs at least one field")
    if dim < 1:
        raise DataError(f"dim is {dim}; it must be at least 1")
    for name, size in vocab_sizes.items():
        if size < 1:
            raise DataError(f"field {name!r} has a vocabulary of {size}; it must be at least 1")
