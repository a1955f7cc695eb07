"""TorchRec's collections: checks whether they can be compressed, without importing TorchRec.

An unsharded ``EmbeddingBagCollection`` or ``EmbeddingCollection`` looks rows up in plain embedding
modules, one for each table. These are replaced inside the collection: its input is still a
``KeyedJaggedTensor``, and its output has the same form. A table's path ends with its name in
TorchRec, as in ``collection.embedding_bags.user``.
"""

from __future__ import annotations

from torch import nn

from saec.errors import ModuleError

__all__ = ["check_collections"]

_SHARDED = "is sharded over processes: compress the unsharded model that it was made from"
_FUSED = (
    "keeps its tables in a kernel of FBGEMM: load their weights into an unsharded "
    "EmbeddingBagCollection or EmbeddingCollection, and compress that"
)
_REASONS = {
    ("torchrec", "ShardedModule"): _SHARDED,
    ("torchrec", "FusedEmbeddingBagCollection"): _FUSED,
    ("torchrec", "FusedEmbeddingCollection"): _FUSED,
    ("fbgemm_gpu", "SplitTableBatchedEmbeddingBagsCodegen"): _FUSED,
    ("fbgemm_gpu", "DenseTableBatchedEmbeddingBagsCodegen"): _FUSED,
    ("fbgemm_gpu", "IntNBitTableBatchedEmbeddingBagsCodegen"): _FUSED,
}


def check_collections(model: nn.Module, names: set[str] | None) -> None:
    """Reject tables that are in no embedding module, which would otherwise be ignored silently.

    Args:
        model: the model to compress.
        names: of the fields to be compressed; None for all.

    Raises:
        ModuleError: a collection is sharded or fused, and holds one of ``names``.
    """
    for path, module in model.named_modules():
        reason = _reason(module)
        if reason is None:
            continue
        prefix = f"{path}." if path else ""
        if names is None or any(name.startswith(prefix) for name in names):
            raise ModuleError(f"{type(module).__name__} {path!r} cannot be compressed: it {reason}")


def _reason(module: nn.Module) -> str | None:
    for base in type(module).__mro__:
        reason = _REASONS.get((base.__module__.partition(".")[0], base.__name__))
        if reason is not None:
            return reason
    return None
