"""People who wear the demo's devices: each asks their device's model all day, as their phone does.

The windows are of real people, who wear the devices in turn, in a shuffled order, so that a minute
is like a day. A phone that is turned in its holder gives the same movements on other axes.

The data tells no names, but people come in it one after the other. The truth of the first ones is
there for who labels samples; the answers to the last ones, of whom nothing is ever labelled, tell
how good a model is.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import deque
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx2
import msgspec

from edgectl.demo.activity_data import EVALUATION, PATH, request_of

__all__ = ["Wearer", "Window", "turned", "windows_of"]

_PAUSE_S = 0.1
_TIMEOUT_S = 20.0
_REMEMBERED = 4000
_LABELLED_SHARE = 0.6


class Window(NamedTuple):
    """What a person did for 2.56 s: float32 [6, 128], and the number of its label."""

    values: Any
    label: int
    measures: bool
    """Of a person of whom nothing is labelled."""


class _Output(msgspec.Struct):
    data: list[float]


class _Answer(msgspec.Struct):
    model_version: str
    outputs: list[_Output]


class _Asked(NamedTuple):
    at: float
    right: bool
    version: str


def windows_of(wearer: int, wearers: int) -> list[Window]:
    """Return what people do who wear device number `wearer` in turn, in an order of its own."""
    import numpy as np  # comes with the server; the CLI itself does without

    with np.load(EVALUATION, allow_pickle=False) as data:
        values, labels = data["input"], data["label"]
    rows = np.random.default_rng((wearer, wearers)).permutation(len(labels))
    first = int(len(labels) * _LABELLED_SHARE)
    return [Window(values[row], int(labels[row]), row >= first) for row in rows]


def turned(window: Window, degrees: float) -> Window:
    """Return the window of a phone that is turned about its z axis."""
    import numpy as np

    angle = math.radians(degrees)
    axes = [
        [math.cos(angle), -math.sin(angle), 0],
        [math.sin(angle), math.cos(angle), 0],
        [0, 0, 1],
    ]
    both = np.kron(np.eye(2), np.array(axes))
    return window._replace(values=(both @ window.values).astype(np.float32))


class Wearer:
    """Asks while it is entered; `turn` may be changed at any time.

    Args:
        endpoint: of the device.
        windows: what is asked, again and again.
        truth: by SHA-256 of a window's bytes, where labels of what was asked are put, but for
            windows that measure.
    """

    def __init__(self, endpoint: str, windows: list[Window], truth: dict[str, int]) -> None:
        self.turn = 0.0
        self._endpoint = endpoint
        self._windows = windows
        self._truth = truth
        self._asked: deque[_Asked] = deque(maxlen=_REMEMBERED)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wearer", daemon=True)
        self.failed = 0

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

    def right(self, since: float, version: str = "") -> tuple[int, int]:
        """Return how many answers since a moment (`time.monotonic`) were right, and of how many.

        Only of windows that measure.
        """
        found = [one.right for one in list(self._asked)
                 if one.at >= since and version in {"", one.version}]  # fmt: skip
        return sum(found), len(found)

    def _run(self) -> None:
        with httpx2.Client(base_url=self._endpoint, timeout=_TIMEOUT_S, trust_env=False) as http:
            number = 0
            while not self._stopping.is_set():
                window = self._windows[number % len(self._windows)]
                self._ask(http, turned(window, self.turn) if self.turn else window)
                number += 1
                time.sleep(_PAUSE_S)

    def _ask(self, http: httpx2.Client, window: Window) -> None:
        if not window.measures:
            self._truth[hashlib.sha256(window.values.tobytes()).hexdigest()] = window.label
        request = request_of(window.values)
        began = time.monotonic()
        try:
            response = http.post(PATH, content=request)
            response.raise_for_status()
            answer = msgspec.json.decode(response.content, type=_Answer)
            scores = answer.outputs[0].data
        except (httpx2.HTTPError, msgspec.DecodeError, IndexError):
            self.failed += 1
            return
        said = max(range(len(scores)), key=scores.__getitem__)
        if window.measures:
            self._asked.append(_Asked(began, said == window.label, answer.model_version))
