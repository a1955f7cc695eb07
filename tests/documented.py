"""The reader of artifacts that docs/format.md documents."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORMAT = Path(__file__).resolve().parents[1] / "docs" / "format.md"


def documented_reader() -> Callable[[Path], dict[str, Any]]:
    """The documented decoder without the example that calls it; it imports only numpy."""
    [block] = re.findall(r"```python\n(import json\n.*?)\ntables = ", FORMAT.read_text(), re.DOTALL)
    assert re.findall(r"^(?:import|from) .*", block, re.MULTILINE) == [
        "import json",
        "import numpy as np",
        "from itertools import chain, islice",
        "from pathlib import Path",
    ]
    namespace: dict[str, Callable[[Path], dict[str, Any]]] = {}
    exec(compile(block, str(FORMAT), "exec"), namespace)
    return namespace["read"]
