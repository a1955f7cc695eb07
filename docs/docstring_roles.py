"""Roles of reStructuredText in docstrings, such as a function's name, as links of the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`(~?)([\w.]+)`")


class Roles(griffe.Extension):
    """Makes a link of each role; without a place to go it stays the name."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        # Not object by object: names can be told only when all of them are known.
        for obj in _objects(pkg):
            if obj.docstring is not None:
                obj.docstring.value = _ROLE.sub(
                    lambda role, obj=obj: _link(role, obj), obj.docstring.value
                )


def _objects(obj: griffe.Object) -> list[griffe.Object]:
    inner = [member for member in obj.members.values() if not member.is_alias]
    return [obj, *(found for member in inner for found in _objects(member))]


def _link(role: re.Match[str], obj: griffe.Object) -> str:
    name = role[2]
    shown = name.rpartition(".")[2] if role[1] else name
    target = _target(name, obj)
    return f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'


def _target(name: str, obj: griffe.Object) -> str:
    """The dotted name under which the site has it, if it does."""
    path = name if name.startswith("saec.") else f"{obj.module.path}.{name}"
    try:
        found = obj.package.get_member(path.removeprefix("saec."))
    except KeyError:
        return path
    last = path.rpartition(".")[2]
    # The function saec.compress lies in a module of that name, which is what is found.
    return f"{path}.{last}" if found.is_module and last in found.members else path
