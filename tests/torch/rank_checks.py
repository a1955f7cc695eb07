"""Fine-tuning and evaluation as scenarios that any number of processes can run together.

``python rank_checks.py COUNT FOLDER NAME...`` runs those named in COUNT processes and saves the
results of each rank as FOLDER/RANK; test_torch_distributed.py compares them with those of one
process.
"""

from __future__ import annotations

import copy
import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from saec.bits.packing import PackedCodes
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.tier_layout import Layout
from saec.format.tiered_field import TieredField
from saec.reference.evaluate import evaluate, predict
from saec.reference.log import Log
from saec.reference.models import ClickModel, build
from saec.torch import (
    finetune,
    finetune_on_unseen_rows,
    predictions,
    replace_embeddings_,
)

ROWS = {"user": 90, "item": 30, "hour": 12}
DIM = 4
OPTIONS: dict[str, Any] = {"learning_rate": 0.003, "epochs": 2, "patience": 8, "progress": False}
Batch = tuple[Any, Any]
Found = dict[str, Any]


def field(codec: str, name: str, rows: int, seed: int = 0) -> CompressedField:
    """A random field of numbers that storage rounds by less than 1e-4."""
    rng = np.random.default_rng([seed, rows])
    if codec == "clustered":
        centroids = rng.standard_normal((8, DIM)).astype(np.float32)
        codes = PackedCodes.pack(np.append(rng.integers(0, 8, rows - 1), 7), 3)
        return ClusteredField(name, codes, Codebook.round(centroids, "float32"), "float32")
    layout = Layout.parse(rows, ("4g 6j2 2", "3 2g")[: 1 + (rows > 64)])
    codes = rng.integers(0, 256, layout.code_bytes).astype(np.uint8)
    values = rng.standard_normal(layout.value_count).astype(np.float16) / 32
    axes = rng.standard_normal((layout.rank + 1, DIM)).astype(np.float32)
    return TieredField(name, layout, codes, values, axes, None, "float32")


def student(codec: str, seed: int = 0) -> ClickModel:
    """A click model on compressed tables; the network is the same for all seeds."""
    torch.manual_seed(0)
    model = build("deepfm", ROWS, DIM)
    tables = [field(codec, f"embeddings.{name}", rows, seed) for name, rows in ROWS.items()]
    replace_embeddings_(model, Compressed(tables))
    return model


def batches(sizes: Sequence[int], seed: int, dtype: torch.dtype = torch.int32) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for size in sizes:
        columns = [torch.randint(rows, (size,), generator=generator) for rows in ROWS.values()]
        labels = torch.randint(2, (size,), generator=generator).float()
        made.append((torch.stack(columns, dim=1).to(dtype), labels))
    return made


# Even, uneven and fewer examples than ranks.
SIZES = (33, 32, 7, 1, 20, 1)
TRAINING = batches(SIZES, seed=1)
VALIDATION = batches((25, 1, 30), seed=2)


def learned(model: nn.Module, tuned: Any) -> Found:
    found = {f"parameter {name}": value.detach() for name, value in model.named_parameters()}
    return {
        **found,
        "losses": torch.tensor(tuned.losses),
        "steps": tuned.steps,
        "best": tuned.best,
        "flags": [value.requires_grad for value in model.parameters()],
        "gradients": [name for name, p in model.named_parameters() if p.grad is not None],
    }


def answered(teacher: nn.Module) -> list[Batch]:
    """Validation rows with the teacher's probabilities for labels."""
    with torch.no_grad():
        return [(ids, torch.sigmoid(teacher(ids))) for ids, _ in VALIDATION]


def distilled(codec: str) -> Found:
    model, teacher = student(codec), student(codec, seed=1)
    tuned = finetune(model, TRAINING, teacher=teacher, validation=answered(teacher), **OPTIONS)
    return learned(model, tuned)


def distilled_from_logits(codec: str) -> Found:
    """Distillation from logits of shape (n, 1) of all rows."""
    model, teacher = student(codec), student(codec, seed=1)
    logits = [part.unsqueeze(1) for part in predictions(teacher, TRAINING, progress=False)]
    tuned = finetune(model, TRAINING, teacher=logits, validation=answered(teacher), **OPTIONS)
    return learned(model, tuned)


def labelled(codec: str) -> Found:
    model = student(codec)
    training = batches(SIZES, seed=1, dtype=torch.int64)
    tuned = finetune_on_unseen_rows(model, training, validation=VALIDATION, **OPTIONS)
    return learned(model, tuned)


def another_loss(codec: str) -> Found:
    """Another loss, of a model with two outputs for each example and a tuple of labels."""
    model = nn.Sequential(student(codec), nn.Unflatten(0, (-1, 1)), nn.Linear(1, 2))
    torch.manual_seed(3)
    nn.init.normal_(model[2].weight)

    def loss_fn(outputs: Tensor, labels: tuple[Tensor, Tensor]) -> Tensor:
        one, other = outputs.unbind(1)
        return (one - labels[0]).square().mean() + (other - labels[1]).abs().mean()

    def twice(made: list[Batch]) -> list[Batch]:
        return [((ids,), (labels, 1 - labels)) for ids, labels in made]

    tuned = finetune(
        model, twice(TRAINING), validation=twice(VALIDATION), loss_fn=loss_fn, **OPTIONS
    )
    return learned(model, tuned)


def diverged(codec: str) -> Found:
    """Training with an infinite gradient on the rank of the first example."""
    model = student(codec)

    def steep(outputs: Tensor, labels: Tensor) -> Tensor:
        loss = nn.functional.binary_cross_entropy_with_logits(outputs, labels)
        return loss + torch.sqrt((outputs - outputs.detach()).sum()) * (labels == 2).any()

    training = batches((8, 8), seed=1)
    training[0][1][0] = 2
    tuned = finetune_on_unseen_rows(model, training, steep, validation=VALIDATION, **OPTIONS)
    return learned(model, tuned)


class Sometimes(nn.Module):
    """Looks up tags only if there are any; refuses batches without examples."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(90, DIM)
        self.tags = nn.Embedding(12, DIM)

    def forward(self, user: Tensor, tags: Tensor, scale: Tensor) -> Tensor:
        assert len(user)
        logits = self.user(user).sum(1)
        (found,) = tags.nonzero(as_tuple=True)
        if len(found):
            logits = logits.index_add(0, found, self.tags(tags[found]).sum(1))
        return logits * scale


def sometimes(codec: str) -> Found:
    """Batches with gradients of a table on both ranks, on either one, or on none."""
    model = Sometimes()
    replace_embeddings_(model, Compressed([field(codec, "user", 90), field(codec, "tags", 12)]))
    generator = torch.Generator().manual_seed(4)
    made = []
    for size, tagged in ((16, range(16)), (16, range(12, 16)), (16, ()), (16, range(3)), (1, ())):
        tags = torch.zeros(size, dtype=torch.int64)
        tags[list(tagged)] = torch.randint(1, 12, (len(tagged),), generator=generator)
        user = torch.randint(90, (size,), generator=generator)
        labels = torch.randint(2, (size,), generator=generator)
        made.append(((user, tags, torch.tensor(2.0)), labels))
    tuned = finetune_on_unseen_rows(model, made, validation=made, **OPTIONS)
    return learned(model, tuned)


def log(rows: int) -> Log:
    rng = np.random.default_rng(5)
    ids = np.stack([rng.integers(0, count, rows) for count in ROWS.values()], axis=1)
    return Log(
        name="random",
        field_names=tuple(ROWS),
        ids=ids.astype(np.int32),
        labels=rng.integers(0, 2, rows).astype(np.float32),
        split=np.repeat(np.array([0, 1, 2], dtype=np.int8), [1, 1, rows - 2]),
        frequencies={name: np.ones(count) for name, count in ROWS.items()},
        vocabularies=None,
        truth=None,
    )


def scored(codec: str) -> Found:
    model, rows = student(codec), log(103)
    score = evaluate(model, rows, batch_size=16, progress=False)
    return {
        "score": torch.tensor([score.auc, score.logloss], dtype=torch.float64),
        "predictions": torch.from_numpy(predict(model, rows.ids, progress=False)),
        "one row": torch.from_numpy(predict(model, rows.ids[:1], progress=False)),
        "training": model.training,
    }


SAME = {
    scenario.__name__: scenario
    for scenario in (
        distilled,
        distilled_from_logits,
        labelled,
        another_loss,
        diverged,
        sometimes,
        scored,
    )
}
CODECS = ("tiered", "clustered")


def results(names: Sequence[str]) -> dict[str, Found]:
    """Results, which must not depend on the number of ranks, by scenario and codec."""
    return {name: SAME[scenario](codec) for name in names for scenario, codec in [name.split()]}


class Failing:
    """Batches of which one cannot be made on the last rank."""

    def __len__(self) -> int:
        return len(TRAINING)

    def __iter__(self) -> Iterator[Batch]:
        yield TRAINING[0]
        if is_last():
            raise OSError("the disk is gone")
        yield from TRAINING[1:]


class Fails(nn.Module):
    """A model that fails on the last rank."""

    def forward(self, ids: Tensor) -> Tensor:
        if is_last():
            raise RuntimeError("no memory")
        return ids[:, 0].float()


class Bags(nn.Module):
    """Logits of bags with offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.EmbeddingBag(90, DIM)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        return self.user(ids, offsets).sum(1)


def is_last() -> bool:
    return distributed.get_rank() == distributed.get_world_size() - 1


def with_bad_id(made: list[Batch], index: int) -> list[Batch]:
    """Batches with a bad id in the last row, which is on the last rank."""
    made = copy.deepcopy(made)
    made[index][0][-1, 0] = 1000
    return made


def tune(
    training: Any = TRAINING, validation: Any = VALIDATION, seed: int = 0, **options: Any
) -> None:
    model = student("clustered", seed)
    before = [value.detach().clone() for value in model.parameters()]
    try:
        finetune_on_unseen_rows(model, training, validation=validation, **OPTIONS | options)
    finally:
        # All evaluations but the first come after the error.
        assert all(map(torch.equal, before, model.parameters()))


def tune_bags() -> None:
    model = Bags()
    replace_embeddings_(model, Compressed([field("clustered", "user", 90)]))
    batch = ((torch.arange(9), torch.tensor([0, 2, 5])), torch.ones(3))
    finetune_on_unseen_rows(model, [batch], validation=[batch], **OPTIONS)


def ask(teacher: Any) -> None:
    finetune(student("clustered"), TRAINING, teacher=teacher, validation=VALIDATION, **OPTIONS)


FAILURES: dict[str, Callable[[], Any]] = {
    "bad id in training": lambda: tune(with_bad_id(TRAINING, 0)),
    "bad id in validation": lambda: tune(validation=with_bad_id(VALIDATION, 2)),
    "bad id for the teacher": lambda: ask(Fails()),
    "batches end in an error": lambda: tune(Failing()),
    "fewer batches": lambda: tune(TRAINING[: 3 + is_last()]),
    "other batches": lambda: tune(batches(SIZES, seed=5 + is_last())),
    "other validation": lambda: tune(validation=batches(SIZES, seed=5 + is_last())),
    "other tables": lambda: tune(seed=int(is_last())),
    "another rate": lambda: tune(learning_rate=0.01 + is_last()),
    "other options on one rank": lambda: tune(epochs=1 - is_last()),
    "bags": tune_bags,
    "wrapped": lambda: finetune_on_unseen_rows(
        nn.parallel.DistributedDataParallel(student("clustered")),
        TRAINING,
        validation=VALIDATION,
        **OPTIONS,
    ),
    "teacher's logits": lambda: ask([torch.zeros(size + 1) for size in SIZES]),
    "prediction": lambda: predict(Fails(), np.arange(9)[:, None], progress=False),
    "prediction of other rows": lambda: predict(
        Fails(), np.arange(4 + is_last())[:, None], progress=False
    ),
    "id to predict": lambda: predict(
        student("clustered"), np.array([[0, 0, 0], [90, 0, 0]]), progress=False
    ),
}


def failures() -> dict[str, tuple[str, str]]:
    """Class and message of the error that this rank raises, by what is wrong."""
    found = {}
    for name, act in FAILURES.items():
        try:
            act()
        except Exception as error:
            found[name] = (type(error).__name__, str(error))
        # The ranks can still communicate.
        ones = torch.ones(1)
        distributed.all_reduce(ones)
        assert ones.item() == distributed.get_world_size()
    return found


def left_alone() -> str:
    """The class of the error on other ranks if the last rank exits without an error."""
    if is_last():
        os._exit(0)
    try:
        tune()
    except Exception as error:
        return type(error).__name__
    return "none"


def run(rank: int, count: int, folder: str, names: Sequence[str]) -> None:
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=30),
    )
    torch.set_num_threads(1)
    found: Found = {"same": results(names), "failures": failures()}
    torch.save(found, f"{folder}/{rank}")
    found["left alone"] = left_alone()
    torch.save(found, f"{folder}/{rank}")


def main(count: int, folder: str, *names: str) -> int:
    """Run all ranks as copies of this process, which has imported everything."""
    needed = ["torch._dynamo"]  # which the libraries import when they first need it
    needed += ["sklearn.metrics"] if any(name.startswith("scored ") for name in names) else []
    for name in needed:
        importlib.import_module(name)
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=run, args=(rank, count, folder, names)) for rank in range(count)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    return int(any(rank.exitcode for rank in ranks))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
