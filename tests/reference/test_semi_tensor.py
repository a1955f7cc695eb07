"""The semi-tensor product, and tensor trains of it, by hand."""

from __future__ import annotations

import pytest
import torch

from saec.reference.small.tensor_train import TrainRows, _product, train_numbers

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


def test_numbers_by_hand() -> None:
    """1,000 rows of 10 * 10 * 10, of dim 64 = 4 * 4 * 4: the later cores have a fourth."""
    plain = 10 * 4 * 6 + 10 * 6 * 4 * 6 + 10 * 6 * 4
    semi = 10 * 4 * 6 + (10 * 6 * 4 * 6) // 4 + (10 * 6 * 4) // 4
    assert train_numbers(1000, 64, 6, 1) == plain
    assert train_numbers(1000, 64, 3, 2) == semi
