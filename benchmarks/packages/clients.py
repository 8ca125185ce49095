"""An application that asks without a pause, whatever happens to the agent, and what it has seen."""

from __future__ import annotations

import http.client
import json
import select
import threading
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple, Self

__all__ = ["Asking", "Gap"]

PAUSE_S = 0.005
"""Between two requests, and before a connection is tried again: a busy application, not a load."""
TIMEOUT_S = 60.0


class Gap(NamedTuple):
    """What an application saw while something happened.

    Attributes:
        seconds: longest time between two answers.
        answered: requests that were answered.
        refused: connections that were not accepted; each is tried again after `PAUSE_S`.
        failed: requests that were sent and got no answer, or another one than 200.
    """

    seconds: float
    answered: int
    refused: int
    failed: int


class Asking:
    """One client on a connection that stays open; on a new one where that breaks.

    Before it asks, it looks whether the connection has been closed, as HTTP libraries do.
    """

    def __init__(self, port: int, model: str, tensor: Mapping[str, Any]) -> None:
        """Describe the requests; nothing is asked.

        Args:
            port: of the inference endpoint, on loopback.
            model: name of the slot.
            tensor: the one input, as Open Inference Protocol v2 has it in JSON.
        """
        self.port, self._path = port, f"/v2/models/{model}/infer"
        self._body = json.dumps({"inputs": [tensor]}).encode()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asking")
        self._answers_s: list[float] = []
        self._refused = self._failed = 0
        self.first: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        """First and last answer."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def answered(self) -> int:
        """Requests that were answered until now."""
        return len(self._answers_s)

    def seen(self) -> Gap:
        """Return what was seen until now."""
        times = self._answers_s.copy()
        gaps = [after - before for before, after in pairwise(times)]
        return Gap(max(gaps, default=0.0), len(times), self._refused, self._failed)

    def _run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._ended.is_set():
            try:
                if connection is not None and _was_closed(connection):
                    connection.close()
                    connection = None
                if connection is None:
                    connection = http.client.HTTPConnection(
                        "127.0.0.1", self.port, timeout=TIMEOUT_S
                    )
                    connection.connect()
            except OSError:
                self._refused += 1
                connection = None
                time.sleep(PAUSE_S)
                continue
            try:
                self._ask(connection)
            except (OSError, http.client.HTTPException):
                self._failed += 1
                connection.close()
                connection = None
                continue
            time.sleep(PAUSE_S)
        if connection is not None:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        connection.request("POST", self._path, self._body)
        with connection.getresponse() as answer:
            content = answer.read()
        if answer.status != http.HTTPStatus.OK:
            self._failed += 1
            return
        self._answers_s.append(time.monotonic())
        self.last = json.loads(content)
        self.first = self.first or self.last


def _was_closed(connection: http.client.HTTPConnection) -> bool:
    """Say whether the other side has ended an idle connection."""
    return bool(select.select([connection.sock], [], [], 0)[0])
