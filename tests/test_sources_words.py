"""Vectors of words in the formats in which they are published, and damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import saec
from saec.errors import CheckpointError, FieldError
from saec.sources import Source, read_source
from saec.tables.count_keys import count_keys

WORDS = ["the", "Grüße", "of", "cat"]
ROWS = np.array([[1, -0.5, 3], [0.25, 2, 0], [7, 8, 9], [-1e-3, 1, 1]], np.float32)


def text(header: str = "", ending: str = "\n") -> bytes:
    lines = [f"{word} {' '.join(map(str, row))}" for word, row in zip(WORDS, ROWS, strict=True)]
    return (header + "".join(line + ending for line in lines)).encode()


def binary(newlines: bool = True) -> bytes:
    parts = [
        word.encode() + b" " + row.tobytes() + b"\n" * newlines
        for word, row in zip(WORDS, ROWS, strict=True)
    ]
    return b"4 3\n" + b"".join(parts)


def rows_of(source: Source) -> np.ndarray[Any, Any]:
    (rows,) = source.tables.values()
    return rows.read(0, len(rows))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("word2vec.txt", text("4 3\n")),
        ("fasttext.vec", text("4 3\n", " \n")),
        ("glove.txt", text()),
        ("windows.txt", text("4 3\r\n", "\r\n")),
        ("unfinished.txt", text()[:-1]),
        ("word2vec.bin", binary()),
        ("tight.bin", binary(newlines=False)),
    ],
)
def test_words_and_their_vectors(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    source = read_source(path)
    assert np.array_equal(rows_of(source), ROWS)
    assert source.keys[path.stem] == [word.encode() for word in WORDS]
    assert source.counts[path.stem].read(0, 4).tolist() == [4, 2, 1, 1]  # Zipf
    (field,), _ = saec.read_fields(path)
    assert field.keys is not None
    assert np.array_equal(field.keys.hashes, saec.hash_keys(WORDS))


def test_words_with_spaces_as_in_glove(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_bytes(b"the 1 2\n. . 3 4\n")
    source = read_source(path)
    assert source.keys["glove"] == [b"the", b". ."]
    assert rows_of(source).tolist() == [[1, 2], [3, 4]]


def model2vec(folder: Path, vocabulary: object, tensors: dict[str, Any], **more: object) -> Path:
    folder.mkdir()
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    said = {"model": {"type": "WordPiece", "vocab": vocabulary}, **more}
    (folder / "tokenizer.json").write_text(json.dumps(said))
    return folder


def test_folders_of_model2vec(tmp_path: Path) -> None:
    vocabulary = {word: number for number, word in enumerate(WORDS[:3])}
    added = [{"id": 3, "content": "cat"}, {"id": 0, "content": "the"}]
    plain = model2vec(tmp_path / "a", vocabulary, {"embeddings": ROWS}, added_tokens=added)
    source = read_source(plain)
    assert np.array_equal(rows_of(source), ROWS)
    assert source.keys["a"] == WORDS
    pairs = [[word, -1.5] for word in WORDS]  # as of a unigram model
    weights, mapping = np.array([1.0, 2, 0.5, 1]), np.array([0, 1, 1, 3])
    shared = {"embeddings": ROWS.astype(np.float16), "weights": weights, "mapping": mapping}
    source = read_source(model2vec(tmp_path / "b", pairs, shared))
    expected = ROWS.astype(np.float16).astype(np.float32)[mapping] * weights[:, None]
    assert np.array_equal(rows_of(source), expected.astype(np.float32))


def test_rows_of_length_one(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_bytes(b"a 3 4\nb 0 0\nc -1 0\n")
    (field,), _ = saec.read_fields(path, unit_rows=True)
    assert np.allclose(field.rows.read(0, 3), [[0.6, 0.8], [0, 0], [-1, 0]])
    assert np.allclose(field.rows.part(2, 3).read(0, 1), [[-1, 0]])


def test_frequencies_from_a_corpus_and_what_it_says_of_unknown_words(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "glove.txt"
    path.write_bytes(text())
    lists = pa.array([["the", "cat", "the"], ["dog"], None, ["Grüße", None]])
    pq.write_table(pa.table({"words": lists}), tmp_path / "corpus.parquet")
    log = saec.LogColumns(tmp_path / "corpus.parquet", {"glove": "words"})
    (field,), _ = saec.read_fields(path, log, progress=False)
    assert field.frequencies.tolist() == [2, 1, 0, 1]
    assert field.keys is not None
    assert field.keys.unseen_share == 1 / 5
    (tmp_path / "corpus.csv").write_text("n,words\n1,the\n2,of\n3,of\n")
    counted = count_keys(tmp_path / "corpus.csv", {"f": "words"}, {"f": WORDS}, progress=False)["f"]
    assert counted.counts.tolist() == [1, 0, 2, 0]
    assert counted.unseen_share is None
    pq.write_table(pa.table({"n": [1, 2]}), tmp_path / "n.parquet")
    with pytest.raises(saec.DataError, match="column 'n' holds integers, not strings"):
        count_keys(tmp_path / "n.parquet", {"f": "n"}, {"f": WORDS}, progress=False)
    with pytest.raises(saec.DataError, match="f: column 'n' has none of its keys"):
        count_keys(tmp_path / "n.parquet", {"f": "n"}, {"f": [7, 8]}, progress=False)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.vec", b"9999999999 3\nthe 1 2 3\n", "takes 23 bytes, too few for 9,999,999,999 words"),
        ("a.vec", b"1 999999\nthe 1 2 3\n", "too few for 1 words with 999,999 numbers"),
        ("a.bin", b"1000 300\nthe 1234", "too few for 1,000 words"),
        ("a.vec", b"0 3\n", "or has none"),
        ("a.txt", b"", "an empty file"),
        ("a.vec", b"2 3\nthe 1 2 3\n", "word 2 of 2 is not followed by 3 finite numbers: b''"),
        ("a.vec", b"2 2\nthe 1 2\nof 1 2 3 x\n", "word 2 of 2 is not followed by 2 finite"),
        ("a.txt", b"the 1 2\nof 1\n", "word 2 of 2 is not followed by 2 finite numbers: b'of 1'"),
        ("a.txt", b"the 1 nan\n", "word 1 of 1 is not followed by 2 finite numbers"),
        ("a.txt", b"the 1 2\n\xff 1 2\n", r"key b'\\xff' at position 1 is no UTF-8"),
        ("a.txt", b"the 1 2\nof 1 2\nthe 3 4\n", r"key b'the' stands at rows 0 and 2"),
        ("a.bin", binary()[:-9], "ends, or has no word, at word 4"),
        ("a.bin", b"1 1\n" + b"x" * 70_000 + b" 1234", "ends, or has no word, at word 1"),
        ("a.bin", b"1 1\nx " + np.float32(np.inf).tobytes(), "word 1 has a number that is not fin"),
    ],
)
def test_damaged_vectors_of_words(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((CheckpointError, FieldError), match=message):
        saec.read_fields(tmp_path / name)


def test_a_line_of_many_megabytes_is_not_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * (5 << 20))
    with pytest.raises(CheckpointError, match="or has none"):
        read_source(tmp_path / "a.txt")


BAD_MODELS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "few": (lambda: {"embeddings": ROWS[:3]}, "3 vectors, but 4 tokens"),
    "none": (lambda: {"other": ROWS}, "no floating-point table 'embeddings'"),
    "int8": (lambda: {"embeddings": ROWS.astype(np.int8)}, "no floating-point table"),
    "weights": (
        lambda: {"embeddings": ROWS, "weights": np.ones(3)},
        "4 vectors, but 4 tokens",
    ),
    "mapping": (
        lambda: {"embeddings": ROWS, "mapping": np.array([0, 1, 2, 4])},
        r"mapping leads outside \[0, 4\)",
    ),
    "floats": (
        lambda: {"embeddings": ROWS, "mapping": np.ones(4)},
        "mapping is float64",
    ),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_damaged_folders_of_model2vec(case: str, tmp_path: Path) -> None:
    tensors, message = BAD_MODELS[case]
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    with pytest.raises(CheckpointError, match=message):
        read_source(model2vec(tmp_path / "m", vocabulary, tensors()))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{", "not a tokenizer"),
        ('{"model": {}}', "not a tokenizer"),
        ('{"model": {"vocab": 7}}', "not a tokenizer"),
        ("[" * 100_000, "not a tokenizer"),
        ('{"model": {"vocab": {"a": 0, "b": 2}}}', "ids of its 2 tokens are not 0, 1, 2"),
        ('{"model": {"vocab": {}}}', "ids of its 0 tokens"),
    ],
)
def test_damaged_tokenizers(said: str, message: str, tmp_path: Path) -> None:
    folder = model2vec(tmp_path / "m", {}, {"embeddings": ROWS})
    (folder / "tokenizer.json").write_text(said)
    with pytest.raises(CheckpointError, match=message):
        read_source(folder)
