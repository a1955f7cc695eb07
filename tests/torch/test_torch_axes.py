"""Codebooks on few axes in PyTorch: fine-tuning moves them along those axes only."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from saec.bits.packing import PackedCodes
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.compressed import Compressed
from saec.torch import finetune, replace_embeddings_, sync_codebooks_


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids).sum(dim=1)


def on_one_axis() -> Compressed:
    """Two centroids, (1, 0, 0) and (3, 0, 0): the mean (2, 0, 0) and one axis, the first."""
    centroids = np.array([[1, 0, 0], [3, 0, 0]], dtype=np.float32)
    codebook = Codebook.round(centroids, "float32", rank=1)
    codes = PackedCodes.pack(np.array([0, 0, 0, 1, 1, 1]), 1)
    return Compressed([ClusteredField("table", codes, codebook, "float32")])


def test_centroids_move_along_their_axis_only_and_lose_nothing_in_rounding() -> None:
    result = on_one_axis()
    np.testing.assert_allclose(result["table"].decode()[[0, 5]], [[1, 0, 0], [3, 0, 0]], atol=1e-6)
    model = replace_embeddings_(Model(), result)
    batch = (torch.arange(6), torch.tensor([-9.0, -9, -9, 9, 9, 9]))
    loss = nn.functional.mse_loss
    tuned = finetune(
        model,
        [batch] * 40,
        loss_fn=loss,
        validation=[batch],
        learning_rate=0.1,
        progress=False,
    )
    assert tuned.losses[tuned.best] < 0.5 * tuned.losses[0]
    rows = model.table(torch.arange(6)).detach().numpy()
    np.testing.assert_allclose(rows[:, 1:], 0, atol=1e-6)  # the sum's gradient points there, too
    assert rows[0, 0] < 0
    assert rows[5, 0] > 5
    saved = sync_codebooks_(model, result)
    np.testing.assert_allclose(saved["table"].decode(), rows, atol=1e-5)
    assert saved.nbytes == result.nbytes
