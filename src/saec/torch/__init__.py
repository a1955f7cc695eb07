"""Compressed embedding tables inside PyTorch models.

``fields`` reads tables from a model, ``replace_embeddings_`` puts compressed ones in their place,
``finetune`` trains their codebooks, ``sync_codebooks_`` takes the trained codebooks back into a
result that can be saved, and ``decode_embeddings_`` returns to plain modules.
"""

from saec.errors import require

require("torch", "torch")

from saec.torch.finetune import FineTuneResult, finetune  # noqa: E402
from saec.torch.modules import CompressedEmbedding, CompressedEmbeddingBag  # noqa: E402
from saec.torch.replace import (  # noqa: E402
    decode_embeddings_,
    replace_embeddings_,
    sync_codebooks_,
)
from saec.torch.tables import fields  # noqa: E402

__all__ = [
    "CompressedEmbedding",
    "CompressedEmbeddingBag",
    "FineTuneResult",
    "decode_embeddings_",
    "fields",
    "finetune",
    "replace_embeddings_",
    "sync_codebooks_",
]
