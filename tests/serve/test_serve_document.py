"""The examples of docs/serve.md, run against a real server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import serving
from prometheus_client import CollectorRegistry, generate_latest

import saec
from saec.serve.batch_metrics import BatchMetrics

TEXT = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()


def test_the_documented_examples_run(tmp_path: Path) -> None:
    path = tmp_path / "model.saec"
    serving.write_artifact(path, 0, user=(20_000, 16))
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    (code,) = (block for block in blocks if "tritonclient" in block)
    (body,) = re.findall(r"^curl -d '(.*)'", TEXT, re.MULTILINE)
    (error,) = re.findall(r'\{"error": .*?\}', TEXT)
    with serving.served(path) as server:
        found: dict[str, np.ndarray] = {}
        exec(code.replace("127.0.0.1:8000", server.http), found)
        expected = saec.load(path)["user"].lookup([3, 141, 19_999])
        np.testing.assert_array_equal(found["rows"], expected)
        status, answer = server.infer(body.encode())
        assert status == 200
        assert answer["outputs"][0]["shape"] == [2, 16]
        status, answer = server.infer({"inputs": [serving.tensor("user", [3, 20_000])]})
        assert answer == json.loads(error)


def test_the_document_names_all_metrics_and_paths(lookups: serving.Server) -> None:
    lookups.infer({"inputs": [serving.tensor("user", [3])]})
    registry = CollectorRegistry()
    BatchMetrics(registry, "tables", lambda: 0)
    text = lookups.ask("GET", "/metrics")[2].decode() + generate_latest(registry).decode()
    families = re.findall(r"^# TYPE (\w+) (?:counter|gauge|histogram)$", text, re.MULTILINE)
    assert len(families) > 5
    for name in families:
        assert name in TEXT or name.endswith("_created")
    paths = json.loads(lookups.ask("GET", "/openapi.json")[2])["paths"]
    assert len(paths) > 5
    for path in paths:
        assert path.replace("{name}", "NAME").partition("/versions")[0] in TEXT
