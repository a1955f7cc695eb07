"""Compressed embedding tables inside PyTorch models.

``compress_`` does everything in one call. The single steps are: ``fields`` reads tables from a
model, ``loss_metrics`` measures how directions of their rows affect the loss,
``replace_embeddings_`` replaces the tables by compressed ones, ``finetune`` trains their
codebooks, values and axes, ``sync_codebooks_`` copies these into a result that can be saved, and
``decode_embeddings_`` returns to plain modules. ``apply_patch_`` brings the tables to the next
day, ``worth_of_moves`` measures how much of what moved is worth its bits there, and
``warm_start_`` gives plain tables the rows of an artifact, to train on from them.
``BitPrice`` trains a model for compression.
"""

from saec.errors import require

require("torch", "torch")

from saec.torch.compress import compress_  # noqa: E402
from saec.torch.measure.forecast import forecast  # noqa: E402
from saec.torch.measure.loss_increase import measure_loss_increase  # noqa: E402
from saec.torch.measure.loss_metrics import loss_metrics  # noqa: E402
from saec.torch.measure.measured_increase import MeasuredIncrease  # noqa: E402
from saec.torch.measure.moves import worth_of_moves  # noqa: E402
from saec.torch.model.field_embeddings import FieldEmbeddings  # noqa: E402
from saec.torch.model.find_tables import fields  # noqa: E402
from saec.torch.model.keyed_modules import KeyedEmbedding, KeyedEmbeddingBag  # noqa: E402
from saec.torch.model.managed_collisions import managed_keys  # noqa: E402
from saec.torch.model.modules import (  # noqa: E402
    CompressedEmbedding,
    CompressedEmbeddingBag,
    CompressedLinear,
)
from saec.torch.model.patching import apply_patch_, put_tables_  # noqa: E402
from saec.torch.model.replace import (  # noqa: E402
    decode_embeddings_,
    replace_embeddings_,
    sync_codebooks_,
)
from saec.torch.model.table_keys import TableKeys  # noqa: E402
from saec.torch.model.warm_start import warm_start_  # noqa: E402
from saec.torch.training.bit_price import BitPrice  # noqa: E402
from saec.torch.training.price_search import PriceTrial  # noqa: E402
from saec.torch.tuning.finetune import (  # noqa: E402
    FineTuneResult,
    finetune,
    finetune_on_unseen_rows,
    predictions,
)

__all__ = [
    "BitPrice",
    "CompressedEmbedding",
    "CompressedEmbeddingBag",
    "CompressedLinear",
    "FieldEmbeddings",
    "FineTuneResult",
    "KeyedEmbedding",
    "KeyedEmbeddingBag",
    "MeasuredIncrease",
    "PriceTrial",
    "TableKeys",
    "apply_patch_",
    "compress_",
    "decode_embeddings_",
    "fields",
    "finetune",
    "finetune_on_unseen_rows",
    "forecast",
    "loss_metrics",
    "managed_keys",
    "measure_loss_increase",
    "predictions",
    "put_tables_",
    "replace_embeddings_",
    "sync_codebooks_",
    "warm_start_",
    "worth_of_moves",
]


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
