"""The REST side of the protocol, as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import re
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from saec.errors import ArtifactError
from saec.serve import rest_body
from saec.serve.lingering_close import Lingering
from saec.serve.metrics import CONTENT_TYPE_LATEST
from saec.serve.protocol import Answer, InferRequest, RefusedError, Status, invalid
from saec.serve.rest_schema import ERRORS, INFER_PATHS, LOAD
from saec.serve.service import EXTENSIONS, Service

__all__ = ["Inference", "application", "routes", "schema"]

_LINGER_SECONDS = 5.0
_JSON_BYTES = "inference-header-content-length"
_INFER = re.compile("/v2/models/(?P<name>[^/]+)(/versions/(?P<version>[^/]+))?/infer")

_log = logging.getLogger(__name__)


def application(service: Service, server_version: str) -> ASGIApp:
    """The whole application, with delayed closing after early responses."""
    app = Inference(routes(service, server_version), service)
    return Lingering(app, min(_LINGER_SECONDS, service.limits.seconds))


def routes(service: Service, server_version: str) -> FastAPI:
    """All routes but those of inference, and the schema of all in ``/openapi.json``."""
    app = FastAPI(
        title="saec serve",
        version=server_version,
        openapi_url=None,  # it has its own route, which requires the token
        redirect_slashes=False,
        responses=ERRORS,
    )
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _failed)
    app.include_router(_health(service))

    async def authorised(
        request: Request,
        _: HTTPAuthorizationCredentials | None = Depends(HTTPBearer(auto_error=False)),  # noqa: B008
    ) -> None:
        service.check_token(request.headers.get("authorization"))

    private = [Depends(authorised)]
    app.include_router(_metadata(service, app), dependencies=private)
    return app


def _health(service: Service) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/v2/health/live", response_class=Response)
    async def live() -> Response:
        return Response()

    @router.get("/v2/health/ready", response_class=Response)
    async def ready() -> Response:
        if not service.ready:
            raise RefusedError(Status.BUSY, "the server is stopping")
        return Response()

    @router.get("/v2/models/{name}/ready", response_class=Response)
    async def model_ready(name: str) -> Response:
        return await version_ready(name, "")

    @router.get("/v2/models/{name}/versions/{version}/ready", response_class=Response)
    async def version_ready(name: str, version: str) -> Response:
        service.version(name, version)
        return await ready()

    return router


def _metadata(service: Service, app: FastAPI) -> APIRouter:
    router = APIRouter(tags=["metadata"])

    @router.get("/v2")
    async def server() -> dict[str, Any]:
        return {"name": "saec", "version": app.version, "extensions": EXTENSIONS}

    @router.get("/v2/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        return await version(name, "")

    @router.get("/v2/models/{name}/versions/{version}")
    async def version(name: str, version: str) -> dict[str, Any]:
        current = service.version(name, version)
        return {
            "name": name,
            "versions": [str(current.number)],
            "platform": current.model.platform,
            "inputs": [spec.json for spec in current.model.inputs],
            "outputs": [spec.json for spec in current.model.outputs],
        }

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    @router.get("/openapi.json")
    async def openapi() -> dict[str, Any]:
        return schema(app)

    @router.post("/v2/repository/models/{name}/load", openapi_extra=LOAD, response_class=Response)
    async def load(name: str, request: Request) -> Response:
        service.version(name, "")
        if bytes(await _body(request, service)).strip() not in (b"", b"{}"):
            raise invalid("the file given at start is read again; there is nothing to tell")
        with service.work.admitted():
            try:
                await service.slot.reload()
            except ArtifactError as error:
                raise invalid(str(error)) from error
        return Response()

    return router


def schema(app: FastAPI) -> dict[str, Any]:
    """The content of ``/openapi.json``."""
    described = app.openapi()
    return {**described, "paths": {**described["paths"], **INFER_PATHS}}


class Inference:
    """Requests for inference; FastAPI, which has the others, would take longer than a lookup.

    An ASGI application around another one.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; the ASGI interface."""
        asked = _INFER.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if asked is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await self._infer(request, asked["name"], asked["version"] or "")
        except RefusedError as refusal:
            response = await _refused(request, refusal)
        except HTTPException as error:
            response = await _no_route(request, error)
        except Exception as error:
            response = await _failed(request, error)
        await response(scope, receive, send)

    async def _infer(self, request: Request, name: str, version: str) -> Response:
        service = self._service
        if request.method != "POST":
            raise HTTPException(405, headers={"Allow": "POST"})
        service.check_token(request.headers.get("authorization"))
        with service.metrics.request("http"):
            current = service.version(name, version)
            json_bytes = _json_bytes(request)
            body = await _body(request, service)
            with service.work.admitted():
                decode = partial(_decoded, body, json_bytes)
                return await service.infer(current, decode, _text_bytes(body, json_bytes))


def _decoded(body: bytearray, json_bytes: int | None) -> tuple[InferRequest, Any]:
    rest = rest_body.decode(body, json_bytes)

    def encode(answer: Answer) -> Response:
        content, said = rest_body.encode(answer, rest.binary)
        if said is None:
            return Response(content, media_type="application/json")
        headers = {_JSON_BYTES: str(said)}
        return Response(content, media_type="application/octet-stream", headers=headers)

    return rest.request, encode


def _text_bytes(body: bytearray, json_bytes: int | None) -> int:
    """Bytes of JSON, and of strings after it: all bytes there if some may be strings."""
    said = body[:json_bytes]
    strings = b"BYTES" in said or b"\\" in said  # its letters may be escaped
    return len(body) if strings else len(said)


def _json_bytes(request: Request) -> int | None:
    said = request.headers.get(_JSON_BYTES)
    if said is None:
        return None
    if not (said.isascii() and said.isdigit() and len(said) < 20):
        raise invalid(f"header {_JSON_BYTES}: {said!r} is no number of bytes")
    return int(said)


async def _body(request: Request, service: Service) -> bytearray:
    """The body, unless it is too large: then only that many bytes of it have been read."""
    limits = service.limits
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RefusedError(Status.ENCODED, "bodies must come as they are, without Content-Encoding")
    too_large = RefusedError(Status.TOO_LARGE, f"the body takes more than {limits.max_bytes} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limits.max_bytes:
        raise too_large
    body = bytearray()
    try:
        with service.work.arriving() as add:
            async with asyncio.timeout(limits.seconds):
                async for block in request.stream():
                    if len(body) + len(block) > limits.max_bytes:
                        raise too_large
                    add(len(block))
                    body += block
    except TimeoutError as error:
        raise RefusedError(
            Status.SLOW, f"the body has not arrived within {limits.seconds:g} seconds"
        ) from error
    except ClientDisconnect as error:
        raise RefusedError(Status.GONE, "the client has gone") from error
    return body


def _told(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    headers = {"WWW-Authenticate": "Bearer"} if error.status is Status.UNAUTHENTICATED else None
    return _told(error.status.http, str(error), headers)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return _told(error.status_code, f"{request.method} {request.url.path}: {error.detail}", headers)


async def _failed(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _told(Status.FAILED.http, "the server failed; its log says how")
