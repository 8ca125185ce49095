"""The routes of Open Inference Protocol v2 over the models that serve.

Every route of the specification's REST part, with and without ``/versions/<version>``; a version
other than the one that serves is 404, because a slot serves exactly one. Not ready is 404 too: the
protocol asks for a 4xx status.

A request runs on the event loop when its model and its body are small, else in the one worker
thread, so that health and small models answer while a large one computes. There a run is stopped
after `RUN_SECONDS_MAX`: a model that hangs on some input must not take the others with it, and the
failure must be counted. What cannot be stopped, such as a loop in LiteRT, and computes as long
again, ends this process: the pulse names the model, and the supervisor sees to it. On the event
loop nobody is left to stop a run: there the pulse names the model, falls silent, and the supervisor
ends the process.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from edgectl_agent.inference.endpoint import Answer, Request
from edgectl_agent.inference.protocol import Refused, encode_outputs, parse_call
from edgectl_agent.inference.pulse import Place, Pulse
from edgectl_agent.inference.served import Served
from edgectl_agent.inference.slots import Slots
from edgectl_agent.runtime import RunFailed, Stop
from edgectl_protocol import __version__

__all__ = ["Routes", "failure"]

INLINE_BODY_BYTES_MAX = 64 * 1024
WAITING_MAX = 128
"""Requests for the worker thread, also those whose clients have gone."""
GAP_SECONDS_MAX = 30.0
"""Requests for a slot that serves nothing while its model is replaced wait so long at most."""
RUN_SECONDS_MAX = 30.0
_OK, _BAD, _NOT_FOUND, _METHOD, _FAILED, _BUSY = 200, 400, 404, 405, 500, 503
_PLATFORMS = {"onnx": "onnx_onnxv1", "tflite": "tensorflow_tflite"}
"""By format, in the protocol's words: project and format."""
_READS = frozenset({b"GET", b"HEAD"})


class Routes:
    """Answers requests from `slots`."""

    def __init__(
        self,
        slots: Slots,
        worker: ThreadPoolExecutor,
        *,
        pulse: Pulse | None = None,
        run_seconds_max: float = RUN_SECONDS_MAX,
        give_up: Callable[[], object] = os.abort,
    ) -> None:
        """Answer from `slots`; `worker` has one thread; `pulse` shows what computes.

        `give_up` ends the process when a run does not let itself be stopped.
        """
        self._pulse = pulse or Pulse()
        self._slots = slots
        self._worker = worker
        self._run_seconds_max = run_seconds_max
        self._give_up = give_up
        self._stopped_s = 0.0
        """When the present run was told to stop, if it was."""
        self._waiting = 0
        self._running: tuple[float, Stop] | None = None
        """When the worker's present run began, by `time.monotonic`, and what ends it."""
        self._watching: asyncio.TimerHandle | None = None

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
            case [b"", b"v2", b"health", b"ready"] if len(self._slots):
                found = {"ready": True}
            case [b"", b"v2", b"health", b"ready"]:
                return failure(_NOT_FOUND, "not ready: no model is loaded yet")
            case _:
                return failure(_NOT_FOUND, "no such route: see GET /v2 and GET /v2/models/<name>")
        return _read(request, found)

    def _model(
        self, request: Request, name: bytes, rest: list[bytes]
    ) -> Answer | asyncio.Future[Answer]:
        slot = name.decode("utf-8", "replace")
        served = self._slots.get(slot)
        if served is None:
            opening = self._slots.opening(slot)
            if opening is None:
                return failure(_NOT_FOUND, f"no model {slot[:64]!r} is loaded")
            return self._wait(request, name, rest, opening)
        return self._route(request, served, rest)

    def _route(
        self, request: Request, served: Served, rest: list[bytes]
    ) -> Answer | asyncio.Future[Answer]:
        version = served.bundle.version
        if len(rest) > 1 and rest[0] == b"versions":
            if rest[1] != version.encode():
                shown = rest[1][:64].decode("utf-8", "replace")
                return failure(_NOT_FOUND, f"version {shown!r} is not loaded: {version!r} serves")
            rest = rest[2:]
        match rest:
            case [b"infer"]:
                return self._infer(request, served)
            case []:
                return _read(request, _metadata(served))
            case [b"ready"]:
                return _read(request, {"name": served.bundle.slot, "ready": True})
        return failure(_NOT_FOUND, "a model has the routes infer and ready, and no others")

    def _wait(
        self, request: Request, name: bytes, rest: list[bytes], opening: asyncio.Future[None]
    ) -> Answer | asyncio.Future[Answer]:
        """Answer once the slot serves again: memory does not hold its old and its new model."""
        if self._waiting >= WAITING_MAX:
            return failure(_BUSY, f"{WAITING_MAX} requests are waiting: try again")
        self._waiting += 1

        async def answer() -> Answer:
            try:
                async with asyncio.timeout(GAP_SECONDS_MAX):
                    await asyncio.shield(opening)
            except TimeoutError:
                return failure(_BUSY, "the model is being replaced: try again")
            finally:
                self._waiting -= 1
            outcome = self._model(request, name, rest)
            return outcome if isinstance(outcome, Answer) else await outcome

        return asyncio.ensure_future(answer())

    def _infer(self, request: Request, served: Served) -> Answer | asyncio.Future[Answer]:
        if request.method != b"POST":
            served.counts.refused()
            return failure(_METHOD, "use POST", b"Allow: POST\r\n")
        if request.header_length is not None:
            served.counts.refused()
            return failure(
                _BAD,
                "binary tensors (Inference-Header-Content-Length) are not supported yet: "
                "send the tensors' data as JSON",
            )
        if served.inline and len(request.body) <= INLINE_BODY_BYTES_MAX:
            return self._answer(served, request.body, Place.LOOP)
        if self._waiting >= WAITING_MAX:
            return failure(_BUSY, f"{WAITING_MAX} requests are waiting: try again")
        self._waiting += 1
        served.enter()
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._worker, self._compute, served, request.body)
        future.add_done_callback(lambda _: self._done(served))
        if self._watching is None:
            self._watching = loop.call_later(self._run_seconds_max / 4, self._stop_overdue)
        return future

    def _compute(self, served: Served, body: bytes | bytearray) -> Answer:
        """Answer on the worker thread, in a run that the event loop can stop."""
        stop = Stop()
        self._running = (time.monotonic(), stop)
        try:
            return self._answer(served, body, Place.WORKER, stop)
        finally:
            self._running = None

    def _answer(
        self, served: Served, body: bytes | bytearray, place: int, stop: Stop | None = None
    ) -> Answer:
        """Compute one request, on whatever thread `place` says."""
        try:
            call = parse_call(body, served.bundle.config)
        except Refused as error:
            served.counts.refused()
            return failure(_BAD, str(error))
        self._pulse.begin(place, served.name)
        started = time.perf_counter_ns()
        try:
            outputs = served.model.run(call.inputs, stop)
        except (RunFailed, MemoryError) as error:
            served.counts.failed()
            if stop is not None and stop.is_set():
                return failure(_FAILED, "the model did not finish in time on this input")
            return failure(_FAILED, f"the model failed on this input: {error}")
        finally:
            self._pulse.end(place)
        finite = served.counts.served((time.perf_counter_ns() - started) / 1000, outputs)
        mirror = served.mirror  # once: the event loop changes it at any time
        if mirror is not None:
            mirror.offer(call.inputs, outputs, finite=finite)
        parameters = served.parameters if finite else served.parameters_non_finite
        return Answer(_OK, encode_outputs(call, outputs, served.bundle, parameters))

    def _stop_overdue(self) -> None:
        running = self._running  # once: the worker changes it at any time
        now = time.monotonic()
        if running is not None and not running[1].is_set():
            if now - running[0] > self._run_seconds_max:
                self._stopped_s = now
                running[1].set()
        elif running is not None and now - self._stopped_s > self._run_seconds_max:
            self._give_up()
        self._watching = None
        if self._waiting:
            loop = asyncio.get_running_loop()
            self._watching = loop.call_later(self._run_seconds_max / 4, self._stop_overdue)

    def _done(self, served: Served) -> None:
        self._waiting -= 1
        served.leave()


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
    }
