"""Lookups within PyTorch run on the threads of PyTorch's operations, others on the core's own."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import saec
from saec import _native
from saec.format.clustered_field import ClusteredField
from saec.format.keyed_field import KeyedField
from saec.format.keyed_rows import KeyedRows
from saec.torch import KeyedEmbedding, KeyedEmbeddingBag
from saec.torch.lookup import operator
from saec.torch.model.modules import CompressedEmbedding
from saec.torch.table.joint import compressed_table
from saec.util.cores import usable_cores

pytestmark = pytest.mark.usefixtures("coarse_prices")

ROWS, MANY = 3000, 5000  # ids: enough for a second thread
WORK = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
PARALLEL_FOR = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, WORK, ctypes.c_void_p
)


@pytest.fixture
def field(clustered: Callable[..., ClusteredField]) -> ClusteredField:
    return clustered("a", ROWS, 8)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
    operator._share_threads()


def calls_in(starts: int, lookup: Callable[[], None]) -> list[tuple[int, int, int]]:
    """Calls of PyTorch's function in a lookup; it starts work ``starts`` times."""
    calls = []

    def parallel_for(begin: int, end: int, grain: int, work: object, context: int) -> int:
        calls.append((begin, end, grain))
        for thread in range(starts):
            work(thread, thread + 1, context)  # type: ignore[operator]
        return int(starts == 0)

    function = PARALLEL_FOR(parallel_for)
    _native.set_pytorch_team(ctypes.cast(function, ctypes.c_void_p).value or 0)
    lookup()
    return calls


def calls_of(starts: int, field: ClusteredField, count: int) -> list[tuple[int, int, int]]:
    """Those of a lookup of ``count`` ids, whose rows are checked."""
    module = CompressedEmbedding(compressed_table([field], {}, torch.empty(0)))
    ids = torch.randint(ROWS, (count,))

    def lookup() -> None:
        with torch.inference_mode():
            found = module(ids)
        assert np.array_equal(found.numpy(), field.lookup(ids.numpy(), threads=2))

    return calls_in(starts, lookup)


@pytest.mark.parametrize("starts", [2, 1, 0])
def test_all_rows_are_right_however_many_threads_it_starts(
    starts: int, field: ClusteredField
) -> None:
    assert calls_of(starts, field, MANY) == [(0, 2, 1)]  # none by the core's own lookup


def test_few_ids_stay_on_the_calling_thread(field: ClusteredField) -> None:
    assert calls_of(2, field, 2000) == []


def test_an_id_out_of_range_is_named(field: ClusteredField) -> None:
    module = CompressedEmbedding(compressed_table([field], {}, torch.empty(0)))
    ids = torch.zeros(MANY, dtype=torch.int64)
    ids[4321] = ROWS
    with pytest.raises(saec.IdError, match="id 3000 "):
        module(ids)


@pytest.fixture
def keyed() -> KeyedField:
    weights = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    named = saec.Field("user", weights, np.ones(300), keys=np.arange(300), unseen=np.zeros(4))
    field = saec.compress([named], saec.Ratio(4), progress=False)["user"]
    assert isinstance(field, KeyedField)
    return field


@pytest.mark.parametrize("starts", [2, 1, 0])
def test_rows_and_bags_by_keys_are_right_however_many_threads_it_starts(
    starts: int, keyed: KeyedField
) -> None:
    module, bags = KeyedEmbedding(keyed), KeyedEmbeddingBag(keyed, mode="sum")
    keys, offsets = torch.randint(300, (MANY,)), torch.arange(0, MANY, 2)

    def lookup() -> None:
        rows = keyed.lookup(keys.numpy(), threads=1)
        assert np.array_equal(module(keys).numpy(), rows)
        pooled = keyed.pool(keys.numpy(), offsets.numpy(), threads=1)
        assert np.array_equal(bags(keys, offsets).numpy(), pooled)

    assert calls_in(starts, lookup) == [(0, 2, 1)] * 2  # none by the field's own lookups


def test_keyed_modules_use_as_many_threads_as_pytorch(
    keyed: KeyedField, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, field = np.arange(300), keyed
    module, bags = KeyedEmbedding(field), KeyedEmbeddingBag(field, mode="sum")
    given: list[int] = []
    for name in ("rows", "pooled"):
        method = getattr(KeyedRows, name)

        def spied(
            self: KeyedRows, *asked: Any, of: Callable[..., Any] = method, **more: Any
        ) -> Any:
            given.append(asked[-1])
            return of(self, *asked, **more)

        monkeypatch.setattr(KeyedRows, name, spied)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        module(torch.from_numpy(keys))
        bags(torch.from_numpy(keys), torch.tensor([0, 7]))
    most = min(2, usable_cores())
    assert given == [1, 1, most, most]
