"""The lists of versions: the lowest are those of pyproject.toml, and all others are allowed."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def stated() -> list[Requirement]:
    """What the core, its progress bars and PyTorch's part depend on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    words = project["dependencies"] + extras["progress"] + extras["torch"]
    return [Requirement(word) for word in words]


def listed(name: str, python: str) -> dict[str, str]:
    """Exact versions in a list of constraints, for a version of Python."""
    found = {}
    lines = (ROOT / name).read_text().splitlines()
    for one in (Requirement(line) for line in lines if not line.startswith("#")):
        environment = {**default_environment(), "python_version": python}
        if one.marker is None or one.marker.evaluate(environment):
            (version,) = one.specifier
            assert version.operator == "=="
            found[one.name] = version.version
    return found


def test_the_lowest_versions_are_those_that_are_allowed() -> None:
    lowest = listed("constraints-lowest.txt", "3.11")
    bounds = {}
    for one in stated():
        (bound,) = one.specifier
        assert bound.operator == ">="
        bounds[one.name] = (bound.version + ".0.0").split(".")[:3]
    assert {name: version.split(".") for name, version in lowest.items()} == bounds


def test_every_version_is_allowed() -> None:
    for name, python in (
        ("constraints.txt", "3.11"),
        ("constraints-lowest.txt", "3.12"),
        ("constraints-lowest.txt", "3.13"),
    ):
        versions = listed(name, python)
        for one in stated():
            assert versions[one.name] in one.specifier, (name, one.name)
