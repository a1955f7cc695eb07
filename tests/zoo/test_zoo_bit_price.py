"""Training with a price on bits in the trainers of other libraries, unchanged."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from zoo_click import Data, compressed, evaluate
from zoo_models import Entry, build

from saec.reference.log import Log
from saec.torch import BitPrice
from saec.torch.model.call import call

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, not ours

PRICES = (1e-9, 1e-4)


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


def priced(library: str, log: Log, price: float) -> tuple[Entry, BitPrice]:
    entry = build(library, "DeepFM", log.vocab_sizes, 8, 0)
    counts = {name: log.frequencies[field] for name, field in entry.counted.items()}
    return entry, BitPrice(entry.model, price, counts, ranges=entry.ranges)


def by_rechub(entry: Entry, price: BitPrice, data: Data, folder: Path) -> None:
    from torch_rechub.trainers import CTRTrainer

    trainer = CTRTrainer(
        entry.model, optimizer_params={"lr": 5e-3}, n_epoch=4, model_path=str(folder)
    )
    trainer.criterion = price.charged(trainer.criterion)
    price.follow(trainer.optimizer)
    trainer.fit([*data.batches(entry, data.parts["train"], 200)])


def by_deepctr(entry: Entry, price: BitPrice, data: Data, folder: Path) -> None:
    optimizer = torch.optim.Adam(entry.model.parameters(), 5e-3)
    price.follow(optimizer)
    entry.model.compile(optimizer, price.charged(functional.binary_cross_entropy))
    rows = data.parts["train"]
    inputs = [column.numpy() for column in entry.inputs(data.ids[rows]).T]
    entry.model.fit(inputs, data.labels[rows].numpy(), batch_size=200, epochs=4, verbose=0)


def by_lightning(entry: Entry, price: BitPrice, data: Data, folder: Path) -> None:
    import lightning

    class Wrapped(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = entry.model
            self.loss = price.charged(functional.binary_cross_entropy)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self.loss(self.model(batch[0]).reshape(-1), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            optimizer = torch.optim.Adam(self.parameters(), 5e-3)
            price.follow(optimizer)
            return optimizer

    trainer = lightning.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    batches = [*data.batches(entry, data.parts["train"], 200)]
    trainer.fit(Wrapped(), torch.utils.data.DataLoader(batches, batch_size=None))


def by_loop(entry: Entry, price: BitPrice, data: Data, folder: Path) -> None:
    optimizer = torch.optim.Adam(entry.model.parameters(), 5e-3)
    for _ in range(4):
        for inputs, labels in data.batches(entry, data.parts["train"], 200):
            loss = entry.loss_fn(call(entry.model, inputs, None).reshape(-1), labels) + price.cost()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            price.step()


@pytest.mark.parametrize(
    ("library", "trained"),
    [
        pytest.param("torch-rechub", by_rechub, marks=needs("torch_rechub")),
        pytest.param("deepctr-torch", by_deepctr, marks=needs("deepctr_torch")),
        pytest.param(
            "torch-rechub", by_lightning, marks=[needs("torch_rechub"), needs("lightning")]
        ),
        pytest.param("torchfm", by_loop, marks=needs("torchfm")),
        pytest.param("torchrec", by_loop, marks=needs("torchrec")),
    ],
)
def test_trainers_of_other_libraries(library: str, trained: Any, log: Log, tmp_path: Path) -> None:
    data, bits, auc = Data.of(log), {}, {}
    for amount in PRICES:
        entry, price = priced(library, log, amount)
        trained(entry, price, data, tmp_path)
        bits[amount] = price.bits
        price.finish()
        auc[amount] = evaluate(entry, data, "test")["auc"]
    low, high = PRICES
    assert bits[high] < 0.9 * bits[low]
    assert auc[low] > 0.6
    hooks = [module for module in entry.model.modules() if module._forward_hooks]
    assert not [module for module in hooks if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    assert compressed(entry, data, ratio=6, seed=0).compression_ratio >= 6
