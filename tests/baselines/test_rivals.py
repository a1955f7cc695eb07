"""Common behaviour of all alternative methods after training, and each method by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from coding_calls import encode, offers
from numpy.typing import NDArray

import saec
from saec import Field
from saec.artifact import entry_bytes
from saec.baselines import RIVALS, AfterTraining, RivalField
from saec.errors import OptionalDependencyError
from saec.streaming.scratch import IN_MEMORY

pytestmark = pytest.mark.usefixtures("one_thread")


def normal(rows: int, dim: int) -> NDArray[np.float32]:
    return np.random.default_rng([rows, dim]).standard_normal((rows, dim)).astype(np.float32)


TABLES: dict[str, NDArray[np.generic]] = {
    "ordinary": normal(300, 8),
    "one row": normal(1, 8),
    "two rows": normal(2, 8),
    "dim 1": normal(60, 1),
    "dim 3": normal(60, 3),
    "constant": np.full((40, 8), 0.5, np.float32),
    "float16": normal(60, 8).astype(np.float16),
}

every_rival = pytest.mark.parametrize("name", RIVALS)
every_table = pytest.mark.parametrize("kind", TABLES)


def field(rows: NDArray[np.generic]) -> Field:
    """A field with falling frequencies; in large fields the last features are unseen."""
    return Field("f", rows, np.floor(100 / np.arange(1, len(rows) + 1)))


def decoded(name: str, one: Field, choice: tuple[int, ...] = ()) -> NDArray[np.float32]:
    return encode(AfterTraining(RIVALS[name]()), one, choice).decode()


@every_table
@every_rival
def test_sizes_are_as_planned_and_seeds_repeat(name: str, kind: str) -> None:
    codec, one = AfterTraining(RIVALS[name]()), field(TABLES[kind])
    offered = offers(codec, one)
    sizes = codec.rival.choices(len(TABLES["ordinary"]), 8)
    assert codec.has_one_size == (len(sizes) == 1)
    least = codec.least(one, IN_MEMORY)
    assert 8 * entry_bytes(least.entry) == min(option.bits for option in offered)
    for option in (offered[0], offered[len(offered) // 2], offered[-1]):
        coded, again = (encode(codec, one, option.choice) for _ in range(2))
        assert 8 * entry_bytes(coded.entry) == option.bits
        assert coded.nbytes == sum(tensor.nbytes for tensor in coded.tensors.values())
        for role, tensor in coded.tensors.items():
            assert np.array_equal(tensor, again.tensors[role])
        assert coded.decode().shape == one.rows.shape
        assert np.isfinite(coded.decode()).all()


@every_table
@every_rival
def test_rows_are_computed_from_what_is_stored(name: str, kind: str) -> None:
    """Of ids in any order, some more than once."""
    codec, one = AfterTraining(RIVALS[name]()), field(TABLES[kind])
    ids = np.random.default_rng(0).integers(0, one.vocab_size, 100)
    for option in offers(codec, one):
        coded = encode(codec, one, option.choice)
        assert isinstance(coded, RivalField)
        assert coded.from_stored(ids) == pytest.approx(coded.decode()[ids], abs=1e-6)


@every_rival
def test_constant_tables_lose_nothing(name: str) -> None:
    one = field(TABLES["constant"])
    codec = AfterTraining(RIVALS[name]())
    for option in offers(codec, one):
        rows = encode(codec, one, option.choice).decode()
        # faiss moves centroids apart that nothing is nearest to, by a 1024th part.
        assert rows == pytest.approx(np.full((40, 8), 0.5), rel=2e-3)


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("name", [name for name, make in RIVALS.items() if not make().has_one_size])
def test_losses_are_predicted(name: str) -> None:
    rows = normal(600, 4)
    codec, one = AfterTraining(RIVALS[name]()), Field("f", rows, np.ones(600))
    for option in offers(codec, one):
        error = encode(codec, one, option.choice).decode() - rows
        lost = float(one.frequencies @ np.square(error).sum(axis=1))
        # Codebooks are learned anew, from another seed and in more iterations.
        assert option.distortion / 2 - 0.5 < lost < 1.5 * option.distortion + 0.5


@every_rival
def test_values_beyond_float16_are_refused_by_name(name: str) -> None:
    one = field(np.array([[1e6, 0], [0, 1e6], [-1e6, 3]], np.float32))
    codec = AfterTraining(RIVALS[name]())
    choice = codec.rival.choices(3, 2)[-1]
    with pytest.raises(saec.FieldError, match=r"'f': the largest value is .*float16 holds"):
        encode(codec, one, choice)


def test_float16_rounds() -> None:
    rows = np.array([[1 + 2**-10, 1 + 2**-12]], np.float32)
    assert decoded("float16", field(rows)).tolist() == [[1 + 2**-10, 1]]


def test_integers_count_steps_from_the_least_value() -> None:
    rows = np.array([[0, 3, 1.4, 1.6], [-1, 0.5, 0, 0.1], [7, 7, 7, 7]], np.float32)
    one = field(rows)
    expected = [[0, 3, 1, 2], [-1, 0.5, 0, 0], [7, 7, 7, 7]]
    assert decoded("int2", one).tolist() == expected
    coded = encode(AfterTraining(RIVALS["int2"]()), one, ())
    # A byte a row and seven that let a reader overshoot; a scale and an offset of two bytes.
    assert (coded.tensors["codes"].nbytes, coded.tensors["grid"].nbytes) == (3 + 7, 3 * 4)
    assert np.abs(decoded("int8", one) - rows).max() <= 3 / 255 / 2 + 1e-3


def test_svd_keeps_the_main_directions() -> None:
    rows = np.array([[3, 1], [1, 1], [2, 3], [2, -1]], np.float32)  # variances 2 and 8 about (2, 1)
    options = offers(AfterTraining(RIVALS["svd"]()), Field("f", rows, np.ones(4)))
    assert [option.distortion for option in options] == pytest.approx([10, 2])
    one = Field("f", rows, np.ones(4))
    assert decoded("svd", one, (0,)).tolist() == [[2, 1]] * 4
    assert decoded("svd", one, (1,)) == pytest.approx(
        np.array([[2, 1], [2, 1], [2, 3], [2, -1]]), abs=1e-6
    )


def test_the_head_is_kept_and_the_rest_has_a_weighted_mean() -> None:
    rows = np.array([[0, 0], [5, 7], [4, 8], [1, 1]], np.float32)
    one = Field("f", rows, [3, 9, 1, 0])
    assert decoded("head-mean", one, (1,)).tolist() == [[1, 2], [5, 7], [1, 2], [1, 2]]
    # w |x|^2 - |sum w x|^2 / sum w = 80 - 80 / 4
    lost = {option.choice: option.distortion for option in offers(_head_mean(), one)}
    assert lost[1,] == pytest.approx(60)
    coded = encode(_head_mean(), one, (1,))
    assert coded.nbytes == 2 * 2 * 2 + 4
    unseen = Field("f", rows, [0, 9, 0, 0])
    assert decoded("head-mean", unseen, (1,))[0] == pytest.approx([5 / 3, 3], rel=1e-3)


def _head_mean() -> AfterTraining:
    return AfterTraining(RIVALS["head-mean"]())


@pytest.mark.parametrize("name", ["pq", "opq"])
def test_pieces_are_coded_by_themselves(name: str) -> None:
    # Two values in each half, in every combination.
    halves = np.array([[[-3, 1], [2, 8]], [[5, 4], [-1, 0]]], np.float32)
    rows = np.array([[*halves[0, i % 2], *halves[1, i // 2 % 2]] for i in range(16)])
    coded = encode(AfterTraining(RIVALS[name]()), field(rows), (2, 2))
    rotation = 4 * 4 * 2 if name == "opq" else 0
    assert coded.nbytes == (16 * 4 // 8 + 7) + 2 * 4 * 2 * 2 + rotation
    if name == "pq":
        assert coded.decode() == pytest.approx(rows, rel=2e-3)


def test_a_rotation_helps_where_directions_are_mixed() -> None:
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((2000, 4)) * [8, 1, 1, 0.1]
    mixed = plain @ np.linalg.qr(rng.standard_normal((4, 4)))[0]
    one = Field("f", mixed.astype(np.float32), np.ones(2000))
    pq, opq = (np.square(decoded(name, one, (2, 4)) - mixed).sum() for name in ("pq", "opq"))
    assert opq < pq


@pytest.mark.parametrize("name", ["pq", "opq"])
def test_faiss_is_silent_and_asked_for_first(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded(name, field(TABLES["ordinary"]), (2, 8))
    assert capfd.readouterr() == ("", "")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(OptionalDependencyError, match=r"pip install 'saec\[bench\]'"):
        RIVALS[name]()


def test_files_of_rivals_are_not_read() -> None:
    one = field(TABLES["ordinary"])
    result = saec.compress([one], None, AfterTraining(RIVALS["int4"]()), progress=False)
    assert result.compression_ratio > 3
    assert result["f"].lookup([2, 0]) == pytest.approx(result["f"].decode()[[2, 0]])
