"""The flow itself: a source's thread, a queue, the model, the sinks.

Where the source may wait, it waits for the queue; where the newest wins, the oldest item in it is
dropped and counted. What is malformed or fails is counted and logged, at most once a minute for
each kind, and ends nothing. A source that raises is run again, with growing pauses. While there is
no model, items of a source that may wait are kept, others are dropped and counted.
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from edgectl_agent.clock import moment, now
from edgectl_agent.flows.delivery import Delivered, Delivery
from edgectl_agent.flows.items import Contract, Item, Malformed, Source
from edgectl_agent.sdk import InputRefused, Model, ModelUnavailable, Prediction, PredictionFailed
from edgectl_protocol.manifest import TensorSpec

__all__ = ["Counts", "Flow", "contract_of"]

log = logging.getLogger(__name__)

QUEUE_MAX = 8
_PAUSE_S_MIN = 0.5
_PAUSE_S_MAX = 30.0
_LOOK_S = 0.5
_SAY_S = 60.0
_FLUSH_S = 10.0
_OUTPUT_ELEMENTS_MAX = 4096


class Counts(Struct, kw_only=True):
    """What has become of what the source gave."""

    received: int = 0
    predicted: int = 0
    malformed: int = 0
    failed: int = 0
    unavailable: int = 0
    dropped: int = 0
    restarts: int = 0
    sinks: dict[str, Delivered] = {}


class Flow:
    """See the module."""

    def __init__(
        self,
        model: Model,
        source: Source,
        deliveries: Sequence[Delivery],
        *,
        outputs: bool = False,
        pause_s: float = _PAUSE_S_MIN,
    ) -> None:
        """Put the parts together.

        Args:
            model: predicts.
            source: gives.
            deliveries: take the rows, and stay the caller's but for their closing.
            outputs: whether rows hold the outputs also where there is a label.
            pause_s: before a source that has gone is run again; it doubles.
        """
        self.counts = Counts(sinks={one.name: one.counts for one in deliveries})
        self._model, self._source, self._deliveries = model, source, deliveries
        self._outputs, self._pause_s = outputs, pause_s
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._ended = False
        self._said: dict[str, float] = {}

    def stop(self) -> None:
        """End soon; may be called from a signal handler or another thread."""
        self._stop.set()

    def run(self) -> Counts:
        """Work until the source has ended, or `stop`; return the counts."""
        reading = threading.Thread(target=self._read, name="source", daemon=True)
        reading.start()
        try:
            while not self._stop.is_set():
                item = self._next()
                if item is not None:
                    self._handle(item)
                elif self._ended and not self._items:
                    break
        finally:
            self._stop.set()
            with self._changed:
                self._changed.notify_all()
            reading.join(_FLUSH_S)
            for delivery in self._deliveries:
                delivery.close(_FLUSH_S)
        return self.counts

    def _read(self) -> None:
        pause_s = self._pause_s
        while not self._stop.is_set():
            began_s = moment().elapsed_s
            try:
                self._source.run(self._deliver, self._stop)
                break
            except OSError as error:
                self._say("source", f"the source has gone and is tried again: {error}")
            except Exception:
                log.exception("the source failed and is tried again")
            if moment().elapsed_s - began_s > _PAUSE_S_MAX:
                pause_s = self._pause_s
            self._stop.wait(pause_s * random.uniform(0.5, 1))  # noqa: S311 - spreads, no secret
            pause_s = min(pause_s * 2, _PAUSE_S_MAX)
            self.counts.restarts += 1
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _deliver(self, item: Item) -> None:
        with self._changed:
            self.counts.received += 1
            if self._source.newest_wins:
                if len(self._items) >= QUEUE_MAX:
                    self._items.popleft()
                    self.counts.dropped += 1
            else:
                self._changed.wait_for(lambda: len(self._items) < QUEUE_MAX or self._stop.is_set())
            self._items.append(item)
            self._changed.notify_all()

    def _next(self) -> Item | None:
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended, _LOOK_S)
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def _handle(self, item: Item) -> None:
        """Predict and hand on; whatever happens is counted."""
        good = False
        try:
            if isinstance(item.given, Malformed):
                raise item.given
            request = secrets.token_hex(8)
            prediction = self._predict(item.given, request)
            row = self._row(item, request, prediction)
            good = True
        except (Malformed, InputRefused) as error:
            self.counts.malformed += 1
            self._say("malformed", f"{item.name}: {error}")
        except PredictionFailed as error:
            self.counts.failed += 1
            self._say("failed", f"{item.name}: {error}")
        except ModelUnavailable as error:
            self.counts.unavailable += 1
            self._say("unavailable", str(error))
        else:
            self.counts.predicted += 1
            for delivery in self._deliveries:
                delivery.put(row)
        if item.done is not None:
            try:
                item.done(good)
            except OSError as error:
                self._say("done", f"{item.name}: {error}")

    def _predict(self, given: Any, request: str) -> Prediction:
        """Predict; for a source that may wait, as soon as there is a model."""
        while True:
            try:
                return self._model.predict(given, request=request)
            except ModelUnavailable as error:
                if self._source.newest_wins or self._stop.is_set():
                    raise
                self._say("unavailable", str(error))
            self._stop.wait(_LOOK_S)

    def _row(self, item: Item, request: str, prediction: Prediction) -> bytes:
        """Return the result as a line of JSON without its end."""
        row: dict[str, Any] = {
            "at": now(),
            "slot": self._model.name,
            "version": prediction.version,
            "variant": prediction.variant,
            "manifest": prediction.manifest,
            "source": item.name,
            "request": request,
        }
        if prediction.rows:
            row["label"], row["confidence"] = prediction.label, prediction.confidence
        if len(prediction.rows) > 1:
            row["labels"] = prediction.labels
        if self._outputs or not prediction.rows:
            row["outputs"] = {name: _plain(array) for name, array in prediction.items()}
        return msgspec.json.encode(row)

    def _say(self, kind: str, sentence: str) -> None:
        now_s = moment().elapsed_s
        if now_s - self._said.get(kind, float("-inf")) >= _SAY_S:
            self._said[kind] = now_s
            log.warning("%s", sentence)


def contract_of(model: Model) -> Contract:
    """Return what says what the model takes, or took while there was one; nothing before."""
    known: tuple[TensorSpec, ...] = ()

    def contract() -> tuple[TensorSpec, ...]:
        nonlocal known
        with suppress(ModelUnavailable):
            known = model.inputs
        return known

    return contract


def _plain(array: Any) -> Any:
    """Return an output as JSON has it: null where it is not finite, its shape where it is large."""
    if array.size > _OUTPUT_ELEMENTS_MAX:
        return {"shape": array.shape}
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        array = np.where(np.isfinite(array), array.astype(object), None)
    return array.tolist()
