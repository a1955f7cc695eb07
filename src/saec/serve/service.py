"""The operations of the server, independent of the protocol."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from saec.errors import ArtifactError
from saec.serve.admission import Work
from saec.serve.hot_reload import Slot, Version
from saec.serve.metrics import Metrics
from saec.serve.protocol import Answer, InferRequest, RefusedError, Status

__all__ = ["EXTENSIONS", "Limits", "Service"]

EXTENSIONS = ["binary_tensor_data"]
_SCHEME = "bearer "

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Limits of one server.

    Attributes:
        max_bytes: of a request's body, and of the outputs of one request.
        requests: largest number in progress.
        seconds: for a request's head, its body, its computation, and the client's reading of the
            response, each.
        grace: seconds for requests in progress at shutdown.
        threads: number of threads that compute.
        connections: largest number of open connections, for HTTP and gRPC each.
        memory: bytes of memory that an artifact's tables may take; None: they are mapped. While
            one artifact replaces another, both have as much.
    """

    max_bytes: int
    requests: int
    seconds: float
    grace: float
    threads: int
    connections: int = 256
    memory: int | None = None


class Service:
    """A model with access control and limits.

    Args:
        path: an artifact, or an ONNX file.
        limits: of requests.
        token: required from clients for everything except health; None for no token.
        patches: folder of patches that follow the artifact; None for none.

    Raises:
        ArtifactError: the file cannot be served.
    """

    def __init__(
        self, path: Path, limits: Limits, token: str | None = None, patches: Path | None = None
    ) -> None:
        self.metrics = Metrics(path.stem)
        self.slot = Slot(path, self.metrics, limits.memory, patches)
        self.limits = limits
        self.work = Work(limits.threads, limits.requests, limits.max_bytes, limits.seconds)
        self.ready = True
        self._token = None if token is None else token.encode()

    def check_token(self, header: str | None) -> None:
        """Raise RefusedError unless the authorization ``header`` contains the token."""
        if self._token is None:
            return
        header = header or ""
        shown = header[len(_SCHEME) :].strip().encode(errors="replace")
        if not header.lower().startswith(_SCHEME) or not hmac.compare_digest(shown, self._token):
            raise RefusedError(
                Status.UNAUTHENTICATED, "the header Authorization: Bearer TOKEN is missing"
            )

    def version(self, name: str, version: str) -> Version:
        """The model in use; raises RefusedError if a request names another one."""
        current = self.slot.current
        if name != self.slot.name:
            raise RefusedError(
                Status.NOT_FOUND, f"there is no model {name!r}; there is {self.slot.name!r}"
            )
        if version not in ("", str(current.number)):
            raise RefusedError(
                Status.NOT_FOUND,
                f"there is no version {version!r} of model {name!r}; in use is {current.number}",
            )
        return current

    async def infer(
        self,
        version: Version,
        decode: Callable[[], tuple[InferRequest, Callable[[Answer], T]]],
    ) -> T:
        """Answer a request, in a thread from its bytes to those of the response.

        Args:
            version: version that the request names.
            decode: returns the request and a function that encodes its response.
        """

        def job() -> T:
            request, encode = decode()
            try:
                outputs = version.model.infer(request, self.limits.max_bytes)
            except ArtifactError as error:
                raise RefusedError(Status.FAILED, str(error)) from error
            return encode(Answer(self.slot.name, str(version.number), request.id, outputs))

        try:
            return await self.work.run(job)
        except RefusedError as refusal:
            if refusal.status is Status.FAILED:
                _log.error("version %d failed", version.number, exc_info=refusal)
            raise
