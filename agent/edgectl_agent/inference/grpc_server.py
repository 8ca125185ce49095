"""Open Inference Protocol v2 over gRPC, on the inference process's own event loop.

An extra: grpcio and protobuf are imported here and in the modules below it, nowhere else. There is
no check of names as over HTTP: a page in a browser cannot speak gRPC to a server without TLS.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from edgectl_agent.inference import descriptions
from edgectl_agent.inference.bearer import Bearer
from edgectl_agent.inference.exchange import Limits
from edgectl_agent.inference.grpc_codec import GrpcCodec, GrpcContent, uses_memory
from edgectl_agent.inference.grpc_messages import METHODS, SERVICE, message
from edgectl_agent.inference.peer import Peer
from edgectl_agent.inference.refusals import Kind, Refused
from edgectl_agent.inference.service import Service
from edgectl_agent.inference.shared_memory import Register, SharedMemory

__all__ = ["GrpcServer"]

log = logging.getLogger(__name__)

_CODES = {
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Kind.UNKNOWN: grpc.StatusCode.NOT_FOUND,
    Kind.FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.FAILED: grpc.StatusCode.INTERNAL,
    Kind.BUSY: grpc.StatusCode.UNAVAILABLE,
}
_ENVELOPE_BYTES_MAX = 64 * 1024
"""Of a message, beside its tensors."""
_CALLS_MIN = 16
_IDLE_MS_MAX = 300_000
_SENTENCE_LENGTH_MAX = 1000
"""A status travels in a header."""
_TYPES = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16",
          "FP32", "FP64", "STRING")  # fmt: skip
"""Kinds of tensors in a model's configuration, numbered from 1."""

Answer = Callable[[Any, Peer], Any]


class GrpcServer:
    """The listener."""

    def __init__(self, service: Service, limits: Limits, bearer: Bearer | None) -> None:
        """Describe the server; nothing listens yet."""
        self._service = service
        self._codec = GrpcCodec(service.memory)
        self._bearer = bearer
        self._port = 0
        # A message is in memory before anybody is asked: their number bounds the memory.
        calls = max(limits.buffered_bytes_max // limits.body_bytes_max, _CALLS_MIN)
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=min(calls, limits.connections_max),
            options=[
                ("grpc.max_receive_message_length", limits.body_bytes_max + _ENVELOPE_BYTES_MAX),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_connection_idle_ms", _IDLE_MS_MAX),
                ("grpc.so_reuseport", 0),
            ],
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    SERVICE, {method: self._handler(method) for method in METHODS}
                ),
            )
        )

    async def listen(self, host: str, port: int) -> int:
        """Listen on `host` and `port`, 0 for any free one; return the port. Raises OSError."""
        shown = f"[{host}]" if ":" in host else host
        try:
            self._port = self._server.add_insecure_port(f"{shown}:{port}")
        except RuntimeError as error:
            raise OSError(str(error)) from error
        if self._port == 0:
            raise OSError("the port cannot be bound")
        await self._server.start()
        return self._port

    async def close(self) -> None:
        """Stop listening and drop all calls."""
        await self._server.stop(None)

    def _handler(self, method: str) -> Any:
        answer: Answer = getattr(self, f"_{method}")

        async def handle(request: Any, context: Any) -> Any:
            return await self._handle(answer, request, context)

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=message(f"{method}Request").FromString,
            response_serializer=message(f"{method}Response").SerializeToString,
        )

    async def _handle(self, answer: Answer, request: Any, context: Any) -> Any:
        if self._bearer is not None and not self._bearer.admits(_authorization(context)):
            await context.abort(
                grpc.StatusCode.UNAUTHENTICATED,
                "this endpoint asks for a token: metadata authorization: Bearer <token>",
            )
        try:
            outcome = answer(request, _peer(context.peer(), self._port))
            if isinstance(outcome, Awaitable):
                # A client that goes does not stop the run: the model is in use until it ends.
                outcome = await asyncio.shield(outcome)
        except Refused as refused:
            outcome = refused
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("a request could not be handled")
            await context.abort(grpc.StatusCode.INTERNAL, "internal error: see the agent's log")
        if isinstance(outcome, Refused):
            await context.abort(_CODES[outcome.kind], str(outcome)[:_SENTENCE_LENGTH_MAX])
        return outcome

    # ------------------------------------------------------------ methods, by their names

    def _ServerLive(self, request: Any, peer: Peer) -> Any:  # noqa: ARG002, N802
        return message("ServerLiveResponse")(live=True)

    def _ServerReady(self, request: Any, peer: Peer) -> Any:  # noqa: ARG002, N802
        return message("ServerReadyResponse")(ready=self._service.ready())

    def _ServerMetadata(self, request: Any, peer: Peer) -> Any:  # noqa: ARG002, N802
        return message("ServerMetadataResponse")(**descriptions.server_metadata(self._service))

    def _ModelReady(self, request: Any, peer: Peer) -> Any:  # noqa: ARG002, N802
        try:
            self._service.find(request.name, request.version)
        except Refused:
            return message("ModelReadyResponse")(ready=False)
        return message("ModelReadyResponse")(ready=True)

    def _ModelMetadata(self, request: Any, peer: Peer) -> Any:  # noqa: ARG002, N802
        served = self._service.find(request.name, request.version)
        found = descriptions.model_metadata(served)
        response = message("ModelMetadataResponse")(
            name=found["name"], versions=found["versions"], platform=found["platform"]
        )
        for side in ("inputs", "outputs"):
            for spec in found[side]:
                getattr(response, side).add(
                    name=spec.name, datatype=spec.datatype, shape=spec.shape
                )
        return response

    def _ModelConfig(self, request: Any, peer: Peer) -> Any:  # noqa: ARG002, N802
        found = descriptions.model_config(self._service.find(request.name, request.version))
        for side in ("input", "output"):
            for tensor in found[side]:
                kind = tensor["data_type"].removeprefix("TYPE_")
                tensor["data_type"] = _TYPES.index(kind) + 1
        return message("ModelConfigResponse")(config=found)

    def _ModelInfer(self, request: Any, peer: Peer) -> Any:  # noqa: N802
        served = self._service.find(request.model_name, request.model_version, to_infer=True)
        content = GrpcContent(request, peer)
        size = request.ByteSize()
        if self._service.memory is not None and uses_memory(request):
            size += self._service.memory.largest
        return self._service.infer(served, content, self._codec, size=size, client=peer.share)

    def _ModelStatistics(self, request: Any, peer: Peer) -> Any:  # noqa: ARG002, N802
        if request.name:
            served = self._service.find(request.name, request.version)
            found = [descriptions.model_statistics(served)]
        else:
            found = descriptions.all_statistics(self._service)
        for one in found:
            del one["batch_stats"]
        return message("ModelStatisticsResponse")(model_stats=found)

    def _RepositoryIndex(self, request: Any, peer: Peer) -> Any:  # noqa: ARG002, N802
        models = descriptions.model_index(self._service)
        return message("RepositoryIndexResponse")(models=models)

    def _RepositoryModelLoad(self, request: Any, peer: Peer) -> Any:  # noqa: ARG002, N802
        raise descriptions.refuse_loading()

    def _RepositoryModelUnload(self, request: Any, peer: Peer) -> Any:  # noqa: ARG002, N802
        raise descriptions.refuse_loading()

    def _SystemSharedMemoryStatus(self, request: Any, peer: Peer) -> Any:  # noqa: N802
        response = message("SystemSharedMemoryStatusResponse")()
        for status in self._memory().status(request.name, peer.user):
            region = response.regions[status.name]
            region.name, region.key = status.name, status.key
            region.offset, region.byte_size = status.offset, status.byte_size
        return response

    def _SystemSharedMemoryRegister(self, request: Any, peer: Peer) -> Any:  # noqa: N802
        wanted = Register(request.key, request.byte_size, request.offset)
        self._memory().register(request.name, wanted, peer.user)
        return message("SystemSharedMemoryRegisterResponse")()

    def _SystemSharedMemoryUnregister(self, request: Any, peer: Peer) -> Any:  # noqa: N802
        self._memory().unregister(request.name, peer.user)
        return message("SystemSharedMemoryUnregisterResponse")()

    def _memory(self) -> SharedMemory:
        memory = self._service.memory
        if memory is None:
            raise Refused(
                "shared memory is not switched on here: see the setting shared_memory",
                Kind.FORBIDDEN,
            )
        return memory


def _authorization(context: Any) -> bytes | None:
    found = [value for key, value in context.invocation_metadata() if key == "authorization"]
    if len(found) != 1:
        return None
    return found[0] if isinstance(found[0], bytes) else str(found[0]).encode()


def _peer(shown: str, port: int) -> Peer:
    """Return who calls: `shown` is like ``ipv4:127.0.0.1:40000`` or ``ipv6:[::1]:40000``."""
    kind, _, address = unquote(shown).partition(":")
    host, _, theirs = address.rpartition(":")
    host = host.strip("[]")
    if kind not in {"ipv4", "ipv6"} or not theirs.isdigit():
        return Peer(shown)
    return Peer(host, (host, int(theirs)), port)
