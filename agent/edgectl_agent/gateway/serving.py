"""A board in the place of the inference process: what runs is what the board says.

Rules:

1. A trial of the agent brings the bundle into the board's spare slot, and nothing runs it.
   Activating it has it tried by the board, which commits it or goes back, by itself and for good:
   golden cases, counter and journal are `firmware-examples/core`.
2. The pointer follows the board. It is written when the board says that it runs the bundle, and
   changed when the board says that it runs something else: another board, say, or a blank one.
3. There is no way back behind what the board has committed, whoever asks: its counter only grows.
   A rollback asks the board what runs, and tells that.
4. What runs is found among the bundles of the pointers by its digest; what is not there is unknown.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct, structs

from edgectl_agent.bundle import Bundle
from edgectl_agent.core.record import SlotPointer
from edgectl_agent.core.steps import HealthSeen, PointerChanged
from edgectl_agent.errors import (
    StepCancelled,
    StepError,
    StepFailed,
    StepRejected,
    make_reason,
)
from edgectl_agent.gateway.board import HEADER_BYTES, Board, Hello, digest_in
from edgectl_agent.serving import Switched
from edgectl_agent.store import Store
from edgectl_agent.trial import TrialResult, Verdict
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import model_layer
from edgectl_protocol.messages import Installed, Reason, SwapReport

__all__ = ["BoardServing", "Look"]

AWAY_S = 600.0
"""So long a step waits for a board that does not answer."""
BOOT_S = 30.0
"""A reset, and three attempts of a trial that hangs: the watchdog ends each after 8 s."""
_BUNDLE_BYTES_MAX = 16 * 1024 * 1024
_PAUSE_S = 0.25
_log = logging.getLogger(__name__)


class Look(Struct, frozen=True, kw_only=True):
    """What a look at the board has found."""

    hello: Hello | None
    """None: it does not answer."""
    changed: tuple[PointerChanged, ...] = ()


class BoardServing:
    """The slot of one board."""

    def __init__(
        self,
        store: Store,
        board: Board,
        *,
        patience: float = 1.0,
        stopping: Callable[[], bool] = lambda: False,
        progress: Callable[[str, int, int], None] = lambda _slot, _done, _total: None,
    ) -> None:
        """Take what it needs.

        Args:
            store: with the bundles and the pointers.
            board: nobody else speaks to it.
            patience: factor to the time that a boot may take.
            stopping: says that nobody waits any more.
            progress: told the slot, the bytes that the board has, and those of the bundle.
        """
        self._store = store
        self._board = board
        self._patience = patience
        self._stopping = stopping
        self._progress = progress
        self._digests: dict[str, bytes] = {}
        self._lock = threading.Lock()
        """Held while the board is asked."""

    # ------------------------------------------------------------ what the steps ask

    def stage(self, bundle: Bundle) -> TrialResult:
        """Bring a bundle into the board's spare slot; raises nothing but `StepCancelled`."""
        try:
            with self._lock:
                self._stage(bundle.slot, _content(bundle))
        except StepCancelled:
            raise
        except StepError as error:
            rejected = isinstance(error, StepRejected)
            verdict = Verdict.REJECTED if rejected else Verdict.FAILED
            return TrialResult(verdict=verdict, reason=error.reason)
        return TrialResult(verdict=Verdict.OK)

    def activate(self, installed: Mapping[str, Installed]) -> Switched:
        """Have the board try a bundle, and point to it once the board runs it.

        Raises:
            StepRejected: the board will not have it, or has gone back.
            StepFailed: the board does not answer, or its flash fails.
        """
        if len(installed) != 1:
            raise StepRejected(
                "board.coupled", "a microcontroller has one slot", slot=min(installed)
            )
        ((slot, one),) = installed.items()
        begun = time.monotonic()
        with self._lock:
            content = _content(self._store.installed(slot, one))
            if not self._await().runs(digest_in(content)):
                self._try(slot, content)
            self._store.settle()
            pointers = self._store.pointers()
            pointer = pointers.get(slot, SlotPointer())
            if pointer.running is None or pointer.running.manifest != one.manifest:
                pointer = SlotPointer(running=one, previous=pointer.running)
                self._store.point({slot: pointer})
        swap = SwapReport(load_ms=(time.monotonic() - begun) * 1000)
        return Switched({slot: pointer}, {slot: swap})

    def roll_back(self, manifests: Mapping[str, str]) -> Switched:
        """Ask the board what runs, and tell that; raise `StepFailed` where it does not say."""
        with self._lock:
            hello = self._await()
            if hello.on_trial:
                hello = self._reboot()
            self._follow(hello)
            pointers = self._store.pointers()
        after = {slot: pointers.get(slot, SlotPointer()) for slot in manifests}
        for slot, manifest in manifests.items():
            running = after[slot].running
            if running is not None and running.manifest == manifest:
                _log.warning("%s: the board has committed it, and goes nowhere back", slot)
        return Switched(after, {slot: SwapReport() for slot in manifests})

    def accompany(
        self, slot: str, installed: Installed, *, share: float, cpu_max: float
    ) -> SwapReport:
        """Refuse: a board runs one model."""
        del installed, share, cpu_max
        raise StepFailed(
            "slot.empty",
            f"no model is loaded in {slot}, beside which a board has no room",
            slot=slot,
        )

    def mirror(self, slot: str, *, share: float, cpu_max: float) -> bool:
        """Say that there is nothing that copies could go to."""
        del slot, share, cpu_max
        return False

    def release(self, slot: str) -> None:
        """Do nothing: nothing is kept beside what runs."""

    # ------------------------------------------------------------ what the main thread asks

    def look(self) -> Look | None:
        """Ask the board once what runs, and follow it; None while a step asks it."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            hello = self._board.hello()
            if hello.on_trial:  # a step that was cut off; it will be asked for again
                return Look(hello=hello)
            return Look(hello=hello, changed=self._follow(hello))
        except StepCancelled:
            return None
        except StepError as error:
            _log.debug("%s", error)
            return Look(hello=None)
        finally:
            self._lock.release()

    def seen(self, slot: str, hello: Hello) -> HealthSeen | None:
        """Return that a slot serves what the board runs; a board counts no requests."""
        running = self._store.pointers().get(slot, SlotPointer()).running
        if running is None or not hello.runs(self._digest(running.manifest)):
            return None
        return HealthSeen(slot=slot, manifest=running.manifest, requests=0, errors=0, non_finite=0)

    # ------------------------------------------------------------ with the lock

    def _stage(self, slot: str, content: bytes) -> Hello:
        hello = self._await()
        if hello.on_trial:
            hello = self._reboot()
        if hello.runs(digest_in(content)):
            return hello
        sent = self._board.stage(
            content, hello, lambda done: self._progress(slot, done, len(content))
        )
        _log.info("%s: %d of %d bytes had to be sent to the board", slot, sent, len(content))
        return hello

    def _try(self, slot: str, content: bytes) -> None:
        """Have the board try a bundle, which is staged, or nearly so."""
        hello = self._stage(slot, content)
        digest = digest_in(content)
        if not hello.runs(digest):
            self._board.end(content, hello)
            hello = self._reboot()
        if hello.runs(digest):
            return
        if hello.has_rejected(digest):
            raise StepRejected(
                "firmware.bad_self_test",
                "the board gave other answers to the golden cases than were signed, or hung",
                slot=slot,
            )
        raise StepFailed("board.reset", "the board runs something else than it was given")

    def _reboot(self) -> Hello:
        """Reset it, and return what it says once it has decided."""
        self._board.reset()
        end_s = time.monotonic() + self._patience * BOOT_S
        while True:
            self._check_stop()
            try:
                hello = self._board.hello(tries=1)
                if not hello.on_trial:
                    return hello
            except StepFailed:
                if time.monotonic() > end_s:
                    raise
            if time.monotonic() > end_s:
                raise StepFailed("board.reset", "it does not come to an end with its trial")
            time.sleep(_PAUSE_S)

    def _await(self) -> Hello:
        """Return what the board says, once it answers."""
        end_s = time.monotonic() + AWAY_S
        while True:
            self._check_stop()
            try:
                return self._board.hello(tries=1)
            except StepFailed as error:
                if error.code != "board.silent" or time.monotonic() > end_s:
                    raise
            time.sleep(_PAUSE_S)

    def _check_stop(self) -> None:
        if self._stopping():
            raise StepCancelled

    def _follow(self, hello: Hello) -> tuple[PointerChanged, ...]:
        """Point to what the board runs; return the slots that had to change."""
        changes = []
        for slot, pointer in self._store.pointers().items():
            now = pointer
            if pointer.running is None or not hello.runs(self._digest(pointer.running.manifest)):
                before = pointer.previous
                back = before is not None and hello.runs(self._digest(before.manifest))
                now = (
                    SlotPointer(running=before) if back else structs.replace(pointer, running=None)
                )
            if now != pointer:
                self._store.point({slot: now})
                reason = make_reason("board.other", _other(hello))
                changes.append(PointerChanged(slot=slot, pointer=now, reason=reason))
        return tuple(changes)

    def _digest(self, manifest: str) -> bytes:
        """Return the digest in the bundle of a stored manifest; zeros where it is not there."""
        if manifest not in self._digests:
            try:
                layer = model_layer(self._store.manifest(manifest))
                with Path(self._store.locate(layer.digest)).open("rb") as file:
                    header = file.read(HEADER_BYTES)
            except (OSError, ProtocolError, StepError):
                return bytes(64)
            self._digests[manifest] = digest_in(header)
        return self._digests[manifest]


def silent_reason() -> Reason:
    """Return what is reported of a board that does not answer."""
    return make_reason("board.silent", "the board does not answer its gateway")


def _other(hello: Hello) -> str:
    if not hello.running:
        return "the board runs no model: another board, or its flash was erased"
    return f"the board runs something that its gateway has not given it, counter {hello.counter}"


def _content(bundle: Bundle) -> bytes:
    """Return a bundle for microcontrollers; raise `StepRejected` for another."""
    if bundle.config.runtime != "cortex-m":
        raise StepRejected(
            "board.runtime", f"a microcontroller runs no {bundle.config.runtime}", slot=bundle.slot
        )
    with Path(bundle.model).open("rb") as file:
        content = file.read(_BUNDLE_BYTES_MAX + 1)
    if len(content) > _BUNDLE_BYTES_MAX:
        raise StepRejected("firmware.too_large", f"more than {_BUNDLE_BYTES_MAX} bytes")
    return content
