"""Click models of other people's libraries, built for a log; a library is imported when asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Sizes = Mapping[str, int]
HISTORY = 10  # movies before, for DIN

_PROBABILITIES = functional.binary_cross_entropy
_LOGITS = functional.binary_cross_entropy_with_logits


@dataclass(frozen=True, eq=False)
class Entry:
    """A model, and how it is fed and compressed.

    inputs: a batch of ids (n, fields), for DIN with the history and its length behind them, as the
        model takes it.
    counted: the field of the log that each field of a table counts as.
    loss_fn: mean over a batch, of the model's outputs and as many labels.
    """

    model: nn.Module
    inputs: Callable[[Tensor], Any]
    counted: Mapping[str, str]
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    ranges: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)


def by_path(model: nn.Module) -> dict[str, str]:
    """Tables whose path ends with the field's name."""
    tables = (nn.Embedding, nn.EmbeddingBag)
    paths = [path for path, module in model.named_modules() if isinstance(module, tables)]
    return {path: path.rpartition(".")[2] for path in paths}


def rechub(name: str, sizes: Sizes, dim: int) -> Entry:
    """torch-rechub: a table for each field, inputs by name, probabilities (n,)."""
    from torch_rechub.basic.features import SparseFeature
    from torch_rechub.models import ranking

    columns = [SparseFeature(field, size, embed_dim=dim) for field, size in sizes.items()]
    mlp = {"dims": [64, 32], "dropout": 0.0, "activation": "relu"}
    model: nn.Module = {
        "DeepFM": lambda: ranking.DeepFM(columns, columns, mlp),
        "DCNv2": lambda: ranking.DCNv2(columns, 2, mlp, use_low_rank_mixture=False),
        "WideDeep": lambda: ranking.WideDeep(columns, columns, mlp),
        "AutoInt": lambda: ranking.AutoInt(columns, [], num_layers=2, mlp_params=mlp),
        "FiBiNet": lambda: ranking.FiBiNet(columns, mlp),
    }[name]()

    def inputs(ids: Tensor) -> dict[str, Tensor]:
        return dict(zip(sizes, ids.unbind(1), strict=False))  # without a history

    return Entry(model, inputs, by_path(model), _PROBABILITIES)


def deepctr(name: str, sizes: Sizes, dim: int) -> Entry:
    """deepctr-torch: one matrix of numbers, a second table of width 1 for each field."""
    from deepctr_torch import models
    from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat

    columns = [SparseFeat(field, size, dim) for field, size in sizes.items()]
    seen = SparseFeat("hist_movie", sizes["movie"], dim, embedding_name="movie")
    history = VarLenSparseFeat(seen, HISTORY, length_name="hist_length")
    hidden = {"dnn_hidden_units": (64, 32), "init_std": 0.01}
    model: nn.Module = {
        "DeepFM": lambda: models.DeepFM(columns, columns, **hidden),
        "DCN": lambda: models.DCN(columns, columns, **hidden),
        "xDeepFM": lambda: models.xDeepFM(columns, columns, cin_layer_size=(32, 16), **hidden),
        "AutoInt": lambda: models.AutoInt(columns, columns, att_layer_num=2, **hidden),
        "DIN": lambda: models.DIN([*columns, history], ["movie"], **hidden),
    }[name]()
    width = len(sizes) + (HISTORY + 1 if name == "DIN" else 0)

    def inputs(ids: Tensor) -> Tensor:
        return ids[:, :width].float()  # exact up to 2^24

    return Entry(model, inputs, by_path(model), _PROBABILITIES)


def torchfm(name: str, sizes: Sizes, dim: int) -> Entry:
    """torchfm: one joint table for all fields, and one of width 1."""
    from torchfm.model.dcn import DeepCrossNetworkModel
    from torchfm.model.dfm import DeepFactorizationMachineModel

    rows = list(sizes.values())
    model: nn.Module = {
        "DeepFM": lambda: DeepFactorizationMachineModel(rows, dim, (64, 32), 0.0),
        "DCN": lambda: DeepCrossNetworkModel(rows, dim, 2, (64, 32), 0.0),
    }[name]()
    ranges, counted = {}, {}
    for path in by_path(model):
        spans, end = {}, 0
        for each, size in sizes.items():
            spans[f"{path}.{each}"] = (end, end + size)
            counted[f"{path}.{each}"] = each
            end += size
        ranges[path] = spans
    return Entry(model, lambda ids: ids[:, : len(rows)], counted, _PROBABILITIES, ranges)


def torchrec(name: str, sizes: Sizes, dim: int) -> Entry:
    """TorchRec: an EmbeddingBagCollection, fed by a KeyedJaggedTensor; logits (n, 1)."""
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
    from torchrec.models.deepfm import SimpleDeepFMNN
    from torchrec.models.dlrm import DLRM

    tables = [
        EmbeddingBagConfig(
            name=each, embedding_dim=dim, num_embeddings=size, feature_names=[f"{each}_id"]
        )
        for each, size in sizes.items()
    ]
    bags = EmbeddingBagCollection(tables=tables)
    model: nn.Module = {
        "DLRM": lambda: DLRM(bags, 1, [32, dim], [64, 32, 1]),
        "DeepFM": lambda: SimpleDeepFMNN(1, bags, 32, 16),
    }[name]()
    keys = [f"{each}_id" for each in sizes]

    def inputs(ids: Tensor) -> tuple[Tensor, KeyedJaggedTensor]:
        values = ids[:, : len(keys)].T.reshape(-1)
        lengths = torch.ones(len(values), dtype=torch.int32)
        features = KeyedJaggedTensor(keys, values, lengths=lengths)
        return torch.ones(len(ids), 1), features

    # SimpleDeepFMNN ends with a sigmoid, DLRM does not.
    loss = _LOGITS if name == "DLRM" else _PROBABILITIES
    return Entry(model, inputs, by_path(model), loss)


class Factors(nn.Module):
    """A matrix factorisation with biases, for a score in squared error."""

    def __init__(self, users: int, movies: int, dim: int) -> None:
        super().__init__()
        self.user = nn.Embedding(users, dim)
        self.movie = nn.Embedding(movies, dim)
        self.bias = nn.ModuleDict(
            {"user": nn.Embedding(users, 1), "movie": nn.Embedding(movies, 1)}
        )
        self.mean = nn.Parameter(torch.zeros(()))
        for table in (self.user, self.movie, *self.bias.values()):
            nn.init.normal_(table.weight, std=0.05)

    def forward(self, user: Tensor, movie: Tensor) -> Tensor:
        biases = self.bias["user"](user) + self.bias["movie"](movie)
        score: Tensor = (self.user(user) * self.movie(movie)).sum(1) + biases.squeeze(1) + self.mean
        return score


def factors(name: str, sizes: Sizes, dim: int) -> Entry:
    """A plain matrix factorisation of users and movies."""
    model = Factors(sizes["user"], sizes["movie"], dim)
    at = [list(sizes).index("user"), list(sizes).index("movie")]
    return Entry(model, lambda ids: ids[:, at].unbind(1), by_path(model), functional.mse_loss)


LIBRARIES: dict[str, tuple[str, Callable[[str, Sizes, int], Entry], tuple[str, ...]]] = {
    "torch-rechub": ("torch_rechub", rechub, ("DeepFM", "DCNv2", "WideDeep", "AutoInt", "FiBiNet")),
    "deepctr-torch": ("deepctr_torch", deepctr, ("DeepFM", "DCN", "xDeepFM", "AutoInt", "DIN")),
    "torchfm": ("torchfm", torchfm, ("DeepFM", "DCN")),
    "torchrec": ("torchrec", torchrec, ("DLRM", "DeepFM")),
    "plain": ("torch", factors, ("matrix factorisation",)),
}


def build(library: str, name: str, sizes: Sizes, dim: int, seed: int) -> Entry:
    """A model of a library, with the same weights for the same seed."""
    torch.manual_seed(seed)
    return LIBRARIES[library][1](name, sizes, dim)
