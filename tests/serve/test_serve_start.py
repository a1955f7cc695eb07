"""The start of a server, and its end if the start fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import serving
from serving import Server

from saec.cli import main
from saec.errors import DataError
from saec.serve import Address

SERVE = [sys.executable, "-m", "saec", "serve"]


def ended(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a server that must end by itself."""
    return subprocess.run(words, capture_output=True, text=True, timeout=serving.SECONDS)


def test_equal_ports_are_refused(lookups: Server, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    path = str(lookups.log.parent / "tables.saec")
    assert main(["serve", path, "--http-port", str(port), "--grpc-port", str(port)]) == 2
    told = capsys.readouterr().err
    assert told == f"saec: HTTP and gRPC need two ports, not {port} for both\n"
    with pytest.raises(DataError, match="need two ports, not 8000 for both"):
        Address("127.0.0.1", 8000, 8000)
    assert Address("127.0.0.1", 0, 0).http_port == 0


@pytest.mark.exhaustive
def test_a_failed_start_leaves_no_server_running(lookups: Server) -> None:
    """The announcement fails when both servers run already."""
    path = str(lookups.log.parent / "tables.saec")
    program = (
        "import pathlib, sys, saec.errors, saec.serve as serve\n"
        "def fail(name, address): raise saec.errors.DataError('no one to tell')\n"
        f"path, limits = pathlib.Path({path!r}), serve.Limits(1 << 20, 1, 1, 1, 1)\n"
        "serve.serve(path, serve.Address('127.0.0.1', 0, 0), limits, None, fail)\n"
    )
    done = ended([sys.executable, "-c", program])
    assert done.returncode == 1
    assert done.stderr.endswith("saec.errors.DataError: no one to tell\n")


@pytest.mark.exhaustive
@pytest.mark.parametrize("closed", [True, False])
def test_a_server_starts_with_closed_or_ascii_stdout(tmp_path: Path, closed: bool) -> None:
    path = tmp_path / "modèle.saec"
    serving.write_artifact(path, 0)
    words = [*SERVE, str(path), "--http-port", "0", "--grpc-port", "0"]
    shell = f'exec "$@" {">&-" if closed else ""}'
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    with subprocess.Popen(
        ["/bin/sh", "-c", shell, "sh", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        if closed:
            _wait_until_listening(process)
        else:
            assert process.stdout.readline().startswith("mod\\xe8le: http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=serving.SECONDS)
    assert process.returncode == 0, told


def _wait_until_listening(process: subprocess.Popen[str]) -> None:
    """Until a process that cannot say so catches SIGTERM (Linux)."""
    status = Path(f"/proc/{process.pid}/status")
    bit = 1 << (signal.SIGTERM - 1)
    while process.poll() is None:
        caught = next(line for line in status.read_text().splitlines() if "SigCgt" in line)
        if int(caught.split()[1], 16) & bit:
            return
    raise AssertionError(process.communicate()[1])
