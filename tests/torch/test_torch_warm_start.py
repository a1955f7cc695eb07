"""Plain tables that start from the rows of an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from daily_tables import METRIC, METRICS, Day
from torch import nn

import saec
import saec.torch
from saec.errors import FieldError, IdError, KeysError, ModuleError
from saec.format.codebook import Codebook
from saec.format.raw_field import RawField

DAYS = [Day.first(400)]
DAYS += [DAYS[0].next(1, 20, 30)]
USERS, ITEMS = DAYS[1].keys, 430
MASKED = np.ma.masked_array(np.arange(430), mask=np.arange(430) == 7)


class Tables(nn.Module):
    """Plain tables of so many rows, all of the same value."""

    def __init__(self, users: int, items: int, padding: int | None = None) -> None:
        super().__init__()
        self.user = nn.Embedding(users, 4)
        self.item = nn.EmbeddingBag(items, 4, mode="sum", padding_idx=padding)
        nn.init.constant_(self.user.weight, 7.0)
        nn.init.constant_(self.item.weight, 7.0)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, coarse_prices: None) -> saec.Compressed:
    """The artifact of a day, with keys and without, and the patch of the next one."""
    folder = tmp_path_factory.mktemp("warm")
    both = [[day.field(), saec.Field("item", day.weights, day.frequencies)] for day in DAYS]
    metrics = METRICS | {"item": METRIC}
    saec.compress(both[0], saec.Ratio(6), metrics=metrics, progress=False, out=folder / "base.saec")
    saec.update(
        folder / "base.saec",
        both[1],
        out=folder / "1.patch",
        metrics=metrics,
        whole_rows=0,
        compare=False,
    )
    return saec.load(folder / "base.saec", patches=[folder / "1.patch"])


def test_tables_have_the_rows_of_the_artifact_and_new_rows_stay(chain: saec.Compressed) -> None:
    model = Tables(len(USERS) + 2, ITEMS + 3, padding=5)
    keys = np.append(USERS, [-3, -5])  # two keys of today
    known = saec.torch.warm_start_(model, chain, keys={"user": keys})
    user, item = chain["user"], chain["item"]
    stored = user.contains(keys)
    assert 200 < stored[:-2].sum() < len(USERS)
    assert np.array_equal(known["user"], stored)
    users = model.user.weight.detach().numpy()
    assert np.array_equal(users[stored], user.lookup(keys[stored]))
    assert (users[~stored] == 7).all()
    from_artifact = np.arange(ITEMS + 3) < ITEMS
    from_artifact[5] = False  # the row of the padding
    assert np.array_equal(known["item"], from_artifact)
    items = model.item.weight.detach().numpy()
    assert np.array_equal(items[from_artifact], item.decode()[from_artifact[:ITEMS]])
    assert (items[5] == 0).all() or (items[5] == 7).all()
    assert (items[ITEMS:] == 7).all()


def test_tables_of_the_rows_that_a_day_touches(chain: saec.Compressed) -> None:
    model = Tables(3, 4)
    stored = USERS[chain["user"].contains(USERS)]
    keys = saec.torch.TableKeys(torch.from_numpy(stored[[9, 4]]), rows=[2, 0], unseen=1)
    known = saec.torch.warm_start_(
        model, chain, keys={"user": keys}, ids={"item": torch.tensor([8, 429, 430, 8])}
    )
    default = chain["user"].axes[-1].astype(np.float32)
    expected = [chain["user"].lookup(stored[[4]])[0], default, chain["user"].lookup(stored[[9]])[0]]
    assert np.array_equal(model.user.weight.detach().numpy(), expected)
    assert known["user"].tolist() == [True, False, True]
    rows = chain["item"].lookup([8, 429])
    items = model.item.weight.detach().numpy()
    assert np.array_equal(items[[0, 1, 3]], rows[[0, 1, 0]])
    assert (items[2] == 7).all()
    assert known["item"].tolist() == [True, True, False, True]


def test_rows_by_hand() -> None:
    """Codes 0, 1, 0 of centroids (1, 2) and (3, 4), in a joint table behind a raw field."""
    from saec.bits.packing import PackedCodes
    from saec.format.clustered_field import ClusteredField

    centroids = Codebook(np.array([[1, 2], [3, 4]], np.float32))
    codes = PackedCodes.pack(np.array([0, 1, 0]), 1)
    hours = RawField("hour", np.array([[5, 6]], np.float32))
    result = saec.Compressed([ClusteredField("item", codes, centroids, "float32"), hours])
    model = nn.ModuleDict({"both": nn.Embedding(5, 2, dtype=torch.float64)})
    nn.init.constant_(model["both"].weight, 0.5)
    ranges = {"both": {"hour": (0, 1), "item": (1, 5)}}
    known = saec.torch.warm_start_(model, result, ranges=ranges)
    assert model["both"].weight.tolist() == [[5, 6], [1, 2], [3, 4], [1, 2], [0.5, 0.5]]
    assert known["item"].tolist() == [True, True, True, False]


def test_training_goes_on_from_the_artifact(chain: saec.Compressed) -> None:
    """One step moves the row that the day touches, away from where the artifact has it."""
    model = Tables(len(USERS), ITEMS)
    saec.torch.warm_start_(model, chain, keys={"user": USERS})
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    model.item(torch.tensor([[3]])).sum().backward()
    optimiser.step()
    expected = chain["item"].decode()
    expected[3] -= 0.5
    assert np.array_equal(model.item.weight.detach().numpy(), expected)


def test_keys_that_differ_by_a_zero_byte_have_their_own_rows() -> None:
    """NumPy's arrays of bytes have no zeros at the end."""
    keys = [b"k" * count + end for count in range(1, 40) for end in (b"", b"\0")]
    weights = np.arange(4 * len(keys), dtype=np.float32).reshape(-1, 4)
    field = saec.Field("user", weights, np.ones(len(keys)), keys=keys)
    result = saec.compress([field], saec.Ratio(1.0), progress=False)
    model = nn.ModuleDict({"user": nn.Embedding(len(keys), 4)})
    known = saec.torch.warm_start_(model, result, keys={"user": keys})
    assert np.array_equal(known["user"], result["user"].contains(keys))
    expected = result["user"].lookup(keys)
    assert len(np.unique(expected, axis=0)) > len(keys) // 2
    rows = model["user"].weight.detach().numpy()
    assert np.array_equal(rows[known["user"]], expected[known["user"]])
    assert known["user"].sum() > len(keys) // 2


def test_a_row_of_unknown_keys_at_the_padding_stays(chain: saec.Compressed) -> None:
    users = nn.EmbeddingBag(3, 4, padding_idx=0)
    nn.init.constant_(users.weight, 7.0)
    stored = USERS[chain["user"].contains(USERS)][:2]
    keys = saec.torch.TableKeys(stored, rows=[1, 2], unseen=0)
    model = nn.ModuleDict({"user": users})
    result = saec.Compressed([chain["user"]])
    known = saec.torch.warm_start_(model, result, keys={"user": keys})
    expected = [[7.0] * 4, *chain["user"].lookup(stored).tolist()]
    assert model["user"].weight.tolist() == expected
    assert known["user"].tolist() == [False, True, True]


def test_what_does_not_fit_is_refused_and_changes_nothing(chain: saec.Compressed) -> None:
    model = Tables(len(USERS), ITEMS)
    keys = {"user": USERS}
    fields = [chain["user"], chain["item"]]
    for error, message, options in [
        (ModuleError, "field 'user' has keys, and the model's table has ids", {}),
        (ModuleError, "keys .429,. are given for 430 rows", {"keys": {"user": USERS[1:]}}),
        (ModuleError, "keys are given for 'item'; .*: 'user'", {"keys": keys | {"item": USERS}}),
        (ModuleError, "ids are given for 'user'; .*: 'item'", {"keys": keys, "ids": keys}),
        (ModuleError, "ids .2,. are given for 430", {"keys": keys, "ids": {"item": [1, 2]}}),
        (IdError, "integers from 0", {"keys": keys, "ids": {"item": np.arange(430) - 1}}),
        (IdError, "integers from 0", {"keys": keys, "ids": {"item": np.full(430, 1 << 63)}}),
        (IdError, "integers from 0", {"keys": keys, "ids": {"item": np.zeros(430)}}),
        (IdError, "'item': ids cannot be read", {"keys": keys, "ids": {"item": [[1], []]}}),
        (IdError, "'item': ids cannot be a masked", {"keys": keys, "ids": {"item": MASKED}}),
        (KeysError, "integers", {"keys": {"user": USERS.astype(str)}}),
        (KeysError, "'user': key .1. at position 0", {"keys": {"user": [[1], [2, 3]]}}),
        (KeysError, "'user': keys cannot be read", {"keys": {"user": torch.zeros(430).bfloat16()}}),
        (FieldError, "'user': rows of keys cannot be", {"keys": {"user": own_keys([[3], []])}}),
        (FieldError, "has two keys", {"keys": {"user": own_keys([3, 3])}}),
        (ModuleError, "unseen is row 430", {"keys": {"user": own_keys([3, 4], unseen=430)}}),
    ]:
        with pytest.raises(error, match=message):
            saec.torch.warm_start_(model, saec.Compressed(fields), **options)
    with pytest.raises(ModuleError, match="field 'item' has 430 rows, and its table in the mod"):
        saec.torch.warm_start_(Tables(430, 9), chain, keys=keys)
    narrow = Tables(430, ITEMS)
    narrow.item = nn.EmbeddingBag(ITEMS, 3)
    with pytest.raises(ModuleError, match="field 'item' has dim 4, and its table in the model 3"):
        saec.torch.warm_start_(narrow, chain, keys=keys)
    for table in (model.user.weight, model.item.weight, narrow.user.weight):
        assert (table == 7).all()


def own_keys(rows: list[Any], unseen: int | None = None) -> saec.torch.TableKeys:
    return saec.torch.TableKeys(USERS[:2], rows=rows, unseen=unseen)


def test_renumbered_fields_are_refused(tmp_path: Path) -> None:
    day = DAYS[0]
    order = np.random.default_rng(0).permutation(len(day.weights))
    field = saec.Field("item", day.weights[order], day.frequencies[order])
    result = saec.compress(
        [field], saec.Ratio(6), codec=saec.Axes(order="frequency"), progress=False
    )
    model = nn.ModuleDict({"item": nn.Embedding(400, 4)})
    with pytest.raises(ModuleError, match="were renumbered"):
        saec.torch.warm_start_(model, result)
