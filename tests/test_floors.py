"""The layout's floors: a module imports only from its own floor and those below."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "saec"

# Units are modules or sub-packages. A codec makes compressed fields, so these lie below codecs.
FLOORS = [
    {"_native", "errors", "cores"},
    {
        *("table", "rows", "parts", "census", "codes", "pieces", "passes", "workspace"),
        *("budget", "progress", "files", "log_blocks", "notebook", "opening", "remote"),
        "model_size",
    },
    {
        *("frequency", "metric", "allocation", "codebook", "clustering", "tiers", "order"),
        *("placing", "sources", "starts"),
    },
    {
        *("artifact", "lookup", "stored", "compressed", "codecs", "metric_file"),
        *("permutations", "vectors"),
    },
    {
        *("pricing", "compress", "resuming", "fingerprint", "renumbering"),
        *("forecast", "inspection", "checkpoint", "__init__"),
    },
    {"torch", "baselines", "distributed", "onnx"},
    {"reference"},
    {"report", "serve"},
    {"cli", "__main__"},
]
FLOOR = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}

# What a unit may import when it is imported; anything heavier goes through errors.require. A
# sub-package that is an extra of its own requires that in its __init__ and then imports plainly.
CORE = {"numpy", "ml_dtypes"}
PACKAGES = {
    "progress": {"rich"},
    "artifact": CORE | {"safetensors"},
    "stored": CORE | {"safetensors"},
    "compressed": CORE | {"safetensors"},
    "metric_file": CORE | {"safetensors"},
    "permutations": CORE | {"safetensors"},
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

MODULES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))


def unit_of(module: Path) -> str:
    return module.parts[0].removesuffix(".py")


def imports(tree: ast.AST, module: Path) -> Iterator[tuple[str, bool]]:
    """Every import as a dotted name, and whether it happens when the module is imported."""
    package = ("saec", *module.parent.parts)
    late = {
        inner
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(outer, ast.If) and ast.unparse(outer.test).endswith("TYPE_CHECKING"))
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node not in late
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            source = ".".join((*base, *filter(None, [node.module])))
            for alias in node.names:
                yield f"{source}.{alias.name}", node not in late


def faults(source: str, module: Path) -> list[str]:
    """What a module's imports break, in words."""
    unit = unit_of(module)
    result = []
    for name, at_import in imports(ast.parse(source), module):
        top, *rest = name.split(".")
        if top == "saec":
            result += _floor_faults(unit, rest[0] if rest and rest[0] in FLOOR else "__init__")
        elif at_import and top not in sys.stdlib_module_names | PACKAGES.get(unit, CORE):
            result.append(f"{unit} imports {top}")
    return result


def _floor_faults(unit: str, other: str) -> list[str]:
    if other == unit:
        return []
    if FLOOR[other] > FLOOR[unit]:
        return [f"{unit} (floor {FLOOR[unit]}) imports {other} (floor {FLOOR[other]})"]
    if FLOOR[other] == FLOOR[unit] == FLOOR["torch"]:
        return [f"{unit} imports {other}"]
    if unit == "report" and other not in {"errors", "files", "progress"}:
        return [f"report imports {other}; it sees results files only"]
    if unit == "serve" and other not in {"errors", "compressed", "stored"}:
        return [f"serve imports {other}; it sees artifacts only"]
    return []


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_stay_within_the_floors(module: Path) -> None:
    assert unit_of(module) in FLOOR, f"give {unit_of(module)} a floor"
    assert faults((SOURCE / module).read_text(), module) == []


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("table.py", "import numpy.typing\nfrom saec.errors import FieldError\nimport json", []),
        (
            "table.py",
            "from saec.format.tier_index import TierVectors",
            ["table (floor 1) imports order"],
        ),
        ("table.py", "from saec import order", ["table (floor 1) imports order"]),
        ("table.py", "from . import order", ["table (floor 1) imports order"]),
        ("table.py", "from .order import TierVectors", ["table (floor 1) imports order"]),
        ("table.py", "from saec import Field", ["table (floor 1) imports __init__"]),
        (
            "table.py",
            "def f():\n    import saec.format.tier_index",
            ["table (floor 1) imports order"],
        ),
        ("codecs/a.py", "from ..clustering.lloyd import kmeans\nfrom . import b", []),
        ("codecs/a.py", "from ..cli import main", ["codecs (floor 3) imports cli"]),
        ("torch/a.py", "import torch.nn\nimport saec.baselines", ["torch imports baselines"]),
        ("baselines/a.py", "from saec.torch import fields", ["baselines imports torch"]),
        ("codes.py", "import torch", ["codes imports torch"]),
        ("codes.py", "def f():\n    import torch", []),
        ("codes.py", "class A:\n    import torch", ["codes imports torch"]),
        ("codes.py", "if typing.TYPE_CHECKING:\n    import torch", []),
        ("report/a.py", "from saec.format.compressed import load", ["report imports compressed"]),
        ("serve/a.py", "from saec.compression.run import compress", ["serve imports compress"]),
        ("cli.py", "import typer\nimport numpy", ["cli imports numpy"]),
    ],
)
def test_the_check_itself(module: str, source: str, expected: list[str]) -> None:
    found = faults(source, Path(module))
    assert len(found) == len(expected)
    assert all(fault.startswith(start) for fault, start in zip(found, expected, strict=True))


def test_the_check_sees_the_whole_package() -> None:
    assert {Path("table.py"), Path("clustering/lloyd.py")} <= set(MODULES)
