"""Two processes that share fine-tuning and evaluation give the results of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rank_checks
import torch
from torch import Tensor, nn

from saec.errors import DataError
from saec.torch.tuning.ranks import Gradients, Ranks

RANKS = 2
SECONDS = 120

Found = dict[str, Any]


@pytest.fixture(scope="module")
def names(request: pytest.FixtureRequest) -> list[str]:
    """The scenarios of the tests that are to run."""
    file = Path(__file__)
    return [
        "{scenario} {codec}".format(**item.callspec.params)
        for item in request.session.items
        if item.path == file and item.originalname == "test_two_processes_equal_one"
    ]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> list[Found]:
    """The results of each of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    done = subprocess.run(
        [sys.executable, "-W", "error", rank_checks.__file__, str(RANKS), folder, *names],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / str(rank), weights_only=False) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def alone(names: list[str]) -> dict[str, Found]:
    """The results of one process."""
    return rank_checks.results(names)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("codec", rank_checks.CODECS)
@pytest.mark.parametrize("scenario", rank_checks.SAME)
def test_two_processes_equal_one(
    found: list[Found], alone: dict[str, Found], scenario: str, codec: str
) -> None:
    name = f"{scenario} {codec}"
    for key, expected in alone[name].items():
        own = [rank["same"][name][key] for rank in found]
        if isinstance(expected, Tensor):
            torch.testing.assert_close(own[0], expected, atol=1e-5, rtol=1e-5, equal_nan=True)
            torch.testing.assert_close(own[0], own[1], atol=0, rtol=0, equal_nan=True)
        else:
            assert own == [expected] * RANKS, key


def test_the_scenarios_are_not_trivial(alone: dict[str, Found]) -> None:
    for name, one in alone.items():
        if "scored" in name:
            assert one["predictions"].unique().numel() > 50
            assert one["training"]
        else:
            assert one["best"] == (0 if "diverged" in name else 8)
            if "diverged" in name:
                assert one["losses"][1:].isnan().all()


# Failures and the errors of the two ranks; "others" if only the share of the second one fails.
OTHERS = ("SaecError", "rank 1 failed; its own error says why")
DIFFERENT = ("DataError", "all ranks need the same model, rows, batches in the same order")
UNEQUAL = ("DataError", r"whose tensors have \[3, 9\] rows; they need the same number")
WRAPPED = ("ModuleError", "pass its .module, in the same way on every rank")
OUTSIDE = ("IdError", "id 90 of field 'user' is outside its vocabulary of 90")
ERRORS = {
    "bad id in training": (OTHERS, ("IdError", "id 1000 at position 16")),
    "bad id in validation": (OTHERS, ("IdError", "id 1000 at position 14")),
    "bad id for the teacher": (OTHERS, ("RuntimeError", "no memory")),
    "batches end in an error": (OTHERS, ("OSError", "the disk is gone")),
    "fewer batches": (DIFFERENT, DIFFERENT),
    "other batches": (DIFFERENT, DIFFERENT),
    "other validation": (DIFFERENT, DIFFERENT),
    "other tables": (DIFFERENT, DIFFERENT),
    "another rate": (DIFFERENT, DIFFERENT),
    "other options on one rank": (OTHERS, ("OptionError", "epochs must be at least 1, not 0")),
    "bags": (UNEQUAL, UNEQUAL),
    "wrapped": (WRAPPED, WRAPPED),
    "teacher's logits": (
        ("DataError", "batch 0: the model gives 16 logits, the teacher 17"),
        ("SaecError", "batch 0: rank 0 failed"),
    ),
    "prediction": (OTHERS, ("RuntimeError", "no memory")),
    "prediction of other rows": (DIFFERENT, DIFFERENT),
    "id to predict": (OUTSIDE, OUTSIDE),
}


@pytest.mark.parametrize("name", rank_checks.FAILURES)
def test_all_ranks_raise_if_one_does(found: list[Found], name: str) -> None:
    for rank, (kind, message) in enumerate(ERRORS[name]):
        own_kind, own_message = found[rank]["failures"][name]
        assert own_kind == kind
        with pytest.raises(ValueError, match=message):
            raise ValueError(own_message)


def test_a_rank_that_exits_raises_an_error_on_the_others(found: list[Found]) -> None:
    assert found[0]["left alone"] == "RuntimeError"  # gloo's: the connection is closed


def test_shares_slice_all_tensors_of_a_batch() -> None:
    ids, weights, labels = torch.arange(7), torch.rand(7, 2), torch.arange(7) * 10
    inputs = ({"ids": ids, "more": (weights, [None])}, torch.tensor(3.0), "mode", 2)
    shares = [Ranks(rank, 3).share(inputs, labels) for rank in range(3)]
    assert [share.examples for share in shares] == [2, 2, 3]
    assert len({share.check for share in shares}) == 1
    named, scale, mode, number = shares[1].inputs
    assert named["ids"].tolist() == [2, 3]
    assert torch.equal(named["more"][0], weights[2:4])
    assert named["more"][1] == [None]
    assert (scale, mode, number) == (3.0, "mode", 2)
    assert shares[2].labels.tolist() == [40, 50, 60]
    assert type(shares[0].inputs) is tuple
    other = Ranks(0, 3).share(inputs, labels + 1)
    assert other.check != shares[0].check


def test_a_single_process_does_not_slice_batches() -> None:
    inputs = (torch.arange(5), torch.tensor([0, 2]), object())
    share = Ranks().share(inputs, "labels")
    assert share.inputs is inputs
    assert (share.labels, share.examples) == ("labels", None)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_slices_are_even_and_complete(count: int) -> None:
    for rows in (0, 1, 2, 7, 8, 64):
        parts = [range(rows)[Ranks(rank, count).part(rows)] for rank in range(count)]
        assert [row for part in parts for row in part] == list(range(rows))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_batches_that_cannot_be_sliced_are_refused() -> None:
    ranks = Ranks(0, 2)
    with pytest.raises(DataError, match="whose tensors have no rows"):
        ranks.share(torch.tensor(1.0))
    with pytest.raises(DataError, match=r"whose tensors have \[3, 4\] rows"):
        ranks.share(torch.arange(3), torch.arange(4))
    with pytest.raises(DataError, match="a range in it cannot be sliced"):
        ranks.share((torch.arange(3), range(3)))


def parameter(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape, dtype=dtype))


def test_gradients_by_hand() -> None:
    """Gradients are means over 3 examples on one rank and 1 on the other, which has one more."""
    values = [parameter(2), parameter(1, 1), parameter(0)]
    gradients = Gradients(values)
    values[0].grad = torch.tensor([1.0, 2.0])
    first = gradients.sums(3)
    values[0].grad, values[1].grad = torch.tensor([5.0, -2.0]), torch.tensor([[4.0]])
    second = gradients.sums(1)
    assert (first + second).tolist() == [8, 4, 4, 2, 1, 0, 4]
    gradients.set_means(first + second)
    assert values[0].grad.tolist() == [2, 1]
    assert values[1].grad.tolist() == [[1]]
    assert values[2].grad is None


def test_gradients_are_exchanged_in_single_precision_at_least() -> None:
    half, double = parameter(1, dtype=torch.bfloat16), parameter(1, dtype=torch.float64)
    assert Gradients([half]).like.dtype == torch.float32
    assert Gradients([half, double]).like.dtype == torch.float64
    half.grad = torch.tensor([0.5], dtype=torch.bfloat16)
    gradients = Gradients([half])
    gradients.set_means(gradients.sums(3) + gradients.sums(3))
    assert half.grad.dtype == torch.bfloat16
    assert half.grad.item() == 0.5
