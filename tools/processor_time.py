"""Processor time of test files and tests, with that of the processes which they start and end.

    PYTHONPATH=tools .venv/bin/python -m pytest -p processor_time tests/cli

Time on the wall depends on what else the machine does. What is left out: imports and collection,
and processes that a session keeps until its end.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator

import pytest

SECONDS = "processor seconds"
SHOWN = 60  # test functions


def seconds() -> float:
    """Of this process and of the processes that it has waited for, in user and system mode."""
    return sum(os.times()[:4])


class ProcessorTime:
    """Sends the seconds of a test's phases along with its reports, and adds them up by file."""

    def __init__(self) -> None:
        self._last = 0.0
        self._files: Counter[str] = Counter()
        self._tests: Counter[str] = Counter()
        self._functions: Counter[str] = Counter()

    def pytest_runtest_logstart(self) -> None:
        self._last = seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self,
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        now = seconds()
        report.user_properties = [*report.user_properties, (SECONDS, now - self._last)]
        self._last = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = report.nodeid.partition("::")[0]
        spent = dict(report.user_properties)[SECONDS]
        self._files[file] += spent
        self._tests[file] += report.when == "call"
        self._functions[report.nodeid.partition("[")[0]] += spent

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("processor time")
        for file, spent in self._files.most_common():
            terminalreporter.write_line(f"{spent:8.1f} s {self._tests[file]:5} tests  {file}")
        terminalreporter.write_line("Of these, test functions with all their cases:")
        for function, spent in self._functions.most_common(SHOWN):
            terminalreporter.write_line(f"{spent:8.1f} s  {function}")
        terminalreporter.write_line(f"{self._files.total():8.1f} s in all")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(ProcessorTime())
