"""Fields with keys are refused by an error that names alternatives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import saec
import saec.onnx
from saec.errors import OnnxError


def test_fields_with_keys_are_refused(tmp_path: Path) -> None:
    own = saec.Field("user", np.ones((6, 2), np.float32), np.ones(6), keys=np.arange(6))
    result = saec.compress([own], saec.MaxBytes(2000), progress=False)
    with pytest.raises(OnnxError, match="field 'user' has keys, and ONNX has no operator"):
        saec.onnx.compress(tmp_path / "model.onnx", result, tmp_path / "small.onnx")
    assert not (tmp_path / "small.onnx").exists()
