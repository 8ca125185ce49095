"""Keeps the inference process alive, and says what it died of.

Used by the main thread alone, which calls `Keeper.watch` each turn.

Rules:

1. A child whose event loop shows no life for `SILENT_S_MAX` is ended: some model hangs in it.
2. The update machine hears of every death, with the models that were computing then: the one under
   observation is rolled back unless only others were. What serves otherwise is reported as a fault
   of its slot; where nobody knows what was computing, of every slot.
3. It is started again after a wait that doubles with each death, and begins anew once it has lived
   for `STEADY_S`.
4. What is observed gets what ran before beside it again, unless that may have been the cause.
5. It is asked nothing while it is silent, so that a hung model holds up no other work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from contextlib import suppress
from typing import Any, Protocol

from edgectl_agent.core import steps
from edgectl_agent.core.machine import Machine
from edgectl_agent.core.record import SlotPointer
from edgectl_agent.core.timing import delay_s
from edgectl_agent.errors import StepError, make_reason
from edgectl_agent.inference.errors import InferenceDown
from edgectl_agent.inference.process import Death, InferenceProcess
from edgectl_agent.reporter import Reporter
from edgectl_agent.serving import Serving
from edgectl_protocol.messages import Reason

__all__ = ["SILENT_S_MAX", "Keeper"]

SILENT_S_MAX = 5.0
"""Longer than anything that a healthy event loop does in one go, on a slow board as well."""
ASKED_S_MAX = 2.0
"""A child that has been silent for longer is asked nothing."""
STEADY_S = 60.0
RESTORE_AGAIN_S = 30.0
FIRST_WAIT_S = 0.5
WAIT_S_MAX = 30.0
_log = logging.getLogger(__name__)


class Feed(Protocol):
    """How the update machine is told."""

    def __call__(self, event: steps.Event, /) -> None:
        """Tell it."""


class Keeper:
    """Watches one inference process and what it should serve."""

    def __init__(
        self,
        *,
        inference: InferenceProcess,
        serving: Serving,
        machine: Machine,
        reporter: Reporter,
        feed: Feed,
        changed: Feed,
        say: Callable[[dict[str, Any]], None],
        jitter: Callable[[], float],
    ) -> None:
        """Take what is watched and who is told.

        Args:
            inference: the process; `begin` starts it.
            serving: loads into it what the pointers say.
            machine: says which slots are about to change.
            reporter: hears of faults.
            feed: tells the machine at once.
            changed: tells the machine later, with the next turn.
            say: tells whoever reads the agent's output.
            jitter: a random number from 0 to 1.
        """
        self._inference = inference
        self._serving = serving
        self._machine = machine
        self._reporter = reporter
        self._feed = feed
        self._changed = changed
        self._say = say
        self._jitter = jitter
        self._deaths = 0
        self._suspects: set[str] = set()
        """Manifests of the models that were computing when it died, at any time."""
        self._started_s = 0.0
        self._restart_s: float | None = None
        self._restore_s = 0.0
        self._silent_s = 0.0

    @property
    def answering(self) -> bool:
        """Whether the process may be asked something without being waited for."""
        return self._restart_s is None and self._silent_s < ASKED_S_MAX

    def begin(self, elapsed_s: float) -> None:
        """Serve what the pointers say; the process has just been started."""
        self._started_s = elapsed_s
        self._restore(elapsed_s, fresh=True)

    def watch(self, elapsed_s: float) -> None:
        """Look after the process.

        Args:
            elapsed_s: seconds on a clock that only grows.
        """
        if self._restart_s is not None:
            if elapsed_s >= self._restart_s:
                self._restart(elapsed_s)
            return
        if not self._inference.alive():
            self._mourn(self._inference.death(), elapsed_s)
            return
        self._silent_s = self._inference.silent_s()
        if self._silent_s >= SILENT_S_MAX:
            _log.error("the inference process has hung for %.1f s: ending it", self._silent_s)
            self._inference.kill()
            return
        if self._deaths and elapsed_s - self._started_s >= STEADY_S:
            self._deaths = 0
        if self._serving.silent and elapsed_s >= self._restore_s:
            self._restore(elapsed_s, fresh=False)

    def _mourn(self, death: Death, elapsed_s: float) -> None:
        """Tell of a death and plan the next start."""
        self._deaths += 1
        self._silent_s = 0.0
        self._wait(elapsed_s)
        if death.hung:
            reason = make_reason(
                "inference.hung", f"the inference process hung in a model: {death.detail}"
            )
        else:
            reason = make_reason("inference.died", f"the inference process died: {death.detail}")
        self._suspects.update(death.suspects)
        self._say(
            {
                "event": "inference-died",
                "code": reason.code,
                "detail": reason.detail,
                "suspects": list(death.suspects),
            }
        )
        observed = self._machine.observed
        self._feed(steps.InferenceDied(reason=reason, suspects=death.suspects))
        self._blame(reason, death.suspects, observed)

    def _blame(self, reason: Reason, suspects: tuple[str, ...], observed: Container[str]) -> None:
        """Report the fault of what serves; that of observed slots is in their updates already."""
        for slot, pointer in self._machine.pointers.items():
            running = pointer.running
            if running is None or slot in observed:
                continue
            if not suspects or running.manifest in suspects:
                self._reporter.fault(slot, running.manifest, reason)

    def _restart(self, elapsed_s: float) -> None:
        if not self._serving.lock.acquire(blocking=False):
            return  # a step finds out by itself that the process is gone
        try:
            self._inference.start()
        except InferenceDown as error:
            _log.error("the inference process does not start: %s", error)
            self._deaths += 1
            self._wait(elapsed_s)
            return
        finally:
            self._serving.lock.release()
        self._restart_s = None
        self._started_s = elapsed_s
        self._restore(elapsed_s, fresh=True)
        self._reporter.report()

    def _wait(self, elapsed_s: float) -> None:
        self._restart_s = elapsed_s + delay_s(
            self._deaths, first_s=FIRST_WAIT_S, max_s=WAIT_S_MAX, jitter=self._jitter()
        )

    def _restore(self, elapsed_s: float, *, fresh: bool) -> None:
        self._restore_s = elapsed_s + RESTORE_AGAIN_S
        for change in self._serving.restore(fresh=fresh, leave=self._machine.unsettled):
            self._changed(change)
        if fresh:
            with suppress(InferenceDown):  # its death is seen at the next turn
                self._inference.accept()
            self._compare_again()
        for slot, reason in self._serving.silent.items():
            running = self._machine.pointers.get(slot, SlotPointer()).running
            if running is not None:
                self._reporter.fault(slot, running.manifest, reason)

    def _compare_again(self) -> None:
        """Have beside what is observed what ran before it, to be compared with and to return to.

        But nothing that may have ended the process before: it would do so again and again.
        """
        policy = self._machine.policy
        for slot, before in sorted(self._machine.compared.items()):
            if before.manifest in self._suspects or slot in self._serving.silent:
                continue
            try:
                self._serving.accompany(
                    slot, before, share=policy.mirror_share, cpu_max=policy.mirror_cpu_max
                )
            except (StepError, OSError) as error:
                _log.warning("slot %s is observed without what ran before it: %s", slot, error)
