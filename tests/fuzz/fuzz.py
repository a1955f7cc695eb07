"""Tries damaged artifacts, checkpoints, ONNX models and requests, thousands a minute.

    python tests/fuzz/fuzz.py --seed 1 --seconds 60 --cases 100000

A case must end with a result or a ``SaecError``. Everything else is a violation: another
exception, a process that ends, or processor time or memory beyond the limits of a case. A child
process runs the cases. After a violation, a new child continues with the next case. The file of a
violation is kept, and ``--first N --cases 1`` runs case N of a seed again.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

CASE_SECONDS = 5.0  # of processor time
CASE_BYTES = 256 << 20  # by which a case may raise the memory in use at most
CHILD_BYTES = 4 << 30  # of addresses beyond those of a fresh child
_HANG_SECONDS = 120.0  # of a clock: other programs may have the processor
_SLOWER = 20  # times, under a sanitizer

_START, _DONE, _BAD = "start", "done", "bad"


def main() -> int:
    """Run cases until there are enough or the time is up; returns 1 if one was a violation."""
    options = _options()
    if options.child is not None:
        return _child(options)
    with tempfile.TemporaryDirectory(prefix="saec-fuzz-") as scratch:
        return _Run(options, Path(scratch)).run()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kinds", nargs="*", default=[], help="only these kinds of files")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="for violations")
    parser.add_argument("--sanitized", action="store_true", help="slower, and no memory limits")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


class _Run:
    """Runs cases in child processes, one after the other, and counts the results."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self._options, self._scratch = options, scratch
        self._next = options.first
        self._last = options.first + options.cases
        self._counts: Counter[str] = Counter()
        self._violations = 0
        self._begun: float | None = None

    def run(self) -> int:
        from fuzz_seeds import write_seeds

        write_seeds(self._scratch / "seeds")
        while self._next < self._last and not self._is_over():
            self._run_child()
        done = self._next - self._options.first
        for what, count in sorted(self._counts.items()):
            print(f"{count:>9} {what}")
        seconds = time.monotonic() - (self._begun or 0)
        print(
            f"seed {self._options.seed}: {done} cases in {seconds:.0f} s, "
            f"{self._violations} violations"
        )
        return 1 if self._violations or not done else 0

    def _is_over(self) -> bool:
        """Whether the time is up; it counts from the first case on, since children start slowly."""
        seconds = self._options.seconds
        return self._begun is not None and time.monotonic() > self._begun + seconds

    def _run_child(self) -> None:
        folder = self._scratch / "work"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        command = [sys.executable, *_flags(), __file__, "--child", str(self._scratch)]
        command += ["--seed", str(self._options.seed), "--first", str(self._next)]
        command += ["--cases", str(self._last - self._next)]
        command += ["--sanitized"] if self._options.sanitized else []
        command += ["--kinds", *self._options.kinds]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            self._follow(child)
            child.kill()

    def _follow(self, child: subprocess.Popen[bytes]) -> None:
        """Count the results of a child until it ends, hangs, or the time is up."""
        assert child.stdout is not None
        begun = None
        while self._next < self._last:
            ready, _, _ = select.select([child.stdout], [], [], _HANG_SECONDS)
            line = child.stdout.readline().decode() if ready else ""
            word, _, rest = line.rstrip("\n").partition(" ")
            if word == _START:
                begun = int(rest)
                self._begun = self._begun or time.monotonic()
                if self._is_over():
                    return
                continue
            self._next += 1
            if word == _DONE:
                self._counts[rest] += 1
                continue
            if word != _BAD:
                rest = f"ended with {child.wait()}" if ready else f"over {_HANG_SECONDS} seconds"
            self._violate(begun, rest)
            return

    def _violate(self, number: int | None, what: str) -> None:
        self._violations += 1
        kept = self._options.keep / f"{self._options.seed}-{number}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self._scratch / "work", kept)
        print(f"VIOLATION in case {number}: {what} (kept in {kept})", flush=True)


def _flags() -> list[str]:
    """The flags of this interpreter, such as without ``site`` under a sanitizer."""
    return ["-S"] if sys.flags.no_site else []


def _child(options: argparse.Namespace) -> int:
    import peak_memory
    from fuzz_cases import Cases

    warnings.simplefilter("ignore")
    os.environ["OMP_NUM_THREADS"] = "1"
    cases = Cases(
        options.seed, options.child / "seeds", options.child / "work", tuple(options.kinds)
    )
    seconds = CASE_SECONDS * (_SLOWER if options.sanitized else 1)
    _warm_up(cases)
    if not options.sanitized:
        limit = _addresses() + CHILD_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in range(options.first, options.first + options.cases):
        _say(_START, str(number))
        before, begun = peak_memory.begin(), time.process_time()
        try:
            said = cases.run(number)
        except BaseException as error:  # whatever it is, it is no SaecError
            _say(_BAD, _shortly(error))
            return 1
        used, grown = time.process_time() - begun, peak_memory.grown_since(before)
        if used > seconds or (grown > CASE_BYTES and not options.sanitized):
            _say(_BAD, f"{said}: {used:.1f} seconds, {grown >> 20} MB more")
            return 1
        _say(_DONE, said)
    return 0


def _warm_up(cases: object) -> None:
    """Import modules beforehand, so that no case pays for them."""
    import onnx  # noqa: F401
    import pyarrow.parquet  # noqa: F401


def _say(word: str, rest: str) -> None:
    sys.stdout.write(f"{word} {rest}\n")
    sys.stdout.flush()


def _addresses() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _shortly(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error}"[:300].replace("\n", " ")
    return f"{text} [{where.filename}:{where.lineno}]"


if __name__ == "__main__":
    sys.exit(main())
