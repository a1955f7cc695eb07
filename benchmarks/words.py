"""Vectors of words, compressed and judged by a task: which package does a docstring belong to?

    python benchmarks/words.py                  # 30,000 words x 256
    python benchmarks/words.py --dim 768

The texts are the docstrings of Python packages that this environment has. Vectors are those of
positive pointwise mutual information, reduced by a singular value decomposition (Levy and Goldberg
2014). A linear classifier takes the mean vector of a docstring's words, and is trained on the
uncompressed vectors.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.utils.extmath import randomized_svd

import saec

PACKAGES = ("numpy", "scipy", "sklearn", "torch", "polars", "dask", "onnx", "matplotlib")
WINDOW, LEAST_WORDS, MOST_WORDS = 4, 8, 200
RATIOS = (10, 20, 40, 80)
WORD = re.compile(r"[a-z_]{2,}")


def docstrings(package: str) -> Iterator[list[str]]:
    """The words of each docstring of a package, without the package's own name."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = importlib.util.find_spec(package)
    folders = found.submodule_search_locations if found is not None else None
    for path in sorted(file for folder in folders or () for file in Path(folder).rglob("*.py")):
        try:
            tree = ast.parse(path.read_text())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            text = ast.get_docstring(node) if isinstance(node, kinds) else None
            words = [word for word in WORD.findall((text or "").lower()) if word not in PACKAGES]
            if len(words) >= LEAST_WORDS:
                yield words[:MOST_WORDS]


def vectors_of(texts: list[list[str]], words: list[str], dim: int) -> NDArray[np.float32]:
    """Vectors (words, dim) from the words that stand near each other."""
    number = {word: index for index, word in enumerate(words)}
    pairs: list[NDArray[np.int64]] = []
    for text in texts:
        ids = np.array([number[word] for word in text if word in number])
        pairs += [np.stack([ids[:-gap], ids[gap:]]) for gap in range(1, WINDOW + 1)]
    rows, columns = np.concatenate(pairs, axis=1)
    shape = (len(words), len(words))
    counts = sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape).tocsr()
    counts = (counts + counts.T).tocoo()
    totals = np.asarray(counts.sum(axis=1)).ravel()
    expected = totals[counts.row] * totals[counts.col] / totals.sum()
    counts.data = np.maximum(np.log(counts.data / expected), 0)
    left, values, _ = randomized_svd(counts.tocsr(), dim, n_iter=2, random_state=0)
    return (left * np.sqrt(values)).astype(np.float32)


def features(texts: list[list[str]], field: Any) -> NDArray[np.float32]:
    """The mean vector of each text's words, scaled to length 1."""
    offsets = np.cumsum([0, *(len(text) for text in texts[:-1])])
    means = field.pool([word for text in texts for word in text], offsets, mode="mean")
    scale = np.linalg.norm(means, axis=1, keepdims=True)
    result: NDArray[np.float32] = means / np.maximum(scale, 1e-9)
    return result


class Plain:
    """Uncompressed vectors; unknown words have zeros."""

    def __init__(self, words: list[str], rows: NDArray[np.float32]) -> None:
        self._number = {word: index for index, word in enumerate(words)}
        self._rows = np.vstack([rows, np.zeros((1, rows.shape[1]), np.float32)])

    def pool(self, keys: list[str], offsets: NDArray[np.int64], mode: str) -> NDArray[np.float32]:
        """As of a field."""
        assert mode == "mean"
        ids = np.array([self._number.get(key, len(self._number)) for key in keys])
        ends = np.append(offsets[1:], len(ids))
        return np.stack(
            [self._rows[ids[a:b]].mean(axis=0) for a, b in zip(offsets, ends, strict=True)]
        )


def main() -> None:
    """Print a line for each ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--words", type=int, default=30_000)
    parser.add_argument("--dim", type=int, default=256)
    arguments = parser.parse_args()
    labelled = [(words, place) for place, name in enumerate(PACKAGES) for words in docstrings(name)]
    order = np.random.default_rng(0).permutation(len(labelled))
    texts, labels = [labelled[i][0] for i in order], np.array([labelled[i][1] for i in order])
    train = len(texts) * 4 // 5
    counted = Counter(word for text in texts[:train] for word in text)
    words = [word for word, _ in counted.most_common(arguments.words)]
    rows = vectors_of(texts[:train], words, arguments.dim)
    plain = Plain(words, rows)
    model = LogisticRegression(max_iter=300).fit(features(texts[:train], plain), labels[:train])
    base = model.score(features(texts[train:], plain), labels[train:])
    print(f"{len(texts)} docstrings, {rows.shape[0]} words x {rows.shape[1]}, accuracy {base:.4f}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "words.txt"
        with path.open("w") as lines:
            for word, row in zip(words, rows, strict=True):
                lines.write(f"{word} {' '.join(f'{value:.6g}' for value in row)}\n")
        start = time.perf_counter()
        fields, _ = saec.read_fields(path)
        read = time.perf_counter() - start
    priced = saec.measure(fields, progress=False)
    for ratio in RATIOS:
        result = saec.compress(priced, saec.Ratio(ratio), progress=False)
        took, field = time.perf_counter() - start, result["words"]
        score = model.score(features(texts[train:], field), labels[train:])
        known = field.contains(words).mean()
        print(
            f"ratio {result.compression_ratio:.1f}, {result.nbytes:,} bytes: accuracy {score:.4f} "
            f"({score - base:+.4f}), {known:.0%} of the words stored; {took:.0f} s since the file "
            f"was opened, {read:.0f} s of them for reading",
            flush=True,
        )


if __name__ == "__main__":
    main()
