"""The semi-tensor product, and tensor trains of it, by hand."""

from __future__ import annotations

import pytest
import torch

from saec.errors import OptionError
from saec.reference.next_item.item_tables import TrainItems
from saec.reference.small.tensor_train import (
    SemiTensorTrain,
    TrainRows,
    _product,
    largest_divisor,
    train_numbers,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_product_is_that_with_an_identity_matrix_in_place_of_each_number() -> None:
    left = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    right = torch.tensor([[[10.0], [100.0]]])
    # (1, 2) times 10 and (3, 4) times 100.
    assert _product(left, right).tolist() == [[[310.0, 420.0]]]
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 2, 6, generator=generator)
    b = torch.randn(3, 2, 5, generator=generator)
    expected = torch.stack([x @ torch.kron(y, torch.eye(3)) for x, y in zip(a, b, strict=True)])
    assert torch.allclose(_product(a, b), expected, atol=1e-6)
    same = torch.randn(3, 6, 4, generator=generator)
    assert torch.allclose(_product(a, same), a @ same, atol=1e-6)


def test_rows_are_products_of_three_matrices() -> None:
    torch.manual_seed(0)
    part = TrainRows(torch.arange(20), 20, 8, 3, 2)
    first, second, third = (core.weight.detach() for core in part.cores)  # type: ignore[union-attr]
    rows = part(torch.arange(20))
    assert rows.shape == (20, 8)
    # 20 rows have digits up to 3, 3 and 3: row 16 is (1, 2, 1). Widths are 2, 2 and 2.
    matrix = first[1].view(2, 6) @ torch.kron(second[2].view(3, 6), torch.eye(2))
    matrix = matrix.reshape(4, 6) @ torch.kron(third[1].view(3, 1), torch.eye(2))
    assert torch.allclose(rows[16], matrix.flatten(), atol=1e-7)
    assert torch.allclose(part.all_rows(), rows, atol=1e-7)
    assert sum(core.weight.numel() for core in part.cores) == train_numbers(20, 8, 3, 2)  # type: ignore[union-attr, operator, misc]


def test_odd_dims_have_plain_products() -> None:
    table = TrainItems(torch.eye(9, 5), 1000)
    assert table.all_rows().shape == (9, 5)
    assert [largest_divisor(dim, 4) for dim in (1, 5, 6, 8)] == [1, 1, 3, 4]
    with pytest.raises(OptionError, match="factor is 0; it must be positive"):
        SemiTensorTrain(0)


def test_numbers_by_hand() -> None:
    """1,000 rows of 10 * 10 * 10, of dim 64 = 4 * 4 * 4: the later cores have a fourth."""
    plain = 10 * 4 * 6 + 10 * 6 * 4 * 6 + 10 * 6 * 4
    semi = 10 * 4 * 6 + (10 * 6 * 4 * 6) // 4 + (10 * 6 * 4) // 4
    assert train_numbers(1000, 64, 6, 1) == plain
    assert train_numbers(1000, 64, 3, 2) == semi
