"""Templates of the pages, which share their style and their tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from saec.errors import require

__all__ = ["filled"]


def filled(name: str, values: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]]) -> str:
    """A template of this folder with its values; texts in ``values`` are escaped.

    Args:
        name: of its file.
        values: by name; one that is missing is an error.
        filters: by name, beside ``svg``, which takes an element as it is.

    Raises:
        OptionalDependencyError: jinja2 is not installed.
    """
    jinja2: Any = require("jinja2", "report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": jinja2.utils.markupsafe.Markup, **filters}
    page: str = environment.get_template(name).render(values)
    return page


def _text(name: str) -> str:
    return files("saec.report").joinpath(name).read_text(encoding="utf-8")
