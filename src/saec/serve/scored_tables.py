"""Scores of a model whose tables are an artifact and whose dense part is an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from saec.errors import ArtifactError
from saec.format.cold_tables import ReadCounts
from saec.serve.lookup_model import LookupModel
from saec.serve.model import Model, check_known
from saec.serve.protocol import InferRequest, TensorSpec, invalid
from saec.serve.scores_model import ScoresModel

__all__ = ["ScoredTables"]


@dataclass(frozen=True, eq=False)
class _DenseInputs:
    """Inputs of the dense part that are fields, and others."""

    fields: tuple[str, ...]
    others: tuple[str, ...]


class ScoredTables(Model):
    """The outputs of an ONNX file whose inputs are rows of an artifact, and others.

    An input of the file with the name of a field takes its rows, [n, dim] or [n, k, dim]. A request
    gives the field's ids in its place, as to :class:`LookupModel`, and all other inputs as they
    are.
    """

    platform = "saec_scores"
    parameters = ("mode", "datatype")  # the latter is refused

    def __init__(self, tables: LookupModel, dense: ScoresModel, path: Path) -> None:
        self._tables, self._dense = tables, dense
        self._own = _divided(tables, dense, path)
        self.offsets = {
            name: field for name, field in tables.offsets.items() if field in self._own.fields
        }
        wanted = {*self._own.fields, *self.offsets}
        self.inputs = [
            *(spec for spec in tables.inputs if spec.name in wanted),
            *(spec for spec in dense.inputs if spec.name in self._own.others),
        ]
        self.outputs = dense.outputs
        self.nbytes = tables.nbytes + dense.nbytes
        self._known = [spec.name for spec in self.inputs]

    @classmethod
    def open(cls, path: Path, tables: LookupModel) -> ScoredTables:  # type: ignore[override]
        """Read the ONNX file that scores rows of ``tables``.

        Raises:
            ArtifactError: it is no ONNX model, or its inputs do not fit the tables.
        """
        return cls(tables, ScoresModel.open(path), path)

    @property
    def read_counts(self) -> ReadCounts | None:  # type: ignore[override]
        """See :class:`Model`."""
        return self._tables.read_counts

    def look_up(self, request: InferRequest, most_bytes: int) -> InferRequest:
        """See :meth:`Model.look_up`: what the dense part is asked."""
        check_known("input", list(request.inputs), self._known)
        if "datatype" in request.parameters:
            raise invalid("parameter 'datatype' is for rows, not for scores")
        own = {
            name: values for name, values in request.inputs.items() if name not in self._own.others
        }
        for name in self._own.fields:
            if name not in own:
                raise invalid(f"input {name!r} is missing")
        rows = self._tables.look_up(
            replace(request, inputs=own, outputs=self._own.fields), most_bytes
        )
        others = {name: request.inputs[name] for name in self._own.others if name in request.inputs}
        return self._dense.look_up(replace(request, inputs={**rows, **others}), most_bytes)

    def score(self, found: InferRequest, most_bytes: int) -> dict[str, NDArray[Any]]:
        """See :meth:`Model.score`."""
        return self._dense.score(found, most_bytes)

    def output_lengths(self, request: InferRequest) -> dict[str, int] | None:
        """See :meth:`Model.output_lengths`."""
        rows = self._tables.output_lengths(replace(request, outputs=self._own.fields))
        others = [request.inputs.get(name) for name in self._own.others]
        if rows is None or any(values is None or not values.ndim for values in others):
            return None
        lengths = {*rows.values(), *(len(values) for values in others if values is not None)}
        if len(lengths) != 1:
            return None
        (examples,) = lengths
        names = request.outputs or [spec.name for spec in self.outputs]
        return dict.fromkeys(names, examples)

    def check_batches(self) -> None:
        """See :meth:`Model.check_batches`."""
        self._dense.check_batches()


def _divided(tables: LookupModel, dense: ScoresModel, path: Path) -> _DenseInputs:
    dims = {spec.name: spec.shape[-1] for spec in tables.outputs}
    fields = [spec for spec in dense.inputs if spec.name in dims]
    if not fields:
        raise ArtifactError(
            f"{path}: no input has the name of a field; fields are {', '.join(dims) or 'none'}, "
            f"inputs {', '.join(spec.name for spec in dense.inputs) or 'none'}"
        )
    for spec in fields:
        _check_rows(spec, dims[spec.name], path)
    names = tuple(spec.name for spec in fields)
    return _DenseInputs(names, tuple(spec.name for spec in dense.inputs if spec.name not in dims))


def _check_rows(spec: TensorSpec, dim: int, path: Path) -> None:
    """Raise ArtifactError unless an input takes rows of a field."""
    fits = len(spec.shape) in (2, 3) and spec.shape[-1] in (-1, dim)
    if spec.datatype != "FP32" or not fits:
        raise ArtifactError(
            f"{path}: input {spec.name!r} is {spec.datatype} of shape {list(spec.shape)}, but rows "
            f"of field {spec.name!r} are FP32 of shape [-1, {dim}]"
        )
