"""Click models of other libraries: compressed in place, scored, and given back to the bit."""

from __future__ import annotations

import copy
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from zoo_click import Data, compressed, evaluate, outputs, restores, train
from zoo_models import LIBRARIES, Entry, build

from saec.reference.log import Log
from saec.torch import CompressedEmbedding, CompressedEmbeddingBag, fields, loss_metrics

# Theirs, not ours: deprecated names in imports, and tensors made in old ways.
pytestmark = pytest.mark.filterwarnings("ignore")

MODELS = [
    pytest.param(
        library,
        name,
        marks=pytest.mark.skipif(find_spec(package) is None, reason=f"{library} is not installed"),
    )
    for library, (package, _, names) in LIBRARIES.items()
    for name in names
]


def made(library: str, name: str, log: Log) -> Entry:
    return build(library, name, log.vocab_sizes, 16, 0)


@pytest.mark.parametrize(("library", "name"), MODELS)
def test_compressed_scored_saved_and_restored(library: str, name: str, log: Log) -> None:
    entry, data = made(library, name, log), Data.of(log)
    train(entry, data, seed=0, epochs=2)
    original = copy.deepcopy(entry.model)
    before = evaluate(entry, data, "test")

    result = compressed(entry, data, ratio=6, seed=0)
    assert result.compression_ratio >= 6
    assert set(result) == set(entry.counted)
    left = [m for m in entry.model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    assert all(field.codec == "raw" for field in result.values()) or len(left) < len(result)
    kinds = CompressedEmbedding | CompressedEmbeddingBag
    assert any(isinstance(module, kinds) for module in entry.model.modules())

    after = evaluate(entry, data, "test")
    assert abs(after["loss"] - before["loss"]) < 0.1
    assert not torch.equal(
        outputs(entry.model, entry, data, data.parts["test"]),
        outputs(original, entry, data, data.parts["test"]),
    )
    assert restores(entry, original, result, data)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("library", "name"), MODELS)
def test_a_state_dict_of_the_compressed_model_is_loaded(library: str, name: str, log: Log) -> None:
    entry, data = made(library, name, log), Data.of(log)
    original = copy.deepcopy(entry.model)
    compressed(entry, data, ratio=6, seed=0)
    here = outputs(entry.model, entry, data, data.parts["test"])
    state = copy.deepcopy(entry.model.state_dict())
    # The same compression gives the same shapes; its values, and the network, come with the state.
    other = Entry(original, entry.inputs, entry.counted, entry.loss_fn, entry.ranges)
    compressed(other, data, ratio=6, seed=0)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(1)
    other.model.load_state_dict(state)
    assert torch.equal(outputs(other.model, other, data, data.parts["test"]), here)


@pytest.mark.parametrize(("library", "name"), MODELS)
def test_fields_have_their_rows_and_a_metric(library: str, name: str, log: Log) -> None:
    entry, data = made(library, name, log), Data.of(log)
    frequencies = {name: log.frequencies[field] for name, field in entry.counted.items()}
    tables = fields(entry.model, frequencies, entry.ranges)
    sizes = {field.name: len(field.weights) for field in tables}
    assert sizes == {name: log.vocab_sizes[field] for name, field in entry.counted.items()}
    batches = data.batches(entry, data.parts["train"], 512)
    metrics = loss_metrics(
        entry.model, batches, entry.loss_fn, names=sizes, ranges=entry.ranges, progress=False
    )
    assert {name: metrics[name].shape for name in sizes} == {
        field.name: (field.weights.shape[1],) * 2 for field in tables
    }
    assert sum(metrics[name].trace() for name in sizes) > 0
