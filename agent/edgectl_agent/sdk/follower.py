"""The background thread of a `Model`: follows its slot at the hub, and tells what was counted.

Rules:

1. What is loaded goes on until something else is loaded and warm; then one reference changes. A
   prediction never waits for that.
   What has just been replaced is kept for a minute, so that a rollback loads nothing.
2. When the agent is away, the model goes on and its counts wait; connecting is tried again with
   growing pauses.
3. Only `Withdrawn` takes a model away. A hub with an empty slot may just have been started.
4. What cannot be loaded in this process is told to the agent's log and changes nothing here.
5. Counts of requests go out once a second, and at once after a failure or an answer that is not
   finite, so that an observation on the device sees it; only those of what this very hub has
   offered, because one that was just started knows nothing of another one's offers, and would drop
   them. How closely rows are looked at, each hub says anew.
6. A child after fork(2) has no thread, and perhaps a runtime without its threads: it starts anew,
   with counts of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgectl_agent.inference.errors import LoadFailed
from edgectl_agent.inference.hub_messages import (
    VERSION,
    Elsewhere,
    Follow,
    FromHub,
    Look,
    Offer,
    Refusal,
    Trouble,
    Waiting,
    Withdrawn,
)
from edgectl_agent.sdk.errors import ModelUnavailable
from edgectl_agent.sdk.line import HubLine
from edgectl_agent.sdk.loaded import Loaded
from edgectl_agent.sdk.offers import load_offer
from edgectl_agent.sdk.remote import Remote
from edgectl_agent.sdk.telling import Telling

__all__ = ["Follower", "Serving"]

TELL_S = 1.0
_TELL_S_MIN = 0.25
"""A model that fails every time is told so often, not with every failure."""
_PAUSE_S_MIN = 0.1
_PAUSE_S_MAX = 5.0
_RETIRED_S_MAX = 60.0
"""How long the model that was replaced is kept, for it may come back, and how long predictions that
are still in a model may count."""
_GIVE_UP_S = 2.0

Serving = Loaded | Remote
log = logging.getLogger("edgectl_agent.sdk")


class _Refused(Exception):
    """The hub hangs up, and has said why."""


class Follower:
    """What one `Model` follows.

    Attributes:
        serving: what answers now, or None.
        problem: why there is nothing, or why something newer could not be loaded; None otherwise.
    """

    def __init__(
        self, slot: str, path: Path, changed: Callable[[], object], *, files: bool
    ) -> None:
        """Describe it; `start` begins.

        Args:
            slot: what is followed.
            path: of the hub's socket.
            changed: called in the background thread when another model has taken over.
            files: whether the model shall run in this process.
        """
        self.serving: Serving | None = None
        self.problem: ModelUnavailable | None = None
        self._slot, self._path, self._changed, self._files = slot, path, changed, files
        self._before: Loaded | None = None
        """What was replaced last."""
        self._owed: list[tuple[float, Telling]] = []
        """What is to be told of what was replaced, and when that was."""
        self._look = Look()
        self._start_anew()
        _followers.add(self)

    def _start_anew(self) -> None:
        self._ready = threading.Condition()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._thread: threading.Thread | None = None
        self._line: HubLine | None = None
        self._offered: set[str] = set()
        """Manifests that the hub at the other end has offered."""

    def start(self) -> None:
        """Begin to follow; nothing happens when it has begun."""
        with self._ready:
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(
                    target=self._run, name=f"edgectl {self._slot}", daemon=True
                )
                self._thread.start()

    def wait(self, wait_s: float) -> Serving:
        """Return what answers, waiting for it at most `wait_s`; raise `ModelUnavailable`."""
        self.start()
        with self._ready:
            self._ready.wait_for(lambda: self.serving is not None or self._closing, wait_s)
        serving = self.serving
        if serving is None:
            raise self.problem or ModelUnavailable(
                "sdk.agent",
                f"the agent has not answered yet at {self._path}",
                hint="give more wait_s",
            )
        return serving

    def wake(self) -> None:
        """Tell the counts now."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Tell the last counts and end the thread."""
        thread = self._thread
        self._closing = True
        with self._ready:
            self._ready.notify_all()
        self.wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_GIVE_UP_S)
        self._retire()
        self.serving = None
        self.problem = ModelUnavailable("sdk.closed", f"model {self._slot!r} was closed")

    def after_fork(self) -> None:
        """Begin anew in the child; what is open is the parent's."""
        os.close(self._wake)
        if self._line is not None:
            self._line.close()
        closed = self._closing
        self.serving = self._before = None
        self._owed = []
        self._look = Look()
        self._start_anew()
        self._closing = closed

    def _run(self) -> None:
        pause_s = _PAUSE_S_MIN
        while not self._closing:
            started = time.monotonic()
            try:
                self._follow()
            except _Refused:
                pass  # why, has been noted
            except PermissionError:
                self._missing(
                    ModelUnavailable(
                        "sdk.permission",
                        f"this user may not connect to {self._path}",
                        hint="set models_group to a group of this user and models_socket to a "
                        "path that it can reach, in the agent's settings",
                    )
                )
            except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
                self._missing(
                    ModelUnavailable(
                        "sdk.agent",
                        f"no agent answers at {self._path}: {error}",
                        hint="start the agent, or give the path of its models_socket as socket= or "
                        "in EDGECTL_MODELS_SOCKET; `edgectl-agent status` says what runs",
                    )
                )
            except Exception:
                log.exception("model %r: what the hub says cannot be followed", self._slot)
            if time.monotonic() - started > _PAUSE_S_MAX:
                pause_s = _PAUSE_S_MIN
            if not self._closing:
                self._sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 - spreads, no secret
                pause_s = min(pause_s * 2, _PAUSE_S_MAX)

    def _sleep(self, pause_s: float) -> None:
        end = time.monotonic() + pause_s
        with self._ready:
            while not self._closing and (left := end - time.monotonic()) > 0:
                self._ready.wait(left)

    def _follow(self) -> None:
        """Follow until the connection ends; raise `OSError`, `_Refused` or a decoding error."""
        follow = Follow(
            hub=VERSION,
            slot=self._slot,
            files=self._files,
            application=Path(sys.argv[0]).name[:64] if sys.argv else "",
        )
        line = self._line = HubLine(self._path, follow)
        try:
            self._offered.clear()
            self._heed_look(Look())  # until this hub has said otherwise
            urgent = False
            told_s = float("-inf")
            while True:
                closing = self._closing
                due_s = told_s + (_TELL_S_MIN if urgent else TELL_S)
                received = line.receive(self._wake, max(due_s - time.monotonic(), 0))
                urgent = self._woken() or urgent
                if received is not None:
                    self._heed(line, *received)
                if isinstance(self.serving, Loaded):
                    self.serving.telling.settle()
                now_s = time.monotonic()
                if closing or now_s - told_s >= (_TELL_S_MIN if urgent else TELL_S):
                    self._tell(line, now_s, last=closing)
                    urgent, told_s = False, now_s
                if closing:
                    return
        finally:
            self._line = None
            line.close()

    def _woken(self) -> bool:
        try:
            return os.eventfd_read(self._wake) > 0
        except BlockingIOError:
            return False

    def _heed(self, line: HubLine, message: FromHub, files: list[int]) -> None:
        """Do what the hub says."""
        match message:
            case Offer():
                try:
                    self._load(line, message, files)
                finally:
                    for file in files:
                        os.close(file)
            case Look():
                self._heed_look(message)
            case Elsewhere():
                self._switch(Remote(message.slot, message.endpoint, message))
            case Waiting():
                self._missing(
                    ModelUnavailable(
                        "sdk.empty",
                        f"no model serves in {self._slot!r} on this device yet",
                        hint="roll one out with `edgectl rollout start`; `edgectl-agent status` "
                        "says what this device runs",
                    )
                )
            case Withdrawn():
                self._retire()
                self.serving = None
                self._missing(
                    ModelUnavailable(
                        "sdk.withdrawn",
                        f"the model in {self._slot!r} was taken from this device",
                        hint="roll another one out; this model follows by itself",
                    )
                )
            case Refusal():
                self._missing(
                    ModelUnavailable(
                        "sdk.refused",
                        f"the agent refuses this application: {message.code}: {message.detail}",
                        hint="the log inference.log in the agent's state directory says more",
                    )
                )
                raise _Refused

    def _heed_look(self, look: Look) -> None:
        self._look = look
        if isinstance(self.serving, Loaded):
            self.serving.telling.heed(look)

    def _load(self, line: HubLine, offer: Offer, files: list[int]) -> None:
        self._offered.add(offer.manifest)
        serving = self.serving
        if isinstance(serving, Loaded) and serving.answered.manifest == offer.manifest:
            self.problem = None
            return
        before = self._before
        if before is not None and before.answered.manifest == offer.manifest:
            self._switch(before)  # rolled back: it is warm
            return
        try:
            loaded = load_offer(offer, files, self.wake)
        except (LoadFailed, OSError) as error:
            code = error.code if isinstance(error, LoadFailed) else "load.unreadable"
            detail = error.detail if isinstance(error, LoadFailed) else str(error)
            self._missing(
                ModelUnavailable(
                    "sdk.load",
                    f"{offer.version} cannot be loaded in this process: {code}: {detail}",
                    hint="install what it needs beside the application (onnxruntime, or "
                    "ai-edge-litert), or ask the endpoint with in_process=False",
                )
            )
            line.send(Trouble(manifest=offer.manifest, code=code[:64], detail=detail[:512]))
            return
        self._switch(loaded)

    def _switch(self, serving: Serving) -> None:
        before = self.serving
        self._retire()
        if isinstance(serving, Loaded):
            serving.telling.heed(self._look)
        with self._ready:
            self.serving, self.problem = serving, None
            self._ready.notify_all()
        if before is None or before.answered.manifest == serving.answered.manifest:
            return
        try:
            self._changed()
        except Exception:
            log.exception("on_swap of model %r failed", self._slot)

    def _retire(self) -> None:
        if isinstance(self.serving, Loaded):
            self._before = self.serving
            self.serving.telling.stop()
            self._owed.append((time.monotonic(), self.serving.telling))
        elif self.serving is not None:
            self.serving.close()

    def _missing(self, problem: ModelUnavailable) -> None:
        if self.problem is None or self.problem.code != problem.code:
            log.warning("model %r: %s", self._slot, problem)
        self.problem = problem

    def _tell(self, line: HubLine, now_s: float, *, last: bool) -> None:
        """Tell what is due; raise `OSError` after counts that could not be sent were put back."""
        owing = [(telling, True) for _, telling in self._owed]
        if isinstance(self.serving, Loaded):
            owing.append((self.serving.telling, last))
        for telling, all_of_it in owing:
            if telling.manifest in self._offered:
                telling.tell(line.send, last=all_of_it)
        self._owed = [one for one in self._owed if now_s - one[0] < _RETIRED_S_MAX]
        if not self._owed:
            self._before = None


_followers: weakref.WeakSet[Follower] = weakref.WeakSet()


def _after_fork() -> None:
    for follower in tuple(_followers):
        follower.after_fork()


os.register_at_fork(after_in_child=_after_fork)
