"""The routes of Open Inference Protocol v2, REST, over `Service`.

Every route of the specification's REST part, with and without ``/versions/<version>``; a version
other than the one that serves is 404, because a slot serves exactly one. Not ready is 404 too: the
protocol asks for a 4xx status.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from edgectl_agent.inference.endpoint import Answer, Request
from edgectl_agent.inference.protocol import Call, encode_outputs, parse_call
from edgectl_agent.inference.refusals import Kind, Refused
from edgectl_agent.inference.served import Served
from edgectl_agent.inference.service import Computed, Service
from edgectl_protocol import __version__

__all__ = ["Routes", "failure"]

_OK, _NOT_FOUND, _METHOD = 200, 404, 405
_STATUSES = {
    Kind.INVALID: 400, Kind.FORBIDDEN: 403, Kind.UNKNOWN: 404, Kind.FULL: 429, Kind.FAILED: 500,
    Kind.BUSY: 503,
}  # fmt: skip
_LATER = frozenset({Kind.FULL, Kind.BUSY})
_RETRY_AFTER = b"Retry-After: 1\r\n"
_PLATFORMS = {"onnx": "onnx_onnxv1", "tflite": "tensorflow_tflite"}
"""By format, in the protocol's words: project and format."""
_READS = frozenset({b"GET", b"HEAD"})


class Routes:
    """Answers HTTP requests."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._codec = _Rest()

    def __call__(self, request: Request) -> Answer | asyncio.Future[Answer]:
        """Answer at once, or promise to."""
        path = request.url.partition(b"?")[0]
        if b"%" in path:
            path = unquote_to_bytes(path)
        match path.split(b"/"):
            case [b"", b"v2", b"models", name, *rest]:
                return self._model(request, name, rest)
            case [b"", b"v2"] | [b"", b"v2", b""]:
                found: object = {"name": "edgectl", "version": __version__, "extensions": []}
            case [b"", b"v2", b"health", b"live"]:
                found = {"live": True}
            case [b"", b"v2", b"health", b"ready"] if self._service.ready():
                found = {"ready": True}
            case [b"", b"v2", b"health", b"ready"]:
                return failure(_NOT_FOUND, "not ready: no model is loaded yet")
            case _:
                return failure(_NOT_FOUND, "no such route: see GET /v2 and GET /v2/models/<name>")
        return _read(request, found)

    def _model(
        self, request: Request, name: bytes, rest: list[bytes]
    ) -> Answer | asyncio.Future[Answer]:
        version = ""
        if len(rest) > 1 and rest[0] == b"versions":
            version = rest[1].decode("utf-8", "replace")
            rest = rest[2:]
        try:
            served = self._service.find(name.decode("utf-8", "replace"), version)
        except Refused as refused:
            return self._codec.refuse(refused)
        match rest:
            case [b"infer"]:
                return self._infer(request, served)
            case []:
                return _read(request, _metadata(served))
            case [b"ready"]:
                return _read(request, {"name": served.bundle.slot, "ready": True})
        return failure(_NOT_FOUND, "a model has the routes infer and ready, and no others")

    def _infer(self, request: Request, served: Served) -> Answer | asyncio.Future[Answer]:
        if request.method != b"POST":
            served.counts.refused()
            return failure(_METHOD, "use POST", b"Allow: POST\r\n")
        return self._service.infer(
            served, request, self._codec, size=len(request.body), client=request.client
        )


class _Rest:
    """Requests and answers of the REST part."""

    def read(self, content: Request, served: Served) -> Call:
        if content.header_length is not None:
            raise Refused(
                "binary tensors (Inference-Header-Content-Length) are not supported yet: "
                "send the tensors' data as JSON"
            )
        return parse_call(content.body, served.bundle.config)

    def write(self, call: Call, computed: Computed, served: Served) -> Answer:
        parameters = served.parameters if computed.finite else served.parameters_non_finite
        return Answer(_OK, encode_outputs(call, computed.outputs, served.bundle, parameters))

    def refuse(self, refused: Refused) -> Answer:
        headers = _RETRY_AFTER if refused.kind in _LATER else b""
        return failure(_STATUSES[refused.kind], str(refused), headers)


def failure(status: int, sentence: str, headers: bytes = b"") -> Answer:
    """Return the protocol's error answer."""
    return Answer(status, msgspec.json.encode({"error": sentence}), headers)


def _read(request: Request, found: object) -> Answer:
    if request.method not in _READS:
        return failure(_METHOD, "use GET", b"Allow: GET, HEAD\r\n")
    return Answer(_OK, msgspec.json.encode(found))


def _metadata(served: Served) -> dict[str, Any]:
    bundle = served.bundle
    return {
        "name": bundle.slot,
        "versions": [bundle.version],
        "platform": _PLATFORMS[bundle.config.format],
        "inputs": bundle.config.inputs,
        "outputs": bundle.config.outputs,
        "parameters": served.parameters,
        "labels": bundle.config.labels,
        "scores": bundle.config.scores,
    }
