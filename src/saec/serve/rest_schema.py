"""The schema of bodies in ``/openapi.json``; the bodies are parsed by hand."""

from __future__ import annotations

from typing import Any

from saec.serve.protocol import DTYPES

__all__ = ["ERRORS", "INFER_PATHS", "LOAD"]

_PARAMETERS = {"type": "object"}
_TENSOR = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string", "enum": list(DTYPES)},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "parameters": _PARAMETERS,
        "data": {"type": "array", "items": {}},
    },
    "required": ["name", "datatype", "shape"],
}
_WANTED = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
    "required": ["name"],
}
_REQUEST = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "parameters": _PARAMETERS,
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {"type": "array", "items": _WANTED},
    },
    "required": ["inputs"],
}
_RESPONSE = {
    "type": "object",
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": _TENSOR},
    },
    "required": ["model_name", "model_version", "outputs"],
}
_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
    "additionalProperties": False,
}
_BYTES = {"type": "string", "format": "binary"}


# Replaces the framework's 422, which never occurs.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": "Refused.", "content": {"application/json": {"schema": _ERROR}}}
    for status in ("4XX", "5XX")
}
_INFER: dict[str, Any] = {
    "tags": ["inference"],
    "security": [{"HTTPBearer": []}],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _REQUEST},
            "application/octet-stream": {"schema": _BYTES},
        },
    },
    "parameters": [
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "required": False,
            "description": "Bytes of JSON at the beginning of the body; tensors' bytes follow.",
            "schema": {"type": "integer", "minimum": 0},
        }
    ],
    "responses": {
        "200": {
            "description": "The outputs.",
            "content": {
                "application/json": {"schema": _RESPONSE},
                "application/octet-stream": {"schema": _BYTES},
            },
        },
        **ERRORS,
    },
}


def _infer(operation: str, *places: str) -> dict[str, Any]:
    """The schema of a request for inference, with these parts of its path."""
    path = [
        {"name": place, "in": "path", "required": True, "schema": {"type": "string"}}
        for place in places
    ]
    return {**_INFER, "operationId": operation, "parameters": [*path, *_INFER["parameters"]]}


INFER_PATHS: dict[str, dict[str, Any]] = {
    "/v2/models/{name}/infer": {"post": _infer("infer", "name")},
    "/v2/models/{name}/versions/{version}/infer": {
        "post": _infer("infer_version", "name", "version")
    },
}
LOAD: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {"schema": {"type": "object", "additionalProperties": False}}
        }
    }
}
