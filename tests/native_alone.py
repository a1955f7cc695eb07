"""The compiled module alone: a process starts faster without the package."""

from __future__ import annotations

from saec import _native

# Followed by statements that use `_native`.
LOAD = f"""
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("saec._native", {_native.__file__!r})
_native = module_from_spec(spec)
spec.loader.exec_module(_native)
"""
