"""``saec serve``: an artifact or an ONNX model behind the Open Inference Protocol."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saec.cli.common import Quiet, UsageError
from saec.errors import DataError

if TYPE_CHECKING:
    from saec.serve import Address

_TOKEN = "SAEC_TOKEN"
# Threads that wait for a disk take no core, and a slow read should hold up its own request only.
_DISK_THREADS = 16
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


_Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An artifact, or an ONNX model (.onnx).")
]
_Host = Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")]
_HttpPort = Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="0: any free port.")]
_GrpcPort = Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="0: any free port.")]
_TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=f"File with the token that clients must send; or set the variable {_TOKEN}.",
    ),
]
_Threads = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help=f"Threads that compute; 0: one per core, or {_DISK_THREADS} with --memory.",
    ),
]
_MaxBytes = Annotated[
    str, typer.Option(metavar="SIZE", help="Limit of a request's body, and of its outputs.")
]
_MaxRequests = Annotated[
    int, typer.Option(min=1, metavar="N", help="Requests at the same time; more are refused.")
]
_MaxConnections = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Open connections, of HTTP and of gRPC each."),
]
_Timeout = Annotated[
    float,
    typer.Option(
        min=0.1,
        metavar="SECONDS",
        help="Time limit for each of: head, body, computation, and sending of the answer.",
    ),
]
_Grace = Annotated[
    float, typer.Option(min=0, metavar="SECONDS", help="Time for running requests at shutdown.")
]


_Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory limit of an artifact's tables; requests read from the file what is not in "
        "memory.",
    ),
]
_PatchFolder = Annotated[
    Path | None,
    typer.Option(
        "--patches",
        metavar="FOLDER",
        help="Folder with patches of the artifact, *.patch; new files are loaded, too.",
    ),
]
_Dense = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="ONNX model (.onnx) that computes scores from the artifact's rows: inputs with names "
        "of fields take their rows.",
    ),
]
_BatchWait = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=10_000,
        metavar="MILLISECONDS",
        help="Compute small requests together; a request waits at most this long for others.",
    ),
]
_BatchRows = Annotated[
    int,
    typer.Option(
        min=2,
        metavar="N",
        help="With --batch-wait: most rows (ids or examples) of a batch; requests with as many are "
        "computed alone.",
    ),
]
_Ahead = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="With --batch-wait: batches that each thread looks up while it scores the one before; "
        "0: one after the other.",
    ),
]


def serve(
    model: _Model,
    patches: _PatchFolder = None,
    dense: _Dense = None,
    host: _Host = "127.0.0.1",
    http_port: _HttpPort = 8000,
    grpc_port: _GrpcPort = 8001,
    token_file: _TokenFile = None,
    threads: _Threads = 0,
    max_bytes: _MaxBytes = "16MiB",
    max_requests: _MaxRequests = 64,
    max_connections: _MaxConnections = 256,
    memory: _Memory = None,
    batch_wait: _BatchWait = None,
    batch_rows: _BatchRows = 1024,
    ahead: _Ahead = 0,
    timeout: _Timeout = 30.0,
    grace: _Grace = 10.0,
    quiet: Quiet = False,
) -> None:
    """Serve rows of an artifact or scores of an ONNX model.

    With --dense, the ONNX model scores rows of the artifact. The server runs until SIGTERM or
    Ctrl-C.
    """
    from saec.serve import Address, BatchLimits, Limits
    from saec.serve import serve as run
    from saec.util.cores import usable_cores
    from saec.util.sizes import parse_size

    token = _token(token_file)
    limits = Limits(
        parse_size(max_bytes),
        max_requests,
        timeout,
        grace,
        threads or (usable_cores() if memory is None else _DISK_THREADS),
        max_connections,
        None if memory is None else parse_size(memory),
        None if batch_wait is None else BatchLimits(batch_wait / 1000, batch_rows, ahead),
    )
    _log_to_stderr(quiet)
    if token is None and host not in _LOOPBACK:
        logging.getLogger("saec.serve").warning(
            "anyone who can reach %s can use this server: it requires no token", host
        )

    def tell(name: str, at: Address) -> None:
        shown = f"[{at.host}]" if ":" in at.host else at.host
        if not quiet:
            _announce(f"{name}: http://{shown}:{at.http_port}, gRPC {shown}:{at.grpc_port}")

    at = Address(host, http_port, grpc_port)
    if not run(model, at, limits, token, tell, patches, dense):
        logging.getLogger("saec").error("stopped with requests unanswered, or a file half read")
        os._exit(1)  # a thread that still computes cannot be stopped otherwise


def _announce(line: str) -> None:
    """Write to stdout, which may be unable to hold a model's name (ASCII): typer would write
    UTF-8."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    typer.echo(line.encode(encoding, "backslashreplace").decode(encoding))


def _log_to_stderr(quiet: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("saec", "uvicorn"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.ERROR if quiet else logging.INFO)


def _token(file: Path | None) -> str | None:
    """The token from the file or the environment; other users could see it in an argument."""
    if file is not None and _TOKEN in os.environ:
        raise UsageError(f"give --token-file or {_TOKEN}, not both")
    token = os.environ.get(_TOKEN) if file is None else file.read_text().strip()
    if token is not None and not (token and token.isascii() and token.isprintable()):
        raise DataError("the token must be printable ASCII, and not empty")
    return token
