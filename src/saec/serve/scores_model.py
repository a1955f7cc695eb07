"""Scores of a whole model: an ONNX file, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as states

from saec.errors import ArtifactError
from saec.serve.model import Model, check_known, check_size
from saec.serve.protocol import InferRequest, RefusedError, Status, TensorSpec, datatype_of, invalid

__all__ = ["ScoresModel"]

_DATATYPES = {
    "bool": "BOOL",
    **{
        f"{sign}int{bits}": f"{sign.upper()}INT{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}
_SILENT = 4  # onnxruntime's severity "fatal": errors of requests are sent to their clients


class ScoresModel(Model):
    """All outputs of an ONNX file, by the names of its inputs and outputs."""

    platform = "onnxruntime_onnx"

    def __init__(self, session: Any, nbytes: int) -> None:
        self._session = session
        self.nbytes = nbytes
        self._lengths = {put.name: tuple(put.shape) for put in session.get_inputs()}
        self.inputs = [_spec(put) for put in session.get_inputs()]
        self.outputs = [_spec(put) for put in session.get_outputs()]
        self._output_names = [spec.name for spec in self.outputs]

    @classmethod
    def open(cls, path: Path) -> ScoresModel:
        """Read an ONNX file; ``nbytes`` excludes external data."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _SILENT
        # Requests run side by side, with one thread each.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            nbytes = path.stat().st_size
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            return cls(session, nbytes)
        except OSError as error:
            raise ArtifactError(f"{path}: {error.strerror}") from error
        except Exception as error:  # any error of its parser or operators
            raise ArtifactError(f"{path} is no ONNX model that can be run: {error}") from error

    def look_up(self, request: InferRequest, most_bytes: int) -> InferRequest:
        """See :meth:`Model.look_up`: rows of tables in the file are part of the scores."""
        check_known("output", request.outputs, self._output_names)
        self._check_inputs(request.inputs)
        return request

    def score(self, found: InferRequest, most_bytes: int) -> dict[str, NDArray[Any]]:
        """See :meth:`Model.score`."""
        names = found.outputs or self._output_names
        outputs = dict(zip(names, self._run(names, found.inputs), strict=True))
        check_size("outputs", sum(values.nbytes for values in outputs.values()), most_bytes)
        return {name: _as_bytes(values) for name, values in outputs.items()}

    def output_lengths(self, request: InferRequest) -> dict[str, int] | None:
        """See :meth:`Model.output_lengths`."""
        lengths = {values.shape[0] if values.ndim else -1 for values in request.inputs.values()}
        examples = lengths.pop() if len(lengths) == 1 else -1
        if examples < 0:
            return None
        return dict.fromkeys(request.outputs or self._output_names, examples)

    def check_batches(self) -> None:
        """See :meth:`Model.check_batches`: the first length of all must have one name."""
        puts = [*self._session.get_inputs(), *self._session.get_outputs()]
        first = puts[0].shape[0] if puts[0].shape else None
        for put in puts:
            if not put.shape or put.shape[0] != first or not isinstance(first, str):
                shapes = f"{list(puts[0].shape)} and {put.name!r} {list(put.shape)}"
                raise ArtifactError(
                    "requests for this model cannot be computed together: the first length of all "
                    f"inputs and outputs must have the same name, but {puts[0].name!r} has {shapes}"
                )

    def _check_inputs(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        check_known("input", list(inputs), list(self._lengths))
        named: dict[str, tuple[str, int]] = {}  # the first place of a length with a name
        for spec in self.inputs:
            if spec.name not in inputs:
                raise invalid(f"input {spec.name!r} is missing")
            values = inputs[spec.name]
            _check_input(spec, values)
            for symbol, length in zip(self._lengths[spec.name], values.shape, strict=True):
                if not isinstance(symbol, str):
                    continue
                first, held = named.setdefault(symbol, (spec.name, length))
                if held != length:
                    raise invalid(
                        f"length {symbol!r} is {held} in input {first!r}, but {length} in "
                        f"input {spec.name!r}"
                    )

    def _run(self, names: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[Any]:
        fed = {name: _as_text(name, values) for name, values in inputs.items()}
        try:
            outputs: list[Any] = self._session.run(list(names), fed)
        except states.InvalidArgument as error:
            raise invalid(f"the model refuses its inputs: {error}") from error
        except Exception as error:  # onnxruntime's errors have no common base class
            raise RefusedError(Status.FAILED, f"the model failed: {error}") from error
        return outputs


def _spec(put: Any) -> TensorSpec:
    datatype = _DATATYPES.get(put.type.removeprefix("tensor(").removesuffix(")"))
    if datatype is None:
        raise ArtifactError(f"{put.name!r} is a {put.type}, which the protocol cannot carry")
    shape = (length if isinstance(length, int) else -1 for length in put.shape)
    return TensorSpec(put.name, datatype, tuple(shape))


def _check_input(spec: TensorSpec, values: NDArray[Any]) -> None:
    if datatype_of(values) != spec.datatype:
        raise invalid(f"input {spec.name!r} is {spec.datatype}, not {datatype_of(values)}")
    lengths = zip(spec.shape, values.shape, strict=False)
    if values.ndim != len(spec.shape) or any(wanted not in (-1, held) for wanted, held in lengths):
        raise invalid(f"input {spec.name!r} has shape {list(spec.shape)}, not {list(values.shape)}")


def _as_text(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Strings of ONNX are UTF-8."""
    if values.dtype != object:
        return values
    try:
        texts = [text.decode() for text in values.flat]
    except UnicodeDecodeError as error:
        raise invalid(f"input {name!r}: {error}") from error
    return np.array(texts, dtype=object).reshape(values.shape)


def _as_bytes(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype != object:
        return values
    texts = np.empty(values.size, dtype=object)
    texts[:] = [text.encode() for text in values.flat]
    return texts.reshape(values.shape)
