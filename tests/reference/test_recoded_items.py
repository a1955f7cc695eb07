"""Item tables whose codes are trained: codes and gradients by hand, and what is stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import saec
from saec.bits.packing import PackedRows
from saec.format.tier_layout import Layout
from saec.format.tiered_field import TieredField
from saec.reference.next_item.recoded_items import RecodedItems
from saec.tables.field import Field

pytestmark = pytest.mark.usefixtures("one_thread")


def field_by_hand(parts: str, codes: list[list[int]], values: list[float]) -> TieredField:
    """Rows of dim 2; the axes have the lengths 2 and 1, and the mean is (1, 0)."""
    layout = Layout.parse(len(codes[0]), [parts])
    packed = PackedRows.pack([np.array(code) for code in codes], layout.widths(0)).data
    axes = np.array([[2, 0], [0, 1], [1, 0]], np.float16)[[*range(layout.rank), 2]]
    return TieredField("item", layout, packed, np.array(values, np.float16), axes, None, "float32")


def test_rows_take_the_nearest_values_and_gradients_pass_on() -> None:
    """A table of -1 and 1 on the first axis, that is -2 and 2 in rows, and a grid of 0, 1, 2, 3."""
    field = field_by_hand("1 2g", [[0, 1, 0], [0, 0, 3]], [-1, 1, 0, 1])
    rows = torch.tensor([[-1.4, 0.2], [1.2, 1.6], [-9.0, 8.0]])
    table = RecodedItems(field, rows, np.eye(2))
    assert torch.allclose(table.all_rows(), torch.tensor([[-1.0, 0], [3, 2], [-1, 3]]))
    # Coordinates stay between the outer values: (-9 - 1) becomes -2, and 8 becomes 3.
    assert torch.allclose(table.coordinates[2], torch.tensor([-2.0, 3]))
    table.all_rows()[1].sum().backward()
    assert table.coordinates.grad is not None
    assert torch.allclose(table.coordinates.grad, torch.tensor([[0.0, 0], [1, 1], [0, 0]]))
    assert table.values.grad is not None
    assert table.values.grad.tolist() == [0, 1, 1]  # of -2 and 2, and the offset of the grid
    assert table.extents.grad is not None
    assert table.extents.grad.tolist() == [2 / 4]  # code 2, of four steps
    assert table.mean.grad is not None
    assert table.mean.grad.tolist() == [1, 1]
    with torch.no_grad():
        table.coordinates[1, 0] = -0.1
    assert torch.allclose(table.all_rows()[1], torch.tensor([-1.0, 2]))


def test_joint_codes_take_the_nearest_pair() -> None:
    field = field_by_hand("1j2", [[0, 0, 1]], [0, 0, 1, 3])
    rows = torch.tensor([[1.0, 0.0], [2.0, 2.0], [3.0, 3.0]])
    table = RecodedItems(field, rows, np.eye(2))
    # The pairs are (0, 0) and (2, 3), as the first axis has the length 2; the mean is (1, 0).
    assert torch.allclose(table.all_rows(), torch.tensor([[1.0, 0], [3, 3], [3, 3]]))
    assert table.stored().tier_codes(0).tolist() == [[0], [1], [1]]


@pytest.fixture(scope="module")
def compressed() -> tuple[TieredField, torch.Tensor]:
    """700 rows in four tiers, ids in no order, so that an index finds them."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((700, 6), np.float32) * np.array([3, 2, 1, 1, 0.5, 0.1], np.float32)
    counts = rng.permutation(1_000_000 // np.arange(1, 701))
    result = saec.compress([Field("item", rows, counts)], saec.Ratio(8), progress=False)
    field = result["item"]
    assert isinstance(field, TieredField)
    assert field.index is not None
    return field, torch.from_numpy(rows)


def test_it_starts_as_compressed(compressed: tuple[TieredField, torch.Tensor]) -> None:
    field, rows = compressed
    table = RecodedItems(field, rows, np.eye(6))
    decoded = torch.from_numpy(field.decode())
    same = torch.isclose(table.all_rows(), decoded, atol=1e-4).all(1).float().mean()
    assert same > 0.99  # all but rows half-way between two values
    error = (table.all_rows() - rows).square().mean()
    assert error <= (decoded - rows).square().mean() * 1.001


def test_what_is_stored_decodes_to_the_same_rows(
    compressed: tuple[TieredField, torch.Tensor],
) -> None:
    """After training towards other rows, with codes that change and then with fixed ones."""
    field, rows = compressed
    table = RecodedItems(field, rows, np.eye(6))
    wanted = rows.flip(0)
    before = (table.all_rows() - wanted).square().mean().item()
    optimiser = torch.optim.Adam(table.parameters(), 0.05)
    for step in range(60):
        if step == 40:
            table.fix_codes()
            codes = table.stored().codes
        optimiser.zero_grad()
        (table.all_rows() - wanted).square().mean().backward()
        optimiser.step()
    table.round_()
    stored = table.stored()
    assert (stored.codes == codes).all()
    assert (stored.codes != field.codes).mean() > 0.5
    assert saec.Compressed([stored]).nbytes == saec.Compressed([field]).nbytes
    assert np.allclose(stored.decode(), table.all_rows().detach().numpy(), atol=1e-5)
    assert (table.all_rows() - wanted).square().mean().item() < before / 2
