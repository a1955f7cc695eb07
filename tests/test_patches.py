"""Files of patches: chains, hostile content, compaction, and kills."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from daily_tables import METRICS, Day, patched
from keyed_example import random_keys

import saec
from saec.artifact import PatchHead, read_patch, write_patch
from saec.artifact.entry import Entry
from saec.errors import ArtifactError, FieldError, KeysError, PatchError, SaecError
from saec.format.key_prefixes import KeyPrefixes
from saec.format.key_strings import function_of
from saec.format.keyed_field import KeyedField
from saec.format.keyed_patch import KeyedPatch, PatchCounts, PatchLayout
from saec.format.keyed_rows import KeyedRows

DAYS = [Day.first(1500)]
for seed in (1, 2, 3):
    DAYS.append(DAYS[-1].next(seed, 60, 80))


pytestmark = pytest.mark.usefixtures("coarse_prices")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, coarse_prices: None) -> Path:
    """base.saec of a day and 1.patch to 3.patch; other.saec with the patch other.patch."""
    folder = tmp_path_factory.mktemp("chain")
    measured = saec.measure([DAYS[0].field()], metrics=METRICS, progress=False)
    saec.compress(measured, saec.Ratio(6), progress=False).save(folder / "base.saec")
    saec.compress(measured, saec.Ratio(20), progress=False).save(folder / "other.saec")
    for number in (1, 2, 3):
        before = [folder / f"{other}.patch" for other in range(1, number)]
        step(folder / "base.saec", DAYS[number], folder / f"{number}.patch", before)
    step(folder / "other.saec", DAYS[1], folder / "other.patch")
    return folder


def step(base: Path, day: Day, out: Path, patches: list[Path] | None = None) -> saec.Update:
    return saec.update(
        base,
        [day.field()],
        out=out,
        patches=patches or [],
        metrics=METRICS,
        whole_rows=0,
        compare=False,
    )


def chain_of(folder: Path, *names: str) -> saec.Compressed:
    return saec.load(folder / "base.saec", patches=[folder / f"{name}.patch" for name in names])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["other"], "other.patch is a patch of another artifact: it follows [0-9a-f]{32}, and"),
        (["1", "1"], "1.patch is patch 1 of its chain, and stands as patch 2: it is given twice"),
        (["2"], "2.patch is patch 2 of its chain, and stands as patch 1: patches before it are"),
        (["1", "3"], "3.patch is patch 3 of its chain, and stands as patch 2: patches before"),
        (["2", "1"], "2.patch is patch 2 of its chain, and stands as patch 1"),
        (["1", "2", "1"], "1.patch is patch 1 of its chain, and stands as patch 3: it is given"),
    ],
)
def test_wrong_chains_are_refused(folder: Path, names: list[str], message: str) -> None:
    with pytest.raises(PatchError, match=message):
        chain_of(folder, *names)


def test_patch_of_a_sibling_chain_is_refused(folder: Path, tmp_path: Path) -> None:
    step(folder / "base.saec", DAYS[2], tmp_path / "sibling.patch")
    with pytest.raises(PatchError, match=r"2.patch is a patch of another artifact"):
        saec.load(folder / "base.saec", patches=[tmp_path / "sibling.patch", folder / "2.patch"])


def test_every_earlier_state_can_be_loaded(folder: Path) -> None:
    losses = [DAYS[3].nats(chain_of(folder, *map(str, range(1, n + 1)))["user"]) for n in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 4


def test_patches_and_artifacts_are_told_apart(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="this is a saec patch, but no saec artifact"):
        saec.load(folder / "1.patch")
    with pytest.raises(ArtifactError, match="this is a saec artifact, but no saec patch"):
        saec.load(folder / "base.saec", patches=[folder / "base.saec"])
    with pytest.raises(ArtifactError, match="no such file"):
        chain_of(folder, "missing")


def test_every_truncation_is_refused(folder: Path, tmp_path: Path) -> None:
    content = (folder / "1.patch").read_bytes()
    for size in (0, 7, 8, 100, 255, 256, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.patch").write_bytes(content[:size])
        with pytest.raises(ArtifactError):
            saec.load(folder / "base.saec", patches=[tmp_path / "cut.patch"])
    (tmp_path / "cut.patch").write_bytes(content + b"\0")
    with pytest.raises(ArtifactError, match="its header says"):
        saec.load(folder / "base.saec", patches=[tmp_path / "cut.patch"])


def test_damaged_patches_end_in_typed_errors_or_in_rows(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "1.patch").read_bytes())
    rng = np.random.default_rng(0)
    keys = np.concatenate([DAYS[1].keys, random_keys(500)])
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.choice(len(content), rng.integers(1, 4), replace=False):
            damaged[place] = rng.integers(256)
        (tmp_path / "bad.patch").write_bytes(damaged)
        try:
            chain = saec.load(folder / "base.saec", patches=[tmp_path / "bad.patch"])
            assert np.isfinite(chain["user"].lookup(keys)).all()
        except SaecError:
            refused += 1
    assert refused > 10


def changed(folder: Path, out: Path, change: Callable[[Entry], Entry]) -> saec.Compressed:
    """The chain with the first patch, after a change of its entry."""
    head, [entry] = read_patch(folder / "1.patch")
    write_patch(out, head, [change(entry)])
    return saec.load(folder / "base.saec", patches=[out])


def with_parts(entry: Entry, **parts: object) -> Entry:
    names = ("name", "codec", "dtype", "vocab_size", "dim", "details", "tensors")
    return Entry(**({name: getattr(entry, name) for name in names} | parts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "kind", "message"),
    [
        ({"name": "item"}, PatchError, "the artifact has no field 'item'"),
        ({"codec": 3}, ArtifactError, "damaged field 'user'"),
        ({"codec": 9}, ArtifactError, "codec 9 is unknown"),
        ({"dim": 5}, PatchError, "is float32 of dim 5, and in the artifact float32 of dim 4"),
        ({"dtype": np.dtype(np.float16)}, PatchError, "is float16 of dim 4, and in the artifact"),
        ({"vocab_size": 0}, ArtifactError, "vocab_size 0 is outside"),
        ({"details": b"\1"}, ArtifactError, "bytes are stated, but"),
        ({"tensors": {}}, ArtifactError, "there is no tensor 'lengths'"),
    ],
)
def test_patches_of_other_fields_are_refused(
    folder: Path, tmp_path: Path, parts: dict[str, object], kind: type[SaecError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        changed(folder, tmp_path / "bad.patch", lambda entry: with_parts(entry, **parts))


def test_hostile_tensors_are_refused(folder: Path, tmp_path: Path) -> None:
    _, [entry] = read_patch(folder / "1.patch")
    lengths = np.array(entry.tensors["lengths"])
    cases = {
        r"lengths are uint8 \(\d+,\), not uint8 \(3,\)": {"lengths": lengths[:3]},
        r"lengths are uint8 \(\d+,\), not uint8 \(0, 7\)": {"lengths": np.zeros((0, 7))},
        "it has [1-9][0-9]* strings, 0 classes and [1-9]": {"lengths": lengths[:0]},
        "it has [0-9]+ strings, 0 classes and [0-9]+ keys": {"lengths": np.zeros_like(lengths)},
        "codewords of 1 to 65536 symbols have": {"lengths": np.where(lengths > 0, 255, 0)},
        "no prefix code has codewords": {"lengths": np.minimum(lengths, 1)},
        "it has tensors codes, directory, lengths, starts, steps, values": {"values": lengths},
        "static function": {"codes": lengths[:4]},
    }
    for message, tensors in cases.items():
        every = {
            role: np.asarray(tensor, np.uint8)
            for role, tensor in (dict(entry.tensors) | tensors).items()
        }
        with pytest.raises(ArtifactError, match=message):
            changed(folder, tmp_path / "bad.patch", lambda e, t=every: with_parts(e, tensors=t))  # type: ignore[misc]


def test_hostile_heads_are_refused(folder: Path, tmp_path: Path) -> None:
    head, entries = read_patch(folder / "1.patch")
    for bad, message in (
        (PatchHead(0, head.follows), "it is patch 0 of a chain"),
        (PatchHead(1 << 40, head.follows), "it is patch 1099511627776 of a chain"),
        (PatchHead(1, head.follows, -1.0), "it says a loss of -1.0"),
        (PatchHead(1, head.follows, None, float("inf")), "it says a loss of inf"),
    ):
        write_patch(tmp_path / "bad.patch", bad, entries)
        with pytest.raises(ArtifactError, match=message):
            saec.load(folder / "base.saec", patches=[tmp_path / "bad.patch"])
    write_patch(tmp_path / "bad.patch", head, entries * 2)
    with pytest.raises(ArtifactError, match="field 'user' stands in it twice"):
        saec.load(folder / "base.saec", patches=[tmp_path / "bad.patch"])


def test_digests_tell_each_bit_of_the_base(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "base.saec").read_bytes())
    content[300] ^= 1  # of a tensor
    (tmp_path / "base.saec").write_bytes(content)
    with pytest.raises(PatchError, match="is a patch of another artifact"):
        saec.load(tmp_path / "base.saec", patches=[folder / "1.patch"])


def test_symbols_are_read_as_they_were_written(folder: Path) -> None:
    field = saec.load(folder / "base.saec")["user"]
    assert isinstance(field, KeyedField)
    hashes = field.hashes_of(DAYS[0].keys)
    known = field.classes_of_hashes(hashes)
    found = {one.number: one for one in field.strings.read(hashes, field.function)}
    for number, one in found.items():
        assert np.array_equal(one.keys, np.flatnonzero(known == number))
        strings = field.strings.strings(number, one.symbols, hashes[one.keys])
        for own in strings:
            stored = field.function.lookup(own.hashes)
            used = (np.uint64(1) << own.lengths.astype(np.uint64)) - np.uint64(1)
            # Keys that are not stored, and taken for stored ones, may read what is no codeword.
            assert np.mean((stored & used) == own.values) > 0.95
    assert sum(len(one.keys) for one in found.values()) == (known >= 0).sum()


def test_layout_of_a_patch_keeps_the_values_of_its_base(folder: Path) -> None:
    field = saec.load(folder / "base.saec")["user"]
    assert isinstance(field, KeyedField)
    roots = field.layout.first_roots[-1]
    everything = PatchLayout(field, np.full(roots + 1, 20, np.uint8), field.layout.string_bits)
    assert np.array_equal(everything.values, field.values)
    assert everything.numbers == [*range(len(field.layout.classes)), -1]
    changed = KeyPrefixes(8, np.arange(64, dtype=np.uint64))  # a fourth of all
    function = function_of(everything.strings.strings(0, [np.zeros(1, int)] * parts(field), HASH))
    patch = KeyedPatch(field, 9, everything, changed, function, PatchCounts())
    assert changed.share == 1 / 4
    assert patch.taken_share == pytest.approx(roots * 2**-22)


HASH = np.array([5], np.uint64)


def parts(field: KeyedField) -> int:
    """Of the first class."""
    return len(field.layout.classes[0])


def test_prefixes_tell_hashes_by_first_bits_and_all_bits() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 3000, dtype=np.uint64)
    for bits in (1, 9, 13, 14, 30, 56):  # a list of 1,000 has a table of the first 13 bits
        found = KeyPrefixes.of(hashes[:1000], bits)
        near = hashes ^ (np.uint64(1) << np.uint64(64 - bits))  # differ in the last bit only
        for asked in (hashes, near):
            wanted = np.isin(asked >> np.uint64(64 - bits), found.prefixes)
            assert np.array_equal(found.contain(asked), wanted)
    assert not KeyPrefixes.of(hashes[:0], 9).contain(hashes).any()


def test_lookups_of_prefixes_leave_nothing_in_a_pickle() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 1000, dtype=np.uint64)
    found = KeyPrefixes.of(hashes, 30)
    before = pickle.dumps(found)
    assert found.contain(hashes).all()
    assert pickle.dumps(found) == before
    assert pickle.loads(before).contain(hashes).all()


def test_prefixes_of_hashes_by_hand() -> None:
    hashes = np.array([0b1010 << 60, 0b0011 << 60, (0b1010 << 60) + 7], np.uint64)
    found = KeyPrefixes.of(hashes, 4)
    assert found.prefixes.tolist() == [0b0011, 0b1010]
    assert found.share == 2 / 16
    others = np.array([(0b1010 << 60) + 1, 0b1011 << 60, 3], np.uint64)
    assert found.contain(others).tolist() == [True, False, False]
    # Two of 16: three low bits, 011 and 010; high bits 0 and 1 in unary, 1 and 01.
    assert found.packed.tolist() == [0b010011, 0b101]
    again = KeyPrefixes.unpacked(found.packed, 2, 4)
    assert np.array_equal(again.prefixes, found.prefixes)
    wide = KeyPrefixes.of(np.array([1 << 63, 1 << 8], np.uint64), 56)  # low bits in two codes
    assert KeyPrefixes.unpacked(wide.packed, 2, 56).prefixes.tolist() == [1, 1 << 55]
    for count, bits, message in [
        (17, 4, "17 prefixes of 4 bits"),
        (2, 57, "at most 56 bits are read"),
        (0, 4, "prefixes take 0 bytes, not uint8"),
        (3, 4, "2 codes start where 3 should"),
    ]:
        with pytest.raises(ArtifactError, match=message):
            KeyPrefixes.unpacked(found.packed, count, bits)
    with pytest.raises(ArtifactError, match="prefixes of 4 bits do not ascend"):
        KeyPrefixes.unpacked(np.array([0b010010, 0b011], np.uint8), 2, 4)


def scaled_rows(field: KeyedField, factor: int) -> KeyedRows:
    """The field's rows, with coordinates times ``factor``."""
    values = (factor * field.values.astype(np.float32)).astype(np.float16)
    return KeyedRows(field.layout, field.strings, field.lengths, values, field.axes, field.function)


def test_short_prefixes_of_one_patch_do_not_slow_the_lookups_of_others(folder: Path) -> None:
    field = saec.load(folder / "base.saec")["user"]
    assert isinstance(field, KeyedField)
    hashes = field.hashes_of(DAYS[0].keys)
    hashes = hashes[field.classes_of_hashes(hashes) >= 0]
    rng = np.random.default_rng(5)
    many = np.concatenate([hashes[:200], rng.integers(0, 1 << 63, 50_000).astype(np.uint64) << 1])
    half = KeyPrefixes(1, np.array([1], np.uint64))  # half of all hashes
    few, none = KeyPrefixes.of(hashes[:3], 9), KeyPrefixes(3, np.zeros(0, np.uint64))
    for chain in (
        [KeyPrefixes.of(many, 24), half],
        [half, KeyPrefixes.of(many, 56)],
        [few, KeyPrefixes.of(many, 30), none, half, half],
        [few, half],
        [half],
    ):
        patches = [scaled_rows(field, 2 + number) for number in range(len(chain))]
        rows = field._rows.behind(patches, chain)
        assert rows._table.most_compared <= 20 + 2 * len(chain)
        expected = field.rows_of_hashes(hashes)
        for patch, own in reversed(list(zip(patches, chain, strict=True))):
            expected[own.contain(hashes)] = patch.rows(hashes[own.contain(hashes)])
        assert np.array_equal(rows.rows(hashes), expected)


def test_compaction_gives_the_same_rows_to_the_last_bit(folder: Path, tmp_path: Path) -> None:
    chain = chain_of(folder, "1", "2", "3")
    field, keys = patched(chain), DAYS[3].keys
    known = field.contains(keys)
    assert known.sum() > 800
    made = saec.compact(chain, keys={"user": keys}, out=tmp_path / "one.saec")
    assert np.array_equal(made["user"].lookup(keys[known]), field.lookup(keys[known]))
    assert made["user"].vocab_size == len(keys)
    assert made.predicted_loss_increase == chain.predicted_loss_increase
    assert made.nbytes < chain.nbytes
    paths = [folder / f"{number}.patch" for number in (1, 2, 3)]
    shuffled = np.random.default_rng(0).permutation(keys)
    saec.compact(
        folder / "base.saec", patches=paths, keys={"user": shuffled}, out=tmp_path / "two.saec"
    )
    assert (tmp_path / "one.saec").read_bytes() == (tmp_path / "two.saec").read_bytes()
    day = DAYS[3].next(4)  # the chain goes on
    done = step(tmp_path / "one.saec", day, tmp_path / "4.patch")
    longer = saec.load(tmp_path / "one.saec", patches=[tmp_path / "4.patch"])
    assert day.nats(longer["user"]) < day.nats(made["user"])
    assert done.loss < done.stale_loss


def test_compaction_gives_the_bytes_of_a_field_that_was_never_patched(tmp_path: Path) -> None:
    day = Day.first(400)
    path, out = tmp_path / "base.saec", tmp_path / "again.saec"
    field = day.field(exact=16)  # every key is stored, and none is taken for another
    saec.compress([field], saec.Ratio(2), metrics=METRICS, progress=False, out=path)
    saec.compact(path, keys={"user": day.keys[::-1]}, out=out)
    assert out.read_bytes() == path.read_bytes()
    gone = day.only(np.arange(400) >= 30)
    options = {"metrics": METRICS, "compare": False, "whole_rows": 0}
    for number, (own, removed) in enumerate(((gone, day.keys[:30]), (day, ())), 1):
        saec.update(
            path,
            [own.field(exact=16)],
            out=tmp_path / f"{number}.patch",
            patches=[tmp_path / "1.patch"][: number - 1],
            removed={"user": removed},
            **options,  # type: ignore[arg-type]
        )
    chain = saec.load(path, patches=[tmp_path / "1.patch", tmp_path / "2.patch"])
    assert chain.patches[1].counts.added == 30  # type: ignore[attr-defined]
    saec.compact(chain, keys={"user": day.keys}, out=out)
    again = saec.compact(out, keys={"user": day.keys}, out=tmp_path / "twice.saec")
    assert (tmp_path / "twice.saec").read_bytes() == out.read_bytes()
    assert np.array_equal(again["user"].lookup(day.keys), chain["user"].lookup(day.keys))


def test_compaction_refuses_what_it_cannot_do(folder: Path, tmp_path: Path) -> None:
    out, chain, keys = tmp_path / "no.saec", chain_of(folder, "1"), DAYS[1].keys
    with pytest.raises(FieldError, match="field 'user' has patches: give its keys"):
        saec.compact(chain, keys={}, out=out)
    with pytest.raises(FieldError, match="no field 'item' with keys"):
        saec.compact(chain, keys={"item": keys}, out=out)
    with pytest.raises(KeysError, match="a key is given twice"):
        saec.compact(chain, keys={"user": [5, 6, 5]}, out=out)
    with pytest.raises(KeysError, match="keys are integers, and strings were given"):
        saec.compact(chain, keys={"user": ["a"]}, out=out)
    with pytest.raises(KeysError, match="no keys are given"):
        saec.compact(chain, keys={"user": np.zeros(0, np.int64)}, out=out)
    assert not out.exists()


_WORK = """
import sys
sys.path[:0] = [{tests!r}]
import saec
from test_patches import rewritten
print("ready", flush=True)
for number in range(10_000):
    rewritten({kind!r}, {base!r}, {patch!r}, {one!r})
"""


def field_of(kind: str, day: Day) -> saec.Field:
    """A day's table with keys, or with ids."""
    return day.field() if kind == "keys" else saec.Field("user", day.weights, day.frequencies)


def rewritten(kind: str, base: str, patch: str, one: str) -> None:
    """Write a patch of the second day, and one artifact of the base and this patch."""
    day = DAYS[1]
    field = field_of(kind, day)
    saec.update(base, [field], out=patch, metrics=METRICS, whole_rows=0, compare=False)
    saec.compact(base, patches=[patch], keys={"user": day.keys} if kind == "keys" else {}, out=one)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["keys", "ids"])
def test_kills_leave_whole_files_or_none(folder: Path, tmp_path: Path, kind: str) -> None:
    base, patch, one = (str(tmp_path / name) for name in ("base.saec", "1.patch", "one.saec"))
    if kind == "keys":
        Path(base).write_bytes((folder / "base.saec").read_bytes())
    else:
        fields = [field_of(kind, DAYS[0])]
        saec.compress(fields, saec.Ratio(6), metrics=METRICS, progress=False, out=base)
    start = time.monotonic()
    rewritten(kind, base, patch, one)
    span = 2 * (time.monotonic() - start)
    whole = {path: Path(path).read_bytes() for path in (patch, one)}
    for path in whole:
        Path(path).unlink()
    code = _WORK.format(
        tests=str(Path(__file__).parent), kind=kind, base=base, patch=patch, one=one
    )
    rng = np.random.default_rng()
    for _ in range(int(os.environ.get("SAEC_KILLS", "2"))):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.0, span))
            process.send_signal(signal.SIGKILL)
        for path, content in whole.items():
            assert not Path(path).exists() or Path(path).read_bytes() == content
    rewritten(kind, base, patch, one)
    assert {path: Path(path).read_bytes() for path in whole} == whole
