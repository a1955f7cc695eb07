"""The application with all commands, and the exit codes and messages of errors."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, cast

import typer
from typer.core import TyperArgument, TyperCommand
from typer.main import get_command

from saec.cli.artifact import info, lookup
from saec.cli.bench import BENCH_EPILOG, bench, demo, report
from saec.cli.common import UsageError
from saec.cli.compress import compress
from saec.cli.days import compact, update
from saec.cli.export import export
from saec.cli.forecast import forecast, inspect
from saec.cli.serve import serve
from saec.errors import MetricWarning, SaecError

__all__ = ["app", "main"]

BAD_INPUT = 2
INTERRUPTED = 130  # as a shell reports it


class _Command(TyperCommand):
    """Help without the Python types of arguments."""

    def get_params(self, ctx: Any) -> Any:
        parameters = super().get_params(ctx)
        for parameter in parameters:
            if isinstance(parameter, TyperArgument):
                parameter.display_type_rich = lambda ctx: ""  # type: ignore[method-assign]
        return parameters


app = typer.Typer(
    name="saec",
    help="Make the embedding tables of recommendation models small.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(cls=_Command)(inspect)
app.command(cls=_Command)(forecast)
app.command(cls=_Command)(compress)
app.command(cls=_Command)(update)
app.command(cls=_Command)(compact)
app.command(cls=_Command)(export)
app.command(cls=_Command)(info)
# -1 is an id, a bad one
app.command(cls=_Command, context_settings={"ignore_unknown_options": True})(lookup)
app.command(cls=_Command)(serve)
app.command(cls=_Command, epilog=BENCH_EPILOG)(bench)
app.command(cls=_Command)(demo)
app.command(cls=_Command)(report)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; ``arguments`` default to those of the process.

    Returns:
        The exit code: 0, 2 for bad input (one line on stderr), 130 if interrupted.
    """
    _make_streams_usable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", MetricWarning)
            warnings.showwarning = lambda message, *place: _say(f"warning: {message}")
            code = _parser()(arguments, prog_name="saec", standalone_mode=False)
    except UsageError as error:
        return _fail(cast("typer.BadParameter", error).format_message())
    except SaecError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


@cache
def _parser() -> Any:
    """The application's commands and options. Reading them from signatures takes about 30 ms."""
    return get_command(app)


def _make_streams_usable() -> None:
    """Replace streams that are closed (None), and write names that do not fit the encoding of
    stdout (ASCII) with backslashes."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _fail(message: str) -> int:
    _say(message)
    return BAD_INPUT


def _say(message: str) -> None:
    line = " ".join(part.strip() for part in message.splitlines())
    sys.stderr.write(f"saec: {line}\n")


def _show_version(wanted: bool) -> None:
    if wanted:
        from saec import __version__

        typer.echo(f"saec {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
