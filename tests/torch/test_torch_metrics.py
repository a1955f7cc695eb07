"""The Fisher information of embedding tables, against numbers by hand and finite differences."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from saec.errors import DataError, MetricError, ModuleError, OptionError
from saec.reference.models import build
from saec.tables.loss_metric import LossMetrics, check_metrics
from saec.torch import fields, loss_metrics, replace_embeddings_

Make = Callable[..., Any]


def mean_output(outputs: Tensor, labels: Any) -> Tensor:
    """A loss whose gradients are those of the outputs: without labels or random numbers."""
    return outputs.mean()


def expected_fisher(outputs: Tensor, labels: Any) -> Tensor:
    """Replaces h h' by its expectation over drawn labels, p(1-p) g g'."""
    p = outputs.detach().sigmoid()
    return ((p * (1 - p)).sqrt() * outputs).mean()


class Dot(nn.Module):
    """logit = scale * a . e[id]."""

    def __init__(self, embedding: nn.Module, a: Iterable[float], scale: float = 1.0) -> None:
        super().__init__()
        self.user = embedding
        self.register_buffer("a", scale * torch.tensor(list(a)))

    def forward(self, *arguments: Any) -> Tensor:
        logits: Tensor = self.user(*arguments).to(self.a.dtype) @ self.a
        return logits


class Lambda(nn.Module):
    """A model in one line: the tables ``user`` and ``item``, and its forward function."""

    def __init__(self, call: Callable[..., Any], dim: int = 2, **options: Any) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.user = nn.Embedding(5, dim, **options)
        self.item = nn.Embedding(4, dim)
        with torch.no_grad():
            self.user.weight.normal_(generator=generator)
            self.item.weight.normal_(generator=generator)
        self.call = call

    def forward(self, *arguments: Any) -> Any:
        return self.call(self, *arguments)


def random_ids(rows: int, vocab: int = 5, seed: int = 0) -> Tensor:
    return torch.randint(0, vocab, (rows,), generator=torch.Generator().manual_seed(seed))


def measure(model: nn.Module, *inputs: Tensor, loss_fn: Any = mean_output, **kwargs: Any) -> Any:
    return loss_metrics(model, [(inputs, None)], loss_fn, progress=False, **kwargs)


def test_fisher_information_by_hand() -> None:
    # Every row is zero, so p = 1/2 and h = (1/2 - y) a: h h' = a a' / 4 whatever the label.
    model = Dot(nn.Embedding(5, 2, _weight=torch.zeros(5, 2)), [3.0, 4.0])
    metrics = loss_metrics(model, [(random_ids(10), None)], progress=False)
    assert isinstance(metrics, LossMetrics)
    assert (list(metrics), metrics.examples) == (["user"], 10)
    assert metrics["user"].dtype == np.float64
    np.testing.assert_allclose(metrics["user"], np.outer([3, 4], [3, 4]) / 4)
    assert metrics.relative_errors["user"] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("loss_fn", [None, nn.BCEWithLogitsLoss()])
def test_labels_are_taken_as_the_model_expects_them(loss_fn: Any) -> None:
    # logit = ln 4, p = 0.8, in one half of the examples and 0, p = 0.5, in the other: the mean of
    # h h' over labels is p (1 - p) a a', 0.16 a a' and 0.25 a a'. Given labels change nothing.
    weight = torch.tensor([[np.log(4) / 3, 0.0], [0.0, 0.0]], dtype=torch.float32)
    model = Dot(nn.Embedding(2, 2, _weight=weight), [3.0, 4.0])
    batches = [(torch.tensor([0, 1]), labels) for labels in (torch.zeros(2), torch.ones(2), None)]
    metrics = loss_metrics(model, batches, loss_fn, progress=False)
    np.testing.assert_allclose(metrics["user"], 0.205 * np.outer([3, 4], [3, 4]), rtol=1e-6)
    # Traces of 4 and 6.25, three times each: a standard deviation of 1.125 sqrt(6 / 5).
    expected = 1.125 * np.sqrt(6 / 5) / np.sqrt(6) / 5.125
    assert metrics.relative_errors["user"] == pytest.approx(expected, rel=1e-4)


def test_empirical_gradients_by_hand() -> None:
    # h = (p - y) a with p = 1/2 where the row is zero, and p = 0.8.
    weight = torch.tensor([[0.0, 0.0], [np.log(4) / 3, 0.0]], dtype=torch.float32)
    model = Dot(nn.Embedding(2, 2, _weight=weight), [3.0, 4.0])

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(outputs, labels)

    batch = (torch.tensor([0, 0, 1, 1]), torch.tensor([0.0, 1.0, 1.0, 1.0]))
    metrics = loss_metrics(model, [batch], loss_fn, progress=False)
    mean = (0.25 + 0.25 + 0.04 + 0.04) / 4
    np.testing.assert_allclose(metrics["user"], mean * np.outer([3, 4], [3, 4]), rtol=1e-5)
    # The traces are 25 times 0.25, 0.25, 0.04, 0.04: a standard deviation of 0.42 / sqrt(12).
    deviation = 0.42 / np.sqrt(12) / np.sqrt(4)
    assert metrics.relative_errors["user"] == pytest.approx(deviation / 0.29 * 2, rel=1e-4)
    weighted = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0))
    doubled = loss_metrics(model, [batch], weighted, progress=False)["user"]
    mean = (0.25 + 1.0 + 4 * 0.04 + 4 * 0.04) / 4  # twice the gradient where y = 1
    np.testing.assert_allclose(doubled, mean * np.outer([3, 4], [3, 4]), rtol=1e-5)


def test_batches_add_up_to_one() -> None:
    model = build("deepfm", {"user": 20, "item": 30}, dim=4).eval()
    ids = torch.stack([random_ids(301, 20), random_ids(301, 30, 1)], dim=1)
    whole = measure(model, ids)
    parts = [(batch, None) for batch in ids.split(100)]
    blocks = loss_metrics(model, parts, mean_output, progress=False)
    assert blocks.examples == whole.examples == 301
    for name in whole:
        np.testing.assert_allclose(blocks[name], whole[name], rtol=1e-5)
        assert blocks.relative_errors[name] == pytest.approx(whole.relative_errors[name])


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("name", ["deepfm", "dcnv2", "dlrm"])
def test_the_second_order_increase_of_a_click_model(name: str) -> None:
    """All rows of a field move by one delta: KL(p || p') is 1/2 delta' G delta to second order."""
    model = build(name, {"user": 20, "item": 30}, dim=4, seed=1).double().eval()
    with torch.no_grad():  # larger than the initial weights, with which nothing interacts
        for table in model.embeddings.values():
            table.weight.normal_(generator=torch.Generator().manual_seed(5))
    ids = torch.stack([random_ids(2000, 20), random_ids(2000, 30, 1)], dim=1)
    exact = measure(model, ids, loss_fn=expected_fisher)
    drawn = loss_metrics(model, [(ids, None)] * 20, progress=False, tolerance=0)
    rng = np.random.default_rng(0)
    for field in exact:
        delta = 1e-3 * rng.standard_normal(4)
        increase = _divergence(model, field, delta, ids)
        assert 0.5 * delta @ exact[field] @ delta == pytest.approx(increase, rel=0.02)
        share = np.trace(drawn[field]) / np.trace(exact[field])
        assert share == pytest.approx(1, abs=4 * drawn.relative_errors[field])
        assert 0 < drawn.relative_errors[field] < 0.03


@torch.no_grad()
def _divergence(model: Any, field: str, delta: Any, ids: Tensor) -> float:
    weight = model.get_submodule(field).weight
    p = model(ids).sigmoid()
    weight += torch.from_numpy(delta)
    q = model(ids).sigmoid()
    weight -= torch.from_numpy(delta)
    return float((p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean())


def _bag(mode: str, **options: Any) -> nn.EmbeddingBag:
    weight = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    return nn.EmbeddingBag(5, 2, mode=mode, _weight=weight, **options)


FLAT = (torch.tensor([0, 1, 2, 3, 3, 4]), torch.tensor([0, 2, 2, 3]))  # one bag is empty
SIZES = torch.tensor([2, 0, 1, 3])
SQUARE = (torch.tensor([[0, 1, 2], [3, 3, 4]]),)


@pytest.mark.parametrize(
    ("mode", "inputs", "shares"),
    [
        # Rows' shares of their bag's output: the matrix is a a' times their squares per example.
        ("sum", FLAT, [1, 1, 1, 1, 1, 1]),
        ("mean", FLAT, [1 / 2, 1 / 2, 1, 1 / 3, 1 / 3, 1 / 3]),
        ("sum", SQUARE, [1, 1, 1, 1, 1, 1]),
        ("mean", SQUARE, [1 / 3] * 6),
        ("sum", (*FLAT, torch.tensor([1.0, -2, 3, 0, 5, 6])), [1, -2, 3, 0, 5, 6]),
        ("sum", (*SQUARE, None, torch.tensor([[1.0, 2, 3], [4, 5, 6]])), [1, 2, 3, 4, 5, 6]),
    ],
)
def test_bags_by_hand(mode: str, inputs: tuple[Any, ...], shares: list[float]) -> None:
    model = Dot(_bag(mode), [3.0, 4.0])
    metrics = measure(model, *inputs)
    examples = 4 if inputs[0].ndim == 1 else 2
    assert metrics.examples == examples
    expected = np.square(shares).sum() / examples * np.outer([3, 4], [3, 4])
    np.testing.assert_allclose(metrics["user"], expected, rtol=1e-6)
    bags = np.repeat(range(examples), SIZES if examples == 4 else [3, 3])
    traces = 25 * np.bincount(bags, np.square(shares), minlength=examples)
    error = traces.std(ddof=1) / np.sqrt(examples) / traces.mean()
    assert metrics.relative_errors["user"] == pytest.approx(error, rel=1e-5, abs=1e-6)


def test_offsets_that_include_the_last() -> None:
    ids, offsets = FLAT
    plain = measure(Dot(_bag("mean"), [3.0, 4.0]), ids, offsets)
    last = Dot(_bag("mean", include_last_offset=True), [3.0, 4.0])
    ended = measure(last, ids, torch.cat([offsets, torch.tensor([6])]))
    np.testing.assert_array_equal(ended["user"], plain["user"])
    assert ended.relative_errors == plain.relative_errors


def test_the_maximum_gives_its_gradient_to_the_row_that_has_it() -> None:
    weight = torch.tensor([[1.0, 5.0], [2.0, 4.0], [3.0, 3.0]])
    model = Dot(nn.EmbeddingBag(3, 2, mode="max", _weight=weight), [3.0, 4.0])
    # Row 1 has the first maximum, row 0 the second: no outer product has both.
    metrics = measure(model, torch.tensor([[0, 1]]))
    np.testing.assert_allclose(metrics["user"], np.diag([9.0, 16.0]))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_one_are_an_embedding(mode: str) -> None:
    bag = _bag(mode)
    single = nn.Embedding(5, 2, _weight=bag.weight.detach())
    ids = random_ids(50)
    for inputs in [(ids[:, None],), (ids, torch.arange(50))]:
        bagged = measure(Dot(bag, [3.0, 4.0]), *inputs, loss_fn=expected_fisher)
        expected = measure(Dot(single, [3.0, 4.0]), ids, loss_fn=expected_fisher)
        np.testing.assert_allclose(bagged["user"], expected["user"], rtol=1e-6)
        assert bagged.relative_errors["user"] == pytest.approx(expected.relative_errors["user"])


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_a_bag_of_three_is_three_lookups_of_an_embedding(mode: str) -> None:
    bag = _bag(mode)
    pooled = Lambda(lambda self, ids: self.table(ids).square().sum(1))
    pooled.table = bag

    def call(self: Lambda, ids: Tensor) -> Tensor:
        vectors = torch.stack([self.table(column) for column in ids.unbind(1)])
        return (vectors.sum(0) if mode == "sum" else vectors.mean(0)).square().sum(1)

    apart = Lambda(call)
    apart.table = nn.Embedding(5, 2, _weight=bag.weight.detach())
    ids = random_ids(60).reshape(20, 3)
    at_once = measure(pooled, ids, names=["table"])
    expected = measure(apart, ids, names=["table"])
    np.testing.assert_allclose(at_once["table"], expected["table"], rtol=1e-6)
    assert at_once.relative_errors == pytest.approx(expected.relative_errors)
    assert expected.relative_errors["table"] > 0


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_padding_rows_do_not_count(mode: str) -> None:
    padded = Dot(_bag(mode, padding_idx=3), [3.0, 4.0])
    without = Dot(_bag(mode), [3.0, 4.0])
    metrics = measure(padded, torch.tensor([0, 3, 1, 3, 3, 2]), torch.tensor([0, 3, 5]))
    expected = measure(without, torch.tensor([0, 1, 2]), torch.tensor([0, 2, 2]))
    np.testing.assert_allclose(metrics["user"], expected["user"], rtol=1e-6)
    assert metrics.relative_errors["user"] == pytest.approx(expected.relative_errors["user"])
    single = Dot(nn.Embedding(5, 2, padding_idx=3), [3.0, 4.0])
    half = measure(single, torch.tensor([0, 3, 1, 3]))
    np.testing.assert_allclose(half["user"], np.outer([3, 4], [3, 4]) / 2)


def test_a_bag_computed_again_gives_the_models_own_output() -> None:
    bag = _bag("mean", padding_idx=3)
    model = Dot(bag, [3.0, 4.0])
    seen = []

    def loss_fn(outputs: Tensor, labels: Any) -> Tensor:
        seen.append(outputs.detach())
        return outputs.mean()

    measure(model, *FLAT, loss_fn=loss_fn)
    torch.testing.assert_close(seen[0], model(*FLAT).detach())


def test_joint_tables_are_split_by_id() -> None:
    joined = Lambda(lambda self, ids: self.user(ids).square().sum((1, 2)))
    apart = Lambda(
        lambda self, ids: (
            self.user(ids[:, 0]).square().sum(1) + self.item(ids[:, 1] - 2).square().sum(1)
        )
    )
    with torch.no_grad():
        apart.item.weight[:3] = apart.user.weight[2:]
    ids = torch.stack([random_ids(30, 2), 2 + random_ids(30, 3)], dim=1)
    ranges = {"user": {"left": (0, 2), "right": (2, 5)}}
    joint = measure(joined, ids, names=["left", "right"], ranges=ranges)
    expected = measure(apart, ids)
    assert list(joint) == ["left", "right"]
    for name, other in (("left", "user"), ("right", "item")):
        np.testing.assert_allclose(joint[name], expected[other], rtol=1e-6)
        assert joint.relative_errors[name] == pytest.approx(expected.relative_errors[other])


def test_all_tables_are_measured_unless_names_are_given() -> None:
    model = Lambda(lambda self, ids: self.user(ids).sum(1) + self.item(ids % 4).sum(1))
    ids = random_ids(10)
    assert list(measure(model, ids)) == ["user", "item"]
    assert list(measure(model, ids, names=["item"])) == ["item"]
    ranges = {"user": {"left": (0, 2), "right": (2, 5)}}
    assert list(measure(model, ids, ranges=ranges)) == ["left", "right", "item"]
    counts = {"user": [1] * 5, "item": [1] * 4}
    assert list(check_metrics(fields(model, counts), measure(model, ids))) == ["user", "item"]


def test_calls_and_shared_weights_add_up_in_one_table() -> None:
    twice = Lambda(lambda self, ids: self.user(ids) @ a + 2 * self.user(ids) @ a)
    a = torch.tensor([3.0, 4.0])
    ids = random_ids(10)
    metrics = measure(twice, ids, names=["user"])
    np.testing.assert_allclose(metrics["user"], (1 + 4) * np.outer([3, 4], [3, 4]))
    assert metrics.relative_errors["user"] == pytest.approx(0, abs=1e-7)
    shared = Lambda(lambda self, ids: self.user(ids) @ a + 2 * self.again(ids) @ a)
    shared.again = nn.Embedding(5, 2, _weight=torch.zeros(5, 2))
    shared.again.weight = shared.user.weight
    again = measure(shared, ids, names=["user"])
    np.testing.assert_allclose(again["user"], metrics["user"])


def test_keyword_arguments_and_empty_lookups() -> None:
    a = torch.tensor([3.0, 4.0])
    keyword = Lambda(lambda self, ids: self.user(input=ids) @ a)
    np.testing.assert_allclose(
        measure(keyword, random_ids(3), names=["user"])["user"], np.outer([3, 4], [3, 4])
    )
    empty = Lambda(lambda self, ids: self.item(ids) @ a + (self.user(ids[:0]) @ a).sum())
    assert not measure(empty, random_ids(3, 4))["user"].any()
    bag = Dot(_bag("mean"), [3.0, 4.0])
    nothing = (torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    assert not measure(bag, *nothing)["user"].any()


@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_other_dtypes(kind: Any, dtype: torch.dtype, ids: torch.dtype) -> None:
    model = Dot(kind(5, 2, dtype=dtype), [3.0, 4.0]).to(dtype)
    inputs = SQUARE[0][:, :1].to(ids) if kind is nn.EmbeddingBag else SQUARE[0][:, 0].to(ids)
    metrics = measure(model, inputs)
    assert metrics["user"].dtype == np.float64
    np.testing.assert_allclose(metrics["user"], np.outer([3, 4], [3, 4]))
    drawn = loss_metrics(model, [(inputs, None)], progress=False)
    assert np.isfinite(drawn["user"]).all()


def test_rounding_to_half_precision_does_not_bias_the_sum() -> None:
    # In bfloat16 a sum of 3,000 ones would stop growing at 256.
    model = Dot(nn.Embedding(5, 2, dtype=torch.bfloat16), [1.0, 0.0]).bfloat16()
    metrics = measure(model, random_ids(3000))
    np.testing.assert_allclose(metrics["user"], [[1, 0], [0, 0]])


def test_stops_when_the_traces_have_converged_or_the_examples_are_enough() -> None:
    model = Dot(nn.Embedding(5, 2, _weight=torch.zeros(5, 2)), [3.0, 4.0])
    batches = [(random_ids(1000), None)] * 9
    constant = loss_metrics(model, iter(batches), progress=False)
    assert constant.examples == 5000  # not before 4096 examples, although the first trace is exact
    assert loss_metrics(model, batches, examples=1500, progress=False).examples == 2000
    noisy = Lambda(lambda self, ids: self.user(ids).square().sum(1))
    metrics = loss_metrics(noisy, batches, names=["user"], tolerance=1e-9, progress=False)
    assert metrics.examples == 9000
    loose = loss_metrics(noisy, batches, names=["user"], tolerance=0.5, progress=False)
    assert loose.examples == 5000


def test_a_table_that_no_batch_touches_has_a_zero_metric_and_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Lambda(lambda self, ids: self.user(ids).sum(1))
    with caplog.at_level(logging.WARNING, "saec"):
        metrics = loss_metrics(model, [(random_ids(1000), None)] * 6, progress=False)
    (line,) = caplog.messages
    assert "field 'item': its metric is zero, none of 6000 examples" in line
    assert metrics["item"].tolist() == [[0, 0], [0, 0]]
    assert metrics.relative_errors["item"] == np.inf
    assert metrics.examples == 6000  # it continues for the missing field


def _state(model: nn.Module) -> list[Any]:
    """Everything that must not change: tensors and their identity, flags, gradients, hooks."""
    modules = list(model.modules())
    hooks = [len(m._forward_hooks) + len(m._forward_hooks_with_kwargs) for m in modules]
    parameters = [(id(p), p._version, p.requires_grad, p.grad) for p in model.parameters()]
    buffers = [id(buffer) for buffer in model.buffers()]
    return [[m.training for m in modules], hooks, parameters, buffers, torch.get_rng_state()]


class Restless(nn.Module):
    """Counts its calls, draws random numbers even in eval mode, and renormalises a table."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(5, 2, _weight=torch.full((5, 2), 3.0))
        self.clipped = nn.Embedding(5, 2, max_norm=1.0, _weight=torch.full((5, 2), 3.0))
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()), persistent=False)
        self.register_buffer("nothing", None)

    def forward(self, ids: Tensor) -> Tensor:
        self.calls += 1
        self.last = torch.ones(())
        vectors = functional.dropout(self.user(ids) + self.clipped(ids))
        logits: Tensor = self.norm(vectors).sum(1)
        return logits


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_model_and_the_random_state_stay_as_they_were(training: bool, fails: bool) -> None:
    torch.manual_seed(0)
    model = Restless().train(training)
    model.norm.eval()
    model.user.weight.requires_grad_(False)
    model.norm.weight.grad = torch.tensor([1.0, 2.0])
    before = _state(model)
    values = {name: value.clone() for name, value in model.state_dict().items()}
    last = model.last
    batches: list[Any] = [(random_ids(8), None)] * 3
    if fails:
        with pytest.raises(IndexError):
            loss_metrics(model, [*batches, (torch.tensor([7]), None)], names=["user"])
    else:
        metrics = loss_metrics(model, batches, names=["user"], progress=False)
        assert metrics["user"].any()
    after = _state(model)
    weight = [parameter is model.clipped.weight for parameter in model.parameters()].index(True)
    for state in (before, after):  # only its version may show that it was written to and restored
        state[2][weight] = (*state[2][weight][:1], *state[2][weight][2:])
    assert after[:4] == before[:4]
    assert torch.equal(after[4], before[4])
    assert model.last is last
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, values[name], rtol=0, atol=0)


def test_dropout_and_batch_statistics_are_off(click_model: Make, click_inputs: Make) -> None:
    model, inputs = click_model(), click_inputs()
    found = measure(model.train(), *inputs, loss_fn=expected_fisher)
    expected = measure(model.eval(), *inputs, loss_fn=expected_fisher)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_rows_that_checkpoints_look_up_again_count_once() -> None:
    model = Lambda(lambda self, ids: self.user(ids).square().sum(1))
    expected = measure(model, random_ids(10), names=["user"])["user"]
    plain = model.call
    model.call = lambda self, ids: checkpoint(plain, self, ids, use_reentrant=False)
    np.testing.assert_array_equal(measure(model, random_ids(10), names=["user"])["user"], expected)


def test_works_without_any_gradients_on_and_on_frozen_models() -> None:
    model = Lambda(lambda self, ids: self.user(ids).square().sum(1)).requires_grad_(False)
    expected = measure(model, random_ids(10), names=["user"])["user"]
    assert expected.any()
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            found = measure(model, random_ids(10), names=["user"])
            np.testing.assert_array_equal(found["user"], expected)
            assert not torch.is_grad_enabled()


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_table_that_is_frozen_by_no_grad_alone_is_measured(kind: Any, off: Any) -> None:
    def call(self: Lambda, ids: Tensor) -> Tensor:
        with off():
            vectors = self.table(ids)
        return vectors @ torch.tensor([3.0, 4.0])

    model = Lambda(call)
    model.table = kind(5, 2)
    ids = random_ids(4)
    metrics = measure(model, ids[:, None] if kind is nn.EmbeddingBag else ids, names=["table"])
    np.testing.assert_allclose(metrics["table"], np.outer([3, 4], [3, 4]))


def test_a_model_may_write_into_what_it_looked_up() -> None:
    model = Lambda(lambda self, ids: self.user(ids).mul_(2).sum(1))
    metrics = measure(model, random_ids(4), names=["user"])
    np.testing.assert_allclose(metrics["user"], [[4, 4], [4, 4]])


def test_compressed_modules_are_ignored(
    click_model: Make, click_result: Make, click_inputs: Make
) -> None:
    model = replace_embeddings_(click_model(), click_result())
    with pytest.raises(ModuleError, match="no embedding tables to measure"):
        measure(model, *click_inputs())
    model.user = click_model().user
    metrics = measure(model, *click_inputs())
    assert list(metrics) == ["user"]
    assert metrics["user"].any()


@torch.no_grad()
def _no_grad(self: Lambda, ids: Tensor) -> Tensor:
    return self.user(ids).sum(1)


@torch.inference_mode()
def _inference(self: Lambda, ids: Tensor) -> Tensor:
    return self.user(ids).sum(1)


@pytest.mark.parametrize(
    "call",
    [
        _no_grad,
        _inference,
        lambda self, ids: self.user(ids).detach().sum(1),
        lambda self, ids: self.item(ids % 4).sum(1) + self.user(ids).detach().sum(1),
    ],
    ids=["no_grad", "inference_mode", "detached", "one of two is detached"],
)
@pytest.mark.parametrize("loss_fn", [None, mean_output])
def test_an_embedding_that_no_gradient_reaches(call: Any, loss_fn: Any) -> None:
    model = Lambda(call)
    with pytest.raises(ModuleError, match="no gradient reaches the output of embedding 'user'"):
        measure(model, random_ids(4), loss_fn=loss_fn)


def _outputs(value: Callable[[Tensor], Any]) -> Lambda:
    return Lambda(lambda self, ids: value(self.user(ids).sum(1)))


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (_outputs(lambda z: (z, z)), ModuleError, "must return a tensor, not tuple"),
        (_outputs(lambda z: {"logits": z}), ModuleError, "must return a tensor, not dict"),
        (_outputs(lambda z: z.mean()), DataError, r"batch 1: outputs are \(\); they need one"),
        (_outputs(lambda z: z[:0]), DataError, r"batch 1: outputs are \(0,\); they need one"),
        (_outputs(lambda z: torch.stack([z, z], 1)), DataError, r"outputs \(4, 2\), which are not"),
        (_outputs(lambda z: z[:3]), DataError, "batch 1: the model gives 3 logits for 4 labels"),
        (_outputs(lambda z: z / 0), MetricError, "batch 1: the loss is (nan|inf)"),
        (_outputs(lambda z: (z - z).sqrt() + z), MetricError, "batch 1: a gradient at 'user' is"),
    ],
)
def test_outputs_that_cannot_be_used(model: Lambda, error: type[Exception], message: str) -> None:
    call, good = model.call, _outputs(lambda z: z).call
    model.call = lambda self, ids: good(self, ids) if len(ids) == 2 else call(self, ids)
    batches = [(random_ids(2), None), (random_ids(4), torch.zeros(4))]
    with pytest.raises(error, match=message):
        loss_metrics(model, batches, progress=False)


@pytest.mark.parametrize(
    ("loss_fn", "error", "message"),
    [
        (lambda z, y: z, DataError, r"batch 0: loss_fn must give one number, not \(4,\)"),
        (lambda z, y: 1.0, DataError, "batch 0: loss_fn must give one number, not float"),
        (lambda z, y: z.mean() / 0, MetricError, "batch 0: the loss is"),
    ],
)
def test_losses_that_cannot_be_used(loss_fn: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        measure(_outputs(lambda z: z), random_ids(4), loss_fn=loss_fn)


def test_options_names_and_batches_that_cannot_be_used() -> None:
    model, batch = _outputs(lambda z: z), (random_ids(4), None)
    with pytest.raises(DataError, match="batches are empty"):
        loss_metrics(model, [])
    with pytest.raises(OptionError, match="examples must be at least 1, not 0"):
        loss_metrics(model, [batch], examples=0)
    for tolerance in (-0.1, float("nan")):
        with pytest.raises(OptionError, match=f"tolerance must not be negative, not {tolerance}"):
            loss_metrics(model, [batch], tolerance=tolerance)
    with pytest.raises(ModuleError, match="no embedding field is named 'users'"):
        loss_metrics(model, [batch], names=["users"])
    with pytest.raises(ModuleError, match=re.escape("ranges of 'user' leave out rows 2..4")):
        loss_metrics(model, [batch], ranges={"user": {"left": (0, 2)}})
    with pytest.raises(ModuleError, match="'user' cannot be compressed: it has max_norm"):
        loss_metrics(Lambda(model.call, max_norm=1.0), [batch])
    with pytest.raises(ModuleError, match="no embedding tables to measure"):
        loss_metrics(nn.Linear(2, 1), [batch])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_as_on_a_cpu(click_model: Make, click_inputs: Make) -> None:
    model = click_model()
    batches = [(click_inputs(), None)] * 3
    expected = loss_metrics(model, batches, progress=False)
    before = torch.cuda.get_rng_state()
    metrics = loss_metrics(model.cuda(), batches, progress=False)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    for name in expected:
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_recurrent_layer_on_a_gpu() -> None:
    model = Lambda(lambda self, ids: self.gru(self.user(ids))[1].sum((0, 2)))
    model.gru = nn.GRU(2, 3, batch_first=True)
    ids = random_ids(40).reshape(10, 4)
    expected = measure(model, ids, names=["user"])["user"]
    found = measure(model.cuda(), ids, names=["user"])["user"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
