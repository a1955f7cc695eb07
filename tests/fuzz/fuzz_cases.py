"""Cases by number: how each damaged file is made, and what is done with it.

A case may raise nothing but a ``SaecError``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import fuzz_graphs
import fuzz_layouts
import numpy as np
from fuzz_functions import ask_damaged_function
from fuzz_spoil import spoiled, spoiled_safetensors, spoiled_zip

from saec import load, load_metrics
from saec.errors import SaecError
from saec.format.compressed import Compressed
from saec.format.keyed_field import KeyedField
from saec.format.patched_field import PatchedField
from saec.keys.kinds import KeyKind
from saec.serve import grpc_body, rest_body
from saec.serve.grpc_messages import message
from saec.serve.lookup_model import LookupModel
from saec.serve.protocol import Answer
from saec.tables.checkpoint import read_frequencies, read_tables

_DECODED_VALUES = 1 << 18
_MOST_BYTES = 1 << 20  # of a request's answer

# How often each kind comes.
KINDS = {
    "artifact": 24,
    "layout": 24,
    "clusters": 8,
    "shards": 4,
    "patch": 10,
    "torch": 14,
    "old_torch": 5,
    "dcp": 6,
    "numpy": 10,
    "safetensors": 8,
    "index": 2,
    "parquet": 4,
    "onnx": 10,
    "graph": 6,
    "request": 16,
    "function": 12,
}


class Cases:
    """The cases of a seed.

    Args:
        seed: of the generator.
        seeds: folder of sound files, see :func:`fuzz_seeds.write_seeds`.
        folder: empty, for the damaged ones.
        only: the kinds to take; all if empty.
    """

    def __init__(self, seed: int, seeds: Path, folder: Path, only: tuple[str, ...] = ()) -> None:
        self._seed, self._folder = seed, folder
        self._kinds = [
            kind for kind, n in KINDS.items() if kind in (only or KINDS) for _ in range(n)
        ]
        self._sound = {
            kind: sorted(
                path
                for path in (seeds / kind).rglob("*")
                if path.is_file() and path.name != fuzz_graphs.COMPRESSED
            )
            for kind in self._kinds
            if kind not in _MADE and kind != "function"
        }
        self._seeds = seeds
        model = seeds / "artifact" / "all.saec"
        self._model = LookupModel.open(model) if "request" in self._kinds else None

    def run(self, number: int) -> str:
        """Run case ``number`` and return its result; raises for a violation."""
        rng = Random(f"{self._seed} {number}")
        kind = rng.choice(self._kinds)
        try:
            with np.errstate(all="ignore"):
                self._use(kind, rng)
        except SaecError:
            return f"{kind} refused"
        return f"{kind} read"

    def _use(self, kind: str, rng: Random) -> None:
        if kind == "function":
            ask_damaged_function(rng)
            return
        if kind in _MADE:
            path = self._folder / "made.saec"
            path.write_bytes(_MADE[kind](rng))
            _use_artifact(load(path, memory=_memory(rng)), rng)
            return
        chosen = rng.choice(self._sound[kind])
        if kind == "request":
            self._ask(chosen, rng)
            return
        damage = _DAMAGE.get(chosen.suffix, _DAMAGE.get(kind, spoiled))
        path = self._copied(kind, chosen, damage(rng, chosen.read_bytes()))
        if kind in ("artifact", "shards"):
            path = path.parent / "a.saec" if kind == "shards" else path
            _use_artifact(load(path, memory=_memory(rng)), rng)
        elif kind == "patch":
            base = self._seeds / "artifact" / f"{chosen.stem}.saec"
            _use_artifact(load(base, patches=[path]), rng)
        elif kind == "graph":
            fuzz_graphs.use_graph(path, self._seeds / kind / fuzz_graphs.COMPRESSED, rng)
        elif path.name == "metrics.safetensors":
            load_metrics(path)
        else:
            _use_checkpoint(path, rng)

    def _copied(self, kind: str, chosen: Path, content: bytes) -> Path:
        """Copy the damaged file, or its folder if other files are read, too; returns the path."""
        if kind not in _FOLDERS:
            path = self._folder / chosen.name
            path.write_bytes(content)
            return path
        folder = self._folder / kind
        if not folder.exists():
            shutil.copytree(self._seeds / kind, folder)
        for path in self._sound[kind]:
            place = folder / path.relative_to(self._seeds / kind)
            place.write_bytes(content if path == chosen else path.read_bytes())
        return folder / _FOLDERS[kind]

    def _ask(self, chosen: Path, rng: Random) -> None:
        assert self._model is not None
        body = spoiled(rng, chosen.read_bytes())
        if chosen.suffix == ".grpc":
            said = message("ModelInferRequest")()
            try:
                said.ParseFromString(body)
            except Exception:  # the service refuses what is no message
                return
            request = grpc_body.decode(said)
        else:
            size = int(chosen.stem) if chosen.stem.isdigit() else None
            rest = rest_body.decode(
                bytearray(body), size if rng.randrange(8) else rng.randrange(999)
            )
            request = rest.request
        answer = Answer("all", "1", request.id, self._model.infer(request, _MOST_BYTES))
        if chosen.suffix == ".grpc":
            grpc_body.encode(answer, bool(said.raw_input_contents)).SerializeToString()
        else:
            rest_body.encode(answer, rest.binary)


def _memory(rng: Random) -> str | None:
    """A memory limit for one artifact in four, otherwise None."""
    return None if rng.randrange(4) else "1MB"


def _use_artifact(result: Compressed, rng: Random) -> None:
    """Everything that reads a field."""
    fields = list(result.values())[:20]
    for field in fields:
        last = field.vocab_size - 1
        ids = np.array([0, last, last // 2, *(rng.randrange(last + 1) for _ in range(40))])
        if isinstance(field, KeyedField):
            ids = ids.astype(str) if field.key_kind == KeyKind.TEXT else ids
            field.contains(ids)
        field.lookup(ids)
        field.lookup(ids, dtype=np.float16)
        field.pool(ids, [0, 0, 3, len(ids) - 1], mode=rng.choice(["sum", "mean", "max"]))
        if not isinstance(field, KeyedField) and field.vocab_size * field.dim < _DECODED_VALUES:
            field.decode()
        if not isinstance(field, PatchedField):
            _ = field.entry
        _ = repr(field), field._repr_html_()
    if fields:
        plain = [field for field in fields if not isinstance(field, KeyedField)]
        if plain:
            result.lookup({field.name: [0, field.vocab_size - 1] for field in plain})
    _ = repr(result), result._repr_html_(), result.nbytes


def _use_checkpoint(path: Path, rng: Random) -> None:
    read = read_tables if rng.randrange(8) else read_frequencies
    for rows in list(read(path).values())[:8]:
        count = len(rows)
        for start in (0, max(count - 3, 0), count // 2):
            rows.read(start, min(start + 3, count))
        rows.part(0, min(2, count)).read(0, 2)


_FOLDERS = {"shards": "a.saec", "dcp": "step", "index": "model.safetensors.index.json"}
_MADE: dict[str, Callable[[Random], bytes]] = {
    "layout": fuzz_layouts.tiered,
    "clusters": fuzz_layouts.clustered,
}
_DAMAGE: dict[str, Callable[[Random, bytes], bytes]] = {
    ".graph": fuzz_graphs.spoiled_graph,
    ".saec": spoiled_safetensors,
    ".patch": spoiled_safetensors,
    ".safetensors": spoiled_safetensors,
    ".pt": spoiled_zip,
    ".npz": spoiled_zip,
    ".distcp": spoiled,
}
