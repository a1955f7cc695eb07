"""The structure of the package: layers, imports, sizes and names (tools/house.py)."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import house

# What a room may import when it is imported; anything heavier goes through errors.require. A
# room that is an extra of its own requires that in its __init__ and then imports plainly.
CORE = {"numpy", "ml_dtypes"}
PACKAGES = {
    "util": CORE,
    "artifact": CORE | {"safetensors"},
    "format": CORE | {"safetensors"},
    "tables": CORE | {"safetensors"},
    "sources": CORE | {"safetensors"},
    "torch": CORE | {"torch"},
    "baselines": CORE | {"torch"},
    "distributed": CORE | {"dask", "distributed"},
    "onnx": CORE | {"onnx"},
    "reference": CORE | {"torch", "polars"},
    "report": CORE,
    "serve": CORE
    | {"fastapi", "starlette", "uvicorn", "grpc", "google", "prometheus_client", "onnxruntime"},
    "cli": {"typer", "rich"},
}

# Rooms that see only these others: a report reads results files, a server reads artifacts.
ONLY = {"report": {"errors", "util"}, "serve": {"errors", "util", "format"}}

MODULES = house.modules()


def faults(tree: ast.AST, module: Path) -> list[str]:
    """The rules that a module's imports break."""
    room = house.room_of(module)
    result = []
    for name, at_import in house.imports(tree, module):
        other = house.room_imported(name)
        top = name.partition(".")[0]
        if other is not None:
            result += _floor_faults(room, other)
        elif at_import and top not in sys.stdlib_module_names | PACKAGES.get(room, CORE):
            result.append(f"{room} imports {top}")
    return result


def _floor_faults(room: str, other: str) -> list[str]:
    if other == room:
        return []
    if house.FLOOR[other] >= house.FLOOR[room] or other not in ONLY.get(room, {other}):
        return [f"{room} imports {other}"]
    return []


def test_every_room_has_a_floor() -> None:
    assert {house.room_of(module) for module in MODULES} | {"_native"} == set(house.FLOOR)


def test_imports_go_to_lower_floors() -> None:
    found = {module: faults(house.tree_of(house.SOURCE / module), module) for module in MODULES}
    assert {module: what for module, what in found.items() if what} == {}


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("tables/a.py", "import numpy.typing\nfrom saec.errors import FieldError\nimport json", []),
        ("tables/a.py", "from saec.format.codebook import Codebook", ["tables imports format"]),
        ("tables/a.py", "from saec import format", ["tables imports format"]),
        ("tables/a.py", "from ..format import codebook", ["tables imports format"]),
        ("tables/a.py", "from saec import Field", ["tables imports __init__"]),
        ("tables/a.py", "def f():\n    import saec.format", ["tables imports format"]),
        ("codecs/a.py", "from ..clustering.kmeans import kmeans\nfrom . import b", []),
        ("codecs/a.py", "from ..cli import main", ["codecs imports cli"]),
        ("clustering/a.py", "import saec.format", ["clustering imports format"]),
        ("torch/a.py", "import torch.nn\nimport saec.baselines", []),
        ("baselines/a.py", "from saec.torch import fields", ["baselines imports torch"]),
        ("bits/a.py", "import torch", ["bits imports torch"]),
        ("bits/a.py", "def f():\n    import torch", []),
        ("bits/a.py", "class A:\n    import torch", ["bits imports torch"]),
        ("bits/a.py", "if typing.TYPE_CHECKING:\n    import torch", []),
        ("report/a.py", "from saec.artifact import read", ["report imports artifact"]),
        ("serve/a.py", "from saec.artifact import read", ["serve imports artifact"]),
        ("cli/a.py", "import typer\nimport numpy", ["cli imports numpy"]),
    ],
)
def test_the_check_itself(module: str, source: str, expected: list[str]) -> None:
    assert faults(ast.parse(source), Path(module)) == expected


def test_the_check_sees_the_whole_package() -> None:
    assert {Path("tables/field.py"), Path("clustering/kmeans.py")} <= set(MODULES)


def test_the_root_holds_few_modules() -> None:
    assert len([module for module in MODULES if len(module.parts) == 1]) <= 12


def test_names_stand_for_one_class_each() -> None:
    assert house.names_used_twice() == []


def test_functions_and_files_are_short() -> None:
    assert house.long_functions() == []
    assert house.long_files() == []


def test_a_call_passes_through_few_files() -> None:
    """A pass over rows runs the tasks that it is given: the one place that calls upward."""
    calls = {name: house.files_entered(call) for name, call in house.core_calls().items()}
    assert len(calls["saec.compress"].passed) <= 20
    assert list(calls["saec.compress"].climbs) == ["streaming/map_reduce.py"]
    assert len(calls["lookup"].files) <= 6
    assert not calls["lookup"].climbs


def test_calls_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """compression/a calls codecs/b, which gives util/c a function of its own to call."""
    for name, body in {
        "compression/a.py": "def f(b, c):\n    return b['g'](c, lambda: 1)\n",
        "codecs/b.py": "def g(c, _):\n    def own():\n        return 2\n    return c['h'](own)\n",
        "util/c.py": "def h(task):\n    return task()\n",
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(body)
    monkeypatch.setattr(house, "SOURCE", tmp_path)
    a: dict[str, Any] = {}
    b: dict[str, Any] = {}
    c: dict[str, Any] = {}
    for names, path in ((a, "compression/a.py"), (b, "codecs/b.py"), (c, "util/c.py")):
        exec(compile((tmp_path / path).read_text(), str(tmp_path / path), "exec"), names)
    found = house.files_entered(lambda: a["f"](b, c))
    assert list(found.files) == ["compression/a.py", "codecs/b.py", "util/c.py"]
    assert list(found.passed) == ["compression/a.py", "codecs/b.py", "util/c.py"]
    assert found.climbs == {"util/c.py": {"codecs/b.py"}}
    leaf = house.files_entered(lambda: c["h"](int))
    assert (list(leaf.files), list(leaf.passed)) == (["util/c.py"], [])


def test_measures_by_hand(tmp_path: Path) -> None:
    (tmp_path / "util").mkdir()
    (tmp_path / "bits").mkdir()
    (tmp_path / "util/a.py").write_text("class Part: ...\nimport saec.bits\n")
    (tmp_path / "bits/b.py").write_text("class _Part: ...\ndef f():\n" + "    x = 1\n" * 300)
    assert house.names_used_twice(tmp_path) == ["Part: bits/b.py, util/a.py"]
    assert house.upward_imports(tmp_path) == ["util/a.py imports saec.bits"]
    assert house.room_arrows(tmp_path) == {("util", "bits")}
    assert house.long_functions(tmp_path) == ["bits/b.py: f has 301 lines"]
    assert house.long_files(tmp_path) == ["bits/b.py has 302 lines"]
