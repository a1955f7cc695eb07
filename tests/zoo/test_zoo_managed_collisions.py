"""TorchRec's managed collisions: raw ids in a KeyedJaggedTensor, without a map of ids."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import saec
from saec.errors import ModuleError
from saec.torch import (
    CompressedEmbeddingBag,
    KeyedEmbedding,
    KeyedEmbeddingBag,
    compress_,
    fields,
    managed_keys,
    replace_embeddings_,
)
from saec.torch.model.managed_collisions import RawIdCollection

torchrec = pytest.importorskip("torchrec", reason="TorchRec is not installed: make test-zoo")
mc_modules: Any = pytest.importorskip("torchrec.modules.mc_modules")
mc_embeddings: Any = pytest.importorskip("torchrec.modules.mc_embedding_modules")

pytestmark = pytest.mark.filterwarnings("ignore")  # TorchRec's, about what it imports

SLOTS = {"products": 100, "cities": 20}
IDS = {
    "products": np.random.default_rng(1).integers(0, 1 << 62, 70),
    "cities": np.arange(-9, 6) * 1_000_003,
}
NAMES = {name: f"collection._embedding_module.embedding_bags.{name}" for name in SLOTS}


class Wrapped(nn.Module):
    """A managed-collision collection and a linear layer: logits (n,)."""

    def __init__(self, bags: bool = True, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        kind = "EmbeddingBag" if bags else "Embedding"
        configs = [
            getattr(torchrec, f"{kind}Config")(
                name=name, embedding_dim=6, num_embeddings=SLOTS[name], feature_names=[feature]
            )
            for name, feature in (("products", "bought"), ("cities", "city"))
        ]
        inner = getattr(torchrec, f"{kind}Collection")(tables=configs)
        cpu = torch.device("cpu")
        modules = {
            name: mc_modules.MCHManagedCollisionModule(
                slots, cpu, mc_modules.LFU_EvictionPolicy(), eviction_interval=2, **options
            )
            for name, slots in SLOTS.items()
        }
        managed = mc_modules.ManagedCollisionCollection(modules, configs)
        outer = getattr(mc_embeddings, f"ManagedCollision{kind}Collection")
        self.collection = outer(inner, managed)
        self.out = nn.Linear(12, 1)

    def forward(self, features: Any) -> Tensor:
        rows = self.collection(features)[0]
        logits: Tensor = self.out(rows.values()).squeeze(1)
        return logits


def features(rows: int = 64, seed: int = 0) -> Any:
    """Bags of no to three raw ids, a tenth of them unknown."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, 2 * rows)
    values = []
    for index, name in enumerate(("cities", "products")):
        count = lengths[index * rows : (index + 1) * rows].sum()
        drawn = rng.choice(IDS[name], count)
        values.append(np.where(rng.random(count) < 0.1, rng.integers(1 << 40, 1 << 41), drawn))
    flat = torch.from_numpy(np.concatenate(values))
    return torchrec.KeyedJaggedTensor(["city", "bought"], flat, None, torch.from_numpy(lengths))


@pytest.fixture(scope="module")
def model() -> Wrapped:
    """With all ids in its map."""
    model = Wrapped().train()
    for _ in range(2):
        everything = [torch.from_numpy(IDS[name]) for name in ("cities", "products")]
        lengths = torch.tensor([len(everything[0]), len(everything[1])])
        model(torchrec.KeyedJaggedTensor(["city", "bought"], torch.cat(everything), None, lengths))
    return model.eval()


def test_keys_are_the_remap_tensors(model: Wrapped) -> None:
    keys = managed_keys(model)
    assert set(keys) == set(NAMES.values())
    managed = model.collection._managed_collision_collection
    for name, path in NAMES.items():
        assert set(np.asarray(keys[path].keys)) == set(IDS[name])
        assert keys[path].unseen == SLOTS[name] - 1
    feature = torchrec.JaggedTensor(torch.tensor([IDS["cities"][3], 5]), lengths=torch.tensor([2]))
    remapped = managed._managed_collision_modules["cities"]({"city": feature})["city"].values()
    own = keys[NAMES["cities"]]
    place = int(np.flatnonzero(np.asarray(own.keys) == IDS["cities"][3])[0])
    assert remapped.tolist() == [int(np.asarray(own.rows)[place]), own.unseen]


def test_raw_ids_go_straight_to_the_rows(model: Wrapped) -> None:
    model = copy.deepcopy(model)
    original = copy.deepcopy(model)
    batches = [(features(seed=seed), None) for seed in range(8)]
    result = compress_(
        model, batches, budget=saec.Ratio(1.5), keys=managed_keys(model), progress=False
    )
    assert isinstance(model.collection, RawIdCollection)
    bags = model.collection._embedding_module.embedding_bags
    assert all(type(module) is KeyedEmbeddingBag for module in bags.values())
    taken = features(seed=99)
    pooled = {
        (feature, path): result[path].pool(
            taken[feature].values().numpy(), taken[feature].offsets().numpy()[:-1]
        )
        for feature, path in (("bought", NAMES["products"]), ("city", NAMES["cities"]))
    }
    expected = np.concatenate(list(pooled.values()), axis=1)
    with torch.no_grad():
        found, _ = model.collection(taken)
        before, _ = original.collection(taken)
    np.testing.assert_allclose(found.values().numpy(), expected, rtol=1e-5, atol=1e-6)
    away = (found.values() - before.values()).square().mean() / before.values().square().mean()
    assert away < 0.3  # of about the same rows, at half the bytes

    # A new model of the same architecture, whose map was never filled, takes the same raw ids.
    fresh = Wrapped()
    fresh.out.load_state_dict(original.out.state_dict())
    replace_embeddings_(fresh, result)
    assert torch.equal(fresh(taken), model(taken))


def test_sequences_of_rows(model: Wrapped) -> None:
    sequences = Wrapped(bags=False)
    own = np.asarray(IDS["cities"])
    tables = [
        saec.Field(f"collection._embedding_module.embeddings.{name}", rows, np.ones(15), keys=own)
        for name, rows in zip(
            SLOTS, np.random.default_rng(0).random((2, 15, 6), np.float32), strict=True
        )
    ]
    result = saec.compress(tables, saec.MaxBytes(3000), progress=False)
    replace_embeddings_(sequences, result)
    inner = sequences.collection._embedding_module.embeddings
    assert all(type(module) is KeyedEmbedding for module in inner.values())
    taken = features()
    found, _ = sequences.collection(taken)
    rows = result["collection._embedding_module.embeddings.cities"].lookup(
        taken["city"].values().numpy()
    )
    assert np.array_equal(found["city"].values().numpy(), rows)


def test_collections_that_cannot_take_raw_ids(model: Wrapped) -> None:
    keys = managed_keys(model)
    counts = {path: np.ones(SLOTS[name]) for name, path in NAMES.items()}
    result = saec.compress(fields(model, counts, keys=keys), saec.Ratio(1.2), progress=False)
    half = saec.Compressed([result[NAMES["cities"]]])
    with pytest.raises(ModuleError, match=r"table 'embedding_bags\.products' of it keeps its ids"):
        replace_embeddings_(copy.deepcopy(model), half)
    rows, ones = np.ones((3, 6), np.float32), [1, 1, 1]
    inner = [
        saec.Field(path.removeprefix("collection."), rows, ones, keys=[1, 2, 3])
        for path in NAMES.values()
    ]
    unnamed = saec.compress(inner, saec.MaxBytes(2000), progress=False)
    with pytest.raises(ModuleError, match="it is the model itself: wrap it"):
        replace_embeddings_(copy.deepcopy(model.collection), unnamed)
    returning = copy.deepcopy(model)
    returning.collection._return_remapped_features = True
    with pytest.raises(ModuleError, match="it returns remapped features"):
        replace_embeddings_(returning, result)
    hashing = Wrapped(input_hash_func=lambda ids, _: ids)
    with pytest.raises(ModuleError, match="has an input_hash_func: hash raw ids before"):
        managed_keys(hashing)


def test_tables_by_ids_stay_behind_their_map(model: Wrapped) -> None:
    model = copy.deepcopy(model)
    compress_(
        model,
        [(features(seed=seed), None) for seed in range(4)],
        budget=saec.Ratio(2),
        progress=False,
    )
    assert not isinstance(model.collection, RawIdCollection)
    bags = model.collection._embedding_module.embedding_bags
    assert any(type(module) is CompressedEmbeddingBag for module in bags.values())
    assert model(features()).shape == (64,)
