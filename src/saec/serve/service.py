"""The operations of the server, independent of the protocol."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from saec.errors import ArtifactError
from saec.serve.admission import Work
from saec.serve.batching import BatchLimits, RequestBatches
from saec.serve.hot_reload import Slot, Version
from saec.serve.metrics import Metrics
from saec.serve.model_files import ModelFiles
from saec.serve.protocol import Answer, InferRequest, RefusedError, Status

__all__ = ["EXTENSIONS", "Limits", "Service"]

EXTENSIONS = ["binary_tensor_data"]
_SCHEME = "bearer "
# Requests with more text are decoded in a thread and computed alone: the event loop must not wait.
_SHORT_TEXT = 1 << 16

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Limits of one server.

    Attributes:
        max_bytes: of a request's body, of the rows that it looks up, and of its outputs.
        requests: largest number in progress.
        seconds: for a request's head, its body, its computation, and the client's reading of the
            response, each.
        grace: seconds for requests in progress at shutdown.
        threads: number of threads that compute.
        connections: largest number of open connections, for HTTP and gRPC each.
        memory: bytes of memory that an artifact's tables may take; None: they are mapped. While
            one artifact replaces another, both have as much.
        batches: how small requests are computed together; None: each is computed alone.
    """

    max_bytes: int
    requests: int
    seconds: float
    grace: float
    threads: int
    connections: int = 256
    memory: int | None = None
    batches: BatchLimits | None = None


class Service:
    """A model with access control and limits.

    Args:
        path: an artifact, or an ONNX file.
        limits: of requests.
        token: required from clients for everything except health; None for no token.
        patches: folder of patches that follow the artifact; None for none.
        dense: an ONNX file that computes scores from the artifact's rows; None for none.

    Raises:
        ArtifactError: a file cannot be served.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits,
        token: str | None = None,
        patches: Path | None = None,
        dense: Path | None = None,
    ) -> None:
        self.metrics = Metrics(path.stem)
        batches = limits.batches
        files = ModelFiles(path, limits.memory, patches, dense, batches is not None)
        self.slot = Slot(files, self.metrics)
        self.limits = limits
        self._batches = (
            None
            if batches is None
            else RequestBatches(batches, limits.threads, limits.max_bytes, self.metrics.batches)
        )
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
        text_bytes: int,
    ) -> T:
        """Answer a request, from its bytes to those of the response.

        Args:
            version: version that the request names.
            decode: returns the request and a function that encodes its response.
            text_bytes: size of the request without the bytes of tensors of numbers, which take no
                time to decode.
        """
        try:
            return await self.work.result(self._response(version, decode, text_bytes))
        except ArtifactError as error:
            _log.error("version %d failed", version.number, exc_info=error)
            raise RefusedError(Status.FAILED, str(error)) from error
        except RefusedError as refusal:
            if refusal.status is Status.FAILED:
                _log.error("version %d failed", version.number, exc_info=refusal)
            raise

    def drain(self) -> None:
        """Not ready for more requests; those in progress end as soon as they can."""
        self.ready = False
        if self._batches is not None:
            self._batches.hurry()

    def close(self) -> None:
        """Accept no more requests; those that have not started are dropped."""
        self.work.close()
        if self._batches is not None:
            self._batches.close()

    def _response(
        self,
        version: Version,
        decode: Callable[[], tuple[InferRequest, Callable[[Answer], T]]],
        text_bytes: int,
    ) -> Future[T]:
        """The response, which a thread computes, of this request or of several."""
        if self._batches is None or text_bytes > _SHORT_TEXT:
            return self.work.start(lambda: self._computed(version, *decode()))
        request, encode = decode()
        if not self._batches.takes(request):
            return self.work.start(lambda: self._computed(version, request, encode))

        def encoded(outputs: Mapping[str, NDArray[Any]]) -> T:
            return encode(self._answer(version, request, outputs))

        return self._batches.put(version, request, encoded)

    def _computed(
        self, version: Version, request: InferRequest, encode: Callable[[Answer], T]
    ) -> T:
        outputs = version.model.infer(request, self.limits.max_bytes)
        return encode(self._answer(version, request, outputs))

    def _answer(
        self, version: Version, request: InferRequest, outputs: Mapping[str, NDArray[Any]]
    ) -> Answer:
        return Answer(self.slot.name, str(version.number), request.id, outputs)
