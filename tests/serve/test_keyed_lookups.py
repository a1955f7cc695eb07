"""Served fields with keys: the inputs that they take, and the inputs that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import saec
from saec.serve.lookup_model import LookupModel
from saec.serve.protocol import InferRequest, RefusedError

pytestmark = pytest.mark.usefixtures("coarse_prices")

ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)
NAMES = ["alice", "bob", "carol", "dan", "eve", "frank"]
NUMBERS = np.arange(6, dtype=np.uint64) + (1 << 63)
MOST_BYTES = 1 << 20


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "model.saec"
    fields = [
        saec.Field("user", ROWS, np.ones(6), keys=NAMES),
        saec.Field("item", ROWS, np.ones(6), keys=NUMBERS),
        saec.Field("plain", ROWS, np.ones(6)),
    ]
    saec.compress(fields, saec.MaxBytes(3000), progress=False).save(path)
    return path


def words(*texts: str) -> np.ndarray:
    return np.array([text.encode() for text in texts], object)


def infer(model: LookupModel, **inputs: np.ndarray) -> dict[str, Any]:
    return model.infer(InferRequest(inputs=inputs), MOST_BYTES)


def test_integer_and_string_keys_return_rows(path: Path) -> None:
    model, result = LookupModel.open(path), saec.load(path)
    types = {spec.name: spec.datatype for spec in model.inputs}
    assert (types["user"], types["item"], types["plain"]) == ("BYTES", "UINT64", "INT64")
    assert types["user.offsets"] == "INT64"
    rows = infer(model, user=words("bob", "nobody"), item=NUMBERS[2:4], plain=np.arange(2))
    assert np.array_equal(rows["user"], result["user"].lookup(["bob", "nobody"]))
    assert np.array_equal(rows["item"], result["item"].lookup(NUMBERS[2:4]))
    bags = infer(model, user=words("bob", "eve"), **{"user.offsets": np.array([0, 2])})
    assert np.array_equal(bags["user"], result["user"].pool(["bob", "eve"], [0, 2]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"user": np.arange(2)}, "input 'user' is BYTES, not INT64"),
        ({"plain": words("a")}, "input 'plain' is INT64 or INT32, not BYTES"),
        ({"item": np.array([-1])}, "keys are unsigned integers of 64 bits, and -1 at position 0"),
        ({"user": np.array([b"\xff"], object)}, "no UTF-8"),
    ],
)
def test_inputs_that_are_not_keys_are_refused(
    path: Path, inputs: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(RefusedError, match=message):
        infer(LookupModel.open(path), **inputs)
