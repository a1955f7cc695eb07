"""How many random changes of the sources do the tests notice?

Each mutant is one change of one module: a comparison, an operator, a constant, a condition or a
returned value. The tests of its room run with it, in a copy of the sources, until one fails:

    python tools/mutate.py --sample 60 --seed 0

A mutant that no test notices is named with its change: some change nothing that can be seen.
What `make test` notices, and what only `make test-exhaustive` does:

    python tools/mutate.py --cases first --out survivors.json
    python tools/mutate.py --cases rest --only survivors.json
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.util
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPY = ROOT / "build" / "mutants"
# Without the hook of the editable installation, which would import the unchanged sources.
PYTHON = [sys.executable, "-S"]

ROOMS = {
    "codecs": ["codecs"],
    "format": ["format"],
    "artifact": ["artifact"],
    "native": [
        "bits/packing.py",
        "clustering/points.py",
        "clustering/scalar.py",
        "clustering/kmeans.py",
        "format/native_lookup.py",
    ],
}

# The quickest first: most mutants go no further.
TESTS = {
    "codecs": [
        "codecs",
        "test_codecs_behave.py",
        "test_compress.py",
        "test_order.py",
        "test_keyed_fields.py",
        "test_kinds_of_keys.py",
        "test_updates.py",
    ],
    "format": [
        "test_codebook.py",
        "test_tiers.py",
        "test_tiered.py",
        "test_lookup.py",
        "test_compressed.py",
        "test_permutations.py",
        "test_artifact.py",
        "native/test_native_lookup_tables.py",
        "test_renumbering.py",
        "golden",
        "test_keyed_rows.py",
        "test_keyed_fields.py",
        "test_cold_tables.py",
        "test_id_updates.py",
        "test_patches.py",
    ],
    "artifact": [
        "test_artifact.py",
        "test_artifact_shards.py",
        "test_artifact_shards_damaged.py",
        "test_artifact_hostile.py",
        "golden",
    ],
    "native": [
        "test_codes.py",
        "clustering",
        "test_lookup.py",
        "native/test_native_lookup_errors.py",
        "native/test_native_lookup_tables.py",
        "native/test_native_codes.py",
    ],
}

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


@dataclass(frozen=True)
class Mutant:
    """One change: the module below src/saec, the place of the node in it, and what is changed."""

    room: str
    module: str
    place: int
    line: int
    change: str


def changed(node: ast.AST) -> ast.AST | None:
    """``node`` with one change; None where there is none to make."""
    new = copy.deepcopy(node)
    match new:
        case ast.Compare(ops=[one]) if type(one) in COMPARED:
            new.ops = [COMPARED[type(one)]()]
        case ast.BinOp(op=one) if type(one) in OPERATED:
            new.op = OPERATED[type(one)]()
        case ast.AugAssign(op=one) if type(one) in OPERATED:
            new.op = OPERATED[type(one)]()
        case ast.BoolOp(op=one):
            new.op = ast.And() if isinstance(one, ast.Or) else ast.Or()
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return operand
        case ast.Constant(value=bool(value)):
            new.value = not value
        case ast.Constant(value=int(value) | float(value)):
            new.value = value + 1
        case ast.Return(value=ast.expr()):
            new.value = ast.Constant(None)
        case _:
            return None
    return new


def code_nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes of functions that can be changed; no annotations, which nothing evaluates."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        for hint in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if hint is not None:
                skipped.update(id(inner) for inner in ast.walk(hint))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for statement in function.body:
                for node in ast.walk(statement):
                    if id(node) not in skipped:
                        skipped.add(id(node))
                        yield node


def mutants_of(room: str, path: Path) -> Iterator[Mutant]:
    module = str(path.relative_to(ROOT / "src" / "saec"))
    for place, node in enumerate(code_nodes(ast.parse(path.read_text()))):
        new = changed(node)
        if new is not None:
            change = f"{ast.unparse(node)}  ->  {ast.unparse(new)}"
            yield Mutant(room, module, place, node.lineno, change)  # type: ignore[attr-defined]


def all_mutants(room: str) -> list[Mutant]:
    found: list[Mutant] = []
    for part in ROOMS[room]:
        path = ROOT / "src" / "saec" / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found += mutants_of(room, file)
    return found


class Replacement(ast.NodeTransformer):
    """Puts a node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self._new if node is self._old else self.generic_visit(node)


def source_of(mutant: Mutant) -> str:
    tree = ast.parse((ROOT / "src" / "saec" / mutant.module).read_text())
    node = list(code_nodes(tree))[mutant.place]
    new = changed(node)
    assert new is not None
    return ast.unparse(ast.fix_missing_locations(Replacement(node, new).visit(tree)))


def environment(copy_at: Path) -> dict[str, str]:
    """In which the package is that of a folder."""
    path = os.pathsep.join([str(copy_at), sysconfig.get_path("platlib")])
    return os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def copy_sources(copy_at: Path) -> None:
    """Copy the package with its compiled module, and see that tests import this copy."""
    shutil.rmtree(copy_at, ignore_errors=True)
    shutil.copytree(ROOT / "src" / "saec", copy_at / "saec")
    native = importlib.util.find_spec("saec._native")
    assert native is not None
    assert native.origin is not None
    shutil.copy(native.origin, copy_at / "saec")
    words = [*PYTHON, "-c", "import saec; print(saec.__file__)"]
    found = subprocess.run(
        words, env=environment(copy_at), capture_output=True, text=True, check=True
    )
    if not Path(found.stdout.strip()).is_relative_to(copy_at):
        raise RuntimeError(f"tests would import {found.stdout.strip()}, not {copy_at}")


def is_noticed(mutant: Mutant, tests: list[str], copy_at: Path, seconds: int) -> bool:
    """Whether a test fails, crashes, or takes so much processor time that it has to be ended."""
    path = copy_at / "saec" / mutant.module
    kept = path.read_text()
    path.write_text(source_of(mutant))
    words = [*PYTHON, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*words, *tests],
            cwd=ROOT,
            env=environment(copy_at),
            capture_output=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)),
        )
    finally:
        path.write_text(kept)
    if done.returncode in (3, 5):  # a fault of pytest, no tests
        raise RuntimeError(done.stdout.decode() + done.stderr.decode())
    return done.returncode != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("rooms", nargs="*", default=list(ROOMS), help="of " + ", ".join(ROOMS))
    parser.add_argument("--sample", type=int, default=60, help="mutants, the same of each room")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--seconds", type=int, default=300, help="of processor time for a mutant")
    parser.add_argument("--tests", nargs="+", help="instead of the room's")
    parser.add_argument("--cases", default="all", help="first, rest or all: tests/covering.py")
    parser.add_argument("--only", type=Path, help="survivors of an earlier run, from its --out")
    parser.add_argument("--copy", type=Path, default=COPY, help="folder for the changed sources")
    parser.add_argument("--out", type=Path, help="write the survivors as JSON")
    given = parser.parse_args()
    chosen = [
        mutant
        for room in given.rooms
        for mutant in random.Random(given.seed).sample(
            all_mutants(room), given.sample // len(given.rooms)
        )
    ]
    if given.only:
        before = [Mutant(**one) for one in json.loads(given.only.read_text())]
        chosen = [mutant for mutant in chosen if mutant in before]
    sources = given.copy.resolve()
    copy_sources(sources)
    survivors: list[Mutant] = []
    for mutant in chosen:
        tests = given.tests or [f"tests/{name}" for name in TESTS[mutant.room]]
        tests = ["--cases", given.cases, *tests]
        noticed = is_noticed(mutant, tests, sources, given.seconds)
        where = f"{mutant.module}:{mutant.line}"
        print(f"{'noticed' if noticed else 'SURVIVED'}  {where}  {mutant.change}", flush=True)
        survivors += [] if noticed else [mutant]
        if given.out:
            given.out.write_text(json.dumps([vars(one) for one in survivors], indent=1))
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} are noticed")


if __name__ == "__main__":
    main()
