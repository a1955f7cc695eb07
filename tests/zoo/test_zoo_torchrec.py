"""TorchRec's collections: KeyedJaggedTensor in, KeyedTensor out, whatever is stored."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saec
from saec.errors import ModuleError
from saec.torch import (
    CompressedEmbedding,
    CompressedEmbeddingBag,
    compress_,
    decode_embeddings_,
    fields,
    loss_metrics,
    replace_embeddings_,
)

torchrec = pytest.importorskip("torchrec", reason="TorchRec is not installed: make test-zoo")

pytestmark = pytest.mark.filterwarnings("ignore")  # TorchRec's, about what it imports

KEYS = ["clicked", "bought", "city"]


class Wrapped(nn.Module):
    """A collection and a linear layer: logits (n,)."""

    def __init__(self, collection: nn.Module, width: int) -> None:
        super().__init__()
        self.collection = collection
        self.out = nn.Linear(width, 1)

    def forward(self, features: Any) -> Tensor:
        logits: Tensor = self.out(self.collection(features).values()).squeeze(1)
        return logits


def bags(weighted: bool = False, pooling: str = "SUM", dtype: str = "FP32") -> Any:
    """Two features share the table of items; the other table has another width."""
    torch.manual_seed(0)
    options = {
        "pooling": torchrec.PoolingType[pooling],
        "data_type": torchrec.modules.embedding_configs.DataType[dtype],
    }
    items = torchrec.EmbeddingBagConfig(
        name="products", embedding_dim=8, num_embeddings=400, feature_names=KEYS[:2], **options
    )
    cities = torchrec.EmbeddingBagConfig(
        name="cities", embedding_dim=4, num_embeddings=60, feature_names=KEYS[2:], **options
    )
    return torchrec.EmbeddingBagCollection(tables=[items, cities], is_weighted=weighted)


def features(rows: int = 32, weighted: bool = False, seed: int = 0) -> Any:
    """Bags of no to four ids; the order of the keys is not that of the tables."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 5, 3 * rows)
    keys = ["city", "clicked", "bought"]
    limits = np.repeat([60, 400, 400], [lengths[i * rows : (i + 1) * rows].sum() for i in range(3)])
    weights = torch.from_numpy(rng.random(lengths.sum(), dtype=np.float32)) if weighted else None
    values = torch.from_numpy(rng.integers(0, limits))
    return torchrec.KeyedJaggedTensor(keys, values, weights, torch.from_numpy(lengths))


def counts(prefix: str) -> dict[str, np.ndarray[Any, Any]]:
    return {
        f"{prefix}products": 1000 / np.arange(1, 401),
        f"{prefix}cities": 1000 / np.arange(1, 61),
    }


@pytest.mark.parametrize(("weighted", "pooling"), [(False, "SUM"), (False, "MEAN"), (True, "SUM")])
def test_keyed_tensors_are_those_of_the_decoded_tables(weighted: bool, pooling: str) -> None:
    collection = bags(weighted, pooling)
    original = copy.deepcopy(collection)
    tables = fields(collection, counts("embedding_bags."))
    result = saec.compress(tables, saec.Ratio(6), progress=False)
    replace_embeddings_(collection, result)
    for module in collection.embedding_bags.values():
        assert isinstance(module, CompressedEmbeddingBag)
    taken = features(weighted=weighted)
    found, before = collection(taken), original(taken)
    assert isinstance(found, torchrec.KeyedTensor)
    assert found.keys() == before.keys()
    assert found.length_per_key() == before.length_per_key()

    plain = decode_embeddings_(copy.deepcopy(collection))
    with torch.no_grad():
        decoded, looked_up = plain(taken).values(), collection(taken).values()
    if weighted:  # PyTorch adds a product without rounding it first
        torch.testing.assert_close(decoded, looked_up)
    else:
        assert torch.equal(decoded, looked_up)
    assert not torch.equal(found.values(), before.values())
    plain.load_state_dict(original.state_dict())
    assert torch.equal(plain(taken).values(), before.values())


def test_tables_of_half_precision() -> None:
    collection = bags(dtype="FP16")
    result = saec.compress(fields(collection, counts("embedding_bags.")), saec.Ratio(4))
    replace_embeddings_(collection, result)
    plain = decode_embeddings_(copy.deepcopy(collection))
    with torch.no_grad():
        found, expected = collection(features()), plain(features())
    torch.testing.assert_close(found.values(), expected.values(), rtol=2e-3, atol=2e-3)


def test_a_model_is_compressed_in_one_call_and_other_tables_stay() -> None:
    model = Wrapped(bags(), 20)
    batches = [(features(seed=seed), None) for seed in range(10)]
    frequencies = {"collection.embedding_bags.products": 1000 / np.arange(1, 401)}
    result = compress_(
        model, batches, budget=saec.Ratio(6), frequencies=frequencies, progress=False
    )
    assert list(result) == ["collection.embedding_bags.products"]
    assert isinstance(model.collection.embedding_bags["products"], CompressedEmbeddingBag)
    assert type(model.collection.embedding_bags["cities"]) is nn.EmbeddingBag
    assert model(features()).shape == (32,)


def test_the_metric_is_that_of_the_same_bags_alone() -> None:
    model = Wrapped(bags(), 20)
    metrics = loss_metrics(model, [(features(), None)], progress=False)

    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables, self.out = model.collection.embedding_bags, model.out

        def forward(self, taken: Any) -> Tensor:
            pooled = [
                self.tables[table](taken[key].values(), taken[key].offsets())
                for table, key in (
                    ("products", "clicked"),
                    ("products", "bought"),
                    ("cities", "city"),
                )
            ]
            logits: Tensor = self.out(torch.cat(pooled, dim=1)).squeeze(1)
            return logits

    alone = loss_metrics(Alone(), [(features(), None)], progress=False)
    for name in ("products", "cities"):
        found = metrics[f"collection.embedding_bags.{name}"]
        np.testing.assert_allclose(found, alone[f"tables.{name}"], rtol=1e-6)


def test_sequences_of_rows_come_out_of_an_embedding_collection() -> None:
    config = torchrec.EmbeddingConfig(
        name="products", embedding_dim=8, num_embeddings=400, feature_names=["clicked", "bought"]
    )
    collection = torchrec.EmbeddingCollection(tables=[config])
    result = saec.compress(
        fields(collection, {"embeddings.products": 1000 / np.arange(1, 401)}), saec.Ratio(6)
    )
    replace_embeddings_(collection, result)
    assert isinstance(collection.embeddings["products"], CompressedEmbedding)
    found = collection(features())
    decoded = torch.from_numpy(result["embeddings.products"].decode())
    for key in ("clicked", "bought"):
        taken = features()[key]
        assert torch.equal(found[key].values(), decoded[taken.values()])
        assert torch.equal(found[key].lengths(), taken.lengths())


def test_a_fused_collection_is_refused() -> None:
    from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection

    config = bags().embedding_bag_configs()
    fused = FusedEmbeddingBagCollection(
        config, torch.optim.SGD, {"lr": 0.1}, device=torch.device("cpu")
    )
    model = Wrapped(fused, 20)
    with pytest.raises(ModuleError, match="'collection' cannot be compressed: it keeps its tables"):
        compress_(model, [(features(), None)], budget=saec.Ratio(6), progress=False)
    with pytest.raises(ModuleError, match="FusedEmbeddingBagCollection 'collection' cannot be"):
        fields(model, counts("collection.embedding_bags."))
    model.other = nn.Embedding(50, 4)
    assert len(fields(model, {"other": np.ones(50)})) == 1  # beside it, all is well


@pytest.fixture
def _one_rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[None]:
    store = torch.distributed.FileStore(os.fspath(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("_one_rank")
def test_a_sharded_collection_is_refused() -> None:
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel

    model = DistributedModelParallel(
        Wrapped(bags(), 20),
        device=torch.device("cpu"),
        sharders=[EmbeddingBagCollectionSharder()],
    )
    with pytest.raises(ModuleError, match=r"ShardedEmbeddingBagCollection .* is sharded over proc"):
        compress_(model, [(features(), None)], budget=saec.Ratio(6), progress=False)


def test_tensors_of_raw_ids() -> None:
    """Any 64-bit ids in a KeyedJaggedTensor, of which no table of theirs is as long."""
    collection = bags()
    products = np.random.default_rng(2).integers(0, 1 << 62, 400)
    keys = {"embedding_bags.products": products, "embedding_bags.cities": -np.arange(60)}
    own = fields(collection, counts("embedding_bags."), keys=keys)
    result = saec.compress(own, saec.Ratio(1.5), progress=False)
    ids = copy.deepcopy(collection)
    with torch.no_grad():
        for name, module in ids.embedding_bags.items():
            path = f"embedding_bags.{name}"
            module.weight.copy_(torch.from_numpy(result[path].lookup(keys[path])))
    replace_embeddings_(collection, result)
    taken, tables = features(), {"city": "cities", "clicked": "products", "bought": "products"}
    raw = torchrec.KeyedJaggedTensor(
        taken.keys(),
        torch.cat(
            [
                torch.from_numpy(keys[f"embedding_bags.{name}"])[taken[key].values()]
                for key, name in tables.items()
            ]
        ),
        None,
        taken.lengths(),
    )
    with torch.no_grad():
        torch.testing.assert_close(collection(raw).values(), ids(taken).values())
