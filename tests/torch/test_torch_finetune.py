"""Fine-tuning: codebooks learn, nothing else changes, and it never gets worse."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from saec.bits.packing import PackedCodes
from saec.errors import DataError, ModuleError, OptionError
from saec.format.clustered_field import ClusteredField
from saec.format.codebook import Codebook
from saec.format.compressed import Compressed
from saec.format.compressed_field import CompressedField
from saec.format.tier_layout import Layout
from saec.format.tiered_field import TieredField
from saec.torch import (
    decode_embeddings_,
    finetune,
    finetune_on_unseen_rows,
    predictions,
    replace_embeddings_,
    sync_codebooks_,
)

Batch = tuple[tuple[Tensor, Tensor], Tensor]

Make = Callable[..., Any]


@pytest.fixture(scope="session")
def click_batches(click_inputs: Make) -> Make:
    """Makes batches of ids with labels drawn from a teacher's click probabilities."""

    def make(count: int, teacher: nn.Module, seed: int) -> list[Batch]:
        generator = torch.Generator().manual_seed(seed)
        batches = []
        for index in range(count):
            inputs = click_inputs(64, seed=1000 * seed + index)
            with torch.no_grad():
                probabilities = torch.sigmoid(teacher(*inputs))
            batches.append((inputs, torch.bernoulli(probabilities, generator=generator)))
        return batches

    return make


@pytest.fixture
def student(click_model: Make, click_result: Make) -> nn.Module:
    return replace_embeddings_(click_model(), click_result()).eval()


@pytest.fixture
def teacher(student: nn.Module) -> nn.Module:
    """The student's decoded model with each table shifted, which codebooks can learn."""
    model = decode_embeddings_(copy.deepcopy(student))
    with torch.no_grad():
        model.user.weight += torch.tensor([3.0, -3.0, 3.0, -3.0])
        model.tags.weight -= torch.tensor([-1.0, 1.0, -1.0, 1.0])
    return model


@pytest.fixture
def disagreement(student: nn.Module, teacher: nn.Module, click_inputs: Make) -> Make:
    """Measures the mean difference of the two models' logits."""
    inputs = click_inputs(500, seed=77)

    def measure() -> float:
        with torch.no_grad():
            return float((student(*inputs) - teacher(*inputs)).abs().mean())

    return measure


@pytest.mark.exhaustive
def test_distillation_learns_a_planted_shift(
    click_batches: Make, disagreement: Make, student: nn.Module, teacher: nn.Module
) -> None:
    before = disagreement()
    result = finetune(
        student,
        click_batches(30, teacher, 1),
        teacher=teacher,
        validation=click_batches(20, teacher, 2),
        learning_rate=0.02,
        epochs=8,
        patience=32,
    )
    assert disagreement() < 0.1 * before
    assert result.improvement > 0
    assert result.losses[result.best] == min(result.losses)
    assert result.steps[:3] == (0, 8, 15)


@pytest.mark.exhaustive
def test_labels_of_fresh_rows_teach_too(
    click_batches: Make, disagreement: Make, student: nn.Module, teacher: nn.Module
) -> None:
    before = disagreement()
    result = finetune_on_unseen_rows(
        student,
        click_batches(60, teacher, 1),
        validation=click_batches(20, teacher, 2),
        learning_rate=0.02,
        epochs=4,
    )
    assert disagreement() < 0.5 * before
    assert result.improvement > 0


def test_logits_as_a_list_do_what_the_teacher_does(
    click_batches: Make, click_model: Make, click_result: Make, teacher: nn.Module
) -> None:
    batches, validation = click_batches(6, teacher, 1), click_batches(4, teacher, 2)
    teacher.train()
    logits = predictions(teacher, batches, progress=False)
    assert teacher.training
    teacher.eval()
    with torch.no_grad():
        assert torch.equal(logits[3], teacher(*batches[3][0]))
    results = []
    for given in (teacher, logits, [part.unsqueeze(1) for part in logits]):
        model = replace_embeddings_(click_model(), click_result())
        results.append(
            finetune(model, batches, teacher=given, validation=validation, learning_rate=0.01)
        )
    assert results[0] == results[1] == results[2]


def test_a_loss_asks_for_labels_of_unseen_rows(
    click_batches: Make, click_model: Make, click_result: Make, teacher: nn.Module
) -> None:
    batches, validation = click_batches(6, teacher, 1), click_batches(4, teacher, 2)
    loss_fn = functional.binary_cross_entropy_with_logits
    models = [replace_embeddings_(click_model(), click_result()) for _ in range(2)]
    one = finetune(models[0], batches, validation=validation, loss_fn=loss_fn)
    other = finetune_on_unseen_rows(models[1], batches, loss_fn, validation=validation)
    assert one == other
    assert torch.equal(models[0].user.table.codebook, models[1].user.table.codebook)


def test_one_step_by_hand(clustered: Make) -> None:
    """Adam's first step moves each value with a gradient by the learning rate, against its sign."""
    model = nn.Sequential(nn.Embedding(6, 1), nn.Flatten(0))
    replace_embeddings_(model, Compressed([clustered("0", 6, 1, 1)]))
    table = model[0].table
    codebook = table.codebook
    before = codebook.detach().clone()
    ids = torch.tensor([0, 1, 2, 3, 4, 5])
    used = table.reader.stored(ids, table.tensors).unique()
    batch = (ids, torch.ones(6))
    result = finetune(
        model,
        [batch],
        loss_fn=functional.binary_cross_entropy_with_logits,
        validation=[batch],
        learning_rate=0.25,
    )
    assert result.steps == (0, 1)
    expected = before.clone()
    expected[used] += 0.25
    torch.testing.assert_close(codebook.detach(), expected)
    with torch.no_grad():
        loss = functional.binary_cross_entropy_with_logits(model(ids), torch.ones(6))
    assert result.losses[1] == pytest.approx(float(loss))


def test_nothing_but_the_codebooks_changes(
    click_batches: Make, click_model: Make, click_result: Make, teacher: nn.Module
) -> None:
    model = replace_embeddings_(click_model(padding_idx=3), click_result()).train()
    model.hidden[1].eval()  # different flags must be restored as they were
    model.out.weight.requires_grad_(False)
    model.user.table.codebook.grad = torch.ones_like(model.user.table.codebook)
    model.hidden[0].weight.grad = torch.ones_like(model.hidden[0].weight)
    before = copy.deepcopy(model)
    pads = model.user(torch.tensor([3])).detach().clone()
    teacher.train()
    result = finetune(
        model,
        click_batches(8, teacher, 1),
        teacher=teacher,
        validation=click_batches(2, teacher, 2),
        learning_rate=0.05,
    )
    assert result.best > 0
    old = before.state_dict()
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, old[name])
    }
    assert changed == {"user.table.codebook", "tags.table.codebook"}
    assert torch.equal(model.user(torch.tensor([3])), pads)
    flags = [module.training for module in model.modules()]
    assert flags == [module.training for module in before.modules()]
    assert teacher.training
    for (name, new), (_, was) in zip(
        model.named_parameters(), before.named_parameters(), strict=True
    ):
        assert new.requires_grad == was.requires_grad, name
    grads = {name for name, value in model.named_parameters() if value.grad is not None}
    assert grads == {"user.table.codebook", "hidden.0.weight"}
    assert model.user.table.codebook.grad.unique().tolist() == [1.0]


def test_a_frozen_codebook_learns_and_is_frozen_again(
    click_batches: Make, student: nn.Module, teacher: nn.Module
) -> None:
    student.requires_grad_(False)
    batches = click_batches(4, teacher, 1)
    result = finetune(
        student, batches, teacher=teacher, validation=batches, learning_rate=0.05, progress=False
    )
    assert result.best > 0
    assert not any(parameter.requires_grad for parameter in student.parameters())


def test_it_never_gets_worse_and_stops_early(
    click_batches: Make, student: nn.Module, teacher: nn.Module
) -> None:
    codebooks = [student.user.table.codebook, student.tags.table.codebook]
    before = [codebook.detach().clone() for codebook in codebooks]
    result = finetune(
        student,
        click_batches(10, teacher, 1),
        teacher=teacher,
        validation=click_batches(4, teacher, 2),
        learning_rate=1e3,
        epochs=5,
        patience=3,
    )
    assert (result.best, result.improvement) == (0, 0.0)
    assert result.steps == (0, 2, 5, 8)
    assert all(map(torch.equal, codebooks, before))


def test_diverged_training_keeps_the_first_state(
    click_batches: Make, student: nn.Module, teacher: nn.Module
) -> None:
    def steep(outputs: Tensor, labels: Tensor) -> Tensor:
        infinite = torch.sqrt((outputs - outputs.detach()).sum())  # 0, but its gradient is not
        return functional.binary_cross_entropy_with_logits(outputs, labels) + infinite

    before = student.user.table.codebook.detach().clone()
    batches = click_batches(2, teacher, 1)
    result = finetune_on_unseen_rows(student, batches, steep, validation=batches)
    assert [math.isnan(loss) for loss in result.losses] == [False, True, True]
    assert (result.best, result.improvement) == (0, 0.0)
    assert torch.equal(student.user.table.codebook, before)


def on_the_scale_of_2048(kind: str) -> CompressedField:
    """One row of width one, stored in float16, whose numbers near 2048 are 2 apart."""
    if kind == "clusters":
        codebook = Codebook.round(np.array([[2048.0]], dtype=np.float32), "float16")
        return ClusteredField("0", PackedCodes.pack(np.array([0]), 1), codebook, "float32")
    layout = Layout.parse(1, ["0"])
    axes = np.array([[1.0], [0.0]], dtype=np.float16)
    values = np.array([2048.0], dtype=np.float16)
    return TieredField("0", layout, np.zeros(7, np.uint8), values, axes, None, "float32")


@pytest.mark.parametrize("kind", ["clusters", "axes"])
def test_states_are_compared_after_rounding(kind: str) -> None:
    """Steps of a quarter change the stored value only after they pass 2049."""
    model = nn.Sequential(nn.Embedding(1, 1), nn.Flatten(0))
    result = Compressed([on_the_scale_of_2048(kind)])
    replace_embeddings_(model, result)
    if kind == "axes":
        model[0].table.axes.register_hook(torch.zeros_like)
        model[0].table.mean.register_hook(torch.zeros_like)
    batch = (torch.tensor([0]), torch.tensor([0.0]))
    tuned = finetune_on_unseen_rows(
        model,
        [batch] * 8,
        lambda outputs, _: -outputs.mean(),
        validation=[batch],
        learning_rate=0.25,
        evaluations=8,
        patience=8,
    )
    assert tuned.losses == (-2048,) * 5 + (-2050,) * 4
    assert tuned.best == 5
    assert model(torch.tensor([0])).tolist() == [2050]
    assert sync_codebooks_(model, result)["0"].decode() == 2050


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("rank", [None, 2])
def test_saving_changes_nothing_of_what_was_chosen(
    click_batches: Make,
    click_model: Make,
    clustered: Make,
    teacher: nn.Module,
    dtype: str,
    rank: int | None,
) -> None:
    made = [clustered("user", 30, bits=3), clustered("tags", 12, bits=2)]
    result = Compressed(
        [
            ClusteredField(
                field.name,
                field.codes,
                Codebook.round(field.codebook.values, dtype, rank),
                field.dtype,
            )
            for field in made
        ]
    )
    model = replace_embeddings_(click_model(), result)
    batches = click_batches(8, teacher, 1)
    tuned = finetune(
        model, batches, teacher=teacher, validation=click_batches(8, teacher, 2), learning_rate=0.05
    )
    assert tuned.best > 0
    rows = model.user(torch.arange(30)).detach()
    saved = sync_codebooks_(model, result)
    assert torch.equal(model.user(torch.arange(30)), rows)
    assert torch.equal(torch.from_numpy(saved["user"].decode()), rows)
    assert saved["user"] is not result["user"]


def test_batches_in_another_order_are_refused_to_a_teacher(
    click_batches: Make, student: nn.Module, teacher: nn.Module
) -> None:
    batches = click_batches(4, teacher, 1)

    class Shuffled:
        """Batches that start with another one on each pass."""

        def __init__(self) -> None:
            self.turn = 0

        def __len__(self) -> int:
            return len(batches)

        def __iter__(self):
            self.turn += 1
            return iter(batches[self.turn % 4 :] + batches[: self.turn % 4])

    with pytest.raises(DataError, match="batches come in another order the second time"):
        finetune(student, Shuffled(), teacher=teacher, validation=batches)
    result = finetune_on_unseen_rows(student, Shuffled(), validation=batches)
    assert result.steps == (0, 1, 2, 3, 4)


def test_an_interruption_leaves_the_best_so_far(
    click_batches: Make, student: nn.Module, teacher: nn.Module
) -> None:
    calls = 0

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:  # validation, step, validation, step
            raise KeyboardInterrupt
        return functional.binary_cross_entropy_with_logits(outputs, labels)

    batches = click_batches(2, teacher, 1)
    before = student.user.table.codebook.detach().clone()
    with pytest.raises(KeyboardInterrupt):
        finetune(student, batches, loss_fn=loss_fn, validation=batches[:1], learning_rate=1e3)
    assert torch.equal(student.user.table.codebook, before)
    assert student.out.weight.requires_grad


def test_single_tensors_as_inputs_and_batches_without_a_length(clustered: Make) -> None:
    model = nn.Sequential(nn.Embedding(6, 1), nn.Flatten(0))
    replace_embeddings_(model, Compressed([clustered("0", 6, 1)]))
    ids = torch.arange(6)

    class Stream:
        def __iter__(self):
            return iter([[ids, torch.ones(6, dtype=torch.int64)]] * 4)

    result = finetune(model, Stream(), teacher=[torch.ones(6)] * 4, validation=Stream())
    assert result.steps == (0, 1, 2, 3, 4)


def test_bad_arguments(click_batches: Make, student: nn.Module, teacher: nn.Module) -> None:
    batches = click_batches(2, teacher, 1)
    with pytest.raises(OptionError, match="give either a teacher or a loss_fn"):
        finetune(student, batches, validation=batches)
    with pytest.raises(OptionError, match="give either a teacher or a loss_fn"):
        finetune(student, batches, validation=batches, teacher=teacher, loss_fn=functional.mse_loss)
    for name in ("epochs", "evaluations", "patience"):
        with pytest.raises(OptionError, match=f"{name} must be at least 1, not 0"):
            finetune(student, batches, validation=batches, teacher=teacher, **{name: 0})
    with pytest.raises(OptionError, match="learning_rate must be positive, not nan"):
        finetune(student, batches, validation=batches, teacher=teacher, learning_rate=float("nan"))
    with pytest.raises(ModuleError, match="no compressed modules to fine-tune"):
        finetune(teacher, batches, validation=batches, teacher=teacher)
    with pytest.raises(DataError, match="batches are empty"):
        finetune(student, [], validation=batches, teacher=teacher)
    with pytest.raises(DataError, match="validation must be iterable more than once"):
        finetune(student, batches, validation=iter(batches), teacher=teacher)
    with pytest.raises(DataError, match="2 batches, but a teacher's logits for 1"):
        finetune(student, batches, validation=batches, teacher=[torch.zeros(64)])
    with pytest.raises(DataError, match="batch 1: the model gives 64 logits, the teacher 63"):
        finetune(student, batches, validation=batches, teacher=[torch.zeros(64), torch.zeros(63)])
