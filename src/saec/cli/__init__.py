"""The command line: thin, one verb each; what a verb needs is imported when it runs."""

from __future__ import annotations

import sys

try:
    import typer  # noqa: F401
except ImportError:  # main() has no way yet to say so
    sys.exit("saec: typer is not installed; run: pip install 'saec[cli]'")

from saec.cli.root import app, main

__all__ = ["app", "main"]
