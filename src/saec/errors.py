"""All errors that saec raises on purpose; messages name the value, the limit and the place."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ArtifactError",
    "BudgetError",
    "CheckpointError",
    "ClusterError",
    "DataError",
    "FieldError",
    "IdError",
    "KeysError",
    "MetricError",
    "MetricWarning",
    "ModuleError",
    "ModuleWarning",
    "OnnxError",
    "OptionError",
    "OptionalDependencyError",
    "PatchError",
    "SaecError",
    "array_of",
    "check_plain",
    "did_you_mean",
    "require",
]


class SaecError(Exception):
    """Base of all errors raised on purpose."""


class FieldError(SaecError, ValueError):
    """A field's weights, frequencies or name cannot be used."""


class IdError(SaecError, IndexError):
    """A feature id lies outside its vocabulary."""


class KeysError(SaecError, ValueError):
    """Keys cannot be hashed, or two of them have one hash."""


class BudgetError(SaecError, ValueError):
    """A budget is malformed or cannot be met."""


class OptionError(SaecError, ValueError):
    """An option of a codec lies outside its range."""


class ArtifactError(SaecError, ValueError):
    """A saved artifact is corrupt, truncated or of another format."""


class CheckpointError(SaecError, ValueError):
    """A checkpoint cannot be read or holds no embedding tables."""


class ClusterError(SaecError, RuntimeError):
    """A cluster cannot be reached, or its workers keep dying."""


class DataError(SaecError, ValueError):
    """A training log or data set is missing, malformed or empty."""


class ModuleError(SaecError, TypeError):
    """A PyTorch module uses a feature that compressed tables do not support."""


class OnnxError(SaecError, ValueError):
    """An ONNX model uses a feature that compressed tables do not support, or is broken."""


class MetricError(SaecError, ValueError):
    """A loss metric cannot be measured or used."""


class MetricWarning(UserWarning):
    """A field has no loss metric of its own and falls back to Euclidean distance."""


class ModuleWarning(UserWarning):
    """Tables of a PyTorch model are not compressed."""


class PatchError(SaecError, ValueError):
    """A patch does not continue the artifact or the patches that it is given with."""


class OptionalDependencyError(SaecError, ImportError):
    """A package of an optional extra is not installed."""


def check_plain(value: object, what: str, failure: type[SaecError]) -> None:
    """Refuse arrays that numpy would read as something else than they are.

    These are masked arrays, whose mask would be lost, ``np.matrix``, whose rows are matrices again,
    and sparse matrices.

    Args:
        value: any argument.
        what: it is, to begin the message.
        failure: the error to raise.
    """
    if type(value) is np.ndarray:
        return
    if isinstance(value, np.ma.MaskedArray):
        raise failure(
            f"{what} cannot be a masked array, whose mask would be lost; give a plain array, "
            "as .filled(0) or .compressed() make it"
        )
    if isinstance(value, np.matrix):
        raise failure(f"{what} cannot be a numpy.matrix; give numpy.asarray of it")
    if hasattr(value, "tocsr") and hasattr(value, "toarray"):
        raise failure(f"{what} cannot be a sparse {type(value).__name__}; give its .toarray()")


def array_of(value: Any, what: str, failure: type[SaecError]) -> NDArray[Any]:
    """An argument as an array, without a copy if it is one (also a memory map).

    Lists whose rows have different lengths and tensors that need gradients, for instance, are none.

    Args:
        value: any argument.
        what: it is, to begin the message.
        failure: the error to raise.
    """
    check_plain(value, what, failure)
    try:
        return np.asanyarray(value)
    except Exception as error:  # each library has its own kinds
        said = str(error).split("\n", 1)[0]
        raise failure(f"{what} cannot be read as an array: {said}") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suffix for a message on an unknown ``name``: the most similar known name, if there is
    one."""
    plain = {other.casefold(): other for other in known}
    close = get_close_matches(name.casefold(), plain, n=1)
    return f"; did you mean {plain[close[0]]!r}?" if close else ""


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or name the pip line of the ``extra`` that brings it.

    Raises:
        OptionalDependencyError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise OptionalDependencyError(
            f"{module} is not installed; run: pip install 'saec[{extra}]'"
        ) from error
