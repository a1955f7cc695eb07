"""Every Python block of README.md and docs/*.md runs, in order, one namespace per file.

A block is skipped only if an HTML comment directly before it says why: <!-- not run: reason -->
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest
from copies import warm_clusters

pytestmark = pytest.mark.usefixtures("coarse_prices")

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

BLOCK = re.compile(
    r"^(?P<mark><!-- not run: \S[^\n]*? -->\n+)?(?P<fence>```+)python\n(?P<code>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """Line number and source of each block that is to be run."""
    for match in BLOCK.finditer(text):
        if match["mark"] is None:
            yield text.count("\n", 0, match.start("code")) + 1, match["code"]


def run(text: str, name: str) -> dict[str, object]:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, code in blocks(text):
        # Line numbers in tracebacks are those of the document.
        exec(compile("\n" * (line - 1) + code, name, "exec"), namespace)
    return namespace


# What documents import besides our own extras, which make test-zoo installs; its warnings are not
# ours.
OTHERS = {"zoo.md": ("torch_rechub", "deepctr_torch", "torchfm", "implicit", "torchrec")}
# What states how much memory the process may take: this one holds what other tests left behind.
OWN_PROCESS = {"scale.md"}
# The others take seconds each; what they call has tests of its own.
FIRST = {"README.md", "keys.md"}


def marks(name: str) -> list[pytest.MarkDecorator]:
    ignored = [pytest.mark.filterwarnings("ignore")] if name in OTHERS else []
    return ignored if name in FIRST else [*ignored, pytest.mark.exhaustive]


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=marks(path.name)) for path in DOCUMENTS],
    ids=lambda path: path.name,
)
def test_blocks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in OTHERS.get(path.name, ()):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make test-zoo")
    monkeypatch.chdir(tmp_path)
    text = path.read_text()
    if path.name in OWN_PROCESS:
        subprocess.run([sys.executable, __file__, path], check=True, timeout=300)
    else:
        with warm_clusters() if "local_cluster" in text else nullcontext():
            run(text, str(path))
    fences = len(re.findall(r"^\s*```+ *(?:python|py)\b", text, re.MULTILINE))
    assert fences == len(BLOCK.findall(text)), "a block that this test does not see"


def test_the_documents_are_found() -> None:
    names = {path.name for path in DOCUMENTS}
    assert {"README.md", "format.md", "pytorch.md"} <= names
    assert list(blocks((ROOT / "docs" / "format.md").read_text()))


SAMPLE = """
```python
a = 1
```
```sh
nothing
```
<!-- not run: takes a day -->
```python
a = 1 / 0
```
<!-- another comment -->
```python
b = a + 1
```
"""


def test_the_test_itself() -> None:
    assert [line for line, _ in blocks(SAMPLE)] == [3, 14]
    assert run(SAMPLE, "sample")["b"] == 2
    with pytest.raises(ZeroDivisionError):
        run(SAMPLE.replace("not run: takes a day", "not run:"), "sample")
    with pytest.raises(NameError, match="'a' is not defined") as caught:
        run(SAMPLE.replace("a = 1\n", ""), "sample")
    assert caught.traceback[-1].lineno + 1 == 13


if __name__ == "__main__":
    run(Path(sys.argv[1]).read_text(), sys.argv[1])
