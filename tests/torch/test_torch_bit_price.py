"""``saec.torch.BitPrice``: costs by hand, noise, gradients, kinds of tables, mean, end, errors."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saec
from saec.torch import BitPrice
from saec.torch.training.running_mean import RunningMean
from saec.torch.training.surviving_bits import bits_of_rows

COUNTS = {"a": np.array([0.5, 2, 1, 8]), "b": np.array([0.0, 4])}


class Two(nn.Module):
    """Fields a (4 rows) and b (2 rows), looked up by the columns of ids (n, 2)."""

    def __init__(self, kind: type[nn.Embedding | nn.EmbeddingBag] = nn.Embedding, **given: Any):
        super().__init__()
        torch.manual_seed(0)
        self.a = kind(4, 2, **given)
        self.b = kind(2, 2, **given)
        self.out = nn.Linear(4, 1)

    def rows(self, ids: Tensor) -> Tensor:
        bags = isinstance(self.a, nn.EmbeddingBag)
        a, b = ids.T.unsqueeze(2) if bags else ids.T
        return torch.stack([self.a(a), self.b(b)], 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.rows(ids).flatten(1)).squeeze(1)


class Joint(nn.Module):
    """The same fields in one table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids + torch.tensor([0, 4])).flatten(1).sum(1)


IDS = torch.tensor([[3, 0], [0, 1], [1, 1]])


def filled(model: Two, a: list[list[float]], b: list[list[float]]) -> Two:
    with torch.no_grad():
        model.a.weight.copy_(torch.tensor(a))
        model.b.weight.copy_(torch.tensor(b))
    return model


def trained(
    model: nn.Module, price: BitPrice, steps: int = 20, rate: float = 0.1, first: int = 0
) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), rate)
    for step in range(first, first + steps):
        ids = IDS.roll(step, 0)[:2]
        loss = (model(ids) - ids[:, 0]).square().mean() + price.cost()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        price.step()
    return model


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_bits_by_hand() -> None:
    # Coordinates +-1.5 and 0 and noise 0.5: C / s^2 = diag(9, 0), so 1/2 log2 10 bits. Equal rows
    # have 0 bits, whatever their values.
    samples = torch.tensor([[[1.5, 7.0], [-1.5, 7.0]], [[4.0, 1.0], [4.0, 1.0]]])
    counts = torch.tensor([[3.0, 3.0], [1.0, 5.0]])
    expected = torch.tensor([0.5 * math.log2(10), 0.0])
    torch.testing.assert_close(bits_of_rows(samples, counts, 0.5), expected)


def test_each_row_counts_once_however_often_it_is_looked_up() -> None:
    # The rows -1.5, 0 and 3 once each; the batch has the second, of frequency 2, twice.
    samples = torch.tensor([[[-1.5], [0.0], [0.0], [3.0]]])
    counts = torch.tensor([[1.0, 2.0, 2.0, 1.0]])
    variance = (2**2 + 0.5**2 + 2.5**2) / 3
    expected = torch.tensor([0.5 * math.log2(1 + variance / 0.25)])
    torch.testing.assert_close(bits_of_rows(samples, counts, 0.5), expected)


def test_a_batch_costs_bits_and_lengths_by_frequency() -> None:
    model = filled(
        Two(), [[-1.5, 0.0], [9.0, 9.0], [9.0, 9.0], [1.5, 0.0]], [[1.0, 1.0], [1.0, 1.0]]
    )
    price = BitPrice(model, 0.01, COUNTS, noise=0.5, row_decay=3.0)
    model(IDS[:2])
    # Four rows of a. Squared lengths 2.25 and 2; frequencies 8 and 0, which counts as 1, then 0.5,
    # which counts as 1, and 4. Lookups weigh 1/8 and 1, so that the variance is 9 x 8/9 x 1/9.
    bits = 4 * 0.5 * math.log2(1 + 9 * 8 / 81 / 0.25)
    lengths = 2.25 / 8 + 2 / 1 + 2.25 / 1 + 2 / 4
    assert price.cost().item() == pytest.approx(0.01 * bits + 3.0 * lengths / 2, rel=1e-5)
    assert price.bits == pytest.approx(bits, rel=1e-5)
    model(IDS[:2])
    assert price.cost(4).item() == pytest.approx(0.01 * bits + 3.0 * lengths / 4, rel=1e-5)
    price.price = 0.02
    model(IDS[:2])
    assert price.cost().item() == pytest.approx(0.02 * bits + 3.0 * lengths / 2, rel=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(1)
    samples = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([[1.0, 2, 3, 4, 5], [1, 1, 1, 7, 1]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda rows: bits_of_rows(rows, counts, 0.5), samples)
    model = Two()
    price = BitPrice(model, 0.1, COUNTS, noise=0.5)

    def cost() -> Tensor:
        model(IDS)
        return price.cost()

    cost().backward()
    weight, step = model.a.weight, 1e-2
    for row, column in ((0, 1), (3, 0), (2, 0)):
        with torch.no_grad():
            weight[row, column] += step
            above = torch.enable_grad()(cost)().item()
            weight[row, column] -= 2 * step
            below = torch.enable_grad()(cost)().item()
            weight[row, column] += step
        found = weight.grad[row, column].item()
        assert found == pytest.approx((above - below) / (2 * step), rel=1e-2, abs=1e-4)


def test_noise_has_its_size_and_comes_with_training_only() -> None:
    model = filled(Two(), [[5.0, 5.0]] * 4, [[0.0, 0.0]] * 2)
    price = BitPrice(model, 1.0, {name: 5000 * counts for name, counts in COUNTS.items()}, seed=1)
    ids = IDS.repeat(2000, 1)
    rows = model.rows(ids)
    noise = (rows - torch.tensor([5.0, 0.0]).view(1, 2, 1)).detach()
    assert noise.std((0,)).numpy() == pytest.approx(0.06, rel=0.05)
    assert noise.mean((0,)).numpy() == pytest.approx(0, abs=0.06 * 4 / 6000**0.5)
    assert abs(np.corrcoef(noise.flatten(1).T.numpy()) - np.eye(4)).max() < 0.06
    price.cost()
    with torch.no_grad():
        assert torch.equal(model.rows(ids)[:, 0], torch.full((6000, 2), 5.0))
    model.eval()
    assert torch.equal(model.rows(ids)[:, 0], torch.full((6000, 2), 5.0))


@pytest.mark.parametrize(("mode", "factor"), [("sum", 5.0), ("mean", 0.5), ("max", None)])
def test_bags_pool_noisy_rows(mode: str, factor: float | None) -> None:
    model = nn.ModuleDict({"tags": nn.EmbeddingBag(6, 4, mode=mode, padding_idx=0)})
    nn.init.zeros_(model["tags"].weight)
    price = BitPrice(model, 1.0, {"tags": np.full(6, 1e5)}, noise=0.5)
    weights = torch.tensor([3.0, 4.0, 9.0]).repeat(4000) if mode == "sum" else None
    pooled = (1, 2, 0) if mode == "sum" else (1, 2, 3, 4, 0)  # padding entries add nothing
    ids = torch.tensor(pooled).repeat(4000)
    offsets = torch.arange(0, len(ids), len(pooled))
    found = model["tags"](ids, offsets, per_sample_weights=weights)
    assert found.shape == (4000, 4)
    if factor is not None:  # |(3, 4)| = 5, and the mean of four has half the deviation
        assert found.std().item() == pytest.approx(0.5 * factor, rel=0.05)
    else:  # E max of four standard normal numbers is 1.0294
        assert found.mean().item() == pytest.approx(0.5 * 1.0294, rel=0.05)
    assert price.cost().requires_grad


def test_padding_gets_no_noise_and_costs_nothing() -> None:
    models = [nn.ModuleDict({"a": nn.Embedding(5, 3, padding_idx=pad)}) for pad in (2, None)]
    models[1].load_state_dict(models[0].state_dict())
    costs = []
    for model, ids in zip(models, ([[0, 2], [1, 2]], [[0, 1]]), strict=True):
        price = BitPrice(model, 0.1, {"a": np.ones(5)})
        rows = model["a"](torch.tensor(ids))
        costs.append(price.cost(2).item())
        assert rows[0, 0].ne(models[0]["a"].weight[0]).all()
        if len(ids) == 2:
            assert rows[:, 1].eq(0).all()
    assert costs[0] == costs[1] > 0


@pytest.mark.parametrize(
    ("kind", "sparse"), [(nn.Embedding, True), (nn.EmbeddingBag, False), (nn.EmbeddingBag, True)]
)
def test_bags_of_one_and_sparse_gradients_train_alike(kind: Any, sparse: bool) -> None:
    plain, other = Two(), Two(kind, sparse=sparse)
    other.load_state_dict(plain.state_dict())
    for model in (plain, other):
        with BitPrice(model, 1e-3, COUNTS) as price:
            trained(model, price)
    assert not torch.equal(plain.a.weight, Two().a.weight)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)


def test_joint_tables_cost_what_their_fields_cost_alone() -> None:
    alone, joint = Two(), Joint()
    with torch.no_grad():
        joint.table.weight.copy_(torch.cat([alone.a.weight, alone.b.weight]))
    ranges = {"table": {"a": (0, 4), "b": (4, 6)}}
    costs = []
    for model, given in ((alone, None), (joint, ranges)):
        price = BitPrice(model, 0.1, COUNTS, ranges=given)
        model(IDS)
        costs.append(price.cost())
        costs[-1].backward()
    assert costs[0].item() == pytest.approx(costs[1].item(), rel=1e-6)
    own = torch.cat([alone.a.weight.grad, alone.b.weight.grad])
    torch.testing.assert_close(joint.table.weight.grad, own)


def test_a_table_that_is_looked_up_twice_has_one_covariance() -> None:
    model = filled(Two(), [[1.5, 0.0], [-1.5, 0.0], [0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0]] * 2)
    price = BitPrice(model, 0.1, {"a": np.array([4, 16, 1, 1])}, noise=0.5)
    model.a(torch.tensor([0, 0]))
    model.a(torch.tensor([1, 1]))
    price.cost()
    # Weights 4/5 and 1/5: a variance of 3^2 x 4/25.
    assert price.bits == pytest.approx(4 * 0.5 * math.log2(1 + 9 * 4 / 25 / 0.25), rel=1e-5)


def test_the_running_mean_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    mean = RunningMean(model, half_life=8)
    for value in (0.0, 8.0):
        nn.init.constant_(model.weight, value)
        for _ in range(8):
            mean.step(1.0)
    # Weights 1/4 and 1/2 of the values 0 and 8, which sum to 3/4.
    with mean.held():
        assert model.weight.item() == pytest.approx(16 / 3)
    assert model.weight.item() == 8.0
    mean.put()
    assert model.weight.item() == pytest.approx(16 / 3)


def test_the_running_mean_takes_epochs_from_lookups() -> None:
    model = filled(Two(), [[0.0, 0.0]] * 4, [[0.0, 0.0]] * 2)
    # Sixteen lookups of a are an epoch, and a step looks up two.
    price = BitPrice(model, 1e-9, {"a": np.full(4, 4.0)}, half_life=1.0)
    for value in (0.0, 8.0):
        nn.init.constant_(model.a.weight, value)
        for _ in range(8):
            model(IDS[:2])
            price.cost()
            price.step()
    with price.averaged():
        assert model.a.weight[0, 0].item() == pytest.approx(16 / 3)
    assert model.a.weight[0, 0].item() == 8.0
    price.finish()
    assert model.a.weight[0, 0].item() == pytest.approx(16 / 3)
    assert hooks(model) == 0
    price.finish()


def test_an_error_in_the_block_leaves_the_model_as_it_was_then() -> None:
    model, own = Two(), {}

    def interrupted() -> None:
        with BitPrice(model, 1e-3, COUNTS) as price:
            own.update(copy.deepcopy(trained(model, price).state_dict()))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert hooks(model) == 0
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_equal_seeds_give_equal_models() -> None:
    found = []
    for seed in (0, 0, 1):
        model = Two()
        with BitPrice(model, 1e-3, COUNTS, seed=seed) as price:
            trained(model, price)
        found.append(model.a.weight)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_interrupted_training_continues() -> None:
    whole, first, second = Two(), Two(), Two()
    with BitPrice(whole, 1e-3, COUNTS, seed=4) as price:
        trained(whole, price, 21)
    before = BitPrice(first, 1e-3, COUNTS, seed=4)
    trained(first, before, 11)
    file = io.BytesIO()
    torch.save([first.state_dict(), before.state_dict()], file)
    file.seek(0)
    model_state, state = torch.load(file, weights_only=True)
    second.load_state_dict(model_state)
    with BitPrice(second, 1.0, COUNTS) as price:
        price.load_state_dict(state)
        trained(second, price, 10, first=11)
    assert torch.equal(whole.a.weight, second.a.weight)
    with pytest.raises(saec.DataError, match=r"mean of 'a\.weight' of shape \(4, 2\)"):
        BitPrice(Joint(), 1.0, {"table": np.ones(6)}).load_state_dict(state)


def test_models_are_copied_and_pickled_while_they_are_trained() -> None:
    model = Two()
    price = BitPrice(model, 1e-3, COUNTS)
    price.follow(torch.optim.SGD(model.parameters(), 0.1))
    trained(model, price, 9)
    copies = [copy.deepcopy((model, price)), pickle.loads(pickle.dumps((model, price)))]
    for other, its in [(model, price), *copies]:
        trained(other, its, 9)
        its.finish()
        assert torch.equal(other.a.weight, model.a.weight)
        assert hooks(other) == 0


def test_other_trainers_take_a_charged_loss_and_are_followed() -> None:
    models = Two(), Two()
    prices = [BitPrice(model, 1e-3, COUNTS) for model in models]
    loss = prices[0].charged(nn.functional.mse_loss)
    optimizer = torch.optim.SGD(models[0].parameters(), 0.1)
    prices[0].follow(optimizer)
    for step in range(20):
        ids = IDS.roll(step, 0)[:2]
        loss(models[0](ids), ids[:, 0].float()).backward()
        optimizer.step()
        optimizer.zero_grad()
    trained(models[1], prices[1])
    for price in prices:
        price.finish()
    torch.testing.assert_close(models[0].a.weight, models[1].a.weight)
    with torch.no_grad():  # neither noise nor cost
        assert loss(models[0](IDS), models[0](IDS)).item() == 0


def test_the_cost_is_part_of_each_term_of_a_sum() -> None:
    model = Two()
    price = BitPrice(model, 1e-3, COUNTS)
    labels, values = torch.zeros(3), []
    for reduction in ("mean", "sum"):
        outputs = model(IDS)
        plain = nn.functional.mse_loss(outputs, labels, reduction=reduction)
        charged = price.charged(nn.functional.mse_loss)(outputs, labels, reduction=reduction)
        values.append((charged - plain).item())
    assert values[1] == pytest.approx(3 * values[0], rel=1e-3)


def test_a_finished_model_is_compressed() -> None:
    model = Two()
    model.a = nn.Embedding(2000, 2)
    counts = {"a": np.arange(2000.0, 0, -1)}
    price = BitPrice(model, 1e-3, counts)
    trained(model, price)
    batches = [(IDS, torch.tensor([0.0, 1.0, 1.0]))]
    given = {"frequencies": counts, "budget": saec.Ratio(3), "progress": False}
    with pytest.raises(saec.ModuleError, match=r"finish\(\) of a saec\.torch\.BitPrice"):
        saec.torch.compress_(model, batches, **given)
    with pytest.raises(saec.ModuleError, match=r"finish\(\) of a saec\.torch\.BitPrice"):
        BitPrice(model, 1e-3, counts)
    price.finish()
    assert saec.torch.compress_(model, batches, **given).compression_ratio >= 3
    with pytest.raises(saec.ModuleError, match="compressed already"):
        BitPrice(model, 1e-3, counts)


def test_tables_that_are_never_called_are_named() -> None:
    model = Two()
    price = BitPrice(model, 1e-3, COUNTS)
    model.a(IDS[:, 0])
    price.cost()
    price.step()
    with pytest.warns(saec.ModuleWarning, match="'b' was trained without a price"):
        price.finish()


def frozen() -> Two:
    model = Two()
    model.b.weight.requires_grad_(False)
    return model


def tied() -> Two:
    model = Two()
    model.scores = nn.Linear(2, 4, bias=False)
    model.scores.weight = model.a.weight
    return model


@pytest.mark.parametrize(
    ("make", "frequencies", "message"),
    [
        (frozen, COUNTS, "'b' is frozen"),
        (tied, COUNTS, "'scores' has the same weight"),
        (Two, {"c": np.ones(4)}, "no embedding field is named 'c'; there are: 'a', 'b'"),
        (Two, {}, "frequencies name none"),
        (lambda: nn.DataParallel(Two()), COUNTS, "pass its .module"),
    ],
)
def test_models_that_cannot_be_trained(
    make: Callable[[], nn.Module], frequencies: dict[str, Any], message: str
) -> None:
    model = make()
    with pytest.raises(saec.ModuleError, match=message):
        BitPrice(model, 1e-3, frequencies)
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.ones(5), "4 rows, frequencies 5|4.*5"),
        (np.zeros(4), "all 4 frequencies are zero"),
        (np.array([1, -1, 1, 1]), "the frequency of id 1 is -1"),
        (np.array([1, math.nan, 1, 1]), "the frequency of id 1 is nan"),
    ],
)
def test_frequencies_that_do_not_fit(counts: Any, message: str) -> None:
    with pytest.raises(saec.FieldError, match=message):
        BitPrice(Two(), 1e-3, {"a": counts})


def test_frequencies_below_the_lookups_of_a_batch() -> None:
    model = Two()
    price = BitPrice(model, 1e-3, {"a": np.full(4, 0.25)})
    model(IDS)
    with pytest.raises(
        saec.DataError, match="looks up 3 features of 'a', whose frequencies sum to 1:"
    ):
        price.cost()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"price": 0.0}, "price is 0.0; it must be positive"),
        ({"price": math.nan}, "price is nan"),
        ({"noise": -1.0}, "noise is -1.0; it must be positive"),
        ({"half_life": math.inf}, "half_life is inf"),
        ({"row_decay": -1.0}, "row_decay is -1.0; it must be finite and not negative"),
        ({"seed": -1}, "seed cannot be -1"),
    ],
)
def test_settings_out_of_range(given: dict[str, Any], message: str) -> None:
    with pytest.raises(saec.OptionError, match=message):
        BitPrice(Two(), **{"price": 1.0, "frequencies": COUNTS, **given})


def test_steps_in_a_wrong_order() -> None:
    model = Two()
    price = BitPrice(model, 1e-3, COUNTS)
    with pytest.raises(saec.ModuleError, match=r"after the first cost\(\)"):
        price.bits  # noqa: B018
    with pytest.raises(saec.ModuleError, match=r"call cost\(\) once after each forward"):
        price.cost()
    model(IDS)
    with pytest.raises(saec.ModuleError, match=r"were not charged: add cost\(\)"):
        price.step()
    with pytest.raises(saec.DataError, match="cannot have 0 examples"):
        price.cost(0)
    price.cost()
    with pytest.raises(saec.ModuleError, match="once after each forward"):
        price.cost()
    price.remove()
    for call in (price.cost, price.step, price.averaged):
        with pytest.raises(saec.ModuleError, match="has ended"):
            call()
