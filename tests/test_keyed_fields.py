"""Fields with keys: raw keys in, rows out."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from documented import documented_reader
from numpy.typing import NDArray

import saec
from saec.codecs.axes.code_lengths import code_lengths
from saec.errors import KeysError
from saec.format.bags import Bags
from saec.format.key_strings import KeyStrings
from saec.format.keyed_field import KeyedField
from saec.format.keyed_layout import KeyedLayout, SymbolPart
from saec.format.keyed_rows import KeyedRows
from saec.keys.building import build_function
from saec.keys.kinds import KeyKind
from saec.keys.static_function import StaticFunction

DIM = 4


class Example:
    """A table whose frequent rows are long, with keys and a metric."""

    def __init__(self, rows: int = 4000) -> None:
        rng = np.random.default_rng(7)
        self.frequencies = np.floor(20 * rows / np.arange(1, rows + 1) ** 1.2) + 1
        scale = np.log1p(self.frequencies)[:, None] * np.array([1.0, 0.5, 0.2, 0.1])
        self.weights = (rng.standard_normal((rows, DIM)) * scale).astype(np.float32)
        self.keys = rng.integers(0, 1 << 63, rows)
        self.metric = np.diag([1e-2, 5e-3, 5e-3, 1e-3])
        self.metrics = {"user": self.metric}

    def field(self, **options: object) -> saec.Field:
        given = {"keys": self.keys, "unseen": np.zeros(DIM), "unseen_share": 0.3} | options
        return saec.Field("user", self.weights, self.frequencies, **given)  # type: ignore[arg-type]

    def nats(self, rows: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
        errors = (rows - others).astype(np.float64)
        return np.einsum("nd,de,ne->n", errors, self.metric, errors) / 2


@pytest.fixture(scope="module")
def example() -> Example:
    return Example()


@pytest.fixture(scope="module")
def priced(example: Example) -> saec.Priced:
    return saec.measure([example.field()], metrics=example.metrics, progress=False)


@pytest.fixture(scope="module")
def result(priced: saec.Priced) -> saec.Compressed:
    return saec.compress(priced, saec.Ratio(30), progress=False)


def keyed(result: saec.Compressed, name: str = "user") -> KeyedField:
    field = result[name]
    assert isinstance(field, KeyedField)
    return field


def random_keys(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(-(1 << 63), 0, count)


def test_codewords_as_long_as_their_counts_say_or_the_harm_of_unknown_keys() -> None:
    nothing = np.zeros(4)
    assert code_lengths(np.array([4.0, 2, 1, 1]), nothing, 1.0).tolist() == [1, 2, 3, 3]
    # 1000 nats x 2^-length + count x length: one bit more saves less than it costs from here on.
    harm = np.full(3, 1000.0)
    assert code_lengths(np.array([9.0, 1, 2]), harm, 1.0).tolist() == [6, 9, 8]
    assert code_lengths(np.array([5.0, 5]), np.zeros(2), 1.0, room=0.25).tolist() == [3, 3]
    assert code_lengths(np.array([5.0]), np.zeros(1), 1.0).tolist() == [0]


# One class: symbol 0 is "0" and stands for 1, symbol 1 is "10" and stands for -2.
AXES = np.array([[1, 2], [0.5, 0.25]], np.float16)  # one axis, and the default row
ROWS = np.array([[1.5, 2.25], [-1.5, -3.75]], np.float32)


def four_keys(keys: NDArray[np.int64], symbols: list[int]) -> KeyedField:
    layout = KeyedLayout(((SymbolPart(2, 1),),))
    lengths, values = np.array([1, 2], np.uint8), np.array([1, -2], np.float16)
    (string,) = KeyStrings(layout, lengths).strings(0, [np.array(symbols)], saec.hash_keys(keys))
    assert string.lengths.tolist() == [symbol + 1 for symbol in symbols]
    function = build_function(string.hashes, string.values, string.lengths)
    shape = (len(keys), layout, lengths, values, AXES, function)
    return KeyedField("f", *shape, "float32", KeyKind.SIGNED, 0)


def test_rows_of_four_keys_by_hand() -> None:
    keys = np.array([7, -1, 1 << 40, 0])
    field = four_keys(keys, [0, 1, 1, 0])
    assert np.array_equal(field.lookup(keys), ROWS[[0, 1, 1, 0]])
    assert np.array_equal(field.lookup(keys.reshape(2, 2))[1], ROWS[[1, 0]])
    assert field.contains(keys).all()
    assert field.false_positive_rate == 0.75
    pooled = field.pool(np.array([7, -1, 0]), np.array([0, 2]))
    assert np.array_equal(pooled, np.stack([ROWS[0] + ROWS[1], ROWS[0]]))
    unknown = field.lookup(random_keys(40_000))
    assert abs((unknown == ROWS[0]).all(axis=1).mean() - 0.5) < 0.02
    assert abs((unknown == ROWS[1]).all(axis=1).mean() - 0.25) < 0.02
    assert abs((unknown == AXES[-1]).all(axis=1).mean() - 0.25) < 0.02


def test_unknown_keys_pass_for_stored_ones_as_often_as_said(result: saec.Compressed) -> None:
    field, keys = keyed(result), random_keys(200_000)
    rate = field.false_positive_rate
    found = field.contains(keys)
    assert abs(found.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / len(keys))
    assert not field.lookup(keys[~found]).any()


def test_forecast_is_what_is_lost_with_unknown_keys(
    example: Example, result: saec.Compressed
) -> None:
    field = keyed(result)
    shares = example.frequencies / example.frequencies.sum()
    seen = shares @ example.nats(field.lookup(example.keys), example.weights)
    unknown = field.lookup(random_keys(400_000))
    harm = 0.3 * example.nats(unknown, np.zeros_like(unknown)).mean()
    left_out = ~field.contains(example.keys)
    # Rows that are left out have the default row only if they do not pass for others.
    assert harm > 0.02 * seen
    assert left_out.any()
    assert result.predicted_loss_increase == pytest.approx(seen + harm, rel=0.05)


@pytest.mark.parametrize("ratio", [8, 30, 100])
def test_budgets_count_every_byte(example: Example, priced: saec.Priced, ratio: float) -> None:
    result = saec.compress(priced, saec.Ratio(ratio), progress=False)
    original = example.weights.nbytes + 8 * len(example.keys)
    assert result.original_nbytes == original
    assert 0.7 * original / ratio < result.nbytes <= original / ratio
    bill = keyed(result).bill
    assert sum(bill.values()) == keyed(result).nbytes


def test_saved_is_loaded(example: Example, result: saec.Compressed, tmp_path: Path) -> None:
    result.save(tmp_path / "model.saec")
    loaded = saec.load(tmp_path / "model.saec")
    assert (tmp_path / "model.saec").stat().st_size == result.nbytes
    asked = np.concatenate([example.keys, random_keys(5000)])
    assert np.array_equal(loaded["user"].lookup(asked), result["user"].lookup(asked))


def test_written_in_a_stream_and_pickled(
    example: Example, result: saec.Compressed, tmp_path: Path
) -> None:
    written = saec.compress(
        [example.field()],
        saec.Ratio(30),
        metrics=example.metrics,
        out=tmp_path / "model.saec",
        progress=False,
    )
    pickled = pickle.loads(pickle.dumps(result["user"]))
    rows = result["user"].lookup(example.keys)
    assert np.array_equal(written["user"].lookup(example.keys), rows)
    assert np.array_equal(pickled.lookup(example.keys), rows)


def test_exact_keys_are_all_known_and_others_are_not(example: Example) -> None:
    field = example.field(exact=8)
    result = saec.compress([field], saec.Ratio(12), metrics=example.metrics, progress=False)
    assert keyed(result).contains(example.keys).all()
    assert keyed(result).false_positive_rate <= 2**-8
    assert keyed(result).contains(random_keys(100_000)).mean() < 2**-8 + 0.0015
    everywhere = saec.compress(
        [example.field(exact=True)], saec.Ratio(4), metrics=example.metrics, progress=False
    )
    assert keyed(everywhere).false_positive_rate <= 2**-32
    assert not keyed(everywhere).contains(random_keys(100_000)).any()


def test_strings_of_any_kind_beside_a_plain_field(example: Example) -> None:
    pl = pytest.importorskip("polars")
    pa = pytest.importorskip("pyarrow")
    words = [f"user {number}" for number in range(300)]
    words[3], words[4] = "", "ä" * (1 << 19)
    weights, counts = example.weights[:300], example.frequencies[:300]
    fields = [
        saec.Field("word", weights, counts, keys=pl.Series(words)),
        saec.Field("plain", weights, counts),
    ]
    metrics = {"word": example.metric, "plain": example.metric}
    result = saec.compress(fields, saec.Ratio(10), metrics=metrics, progress=False)
    rows = result["word"].lookup(words)
    for same in (np.array(words), pl.Series(words), pa.array(words), np.array(words, object)):
        assert np.array_equal(result["word"].lookup(same), rows)
    assert example.nats(rows[:9], weights[:9]).max() < 0.1 * example.nats(weights, 0 * rows).max()
    both = result.lookup({"plain": np.arange(9), "word": words[:9]})
    assert np.array_equal(both[:, DIM:], rows[:9])
    with pytest.raises(KeysError, match="field 'word': keys are strings, and integers were given"):
        result["word"].lookup(np.arange(3))
    with pytest.raises(KeysError, match="does not store its keys"):
        result["word"].decode()


def test_one_key_and_rows_that_are_all_alike(example: Example) -> None:
    one = saec.Field("one", example.weights[:1], [5], keys=["only"], unseen_share=0.5)
    alike = saec.Field("alike", np.ones((90, 3), np.float32), np.ones(90), keys=np.arange(90))
    result = saec.compress([one, alike], saec.MaxBytes(2000), progress=False)
    assert np.allclose(result["one"].lookup(["only"]), example.weights[:1], atol=1e-3)
    assert np.allclose(result["alike"].lookup(np.arange(90)), 1, atol=1e-3)
    assert result["one"].lookup([]).shape == (0, DIM)


def test_row_of_unknown_keys_is_no_key(example: Example) -> None:
    keys = example.keys.copy()
    keys[0] = keys[1]  # the key of the row of unknown keys is not looked at
    weights = example.weights.copy()
    weights[0] = [3, 2, 1, 0.5]
    field = saec.Field("user", weights, example.frequencies, keys=keys, unseen=0)
    result = saec.compress([field], saec.Ratio(30), metrics=example.metrics, progress=False)
    unknown = random_keys(1000)
    default = result["user"].lookup(unknown[~keyed(result).contains(unknown)])
    assert np.array_equal(default, np.broadcast_to(weights[0], default.shape))
    assert example.nats(result["user"].lookup(keys[1:2]), weights[1:2]) < 0.01


def random_field(seed: int) -> tuple[KeyedField, NDArray[np.uint64]]:
    """A field of random parts and codewords, and the hashes of its keys."""
    rng = np.random.default_rng(seed)
    classes, symbols = [], []
    for number in range(rng.integers(1, 5)):
        first = SymbolPart(int(rng.integers(1, 9)), int(rng.integers(0, 4)))
        grids = [SymbolPart(int(rng.integers(1, 40)), 1, int(rng.integers(1, 4)), 0)]
        tables = [SymbolPart(int(rng.integers(2, 99)), int(rng.integers(1, 14))) for _ in range(4)]
        classes.append((first, *(grids + tables)[: rng.integers(0, 6)]))
        rows = int(rng.integers(1, 300))
        symbols.append([rng.integers(0, part.symbols, rows) for part in classes[number]])
    layout = KeyedLayout(tuple(classes), (24, 56)[seed % 2])
    roots = sum(parts[0].symbols for parts in classes)
    own = [roots if part == parts[0] else part.symbols for parts in classes for part in parts]
    bits = [int(count - 1).bit_length() for count in own]
    lengths = np.concatenate(
        [
            np.full(part.stored_lengths, width + rng.integers(0, 5) if width else 1)
            for part, width in zip(layout.parts, bits, strict=True)
        ]
    ).astype(np.uint8)
    strings = KeyStrings(layout, lengths)
    hashes = [rng.integers(0, 1 << 64, len(own[0]), dtype=np.uint64) for own in symbols]
    parts = [
        part
        for number, own in enumerate(symbols)
        for part in strings.strings(number, own, hashes[number])
    ]
    function = build_function(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in STRINGS)
    )
    values = rng.standard_normal(layout.first_values[-1]).astype(np.float16)
    axes = rng.standard_normal((layout.rank + 1, (5, 16, 37)[seed % 3])).astype(np.float32)
    field = KeyedField(
        "f", 9, layout, lengths, values, axes, function, "float32", KeyKind.UNSIGNED, 0
    )
    return field, np.concatenate(hashes)


STRINGS = ("hashes", "values", "lengths")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("windows", [False, True])
def test_native_rows_are_the_documented_ones(
    seed: int, windows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saec.keys.windows._MANY_VARIED", 1 if windows else 1 << 62)
    field, hashes = random_field(seed)
    assert (field.function.spread > 0) == windows
    saec.Compressed([field]).save(tmp_path / "f.saec")
    row = documented_reader()(tmp_path / "f.saec")["f"]
    unknown = np.random.default_rng(seed).integers(0, 1 << 64, 200, dtype=np.uint64)
    asked = np.concatenate([hashes, unknown])
    rows = field.rows_of_hashes(asked)
    assert np.array_equal(rows, [row(own) for own in asked.tolist()])
    many = np.tile(asked, 40)
    assert np.array_equal(field.rows_of_hashes(many, threads=2), np.tile(rows, (40, 1)))


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_bags_are_sums_of_rows(seed: int, windows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bags of frequent and rare keys, over several batches, with an empty bag at either end."""
    monkeypatch.setattr("saec.keys.windows._MANY_VARIED", 1 if windows else 1 << 62)
    field, hashes = random_field(seed)
    rng = np.random.default_rng(seed)
    asked = hashes[(rng.random(9000) ** 4 * len(hashes)).astype(int)]
    asked[::7] = rng.integers(0, 1 << 64, len(asked[::7]), dtype=np.uint64)
    monkeypatch.setattr(KeyedField, "hashes_of", lambda self, keys: keys)
    offsets = np.concatenate([[0, 0], np.sort(rng.integers(0, 9000, 500)), [9000]])
    rows, weights = field.lookup(asked), rng.standard_normal(9000).astype(np.float32)
    sums = field.pool(asked, offsets)
    assert not sums[[0, -1]].any()
    assert_close(sums, bag_sums(rows, offsets))
    assert_close(field.pool(asked, offsets, weights), bag_sums(rows * weights[:, None], offsets))
    sizes = np.maximum(np.diff(offsets, append=9000), 1)[:, None]
    assert_close(field.pool(asked, offsets, mode="mean"), bag_sums(rows, offsets) / sizes)
    assert np.array_equal(
        field.pool(asked, offsets, threads=2), field.pool(asked, offsets, threads=1)
    )
    assert np.array_equal(field.pool(asked[offsets[9] :], offsets[9:] - offsets[9]), sums[9:])
    for mode in ("sum", "mean", "max"):
        assert np.array_equal(field.pool(asked, np.arange(9000), mode=mode), rows)
    bags = Bags(asked.view(np.int64), offsets)
    for isa in ("scalar", "avx2"):
        pooled = field._rows.pooled(asked, bags, isa=isa)
        assert pooled is not None
        assert np.array_equal(pooled, sums)


@pytest.mark.parametrize("isa", ["auto", "avx2", "scalar"])
def test_rows_do_not_depend_on_keys_asked_before(isa: str) -> None:
    """Frequent keys, keys that take each other's places among these, and many that come up once."""
    field, hashes = random_field(3)
    rng = np.random.default_rng(0)
    alike = (hashes ^ np.arange(1, 9, dtype=np.uint64)[:, None] << np.uint64(16)).reshape(-1)
    once = rng.integers(0, 1 << 64, (2, 80_000), dtype=np.uint64)
    often = rng.permutation(np.tile(np.concatenate([hashes, alike[:1000]]), 9))
    asked = np.concatenate([often, once[0], often, alike, once[1, :5000], often])
    keys, positions = np.unique(asked, return_inverse=True)
    pieces = [keys[at : at + 2000] for at in range(0, len(keys), 2000)]  # no key twice in a call
    alone = np.concatenate([field.rows_of_hashes(piece) for piece in pieces])[positions]
    assert np.array_equal(field.rows_of_hashes(asked, threads=1), alone)
    bags = Bags(asked.view(np.int64), np.arange(len(asked)))
    found = field._rows.pooled(asked, bags, 1, isa)
    assert found is not None
    assert np.array_equal(found, alone)


@pytest.mark.parametrize("role", ["bits", "directory"])
def test_damaged_windows_are_read_alike_by_all_instruction_sets(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random starts, ends and seeds of buckets, and bits; some buckets have no room."""
    monkeypatch.setattr("saec.keys.windows._MANY_VARIED", 1)
    monkeypatch.setattr("saec.keys.windows._LEAST_KEYS", 64)
    monkeypatch.setattr("saec.keys.windows._BUCKET_BITS", 1 << 10)
    field, hashes = random_field(1)
    function, rng = field.function, np.random.default_rng(2)
    assert function.blocks > 2
    for _ in range(20):
        damaged = {own: tensor.copy() for own, tensor in function.tensors.items()}
        hit = rng.integers(0, len(damaged[role]), 3)
        damaged[role][hit] = rng.integers(0, 256, 3)
        other = StaticFunction.from_tensors(function.description, damaged)
        read = KeyedRows(
            field.layout, field.strings, field.lengths, field.values, field.axes, other
        )
        bags = Bags(hashes.view(np.int64), np.arange(0, len(hashes), 3))
        found = read.pooled(hashes, bags)
        assert found is not None
        assert np.isfinite(found).all()
        for isa in ("scalar", "avx2"):
            other_found = read.pooled(hashes, bags, isa=isa)
            assert other_found is not None
            assert np.array_equal(found, other_found)


def bag_sums(rows: NDArray[np.float32], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.array([bag.sum(axis=0) for bag in np.split(rows.astype(np.float64), offsets[1:])])


def assert_close(found: NDArray[np.float32], wanted: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("offsets", [[1, 2], [0, 3, 2], [0, 5], [-1, 2]])
def test_bad_offsets_are_refused(offsets: list[int]) -> None:
    field = four_keys(np.arange(4), [0, 1, 1, 0])
    with pytest.raises(saec.IdError, match="'f': offsets must ascend from 0 to at most 4"):
        field.pool(np.arange(4), offsets)


KEYS = np.arange(6)
BAD = {
    "float": (KEYS + 0.5, "keys must be integers or strings, not float64"),
    "missing": (["a", None, "c", "d", "e", "f"], "key at position 1 is missing"),
    "mixed": (["a", "b", 3, "d", "e", "f"], "key 3 at position 2 is not a string"),
    "twice": (np.array([1, 2, 3, 2, 5, 6]), "key 2 stands at rows 1 and 3"),
    "text twice": (list("abcdeb"), "key 'b' stands at rows 1 and 5"),
    "few": (KEYS[:5], "weights have 6 rows, keys 5"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_keys_are_refused(case: str) -> None:
    keys, message = BAD[case]
    with pytest.raises(saec.FieldError, match=f"field 'f': .*{message}"):
        saec.Field("f", np.ones((6, 2), np.float32), np.ones(6), keys=keys)


def test_bad_options_are_refused() -> None:
    table = ("f", np.ones((6, 2), np.float32), np.ones(6))
    for options, message in (
        ({"keys": KEYS, "unseen": 6}, r"unseen is row 6, outside \[0, 6\)"),
        ({"keys": KEYS, "unseen": [1.0]}, "unseen is the number of a row or 2 values"),
        ({"keys": KEYS, "unseen_share": 1.5}, "unseen_share is a share from 0 to 1, not 1.5"),
        ({"keys": KEYS, "exact": 41}, "exact is True, False or 1 to 40 bits, not 41"),
        ({"unseen": 0}, "unseen, unseen_share and exact go with keys"),
    ):
        with pytest.raises(saec.FieldError, match=message):
            saec.Field(*table, **options)


def test_clusters_of_rows_with_keys(example: Example) -> None:
    """Within the budget, with a forecast that holds, and worse than axes."""
    priced = saec.measure(
        [example.field()], saec.Clusters(), metrics=example.metrics, progress=False
    )
    result = saec.compress(priced, saec.Ratio(30), progress=False)
    field, shares = keyed(result), example.frequencies / example.frequencies.sum()
    assert result.nbytes <= result.original_nbytes / 30
    assert all(len(parts) == 1 for parts in field.layout.classes)
    seen = shares @ example.nats(field.lookup(example.keys), example.weights)
    unknown = field.lookup(random_keys(400_000))
    harm = 0.3 * example.nats(unknown, np.zeros_like(unknown)).mean()
    assert result.predicted_loss_increase == pytest.approx(seen + harm, rel=0.05)
    assert seen + harm < 0.5 * (shares @ example.nats(example.weights, 0 * example.weights))


def test_two_clusters_of_four_rows_by_hand() -> None:
    rows = np.array([[1, 1], [1, 1], [5, 5], [5, 5]], np.float32)
    own = saec.Field("f", rows, [9, 9, 9, 9], keys=[1, 2, 3, 4], unseen_share=0.0)
    codec = saec.Clusters(clusters=2)
    result = saec.compress([own], saec.MaxBytes(800), codec, progress=False)
    assert np.allclose(result["f"].lookup([1, 2, 3, 4]), rows, atol=1e-2)


@pytest.mark.exhaustive
def test_clusters_with_exact_keys(example: Example) -> None:
    field = example.field(exact=8)
    result = saec.compress(
        [field], saec.Ratio(10), saec.Clusters(), metrics=example.metrics, progress=False
    )
    assert keyed(result).contains(example.keys).all()
    assert keyed(result).false_positive_rate <= 2**-8


def test_negative_keys_where_unsigned_ones_are_meant() -> None:
    field = saec.Field("f", np.eye(6, dtype=np.float32), np.ones(6), keys=KEYS.astype(np.uint64))
    result = saec.compress([field], saec.MaxBytes(5000), progress=False)
    with pytest.raises(KeysError, match="unsigned integers of 64 bits, and -1 at position 1"):
        result["f"].lookup(np.array([3, -1]))
    assert np.array_equal(result["f"].lookup([3]), result["f"].lookup(np.array([3])))


def test_damaged_strings_are_read_and_damaged_numbers_refused(result: saec.Compressed) -> None:
    field, rng = keyed(result), np.random.default_rng(0)
    parts = (field.vocab_size, field.layout, field.lengths, field.values, field.axes)
    for _ in range(20):
        tensors = {
            role: np.where(rng.random(len(own)) < 0.1, rng.integers(0, 256, len(own)), own)
            for role, own in field.function.tensors.items()
            if role != "steps"
        }
        whole = {role: own.astype(np.uint8) for role, own in tensors.items()}
        function = type(field.function).from_tensors(
            field.function.description, {**whole, "steps": field.function.steps}
        )
        damaged = KeyedField("user", *parts, function, "float32", KeyKind.SIGNED, 0)
        assert np.isfinite(damaged.lookup(random_keys(500))).all()
    short = np.ones_like(field.lengths)
    with pytest.raises(saec.ArtifactError, match="no prefix code has codewords"):
        KeyedField(
            "user", *parts[:2], short, *parts[3:], field.function, "float32", KeyKind.SIGNED, 0
        )
    with pytest.raises(saec.ArtifactError, match="lengths are uint8"):
        KeyedField(
            "user", *parts[:2], short[1:], *parts[3:], field.function, "float32", KeyKind.SIGNED, 0
        )


def refused_keys() -> dict[str, tuple[object, str]]:
    """Every kind of key that no field takes, and what the message says of it."""
    long = "x" * (1 << 20)
    return {
        "float": (np.ones(3), "keys must be integers or strings, not float64"),
        "float in list": ([1, 2.5, 3], "key 2.5 at position 1 is neither an integer nor a string"),
        "missing": ([1, None, 3], "key at position 1 is missing"),
        "not a number": ([1, float("nan"), 3], "key at position 1 is missing"),
        "missing text": (["a", "b", None], "key at position 2 is missing"),
        "several kinds": ([1, "b", 3], "key 'b' at position 1 is not an integer"),
        "truth": ([True, False, True], "key True at position 0 is neither"),
        "two dimensions": (np.ones((3, 1), int), "keys must have one dimension"),
        "over 64 bits": ([1, 2, 1 << 64], "needs over 64 bits"),
        "negative beside large": (
            [-1, 2, 1 << 63],
            "needs over 64 bits; negative keys are present",
        ),
        "duplicates": ([5, 6, 5], "key 5 stands at rows 0 and 2"),
        "empty twice": (["", "a", ""], "key '' stands at rows 0 and 2"),
        "long twice": ([long, "a", long], r"key 'x{59}\.\.\. stands at rows 0 and 2"),
        "no UTF-8": ([b"a", b"\xff", b"c"], r"key b'\\xff' at position 1 is no UTF-8"),
        "half a character": (["a", "\ud800", "c"], "at position 1 is no UTF-8"),
        "one string": ("abc", "not the one key 'abc'"),
        "masked": (np.ma.masked_array([1, 2, 3], [0, 1, 0]), "keys cannot be a masked array"),
    }


@pytest.mark.parametrize("case", refused_keys())
def test_keys_that_no_field_takes(case: str) -> None:
    keys, message = refused_keys()[case]
    with pytest.raises(saec.FieldError, match=f"field 'f': .*{message}"):
        saec.Field("f", np.eye(3, dtype=np.float32), np.ones(3), keys=keys)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made_of", "asked", "message"),
    [
        (["a", "b"], [1], "keys are strings, and unsigned integers were given"),
        ([1, 2], ["a"], "keys are unsigned integers, and strings were given"),
        ([-1, 2], np.array([1 << 63], np.uint64), "9223372036854775808 at position 0 is none"),
        ([1, 2], np.array([-5]), "-5 at position 0 is none"),
        ([1, 2], np.array([0.5]), "keys must be integers or strings, not float64"),
        ([1, 2], [None], "key at position 0 is missing"),
        (["a", "b"], [b"\xff"], "is no UTF-8"),
    ],
)
def test_keys_that_a_field_is_not_asked_for(
    made_of: list[object], asked: object, message: str
) -> None:
    own = saec.Field("f", np.eye(2, dtype=np.float32), np.ones(2), keys=made_of)
    field = keyed(saec.compress([own], saec.MaxBytes(2000), progress=False), "f")
    for call in (field.lookup, field.contains, lambda keys: field.pool(keys, [0])):
        with pytest.raises(KeysError, match=f"field 'f': .*{message}"):
            call(asked)  # type: ignore[operator]


def test_all_keys_in_one_class() -> None:
    rows = np.arange(24, dtype=np.float32).reshape(12, 2)
    own = saec.Field("f", rows, np.full(12, 7), keys=np.arange(12), unseen_share=0.1)
    field = keyed(saec.compress([own], saec.MaxBytes(900), progress=False), "f")
    assert len(field.layout.classes) == 1
    assert np.allclose(field.lookup(np.arange(12)), rows, atol=0.5)
