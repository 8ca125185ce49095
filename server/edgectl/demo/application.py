"""An application on a device that asks its model without a pause, and notes who has answered.

Its sensor is shaken harder than any in the data that the models were made with.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

import httpx2
import msgspec

from edgectl.demo.activity_data import LABELS, PATH, request_of, windows

__all__ = ["Application", "Heard"]

SHAKEN = 4.0
_WINDOWS = 20
_PAUSE_S = 0.02
_TIMEOUT_S = 10.0


class Heard(msgspec.Struct, kw_only=True):
    """What it has been answered."""

    requests: int = 0
    failed: int = 0
    answers: dict[str, int] = {}
    """By version of the model."""
    without_number: dict[str, int] = {}
    """Of these, those with a NaN or an infinity."""
    last: str = ""
    """Version that answered last."""


class _Output(msgspec.Struct):
    name: str
    data: list[float | None]


class _Answer(msgspec.Struct):
    model_version: str
    outputs: list[_Output]


class Application:
    """Asks while it is entered."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="application", daemon=True)
        self._answers: Counter[str] = Counter()
        self._without: Counter[str] = Counter()
        self._requests = self._failed = 0
        self._last = ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join(2 * _TIMEOUT_S)

    def heard(self) -> Heard:
        """Return what has been answered so far."""
        return Heard(
            requests=self._requests,
            failed=self._failed,
            answers=dict(self._answers),
            without_number=dict(self._without),
            last=self._last,
        )

    def _run(self) -> None:
        bodies = [request_of(window * SHAKEN) for window in windows(_WINDOWS)[0]]
        with httpx2.Client(base_url=self._endpoint, timeout=_TIMEOUT_S, trust_env=False) as http:
            while not self._stopping.is_set():
                self._ask(http, bodies[self._requests % len(bodies)])
                time.sleep(_PAUSE_S)

    def _ask(self, http: httpx2.Client, body: bytes) -> None:
        try:
            response = http.post(PATH, content=body)
            response.raise_for_status()
            answer = msgspec.json.decode(response.content, type=_Answer)
        except (httpx2.HTTPError, msgspec.DecodeError):
            self._failed += 1
        else:
            self._last = answer.model_version
            self._answers[self._last] += 1
            if None in answer.outputs[0].data[: len(LABELS)]:
                self._without[self._last] += 1
        self._requests += 1
