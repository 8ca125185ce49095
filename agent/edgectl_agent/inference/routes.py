"""The routes of Open Inference Protocol v2, REST, over `Service`.

Every route of the specification's REST part and of the extensions that `GET /v2` lists, those of a
model with and without ``/versions/<version>``; a version other than the one that serves is 404,
because a slot serves exactly one. Not ready is 404 too: the protocol asks for a 4xx status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from edgectl_agent.inference import descriptions
from edgectl_agent.inference.endpoint import RETRY_AFTER, Answer, Request
from edgectl_agent.inference.protocol import Call, encode_outputs
from edgectl_agent.inference.reader import encode_again
from edgectl_agent.inference.refusals import Kind, Refused
from edgectl_agent.inference.served import Served
from edgectl_agent.inference.service import Computed, Service
from edgectl_agent.inference.shared_memory import Register, SharedMemory

__all__ = ["Routes", "failure"]

_OK, _NOT_FOUND, _METHOD = 200, 404, 405
_STATUSES = {
    Kind.INVALID: 400, Kind.FORBIDDEN: 403, Kind.UNKNOWN: 404, Kind.FULL: 429, Kind.FAILED: 500,
    Kind.BUSY: 503,
}  # fmt: skip
_LATER = frozenset({Kind.FULL, Kind.BUSY})
_READS = frozenset({b"GET", b"HEAD"})
_REGION = b"shared_memory_region"
_URLS_MAX = 64
_URL_BYTES_MAX = 256

_Branch = Callable[[Request, Any], Answer | asyncio.Future[Answer]]
"""Answers a request for a path whose further parts are given."""


class Routes:
    """Answers HTTP requests."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._codec = _Rest(service.memory)
        self._branches: dict[bytes, _Branch] = {
            b"models": self._model,
            b"health": self._health,
            b"repository": self._repository,
            b"systemsharedmemory": self._memory,
        }
        self._found: dict[bytes, tuple[_Branch, Any]] = {}
        """What `_find` has said before: clients ask again and again for the same."""

    def __call__(self, request: Request) -> Answer | asyncio.Future[Answer]:
        """Answer at once, or promise to."""
        found = self._found.get(request.url)
        if found is None:
            found = self._find(request.url)
            if len(request.url) <= _URL_BYTES_MAX:
                if len(self._found) >= _URLS_MAX:
                    self._found.clear()
                self._found[request.url] = found
        answer, rest = found
        try:
            return answer(request, rest)
        except Refused as refused:
            return self._codec.refuse(refused)

    def _find(self, url: bytes) -> tuple[_Branch, Any]:
        """Return what answers a path, and what is left of the path for it."""
        path = url.partition(b"?")[0]
        if b"%" in path:
            path = unquote_to_bytes(path)
        match path.split(b"/"):
            case [b"", b"v2", b"models", name, b"infer"]:
                return self._infer, (_text(name), "")
            case [b"", b"v2", b"models", name, b"versions", version, b"infer"]:
                return self._infer, (_text(name), _text(version))
            case [b"", b"v2", branch, *rest] if branch:
                return self._branches.get(branch, _no_such_route), rest
            case [b"", b"v2", *rest]:
                return self._server, rest
            case rest:
                return _no_such_route, rest

    def _server(self, request: Request, rest: list[bytes]) -> Answer:
        if rest not in ([], [b""]):
            return _no_such_route(request, rest)
        return _read(request, lambda: descriptions.server_metadata(self._service))

    def _health(self, request: Request, rest: list[bytes]) -> Answer:
        if rest == [b"live"]:
            return _read(request, lambda: {"live": True})
        if rest != [b"ready"]:
            raise Refused("health has the routes live and ready, and no others", Kind.UNKNOWN)
        if not self._service.ready():
            raise Refused("not ready: no model is loaded yet", Kind.UNKNOWN)
        return _read(request, lambda: {"ready": True})

    def _model(self, request: Request, rest: list[bytes]) -> Answer:
        if rest == [b"stats"]:
            return _read(request, self._all_statistics)
        name, version, what = _text(rest[0]) if rest else "", "", rest[1:]
        match what:
            case [b"versions", asked, *what]:
                version = _text(asked)
        served = self._service.find(name, version)
        match what:
            case []:
                return _read(request, lambda: descriptions.model_metadata(served))
            case [b"ready"]:
                return _read(request, lambda: {"name": served.bundle.slot, "ready": True})
            case [b"stats"]:
                found = descriptions.model_statistics(served)
                return _read(request, lambda: {"model_stats": [found]})
            case [b"config"]:
                return _read(request, lambda: descriptions.model_config(served))
        raise Refused(
            "a model has the routes infer, ready, stats and config, and no others", Kind.UNKNOWN
        )

    def _infer(self, request: Request, which: tuple[str, str]) -> Answer | asyncio.Future[Answer]:
        name, version = which
        served = self._service.find(name, version, to_infer=True)
        if request.method != b"POST":
            served.counts.refused()
            return failure(_METHOD, "use POST", b"Allow: POST\r\n")
        size = len(request.body)
        memory = self._service.memory
        if memory is not None and _REGION in request.body:
            size += memory.largest
        return self._service.infer(
            served, request, self._codec, size=size, client=request.peer.share
        )

    def _all_statistics(self) -> object:
        return {"model_stats": descriptions.all_statistics(self._service)}

    def _repository(self, request: Request, rest: list[bytes]) -> Answer:
        match rest:
            case [b"index"]:
                return _change(request, lambda: descriptions.model_index(self._service))
            case [b"models", _, b"load" | b"unload"]:
                raise descriptions.refuse_loading()
        raise Refused("the repository has the route index, and no others", Kind.UNKNOWN)

    def _memory(self, request: Request, rest: list[bytes]) -> Answer:
        memory = self._service.memory
        if memory is None:
            raise Refused(
                "shared memory is not switched on here: see the setting shared_memory",
                Kind.FORBIDDEN,
            )
        user = request.peer.user
        name = ""
        what = rest
        match rest:
            case [b"region", region, *what]:
                name = _text(region)
        match what:
            case [b"status"]:
                return _read(request, lambda: memory.status(name, user))
            case [b"unregister"]:
                return _change(request, lambda: memory.unregister(name, user))
            case [b"register"] if name:
                return _change(request, lambda: _register(memory, name, request, user))
        raise Refused(
            "shared memory has the routes status, unregister, region/<name>/status, "
            "region/<name>/register and region/<name>/unregister, and no others",
            Kind.UNKNOWN,
        )


class _Rest:
    """Requests and answers of the REST part."""

    def __init__(self, memory: SharedMemory | None) -> None:
        self._memory = memory

    def read(self, content: Request, served: Served) -> Call:
        regions = None
        if self._memory is not None and _REGION in content.body:
            regions = self._memory.of(content.peer.user)
        return served.reader.read(
            content.body, header_length=content.header_length, regions=regions
        )

    def write(self, call: Call, computed: Computed, served: Served) -> Answer:
        parameters = served.parameters if computed.finite else served.parameters_non_finite
        encode = encode_again if call.heads is not None and computed.finite else encode_outputs
        body, tail = encode(call, computed.outputs, served.bundle, parameters)
        return Answer(_OK, body, b"", tail)

    def refuse(self, refused: Refused) -> Answer:
        headers = RETRY_AFTER if refused.kind in _LATER else b""
        return failure(_STATUSES[refused.kind], str(refused), headers)


def failure(status: int, sentence: str, headers: bytes = b"") -> Answer:
    """Return the protocol's error answer."""
    return Answer(status, msgspec.json.encode({"error": sentence}), headers)


def _no_such_route(request: Request, rest: list[bytes]) -> Answer:  # noqa: ARG001  # a branch
    return failure(_NOT_FOUND, "no such route: see GET /v2 and GET /v2/models/<name>")


def _text(part: bytes) -> str:
    return part.decode("utf-8", "replace")


def _read(request: Request, found: Callable[[], object]) -> Answer:
    if request.method not in _READS:
        return failure(_METHOD, "use GET", b"Allow: GET, HEAD\r\n")
    return Answer(_OK, msgspec.json.encode(found()))


def _change(request: Request, change: Callable[[], object]) -> Answer:
    if request.method != b"POST":
        return failure(_METHOD, "use POST", b"Allow: POST\r\n")
    found = change()
    return Answer(_OK, b"{}" if found is None else msgspec.json.encode(found))


def _register(memory: SharedMemory, name: str, request: Request, user: int | None) -> None:
    try:
        wanted = msgspec.json.decode(request.body, type=Register)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"not a region: {error}") from error
    memory.register(name, wanted, user)
