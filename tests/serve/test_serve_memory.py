"""Artifacts that are served with limited memory: rows, metrics, and failing reads."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import serving

import saec
from saec.format.compressed import Compressed
from saec.format.raw_field import RawField
from saec.serve.service import Limits, Service

ROWS = np.random.default_rng(0).standard_normal((5000, 16)).astype(np.float32)
LABEL = '{model="a"}'


def asked(server: serving.Server, *ids: int) -> tuple[int, object]:
    status, answer = server.infer({"inputs": [serving.tensor("item", list(ids))]})
    return status, answer if status != 200 else np.array(answer["outputs"][0]["data"], np.float32)


def test_limited_memory_serves_rows_counts_reads_and_reports_a_truncated_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.saec"
    Compressed([RawField("item", ROWS)]).save(path)
    with serving.served(path, "--memory", "100kB") as server:
        assert server.metric("saec_pages_read_total" + LABEL) == 0  # none at the start
        status, rows = asked(server, 5, 4000, 6)
        assert status == 200
        assert np.array_equal(rows, ROWS[[5, 4000, 6]].reshape(-1))
        assert server.metric("saec_pages_read_total" + LABEL) == 2
        assert server.metric("saec_bytes_read_total" + LABEL) == 2 * os.sysconf("SC_PAGE_SIZE")
        assert server.metric("saec_page_misses_total" + LABEL) == 3
        assert asked(server, 5)[0] == 200
        assert server.metric("saec_page_hits_total" + LABEL) == 1
        assert server.metric("saec_tables_memory_limit_bytes" + LABEL) <= 100_000
        os.truncate(path, 200_000)
        status, answer = asked(server, 4900)
        assert status == 500
        assert "field 'item' cannot be read: the file has become shorter" in str(answer)
        status, rows = asked(server, 5)
        assert status == 200
        assert np.array_equal(rows, ROWS[5])


def test_too_small_limits_and_limits_for_onnx_models_are_refused(tmp_path: Path) -> None:
    Compressed([RawField("item", ROWS)]).save(tmp_path / "a.saec")
    serving.write_scores(tmp_path / "b.onnx")
    limits = Limits(1 << 20, 4, 10.0, 1.0, 1, memory=1000)
    with pytest.raises(saec.BudgetError, match="at most 1000 bytes of memory are impossible"):
        Service(tmp_path / "a.saec", limits)
    with pytest.raises(saec.BudgetError, match="for artifacts, not for ONNX models"):
        Service(tmp_path / "b.onnx", limits)
