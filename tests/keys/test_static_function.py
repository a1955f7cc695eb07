"""Static functions against dictionaries, against numpy, and with damaged tensors."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from function_reader import string_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import saec
from saec import _native
from saec.errors import ArtifactError, KeysError
from saec.keys.building import build_function
from saec.keys.keyed_values import KeyedValues
from saec.keys.layout import PADDING, LengthCensus, directory_of, pack_steps, unpack_steps
from saec.keys.static_function import StaticFunction
from saec.keys.streamed import FunctionBuilder
from saec.keys.windows import SolvedBuckets, WindowShape, window_shape


@pytest.fixture(params=["blocks", "windows"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Build functions with dense blocks and with windows, whatever their size."""
    least = 1 if request.param == "windows" else 1 << 62
    monkeypatch.setattr("saec.keys.windows._MANY_VARIED", least)
    if request.param == "windows":
        monkeypatch.setattr("saec.keys.windows._MANY_KEYS", 1)
        monkeypatch.setattr("saec.keys.windows._MANY_BITS", 1)
        monkeypatch.setattr("saec.keys.windows._BUCKET_KEYS", 6000)
    return str(request.param)


Keyed = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint8]]


def random_keys(count: int, bits: int, seed: int = 0, varied: bool = False) -> Keyed:
    """Hashes, values and their bits."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    lengths = np.full(count, bits, np.uint8)
    if varied:
        lengths = np.minimum(rng.geometric(0.2, count), bits).astype(np.uint8)
    values = rng.integers(0, 2**64, count, dtype=np.uint64)
    return hashes, cut(values, lengths), lengths


def cut(values: NDArray[np.uint64], lengths: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The lowest bits of each value."""
    shift = (64 - lengths.astype(np.int64)).clip(0, 63).astype(np.uint64)
    return np.where(lengths > 0, values << shift >> shift, 0)


def same(one: StaticFunction, other: StaticFunction) -> bool:
    return one.description == other.description and all(
        np.array_equal(tensor, other.tensors[role]) for role, tensor in one.tensors.items()
    )


def test_one_key_by_hand() -> None:
    # A block of one column. The key 0 picks slot 0 if bit 0 of mix(golden ratio) >> 8 is set; the
    # first slot that it picks holds the value.
    function = build_function(np.zeros(1, np.uint64), [1], 1)
    assert function.description == (1, 1, 0, 1, 0)
    x = 0x9E3779B97F4A7C15
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ x >> 33) * factor % 2**64
    first_picked = (x ^ x >> 33) >> 8
    slot = (first_picked & -first_picked).bit_length() - 1
    base, bits = unpack_steps(function.steps)[0, 1:].tolist()
    header = int(function.bits[0]) & ((1 << bits) - 1)
    assert base + header == slot + 1
    held = int.from_bytes(function.bits.tobytes(), "little") >> bits
    assert held == 1 << slot
    assert function.directory.tolist() == [0] * 10
    assert function.lookup(np.zeros(1, np.uint64)).tolist() == [1]


@pytest.mark.parametrize("count", [0, 1, 2, 31, 97, 1000, 7000])
@pytest.mark.parametrize(
    ("bits", "fingerprint_bits"),
    [(0, 0), (1, 0), (0, 1), (7, 0), (0, 13), (12, 5), (57, 0), (64, 0), (0, 64), (64, 64)],
)
def test_every_key_gets_its_value(count: int, bits: int, fingerprint_bits: int, form: str) -> None:
    hashes, values, _ = random_keys(count, bits)
    function = build_function(hashes, values, bits, fingerprint_bits=fingerprint_bits)
    found, known = function.find(hashes)
    assert np.array_equal(found, values)
    assert known.all()
    again = StaticFunction.from_tensors(function.description, function.tensors)
    assert np.array_equal(again.lookup(hashes), values)


@pytest.mark.parametrize("count", [1, 2, 150, 5000])
@pytest.mark.parametrize("fingerprint_bits", [0, 9])
def test_values_of_several_lengths(count: int, fingerprint_bits: int, form: str) -> None:
    hashes, values, lengths = random_keys(count, 40, varied=True)
    lengths[: count // 3] = 0
    values = cut(values, lengths)
    function = build_function(hashes, values, lengths, fingerprint_bits=fingerprint_bits)
    found, known = function.find(hashes)
    assert np.array_equal(cut(found, lengths), values)
    assert known.all()
    assert function.value_bits == lengths.max()


@pytest.mark.parametrize("varied", [False, True])
def test_the_numpy_reader_gives_the_same_values(varied: bool, form: str) -> None:
    hashes, values, lengths = random_keys(700, 17, varied=varied)
    function = build_function(hashes, values, lengths if varied else 17, fingerprint_bits=6)
    strangers = np.random.default_rng(9).integers(0, 2**64, 200, dtype=np.uint64)
    asked = np.concatenate([hashes[:200], strangers])
    found, known = function.find(asked)
    read = [string_of(function.description, function.tensors, int(key)) for key in asked]
    assert [(bool(a), int(b)) for a, b in zip(known, found, strict=True)] == read


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.integers(0, 2**64 - 1), st.integers(0, 2**10 - 1), max_size=40),
    st.integers(0, 8),
)
def test_functions_of_random_dictionaries(wanted: dict[int, int], fingerprint_bits: int) -> None:
    # One block: hashes need not be evenly distributed.
    hashes = np.array([*wanted], np.uint64)
    function = build_function(hashes, [*wanted.values()], 10, fingerprint_bits=fingerprint_bits)
    assert function.lookup(hashes).tolist() == [*wanted.values()]
    assert function.contains(hashes).all()


def test_order_and_threads_change_nothing(form: str) -> None:
    hashes, values, lengths = random_keys(40_000, 20, varied=True)
    one = build_function(hashes, values, lengths, fingerprint_bits=3, threads=1)
    order = np.random.default_rng(1).permutation(len(hashes))
    two = build_function(
        hashes[order], values[order], lengths[order], fingerprint_bits=3, threads=2
    )
    assert same(one, two)
    assert np.array_equal(one.lookup(hashes, threads=1), one.lookup(hashes, threads=2))


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_unknown_keys_pass_as_often_as_stated(bits: int, form: str) -> None:
    hashes, values, _ = random_keys(5000, 4)
    function = build_function(hashes, values, 4, fingerprint_bits=bits)
    strangers = np.random.default_rng(5).integers(0, 2**64, 400_000, dtype=np.uint64)
    share = function.contains(strangers).mean()
    deviation = (2.0**-bits / len(strangers)) ** 0.5
    assert abs(share - 2.0**-bits) < 5 * deviation


@pytest.mark.parametrize(
    ("count", "bits", "most"), [(1000, 12, 1.08), (50_000, 8, 1.05), (50_000, 32, 1.04)]
)
def test_size_is_close_to_that_of_the_strings(count: int, bits: int, most: float) -> None:
    hashes, values, _ = random_keys(count, bits)
    assert build_function(hashes, values, bits).nbytes * 8 < most * count * bits


def test_equal_hashes_are_named(form: str) -> None:
    hashes, values, _ = random_keys(3000, 8)
    hashes[1234] = hashes[77]
    message = f"positions 77 and 1234 have the same hash {int(hashes[77]):#018x}"
    for bits in (8, 0):
        with pytest.raises(KeysError, match=message):
            build_function(hashes, values if bits else np.zeros(3000, int), bits)
    with FunctionBuilder(8) as builder:
        builder.add(hashes[:1000], values[:1000])
        builder.add(hashes[1000:], values[1000:])
        with pytest.raises(KeysError, match=message):
            builder.finish()


def test_equal_hashes_of_values_without_bits_are_named(form: str) -> None:
    hashes, _, lengths = random_keys(300, 2)
    hashes[200], lengths[:] = hashes[100], 1
    lengths[[100, 200]] = 0
    with pytest.raises(KeysError, match="positions 100 and 200 have the same hash"):
        build_function(hashes, np.zeros(300, int), lengths)


def test_hashes_that_crowd_one_block_are_refused(form: str) -> None:
    # In windows no seed helps: all keys have the same ones.
    hashes = np.arange(5000, dtype=np.uint64)
    with pytest.raises(KeysError, match="not evenly distributed"):
        build_function(hashes, np.zeros(5000, int), 3)


@pytest.mark.parametrize("varied", [False, True])
@pytest.mark.parametrize("count", [0, 1, 900, 50_000])
def test_building_in_chunks_gives_the_same_function(varied: bool, count: int, form: str) -> None:
    hashes, values, lengths = random_keys(count, 11, varied=varied)
    whole = build_function(hashes, values, lengths if varied else 11, fingerprint_bits=2)
    with FunctionBuilder(None if varied else 11, fingerprint_bits=2) as builder:
        for first in range(0, count, 7000):
            part = slice(first, first + 7000)
            builder.add(hashes[part], values[part], lengths[part] if varied else None)
        assert same(builder.finish(), whole)
    if form == "windows" and count == 50_000:
        assert whole.blocks == 16  # solved four at once


@pytest.mark.parametrize("varied", [False, True])
def test_building_from_a_part_of_a_file(varied: bool, form: str, tmp_path: Path) -> None:
    """The caller numbers the keys and keeps some numbers; the longest value is left out."""
    hashes, values, lengths = random_keys(20_000, 11, varied=varied)
    positions = np.arange(20_000) // 2
    kept = np.random.default_rng(1).random(10_000) < 0.3
    kept[positions[np.argmax(lengths)]] = False
    own = kept[positions]
    whole = build_function(hashes[own], values[own], lengths[own] if varied else 11)
    with FunctionBuilder(None if varied else 11, folder=tmp_path) as builder:
        for first in range(0, 20_000, 7000):
            part = slice(first, first + 7000)
            bits = lengths[part] if varied else None
            builder.add(hashes[part], values[part], bits, positions[part])
        assert list(tmp_path.iterdir()) == []  # the file has no name
        assert same(builder.finish(kept), whole)
        assert builder.finish().keys == 20_000


def test_equal_hashes_in_one_of_many_buckets_are_named(form: str) -> None:
    hashes, values, _ = random_keys(40_000, 4)
    hashes[39_000] = hashes[123]
    with FunctionBuilder(4) as builder:
        builder.add(hashes, values)
        with pytest.raises(KeysError, match="positions 123 and 39000 have the same hash"):
            builder.finish()
    with FunctionBuilder(4) as builder:
        builder.add(hashes, values, positions=np.arange(40_000)[::-1])
        with pytest.raises(KeysError, match="positions 999 and 39876 have the same hash"):
            builder.finish()


def test_steps_by_hand() -> None:
    # Four keys of two bits and two of one, in one block: 6 keys reach column 0, 4 column 1.
    census = LengthCensus(1, 0, 2)
    census.add(np.arange(6, dtype=np.uint64), np.array([2, 2, 1, 2, 1, 2], np.uint8))
    assert census.drops[1, 2] == 1
    assert census.steps(spare=1).tolist() == [[0, 6, 1]]  # a step would take more than the slots
    census.drops[1, 2] = 1000
    assert census.steps(spare=1).tolist() == [[0, 6, 1], [1, 2, 0]]
    assert unpack_steps(pack_steps(census.steps())).tolist() == census.steps().tolist()


def test_shapes_by_hand() -> None:
    assert window_shape(1 << 16, (1 << 19) - 1, varied=False) is None
    assert window_shape((1 << 16) - 1, 1 << 20, varied=False) is None
    assert window_shape(4095, 1 << 15, varied=True) is None
    # Windows of about 1.2 x 2^15 / 2^6 bits.
    assert window_shape(4096, 1 << 15, varied=True) == WindowShape(0, 9)
    assert window_shape(4096, 0, varied=True) is None
    # 2^17 keys of 64 bits: two buckets of 2^16 keys, not of 2^22 bits.
    assert window_shape(1 << 17, 1 << 24, varied=False) == WindowShape(1, 15)
    # 2^21 keys of 2 bits: four buckets of 2^19 keys, windows of about 1.2 x 2^22 / 2^11.5 bits.
    assert window_shape(1 << 21, 1 << 22, varied=True) == WindowShape(2, 11)
    # 2^20 bits and 4 % more, four windows, the longest string and a whole byte, in each of two.
    shape = WindowShape(1, 10)
    bits = 2**20 + 2**20 * 41 // 1024 + 2 * (4 * 1024 + 24 + 8)
    assert shape.most_bytes(1 << 20, 24) == bits // 8 + 3 * 8 + PADDING


def test_a_bucket_with_as_many_keys_as_there_may_be() -> None:
    # More would not fit into the 20 bits that the solver has for a key's number.
    keys = (1 << 20) - (1 << 13)
    shape = window_shape(keys, keys, varied=True)
    assert shape is not None
    assert shape.buckets == 1
    more = window_shape(keys + 1, keys + 1, varied=True)
    assert more is not None
    assert more.buckets == 2
    hashes, values, _ = random_keys(keys, 1)
    function = build_function(hashes, values, 1)
    assert np.array_equal(function.lookup(hashes), values)


def test_windows_take_five_percent_more_than_strings() -> None:
    rng = np.random.default_rng(2)
    lengths = np.clip(np.rint(rng.normal(6, 2, 100_000)), 1, 24).astype(np.uint8)
    hashes, values, _ = random_keys(100_000, 24)
    function = build_function(hashes, cut(values, lengths), lengths)
    total = int(lengths.sum(dtype=np.int64))
    assert np.array_equal(cut(function.lookup(hashes), lengths), cut(values, lengths))
    shape = window_shape(100_000, total, varied=True)
    assert shape is not None
    assert function.spread == shape.spread
    assert function.nbytes <= shape.most_bytes(total, function.value_bits) < 1.06 * total / 8


def test_a_bucket_that_cannot_be_solved_gets_another_seed() -> None:
    # With no more bits than strings take, the first try has no solution.
    hashes, values, _ = random_keys(2000, 4)
    sizes, seeds = np.zeros(1, np.uint64), np.zeros(1, np.uint16)
    failure, _, _, data = _native.solve_buckets(
        hashes, values, np.zeros(0, np.uint8), 0, 4, 0, 0, 6, 0, sizes, seeds
    )
    assert failure == 0
    assert 0 < seeds[0] < 16
    # Each try has 8 bits more for every 1024 bits of strings; four windows and the longest string.
    bits = 8000 + 8000 * 8 * int(seeds[0]) // 1024 + 4 * 64 + 4
    assert sizes.tolist() == [len(data)] == [bits // 8 + 1]
    directory = np.array([int(seeds[0]) << 48, len(data)], "<u8").view(np.uint8)
    padded = np.concatenate([data, np.zeros(PADDING, np.uint8)])
    function = StaticFunction(2000, 1, 0, 4, 6, padded, directory, np.zeros(0, np.uint8))
    assert np.array_equal(function.lookup(hashes), values)


def test_buckets_solved_in_parts_give_the_same_function(form: str) -> None:
    # As on several workers: objects travel by pickle.
    if form == "blocks":
        pytest.skip("dense blocks are solved at once")
    hashes, values, lengths = random_keys(20_000, 9, varied=True)
    whole = build_function(hashes, values, lengths, fingerprint_bits=2)
    shape = WindowShape((whole.blocks - 1).bit_length(), whole.spread)
    joined = SolvedBuckets(shape, 2, 9, 1)
    half = shape.buckets // 2
    for part in range(2):
        mine = hashes >> np.uint64(63) == part
        solved = SolvedBuckets(shape, 2, 9, 1)
        solved.add(KeyedValues(hashes[mine], values[mine], lengths[mine], 9), part * half, half)
        joined.extend(pickle.loads(pickle.dumps(solved)))
    assert same(joined.function(len(hashes)), whole)
    with pytest.raises(KeysError, match="cannot be joined"):
        joined.extend(SolvedBuckets(shape, 2, 8, 1))


def test_directory_by_hand() -> None:
    table = directory_of(np.array([5] * 32 + [7, 9], np.uint32))
    assert table is not None
    assert table[:14].tolist() == [0] * 8 + [0, 0, 5, 0, 10, 0]
    assert table[72:].tolist() == [160, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0]
    assert directory_of(np.full(33, 2000, np.uint32)) is not None
    assert directory_of(np.full(32, 4000, np.uint32)) is None


@pytest.mark.parametrize(
    ("hashes", "values", "bits", "message"),
    [
        (np.arange(3), [1, 2, 3], 8, "hashes must be uint64 of one dimension, not int64"),
        (np.zeros((1, 1), np.uint64), [1], 8, "hashes must be uint64 of one dimension"),
        (np.arange(3, dtype=np.uint64), [1, 2], 8, "values must be 3 integers"),
        (
            np.arange(1, dtype=np.uint64),
            [1.5],
            8,
            "values must be 1 integers as hashes are, not float",
        ),
        (np.arange(2, dtype=np.uint64), [1, -1], 8, "value -1 at position 1 is negative"),
        (np.arange(2, dtype=np.uint64), [7, 8], 3, "value 8 at position 1 needs over 3 bits"),
        (np.arange(2, dtype=np.uint64), [1, 4], [1, 2], "value 4 at position 1 needs over 2 bits"),
        (np.arange(2, dtype=np.uint64), [1, 4], 65, r"bits 65 are outside 0\.\.64"),
        (np.arange(2, dtype=np.uint64), [1, 4], [3, 65], r"bits 65 at position 1 are outside"),
        (np.arange(2, dtype=np.uint64), [1, 4], [3], "bits must be one integer or 2"),
    ],
)
def test_invalid_arguments_of_build_function_are_refused(
    hashes: object, values: object, bits: object, message: str
) -> None:
    with pytest.raises(KeysError, match=message):
        build_function(hashes, values, bits)  # type: ignore[arg-type]
    with pytest.raises(KeysError, match="fingerprint_bits must be an integer from 0 to 64"):
        build_function(np.zeros(1, np.uint64), [1], 1, fingerprint_bits=65)
    with pytest.raises(KeysError, match="hashes must be uint64"):
        build_function(np.zeros(1, np.uint64), [1], 1).lookup([1.0])


def test_bits_are_given_to_the_builder_or_with_the_keys() -> None:
    one = np.zeros(1, np.uint64)
    with FunctionBuilder(None) as builder, pytest.raises(KeysError, match="bits must be given"):
        builder.add(one, one)
    with FunctionBuilder(3) as builder, pytest.raises(KeysError, match="bits must be given"):
        builder.add(one, one, [1])


def sound() -> StaticFunction:
    hashes, values, lengths = random_keys(250, 12, varied=True)  # so few are in dense blocks
    return build_function(hashes, values, lengths, fingerprint_bits=3)


@pytest.mark.parametrize(
    ("place", "number", "message"),
    [
        (0, -1, "not whole numbers below"),
        (1, 2**48, "not whole numbers below"),
        (1, 9, "9 blocks do not fit a directory of"),
        (1, 0, "are in no block"),
        (2, 65, "fingerprints have 65 bits, at most 64"),
        (3, 0, "is at column . of 3"),
        (3, 1.0, "not whole numbers below"),
        (4, 17, r"windows of 2\^17 places are too wide: at most 2\^16"),
        (4, 9, "a function with windows has no steps"),
    ],
)
def test_invalid_descriptions_are_refused(place: int, number: int, message: str) -> None:
    function = sound()
    description = list(function.description)
    description[place] = number
    with pytest.raises(ArtifactError, match=message):
        StaticFunction.from_tensors(tuple(description), function.tensors)


@pytest.mark.parametrize(
    ("role", "change", "message"),
    [
        ("bits", lambda tensor: tensor[: PADDING - 1], "bits take 7 bytes, not 8 to"),
        ("bits", lambda tensor: tensor.astype(np.int8), "bits must be uint8"),
        ("bits", lambda tensor: tensor.reshape(1, -1), "bits must be uint8 of one dimension"),
        ("directory", lambda tensor: tensor[:-1], "blocks do not fit a directory of"),
        ("steps", lambda tensor: tensor[:-1], "no steps of 4 bytes"),
        ("steps", lambda tensor: tensor[:0], "there are no steps"),
        (
            "steps",
            lambda tensor: tensor[4:],
            "columns of steps must ascend from 0: step 0 is",
        ),
        ("steps", lambda tensor: np.tile(tensor, 2), "columns of steps must ascend"),
        ("steps", lambda tensor: np.array([0, 11, 0, 0], np.uint8), "step 0 has .* slots of"),
        (
            "steps",
            lambda tensor: np.array([0, 1, 0, 255], np.uint8),
            "slots of .* bits; at most",
        ),
    ],
)
def test_invalid_tensors_are_refused(role: str, change: object, message: str) -> None:
    function = sound()
    tensors = {**function.tensors, role: change(function.tensors[role])}  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=message):
        StaticFunction.from_tensors(function.description, tensors)
    with pytest.raises(ArtifactError, match="are not five numbers"):
        StaticFunction.from_tensors((1, 2), function.tensors)
    with pytest.raises(ArtifactError, match="tensors"):
        StaticFunction.from_tensors(function.description, {"bits": function.bits})


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_are_safe_to_read(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saec.keys.windows._MANY_VARIED", 1 << 62)  # damaged windows: keyed fields
    # A sanitizer sees reads beyond the arrays, which are as long as they must be.
    rng = np.random.default_rng(seed)
    hashes, values, lengths = random_keys(1500, 30, seed, varied=True)
    function = build_function(hashes, values, lengths, fingerprint_bits=int(rng.integers(0, 65)))
    tensors = {role: tensor.copy() for role, tensor in function.tensors.items()}
    for role in ("bits", "directory"):
        places = rng.integers(0, len(tensors[role]), rng.integers(1, 200))
        tensors[role][places] = rng.integers(0, 256, len(places))
    if seed % 2:
        keep = int(rng.integers(PADDING, len(tensors["bits"])))
        tensors["bits"] = tensors["bits"][:keep].copy()
    damaged = StaticFunction.from_tensors(function.description, tensors)
    found, known = damaged.find(hashes)
    assert len(found) == len(known) == len(hashes)
    # Steps that say too much: columns of more slots than keys, up to the most that there may be.
    tensors["steps"] = np.array([0, 10, 128, 3], np.uint8)
    StaticFunction.from_tensors(function.description, tensors).lookup(hashes)


def test_public_hashes_serve_as_keys() -> None:
    keys = [f"user-{i}" for i in range(500)]
    function = build_function(saec.hash_keys(keys), np.arange(500), 9, fingerprint_bits=20)
    assert function.lookup(saec.hash_keys(keys)).tolist() == [*range(500)]
    assert not function.contains(saec.hash_keys(["nobody", "else"])).any()
