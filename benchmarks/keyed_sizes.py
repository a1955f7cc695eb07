"""Bytes of real fields with keys, against the entropy of their classes and symbols.

    python benchmarks/keyed_sizes.py globo=globo.parquet ml-1m=movielens_1m.parquet

Each log is read and a model trained as ``saec bench TASK --keyed`` does. ``over`` is the size of a
field divided by that of entropy, fingerprints and tables of symbols and axes; ``over_codewords``
the size of the static function divided by that of the codewords.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import saec
from saec.bits.codewords import Codewords, reversed_bits
from saec.format.key_strings import mixed, string_hashes
from saec.format.keyed_field import KeyedField
from saec.reference.datasets import load
from saec.reference.experiment import write_json
from saec.reference.machine import machine
from saec.reference.trial import Trial

Words = NDArray[np.uint64]
TABLES = "embeddings."
MASK = np.uint64(0x9E3779B97F4A7C15)  # of strings, see docs/format.md
LEAST = 1000  # keys of a field that is shown


def entropy(symbols: NDArray[np.integer]) -> float:
    """Bits of all symbols together, by their frequencies."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float(counts @ np.log2(len(symbols) / counts))


def symbols_in(code: Codewords, words: Words) -> NDArray[np.int64]:
    """The symbols that words start with."""
    return code.order[np.searchsorted(code.starts, words, side="right") - 1]


def words_of(field: KeyedField, hashes: Words, string: int) -> Words:
    """The bits of a string of keys, the first one highest."""
    asked = string_hashes(hashes, string)
    return reversed_bits(field.function.lookup(asked)) ^ mixed(asked ^ MASK)


def bits_of(field: KeyedField, number: int, hashes: Words) -> tuple[float, int]:
    """Bits of the symbols of keys of one class: their entropy, and their codewords."""
    codes = (field.strings.root, *field.strings.codes[number])
    bits, coded = 0.0, 0
    for string, parts in enumerate(field.strings.plans[number]):
        words = words_of(field, hashes, string)
        for part in parts:
            symbols = symbols_in(codes[part], words)
            lengths = codes[part].lengths[symbols]
            words = words << lengths.astype(np.uint64)
            bits, coded = bits + entropy(symbols), coded + int(lengths.sum())
    return bits, coded


def measured(field: KeyedField, hashes: Words) -> dict[str, Any]:
    """Bits of a field of which these are the hashes of all keys."""
    classes = field._rows.classes(hashes)
    known = classes >= 0
    bits, coded, strings = entropy(classes[known]), 0, 0
    for number in np.unique(classes[known]):
        own = hashes[classes == number]
        found = bits_of(field, int(number), own)
        bits, coded = bits + found[0], coded + found[1]
        strings += len(own) * len(field.strings.plans[number])
    # Of the keys without a row, false_positive_rate are known, too. Of all strings that known keys
    # have, so many are stored. What the others read is shorter than a mean codeword, so numbers are
    # right only where few keys have no row.
    stored = field.function.keys / strings
    keys = stored * int(known.sum())
    fingerprint = -math.log2(field.false_positive_rate)
    needed = (bits * stored + fingerprint * keys) / 8
    tables = field.nbytes - field.function.nbytes
    return {
        "keys": len(hashes),
        "stored": round(keys),
        "entropy_bits": round(bits * stored / keys, 2),
        "fingerprint_bits": round(fingerprint, 2),
        "codeword_bits": round(coded * stored / keys, 2),
        "function_bits": round(field.function.nbytes * 8 / keys, 2),
        "over": round(field.nbytes / (needed + tables), 3),
        "over_codewords": round(field.function.nbytes * 8 / (coded * stored), 3),
        "nbytes": field.nbytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("logs", nargs="+", metavar="TASK=FILE")
    parser.add_argument("--ratios", type=float, nargs="+", default=[35])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for task, path in (text.split("=", 1) for text in options.logs):
        log = load(task, path, 0, vocabularies=False, keys=True)
        trial = Trial.start(log, "deepfm", 16, 0, False)
        tables = trial.keys.fields(trial.tables(), TABLES)
        metrics, _ = trial.metrics
        for ratio in options.ratios:
            result = saec.compress(tables, saec.Ratio(ratio), metrics=metrics, progress=False)
            for table in tables:
                field = result[table.name]
                if isinstance(field, KeyedField) and len(table.keys.hashes) >= LEAST:
                    name = table.name.removeprefix(TABLES)
                    found = measured(field, table.keys.hashes) if field.layout.classes else {}
                    rows.append({"task": task, "field": name, "ratio": ratio, **found})
                    print(rows[-1], flush=True)
    if options.json:
        write_json(options.json, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
