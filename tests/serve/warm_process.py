"""Runs command lines in copies of this process, which has imported what a server needs.

Standard input has one JSON list for each: arguments, environment, the most open files, and the
files for standard output and standard error. Standard output gets [pid, null] when a copy starts,
and [pid, exit code] when it ends. onnxruntime is not imported: copies lack the threads it starts.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import sys

import grpc  # noqa: F401

import saec.serve.server  # noqa: F401
from saec.cli import main

Request = tuple[list[str], dict[str, str], int, str, str]


def report(pid: int, code: int | None) -> None:
    os.write(1, json.dumps([pid, code]).encode() + b"\n")


def run(request: Request) -> int:
    """The command line in the copy: its exit code."""
    words, environment, descriptors, out, errors = request
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in ((1, out), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors,) * 2)
    return main(words)


def ended() -> None:
    """Report the copies that have ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        report(pid, os.waitstatus_to_exitcode(status))


def serve_requests() -> int:
    """Returns in every copy, and here at the end of standard input."""
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(woken)
    with selectors.DefaultSelector() as selector:
        for file in (0, waking):
            selector.register(file, selectors.EVENT_READ)
        held = b""
        while True:
            for key, _ in selector.select():
                read = os.read(key.fd, 1 << 16)
                if key.fd == waking:
                    ended()
                    continue
                if not read:
                    return 0
                *lines, held = (held + read).split(b"\n")
                for line in lines:
                    pid = os.fork()
                    if not pid:
                        signal.set_wakeup_fd(-1)
                        for file in (waking, woken):
                            os.close(file)
                        selector.close()
                        return run(json.loads(line))
                    report(pid, None)


if __name__ == "__main__":
    sys.exit(serve_requests())
