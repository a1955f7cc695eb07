"""compress_: measured budgets are met, and an error changes nothing."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from itertools import count
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import saec
from saec.codecs.axes.codec import Axes
from saec.errors import (
    BudgetError,
    DataError,
    FieldError,
    MetricError,
    MetricWarning,
    ModuleError,
    ModuleWarning,
    OptionError,
)
from saec.format.compressed import Compressed
from saec.format.raw_field import RawField
from saec.reference.models import build
from saec.torch import CompressedEmbedding, compress_, measure_loss_increase, replace_embeddings_
from saec.torch.model.find_tables import find_modules

Make = Callable[..., Any]
Batch = tuple[Tensor, Tensor]

SIZES = {"user": 600, "item": 300}


def increase(*arguments: Any, **options: Any) -> float:
    """The value of the measured increase."""
    return measure_loss_increase(*arguments, **options).value


def click_model() -> nn.Module:
    """A DeepFM with weights as large as after training, so that features interact."""
    model = build("deepfm", SIZES, dim=8, seed=1)
    generator = torch.Generator().manual_seed(5)
    scales = torch.logspace(0, -1, 8)
    with torch.no_grad():
        for table in model.embeddings.values():
            table.weight.normal_(generator=generator).mul_(scales)
    return model


def click_batches(model: nn.Module, seed: int, count: int = 4, rows: int = 500) -> list[Batch]:
    """Frequent features are low ids; labels are drawn from the model's own predictions."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        uniform = torch.rand(rows, len(SIZES), generator=generator)
        ids = (uniform**3 * torch.tensor(list(SIZES.values()))).long()
        with torch.no_grad():
            labels = torch.bernoulli(torch.sigmoid(model.eval()(ids)), generator=generator)
        batches.append((ids, labels))
    return batches


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return click_model()


@pytest.fixture(scope="module")
def log_rows(model: nn.Module) -> list[Batch]:
    return click_batches(model, 1)


@pytest.fixture(scope="module")
def unseen(model: nn.Module) -> list[Batch]:
    return click_batches(model, 2)


def counts_of(batches: list[Batch]) -> dict[str, np.ndarray[Any, Any]]:
    ids = torch.cat([inputs for inputs, _ in batches]).numpy()
    return {
        f"embeddings.{name}": np.bincount(ids[:, place], minlength=size)
        for place, (name, size) in enumerate(SIZES.items())
    }


def logits_of(model: nn.Module, batches: list[Batch]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(inputs) for inputs, _ in batches]).double()


def divergence(before: nn.Module, after: nn.Module, batches: list[Batch]) -> float:
    p, q = (torch.sigmoid(logits_of(model, batches)) for model in (before, after))
    return float((p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean())


def loss_growth(before: nn.Module, after: nn.Module, batches: list[Batch], loss_fn: Any) -> float:
    labels = torch.cat([labels for _, labels in batches]).double()
    old, new = (float(loss_fn(logits_of(model, batches), labels)) for model in (before, after))
    return new - old


def snapshot(model: nn.Module) -> list[Any]:
    """Everything of a model that a call might change."""
    parts: list[Any] = []
    for path, module in model.named_modules(remove_duplicate=False):
        hooks = [len(getattr(module, name)) for name in ("_forward_hooks", "_forward_pre_hooks")]
        parts.append((path, id(module), module.training, hooks))
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        gradient = None if value.grad is None else value.grad.tolist()
        parts.append((name, id(value), value.tolist(), value.requires_grad, gradient))
    return parts


# Budgets.


def test_a_ratio_is_met_and_the_result_is_what_the_model_holds(
    model: nn.Module, log_rows: list[Batch]
) -> None:
    small = copy.deepcopy(model)
    counts = counts_of(log_rows)
    budget = saec.Ratio(6)
    result = compress_(small, log_rows, budget=budget, frequencies=counts, progress=False)
    assert result.compression_ratio > 5.9
    assert result.nbytes <= budget.max_bytes(result.original_nbytes, 900)
    metrics = saec.torch.loss_metrics(model, log_rows, progress=False)
    tables = saec.torch.fields(model, counts)
    expected = saec.compress(tables, budget, metrics=metrics, progress=False)
    assert result.predicted_loss_increase == expected.predicted_loss_increase
    for name, field in result.items():
        assert np.array_equal(field.decode(), expected[name].decode())
        module = small.get_submodule(name)
        assert isinstance(module, CompressedEmbedding)
        assert np.array_equal(module.decode().detach().numpy(), field.decode())


@pytest.mark.parametrize("wanted", [0.003, 0.03])
def test_a_loss_increase_is_met_without_labels(
    wanted: float, model: nn.Module, log_rows: list[Batch]
) -> None:
    small = copy.deepcopy(model)
    rows = [(ids, None) for ids, _ in log_rows]
    result = compress_(small, rows, budget=saec.LossIncrease(wanted), progress=False)
    measured = divergence(model, small, log_rows)
    assert measured == pytest.approx(wanted, rel=0.1)
    assert result.predicted_loss_increase == pytest.approx(measured, rel=0.05)
    assert increase(model, result, rows, labelled=False) == pytest.approx(measured, rel=1e-4)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("loss_fn", [None, functional.binary_cross_entropy_with_logits])
def test_a_loss_increase_is_met_on_unseen_rows(
    loss_fn: Any, model: nn.Module, log_rows: list[Batch], unseen: list[Batch]
) -> None:
    small = copy.deepcopy(model)
    result = compress_(
        small,
        log_rows,
        loss_fn,
        saec.LossIncrease(0.03),
        frequencies=counts_of(log_rows),
        calibration=unseen,
        progress=False,
    )
    log_loss = functional.binary_cross_entropy_with_logits
    measured = loss_growth(model, small, unseen, log_loss)
    assert measured == pytest.approx(0.03, rel=0.1)
    assert result.predicted_loss_increase == pytest.approx(measured, rel=0.05)
    assert increase(model, result, unseen, labelled=True) == pytest.approx(measured, rel=1e-4)


@pytest.mark.exhaustive
def test_a_loss_increase_in_squared_error_is_met(
    model: nn.Module, log_rows: list[Batch], unseen: list[Batch]
) -> None:
    mse = nn.MSELoss()
    # Labels are the model's own outputs plus noise, so that any change of the outputs is an error.
    noise = torch.randn(500, generator=torch.Generator().manual_seed(0))
    log_rows, unseen = (
        [(ids, model(ids).detach() + noise) for ids, _ in rows] for rows in (log_rows, unseen)
    )
    for calibration, measured_on in ((None, log_rows), (unseen, unseen)):
        small = copy.deepcopy(model)
        budget = saec.LossIncrease(0.2)
        result = compress_(small, log_rows, mse, budget, calibration=calibration, progress=False)
        measured = loss_growth(model, small, measured_on, mse)
        # Neighbouring results of such small tables differ by up to a fourth.
        assert 0.75 * 0.2 <= measured <= 1.1 * 0.2
        assert result.predicted_loss_increase == pytest.approx(measured, rel=0.05)


@pytest.mark.exhaustive
def test_the_model_is_searched_for_tables_once(
    model: nn.Module,
    log_rows: list[Batch],
    unseen: list[Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counting, metrics, comparisons and replacement use the tables that were found first."""
    looks = []

    def find(*arguments: Any) -> Any:
        looks.append(arguments)
        return find_modules(*arguments)

    monkeypatch.setattr("saec.torch.model.find_tables.find_modules", find)
    small = copy.deepcopy(model)
    budget = saec.LossIncrease(0.2)
    compress_(small, log_rows, budget=budget, calibration=unseen, progress=False)
    assert len(looks) == 1
    assert isinstance(small.embeddings["user"], CompressedEmbedding)


@pytest.mark.exhaustive
def test_lookups_are_the_frequencies_unless_given(model: nn.Module, log_rows: list[Batch]) -> None:
    results = [
        compress_(
            copy.deepcopy(model),
            log_rows,
            budget=saec.Ratio(6),
            frequencies=frequencies,
            progress=False,
        )
        for frequencies in (None, counts_of(log_rows))
    ]
    assert results[0].predicted_loss_increase == results[1].predicted_loss_increase
    for name, field in results[0].items():
        assert np.array_equal(field.decode(), results[1][name].decode())


@pytest.mark.exhaustive(keep=1)
@pytest.mark.filterwarnings("ignore::saec.errors.MetricWarning")
@pytest.mark.parametrize("budget", [saec.Ratio(4), saec.LossIncrease(0.01)])
def test_a_table_that_no_batch_touches(
    budget: saec.Budget, model: nn.Module, log_rows: list[Batch]
) -> None:
    small = copy.deepcopy(model)
    small.unused = nn.Embedding(700, 8)
    with pytest.warns(ModuleWarning, match=r"'unused' \(22,400 bytes\) stays as it is"):
        result = compress_(small, log_rows, budget=budget, progress=False)
    assert list(result) == ["embeddings.user", "embeddings.item"]  # nothing to count
    assert type(small.unused) is nn.Embedding

    small = copy.deepcopy(model)
    small.unused = nn.Embedding(700, 8)
    counts = counts_of(log_rows) | {"unused": 100 / np.arange(1, 701)}
    result = compress_(small, log_rows, budget=budget, frequencies=counts, progress=False)
    assert isinstance(small.unused, CompressedEmbedding)
    assert result["unused"].nbytes < result["unused"].original_nbytes


@pytest.mark.exhaustive
def test_a_table_that_no_batch_touches_is_warned_of(
    model: nn.Module, log_rows: list[Batch]
) -> None:
    small = copy.deepcopy(model)
    small.unused = nn.Embedding(700, 8)
    counts = counts_of(log_rows) | {"unused": np.ones(700)}
    with pytest.warns(MetricWarning, match="field 'unused': the metric is all zero"):
        compress_(small, log_rows, budget=saec.Ratio(4), frequencies=counts, progress=False)


@pytest.mark.exhaustive
def test_joint_tables() -> None:
    class Joint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.table = nn.Embedding(901, 8, _weight=torch.randn(901, 8, generator=generator))

        def forward(self, ids: Tensor) -> Tensor:
            rows = self.table(ids + torch.tensor([0, 600]))
            logits: Tensor = (rows[:, 0] * rows[:, 1]).sum(1) / 3
            return logits

    model = Joint()
    rows = click_batches(model, 1)
    ranges = {"table": {"user": (0, 600), "item": (600, 901)}}
    small = copy.deepcopy(model)
    result = compress_(small, rows, budget=saec.LossIncrease(0.01), ranges=ranges, progress=False)
    assert list(result) == ["user", "item"]
    measured = divergence(model, small, rows)
    assert measured == pytest.approx(0.01, rel=0.1)
    assert result.predicted_loss_increase == pytest.approx(measured, rel=0.05)
    part = {"table": {"user": (0, 600), "item": (600, 900), "nobody": (900, 901)}}
    with pytest.raises(FieldError, match="field 'nobody': all 1 frequencies are zero"):
        compress_(model, rows, budget=saec.Ratio(4), ranges=part, progress=False)


# Other parts of the model that might change.


def test_flags_hooks_and_gradients_are_kept(model: nn.Module, log_rows: list[Batch]) -> None:
    small = copy.deepcopy(model).train()
    next(iter(small.children())).eval()
    seen: list[nn.Module] = []
    small.register_forward_hook(lambda module, args, output: seen.append(module))
    functional.binary_cross_entropy_with_logits(small(log_rows[0][0]), log_rows[0][1]).backward()
    network = {n: v for n, v in small.named_parameters() if not n.startswith("embeddings.")}
    before = {name: (value.grad.clone(), value.clone()) for name, value in network.items()}
    flags = {path: module.training for path, module in small.named_modules()}
    compress_(small, log_rows, budget=saec.LossIncrease(0.01), progress=False)
    after = dict(small.named_parameters())
    for name, (gradient, value) in before.items():
        assert after[name] is network[name]
        assert torch.equal(after[name].grad, gradient)
        assert torch.equal(after[name], value)
    assert {path: small.get_submodule(path).training for path in flags} == flags
    assert len(small._forward_hooks) == 1
    assert not any(module._forward_pre_hooks for module in small.modules())
    assert torch.is_grad_enabled()


def one_number(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs.sum() * float("nan")


def a_generator(batches: list[Batch]) -> Iterator[Batch]:
    yield from batches


class Shuffled:
    """Batches in another order on every pass, as from a DataLoader with ``shuffle``."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        self.batches = self.batches[1:] + self.batches[:1]
        return iter(self.batches)


LOSS = saec.LossIncrease(0.01)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"budget": None}, BudgetError, "compress_ needs a budget"),
        ({"budget": saec.Ratio(1e6)}, BudgetError, "the smallest possible is"),
        ({"codec": saec.Clusters(clusters=4), "budget": LOSS}, BudgetError, "leaves the number of"),
        ({"frequencies": {"nobody": [1]}}, ModuleError, "no embedding field is named 'nobody'"),
        ({"frequencies": {"embeddings.user": [1, 2]}}, FieldError, "600 rows, frequencies 2"),
        ({"codec": Axes(order="frequency")}, OptionError, r"Axes\(order='frequency'\) renumbers"),
        ({"codec": Axes(order="code")}, OptionError, r"Axes\(order='code'\) renumbers"),
        ({"loss_fn": one_number}, MetricError, "batch 0: the loss is nan"),
        ({"loss_fn": one_number, "budget": LOSS}, MetricError, "batch 0: a loss to compare is not"),
        ({"batches": []}, DataError, "batches are empty"),
        ({"batches": [], "budget": LOSS}, DataError, "no batches to compare predictions on"),
        ({"calibration": [], "budget": LOSS}, DataError, "no batches to compare predictions on"),
        ({"calibration": "unlabelled", "budget": LOSS}, DataError, "500 logits need as many"),
        (
            {"calibration": "generator", "budget": LOSS},
            DataError,
            "calibration must be iterable more",
        ),
        ({"batches": "generator"}, DataError, "batches must be iterable more than once"),
        (
            {"batches": "generator", "frequencies": "given", "budget": LOSS},
            DataError,
            "must be",
        ),
        ({"batches": "shuffled", "budget": LOSS}, DataError, "come in another order the second"),
        ({"ranges": {"nobody": {}}}, ModuleError, "no embedding table is named 'nobody'"),
    ],
)
def test_an_error_leaves_the_model_unchanged(
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
    model: nn.Module,
    log_rows: list[Batch],
) -> None:
    small = copy.deepcopy(model).train()
    words = {
        "generator": a_generator(log_rows),
        "unlabelled": [(ids, None) for ids, _ in log_rows],
        "shuffled": Shuffled(log_rows),
        "given": counts_of(log_rows),
    }
    given = {"batches": log_rows, "budget": saec.Ratio(4)} | {
        name: words[value] if isinstance(value, str) else value for name, value in arguments.items()
    }
    before = snapshot(small)
    with pytest.raises(error, match=message):
        compress_(small, progress=False, **given)
    assert snapshot(small) == before


def test_an_error_with_compressed_tables_in_place_restores_the_model(
    model: nn.Module, log_rows: list[Batch]
) -> None:
    """The loss is NaN while compressed tables are in the model."""
    small = copy.deepcopy(model).train()
    own = {name: small.get_submodule(name) for name in counts_of(log_rows)}

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        held = all(small.get_submodule(name) is module for name, module in own.items())
        return outputs.square().mean() * (1.0 if held else float("nan"))

    before = snapshot(small)
    with pytest.raises(MetricError, match="batch 0: a loss to compare is not finite"):
        compress_(small, log_rows, loss_fn, LOSS, progress=False)
    assert snapshot(small) == before


@pytest.mark.exhaustive
def test_a_loss_budget_that_cannot_be_met_is_an_error(
    model: nn.Module, log_rows: list[Batch]
) -> None:
    small = copy.deepcopy(model)
    calls = count()

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        # The first calls are for the loss before compression, then for the metric, batch by batch.
        worse = 0.0 if next(calls) < 2 * len(log_rows) else 5.0
        return outputs.square().mean() + worse

    before = snapshot(small)
    message = "a loss increase of 0.01 was not met in 8 attempts: the last one gave 5"
    with pytest.raises(BudgetError, match=message):
        compress_(small, log_rows, loss_fn, LOSS, progress=False)
    assert snapshot(small) == before


def test_an_iterator_is_enough_for_one_pass(model: nn.Module, log_rows: list[Batch]) -> None:
    small = copy.deepcopy(model)
    counts, once = counts_of(log_rows), a_generator(log_rows)
    result = compress_(small, once, budget=saec.Ratio(6), frequencies=counts, progress=False)
    assert result.compression_ratio >= 6


# The increase of the loss by a result.


class Rows(nn.Module):
    """The logit is the only element of the row; ids (n,)."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.user = nn.Embedding(len(values), 1, _weight=torch.tensor(values)[:, None])

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.user(ids)[:, 0]
        return logits


def raw_result(*values: float) -> Compressed:
    return Compressed([RawField("user", np.array(values, np.float32)[:, None])])


def test_increase_by_hand() -> None:
    # Predictions of 1/2 and 4/5 become 4/5 and 1/2.
    model, result = Rows(0.0, log(4)), raw_result(log(4), 0.0)
    before = snapshot(model)
    batches = [(torch.tensor([0]), torch.tensor([1.0])), (torch.tensor([1]), torch.tensor([1.0]))]
    # Losses of ln 2 and ln 5/4 are exchanged; the labels decide the sign.
    assert increase(model, result, batches, labelled=True) == pytest.approx(0, abs=1e-7)
    first, second = batches[:1], batches[1:]
    grown = log(5 / 4) - log(2)
    assert increase(model, result, first, labelled=True) == pytest.approx(grown)
    assert increase(model, result, second, labelled=True) == pytest.approx(-grown)
    negative = [(torch.tensor([1]), torch.tensor([0.0]))]  # from ln 5 to ln 2
    assert increase(model, result, negative, labelled=True) == pytest.approx(log(2) - log(5))
    # Without labels: the expectation under the old prediction.
    half = 0.5 * log(0.5 / 0.8) + 0.5 * log(0.5 / 0.2)
    most = 0.8 * log(0.8 / 0.5) + 0.2 * log(0.2 / 0.5)
    assert increase(model, result, first, labelled=False) == pytest.approx(half)
    assert increase(model, result, second, labelled=False) == pytest.approx(most)
    both = increase(model, result, batches, labelled=False)
    assert both == pytest.approx((half + most) / 2)
    # Batches are weighted by their number of examples.
    three = [*batches, (torch.tensor([0, 0]), None)]
    assert increase(model, result, three, labelled=False) == pytest.approx((3 * half + most) / 4)
    assert snapshot(model) == before


def test_the_standard_error_by_hand() -> None:
    """It follows from the spread of the increases of single examples, for any batches."""
    model, result = Rows(0.0, log(4)), raw_result(log(4), 0.0)
    grown = [log(5 / 4) - log(2)] * 3 + [log(2) - log(5 / 4)]  # labels of 1: see above
    ids = torch.tensor([0, 0, 0, 1])
    for size in (1, 2, 4):
        batches = [(own, torch.ones(len(own))) for own in ids.split(size)]
        found = measure_loss_increase(model, result, batches, labelled=True)
        assert found.examples == 4
        assert found.value == pytest.approx(np.mean(grown))
        assert found.standard_error == pytest.approx(np.std(grown, ddof=1) / 2)


def test_an_increase_is_a_divergence_and_a_part_of_first_order(
    model: nn.Module, log_rows: list[Batch], unseen: list[Batch]
) -> None:
    """KL(p || p') and (p - y) (z' - z); only the second depends on labels, and is noisy."""
    tables = saec.torch.fields(model, counts_of(log_rows))
    metrics = saec.torch.loss_metrics(model, log_rows, progress=False)
    result = saec.compress(tables, saec.Ratio(4), metrics=metrics, progress=False)
    small = replace_embeddings_(copy.deepcopy(model), result)
    before, after = logits_of(model, unseen), logits_of(small, unseen)
    labels = torch.cat([labels for _, labels in unseen])
    first = (torch.sigmoid(before) - labels) * (after - before)
    found = measure_loss_increase(model, result, unseen, labelled=True)
    parts = divergence(model, small, unseen) + float(first.mean())
    assert found.value == pytest.approx(parts, rel=1e-6)
    noise = float(first.std()) / len(labels) ** 0.5
    assert found.standard_error == pytest.approx(noise, rel=0.1)


def test_the_standard_error_of_a_loss_that_is_known_by_batches() -> None:
    model, result = Rows(0.0, 2.0), raw_result(1.0, 2.0)
    one = (torch.tensor([0, 1]), torch.tensor([0.0, 2.0]))  # absolute errors grow by 1 and 0
    lone = (torch.tensor([0]), torch.tensor([3.0]))  # and by -1
    found = measure_loss_increase(model, result, [one, lone], nn.L1Loss(), labelled=True)
    assert (found.value, found.examples) == (pytest.approx((1 - 1) / 3), 3)
    shares = np.array([2 / 3, 1 / 3]) * np.array([0.5, -1.0])  # of the mean, which is 0
    assert found.standard_error == pytest.approx(np.sqrt(2 * np.square(shares).sum()))
    alone = measure_loss_increase(model, result, [one], nn.L1Loss(), labelled=True)
    assert (alone.value, alone.standard_error) == (0.5, float("inf"))


def test_an_id_for_unseen_values_keeps_its_quality(
    model: nn.Module, log_rows: list[Batch], unseen: list[Batch]
) -> None:
    """It has no count in the training log, and half of the calibration rows look it up."""
    log_rows = [(ids.clamp(min=1), labels) for ids, labels in log_rows]
    later = [(ids * (torch.arange(len(ids)) % 2)[:, None], labels) for ids, labels in unseen]
    errors = []
    for calibration in (None, later):
        result = compress_(
            copy.deepcopy(model),
            log_rows,
            budget=saec.Ratio(20),
            calibration=calibration,
            progress=False,
        )
        own = model.get_submodule("embeddings.user").weight[0].detach().numpy()
        errors.append(float(np.square(result["embeddings.user"].decode()[0] - own).sum()))
    assert errors[1] < 0.1 * errors[0]


def test_increase_of_another_loss_by_hand() -> None:
    model, result = Rows(0.0, 2.0), raw_result(1.0, 2.0)
    batch = (torch.tensor([0, 1]), torch.tensor([0.0, 2.0]))
    lone = (torch.tensor([0]), torch.tensor([3.0]))
    for labelled in (True, False):
        grown = increase(model, result, [batch, lone], nn.MSELoss(), labelled=labelled)
        assert grown == pytest.approx((2 * 0.5 + (4 - 9)) / 3)


@pytest.mark.parametrize(
    ("batches", "labelled", "error", "message"),
    [
        ([], True, DataError, "no batches to compare predictions on"),
        (iter([]), True, DataError, "must be iterable more than once: a list, not an iterator"),
        ([(torch.tensor([0]), None)], True, DataError, "batch 0: 1 logits need as many labels"),
        ([(torch.tensor([0]), torch.ones(2))], True, DataError, "1 logits for 2 labels"),
        ([(torch.tensor([[0]]), None)], False, DataError, re.escape("outputs (1, 3)")),
        ([(torch.tensor([1]), None)], False, MetricError, "batch 0: a logit to compare is not"),
        ([(torch.tensor([], dtype=torch.int64), None)], False, DataError, re.escape("are (0,)")),
    ],
)
def test_increase_refuses(
    batches: Any, labelled: bool, error: type[Exception], message: str
) -> None:
    class Wide(Rows):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids) if ids.ndim == 1 else torch.zeros(1, 3)

    model = Wide(0.0, float("inf"))
    with pytest.raises(error, match=message):
        increase(model, raw_result(0.0, 1.0), batches, labelled=labelled)
    with pytest.raises(ModuleError, match="field 'user' is 2 x 1 in the model, but 3 x 1"):
        increase(model, raw_result(0.0, 1.0, 2.0), [(torch.tensor([0]), None)], labelled=False)


def test_increase_holds_the_result_as_replacing_does(
    model: nn.Module, log_rows: list[Batch]
) -> None:
    counts = counts_of(log_rows)
    metrics = saec.torch.loss_metrics(model, log_rows, progress=False)
    tables = saec.torch.fields(model, counts)
    result = saec.compress(tables, saec.Ratio(4), metrics=metrics, progress=False)
    own = copy.deepcopy(model).train()
    before = snapshot(own)
    grown = increase(own, result, log_rows, labelled=False)
    assert snapshot(own) == before
    replaced = replace_embeddings_(copy.deepcopy(model), result)
    assert grown == pytest.approx(divergence(model, replaced, log_rows), rel=1e-4)


@pytest.mark.exhaustive
def test_a_forecast_corrected_by_unseen_rows(
    model: nn.Module, log_rows: list[Batch], unseen: list[Batch]
) -> None:
    # Logits are doubled: predictions are overconfident, so the loss grows less than predicted.
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.click = copy.deepcopy(model)

        def forward(self, ids: Tensor) -> Tensor:
            return 2 * self.click(ids)

    sure = Doubled()
    counts = {f"click.{name}": values for name, values in counts_of(log_rows).items()}
    before = snapshot(sure)
    curve = saec.torch.forecast(
        sure, log_rows, calibration=unseen, frequencies=counts, progress=False
    )
    assert snapshot(sure) == before
    metrics = saec.torch.loss_metrics(sure, log_rows, names=list(counts), progress=False)
    fields = saec.torch.fields(sure, counts)
    plain = saec.forecast(fields, metrics, progress=False)
    ratio = plain.ratio_at(0.05)  # well above the noise of the rows
    # Calibration rows also measure the loss of other budgets.
    result = compress_(
        copy.deepcopy(sure),
        log_rows,
        budget=saec.Ratio(ratio),
        frequencies=counts,
        calibration=unseen,
        progress=False,
    )
    found = measure_loss_increase(sure, result, unseen, labelled=True)
    assert result.predicted_loss_increase == pytest.approx(found.value)
    assert abs(curve.loss_at(ratio) - found.value) < abs(plain.loss_at(ratio) - found.value)
    assert curve.loss_at(ratio) == pytest.approx(found.value, abs=2 * found.standard_error)


def test_a_forecast_of_almost_zero_is_not_corrected(
    log_rows: list[Batch], unseen: list[Batch]
) -> None:
    flat = build("deepfm", SIZES, dim=8, seed=1)
    with torch.no_grad():
        for table in flat.embeddings.values():
            table.weight.mul_(0.1)
    with pytest.raises(DataError, match="too small to measure"):
        saec.torch.forecast(
            flat, log_rows, calibration=unseen, frequencies=counts_of(log_rows), progress=False
        )
