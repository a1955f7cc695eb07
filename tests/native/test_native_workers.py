"""The pool of threads by itself, checked by a program in C++."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parents[1] / "native"
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
SANITIZE = os.environ.get("SAEC_SANITIZE")  # as the core was built; see the Makefile


@pytest.mark.exhaustive
@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
def test_pool_of_threads_in_cpp(tmp_path: Path) -> None:
    # A sanitizer that is loaded into Python would be loaded into the compiler, too.
    environment = {name: text for name, text in os.environ.items() if name != "LD_PRELOAD"}
    sources = [NATIVE / "system" / "workers.cpp", HERE / "workers_check.cpp"]
    options = ["-std=c++20", "-pthread", f"-I{NATIVE}"]
    options += ["-O1", f"-fsanitize={SANITIZE}"] if SANITIZE else ["-O0"]
    program = tmp_path / "check"
    build = [COMPILER, *options, *sources, "-o", program]
    subprocess.run(build, check=True, timeout=300, env=environment)
    check = [program] if SANITIZE == "thread" else [program, "forks"]
    done = subprocess.run(
        check, capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
