"""Measures of the code's structure: rooms, floors, imports, sizes, names.

    python tools/house.py            # of this checkout
    python tools/house.py --calls    # and the files that a call enters (needs saec and torch)

A room is a folder of ``src/saec`` or a module at its root. tests/test_floors.py holds the limits.
"""

from __future__ import annotations

import argparse
import ast
import collections
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from inspect import CO_GENERATOR
from pathlib import Path
from types import FrameType

SOURCE = Path(__file__).resolve().parents[1] / "src" / "saec"

# A room imports from lower floors only; rooms on one floor do not know each other.
FLOORS: list[set[str]] = [
    {"_native", "errors"},
    {"util", "bits"},
    {"artifact", "keys", "report"},
    {"streaming"},
    {"sources"},
    {"tables"},
    {"clustering", "format"},
    {"codecs", "serve", "onnx"},
    {"compression", "distributed", "baselines"},
    {"__init__"},
    {"torch"},
    {"reference"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

LONGEST_FUNCTION, LONGEST_FILE = 60, 300


def modules(source: Path = SOURCE) -> list[Path]:
    """All modules, relative to ``source``."""
    return sorted(path.relative_to(source) for path in source.rglob("*.py"))


def room_of(module: Path) -> str:
    """The room of a module, given relative to the package."""
    return module.parts[0].removesuffix(".py")


def imports(tree: ast.AST, module: Path) -> Iterator[tuple[str, bool]]:
    """Every import as a dotted name, and whether it happens when the module is imported."""
    package = ("saec", *module.parent.parts)
    nodes: list[tuple[ast.AST, bool]] = [(tree, True)]
    while nodes:
        node, at_import = nodes.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, at_import
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            source = ".".join((*base, *filter(None, [node.module])))
            for alias in node.names:
                yield f"{source}.{alias.name}", at_import
        elif not isinstance(node, ast.expr):  # which holds no imports
            inside = at_import and not _runs_later(node)
            nodes += [(inner, inside) for inner in ast.iter_child_nodes(node)]


def _runs_later(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
        isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    )


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but expressions, which hold no classes and no functions with a name."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        yield node
        nodes += [one for one in ast.iter_child_nodes(node) if not isinstance(one, ast.expr)]


def room_imported(name: str) -> str | None:
    """The room that a dotted name is in; None if it is not saec's."""
    top, *rest = name.split(".")
    if top != "saec":
        return None
    return rest[0] if rest and rest[0] in FLOOR else "__init__"


def upward_imports(source: Path = SOURCE) -> list[str]:
    """Imports that do not go to a lower floor, in words."""
    found = []
    for module in modules(source):
        own = room_of(module)
        for name, _ in imports(tree_of(source / module), module):
            other = room_imported(name)
            if other not in (None, own) and FLOOR[str(other)] >= FLOOR[own]:
                found.append(f"{module} imports {name}")
    return found


def room_arrows(source: Path = SOURCE) -> set[tuple[str, str]]:
    """Pairs of rooms, the first of which imports from the second."""
    arrows = set()
    for module in modules(source):
        for name, _ in imports(tree_of(source / module), module):
            other = room_imported(name)
            if other not in (None, room_of(module)):
                arrows.add((room_of(module), str(other)))
    return arrows


def long_functions(source: Path = SOURCE) -> list[str]:
    """Functions of more than 60 lines without their docstring, but for Triton's kernels, which
    take tensors and strides one by one.
    """
    found = []
    for module in modules(source):
        if "triton" in module.parts:
            continue
        for node in statements(tree_of(source / module)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = _lines(node) - (_lines(node.body[0]) if ast.get_docstring(node) else 0)
                if lines > LONGEST_FUNCTION:
                    found.append(f"{module}: {node.name} has {lines} lines")
    return found


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def long_files(source: Path = SOURCE) -> list[str]:
    """Modules longer than 300 lines, but for Triton's kernels, which cannot call each other."""
    sizes = {module: (source / module).read_text().count("\n") for module in modules(source)}
    return [
        f"{module} has {lines} lines"
        for module, lines in sizes.items()
        if lines > LONGEST_FILE and "triton" not in module.parts
    ]


def names_used_twice(source: Path = SOURCE) -> list[str]:
    """Names of more than one class, a leading underscore aside."""
    places = collections.defaultdict(list)
    for module in modules(source):
        for node in statements(tree_of(source / module)):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(str(module))
    return [
        f"{name}: {', '.join(where)}" for name, where in sorted(places.items()) if len(where) > 1
    ]


@dataclass
class Entered:
    """Files of saec in which functions run during a call.

    files: all of them, in order; passed: those whose functions call functions of further files. A
    reader who follows the call goes on from these; the others are leaves, which only answer.
    climbs: files whose functions call one of a higher room, such as a task that they were given.
    """

    files: dict[str, None] = field(default_factory=dict)
    passed: dict[str, None] = field(default_factory=dict)
    climbs: dict[str, set[str]] = field(default_factory=dict)


def files_entered(call: Callable[[], object]) -> Entered:
    """Trace ``call``. Imports, and functions that a caller passed down, count like all others."""
    found = Entered()

    def watch(frame: FrameType, event: str, _: object) -> None:
        own = _module(frame)
        if event != "call" or own is None:
            return
        found.files.setdefault(str(own))
        caller = _module(frame.f_back)
        if caller in (None, own) or frame.f_code.co_flags & CO_GENERATOR:
            return  # what resumes a generator is not what called it
        found.passed.setdefault(str(caller))
        if FLOOR[room_of(Path(str(caller)))] < FLOOR[room_of(own)]:
            found.climbs.setdefault(str(caller), set()).add(str(own))

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


def _module(frame: FrameType | None) -> Path | None:
    return None if frame is None else _within(SOURCE, frame.f_code.co_filename)


@cache
def _within(source: Path, name: str) -> Path | None:
    path = Path(name)
    return path.relative_to(source) if path.is_relative_to(source) else None


def core_calls() -> dict[str, Callable[[], object]]:
    """Calls of the core on small inputs, each after a first one that imports."""
    import numpy as np

    import saec

    rng = np.random.default_rng(0)
    rows = rng.standard_normal((500, 4), dtype=np.float32)
    table = saec.Field("user", rows, 1000 / np.arange(1, 501))
    result = saec.compress([table], saec.Ratio(4), progress=False)
    result["user"].lookup([1, 2])
    return {
        "saec.compress": lambda: saec.compress([table], saec.Ratio(4), progress=False),
        "lookup": lambda: result["user"].lookup([1, 2]),
    }


def torch_calls() -> dict[str, Callable[[], object]]:
    """The same of ``saec.torch``."""
    import torch

    import saec
    import saec.torch

    ids = torch.arange(500)

    def compress_in_place() -> object:
        model = torch.nn.Sequential(torch.nn.Embedding(500, 4), torch.nn.Linear(4, 1))
        batches = [((ids,), torch.ones(500, 1))]
        loss = torch.nn.functional.mse_loss
        return saec.torch.compress_(
            model, batches, lambda out, y: loss(out, y), saec.Ratio(4), progress=False
        )

    compress_in_place()
    return {"saec.torch.compress_": compress_in_place}


def main() -> None:
    """Print all measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", action="store_true", help="trace calls, too")
    chosen = parser.parse_args()
    root = [module for module in modules() if len(module.parts) == 1]
    rooms = {room_of(module) for module in modules()}
    print(f"modules {len(modules())}, at the root {len(root)}, rooms {len(rooms)}")
    print(f"floors {len(FLOORS)}, arrows between rooms {len(room_arrows())}")
    for what, found in (
        ("upward imports", upward_imports()),
        ("functions over 60 lines", long_functions()),
        ("files over 300 lines", long_files()),
        ("names of several classes", names_used_twice()),
    ):
        print(f"{what}: {len(found)}")
        for one in found:
            print(f"    {one}")
    if chosen.calls:
        for name, call in (core_calls() | torch_calls()).items():
            entered = files_entered(call)
            print(
                f"{name}: passes through {len(entered.passed)} of the {len(entered.files)} files "
                f"that it enters, {len(entered.climbs)} climbs"
            )
            for one in entered.files:
                print(f"    {one}{'' if one in entered.passed else ' (leaf)'}")
            for low, high in entered.climbs.items():
                print(f"    {low} calls {', '.join(sorted(high))}")


if __name__ == "__main__":
    main()
