"""Outcomes of requests from a topic of the site's broker: ``{"request": "…", "label": "…"}`` each.

Who learns later what was true, a scale or a till behind the camera, publishes it there with the
``request`` of the result that `connect` has published. Each is told to the agent, which tells the
server. What is no outcome is counted and left out; so is what the agent refuses, such as every one
while no policy asks for samples. While the agent is away they wait, `WAITING_MAX` at most: then the
oldest go, and are counted.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from edgectl_agent.clock import moment
from edgectl_agent.flows.items import Item, Malformed, Source
from edgectl_agent.sdk import InputRefused, SdkError

__all__ = ["Heard", "Listening"]

log = logging.getLogger(__name__)

WAITING_MAX = 1024
_LOOK_S = 0.5
_PAUSE_S = 1.0
_SAY_S = 60.0
_AWAY = frozenset({"agent.down", "agent.busy"})

Tell = Callable[[str, str], None]
"""Tells request and label; raises `SdkError`."""


class Heard(Struct, kw_only=True):
    """What has become of the messages."""

    received: int = 0
    told: int = 0
    malformed: int = 0
    refused: int = 0
    dropped: int = 0


class _Message(Struct, frozen=True):
    request: str
    label: str


class Listening:
    """Tells what a source gives, until it is stopped."""

    def __init__(self, source: Source, tell: Tell, *, pause_s: float = _PAUSE_S) -> None:
        """Put the parts together.

        Args:
            source: of messages, as JSON.
            tell: tells one.
            pause_s: before the agent is asked again that was away.
        """
        self.counts = Heard()
        self._source, self._tell, self._pause_s = source, tell, pause_s
        self._waiting: deque[_Message] = deque()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._said: dict[str, float] = {}

    def stop(self) -> None:
        """End soon; may be called from a signal handler or another thread."""
        self._stop.set()

    def run(self) -> Heard:
        """Work until `stop`; return the counts."""
        reading = threading.Thread(
            target=self._source.run, args=(self._take, self._stop), name="source", daemon=True
        )
        reading.start()
        while not self._stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting), _LOOK_S)
                message = self._waiting.popleft() if self._waiting else None
            if message is not None:
                self._pass_on(message)
        reading.join(_PAUSE_S)
        return self.counts

    def _take(self, item: Item) -> None:
        with self._changed:
            self.counts.received += 1
            try:
                self._waiting.append(_read(item.given))
            except Malformed as error:
                self.counts.malformed += 1
                self._say("malformed", f"{item.name}: {error}")
                return
            if len(self._waiting) > WAITING_MAX:
                self._waiting.popleft()
                self.counts.dropped += 1
            self._changed.notify_all()

    def _pass_on(self, message: _Message) -> None:
        while not self._stop.is_set():
            try:
                self._tell(message.request, message.label)
            except InputRefused as error:
                self.counts.malformed += 1
                self._say("malformed", str(error))
            except SdkError as error:
                self._say(error.code, str(error))
                if error.code in _AWAY:
                    self._stop.wait(self._pause_s)
                    continue
                self.counts.refused += 1
            else:
                self.counts.told += 1
            return
        self.counts.dropped += 1

    def _say(self, kind: str, sentence: str) -> None:
        now_s = moment().elapsed_s
        if now_s - self._said.get(kind, float("-inf")) >= _SAY_S:
            self._said[kind] = now_s
            log.warning("%s", sentence)


def _read(given: Any) -> _Message:
    if isinstance(given, Malformed):
        raise given
    try:
        return msgspec.convert(given, _Message)
    except msgspec.ValidationError as error:
        raise Malformed(f'expected {{"request": "…", "label": "…"}}: {error}') from error
