"""Answers who asks at the device: between the control socket's threads and the main loop.

What changes something is decided in the main thread alone; its answer is waited for, with a bound,
by the thread of the peer. A file to install is looked at and brought into the store in that thread,
because it takes its time; then the update machine gets the wish like any other event.
"""

from __future__ import annotations

import queue
import secrets
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from edgectl_agent.core import steps
from edgectl_agent.core.timing import Moment
from edgectl_agent.errors import AgentError, Refused, Unreachable
from edgectl_agent.hold_file import Held, HoldFile
from edgectl_agent.local_messages import (
    Answer,
    Hold,
    Install,
    Outcome,
    Release,
    Request,
    RollBack,
    Status,
    answer_of,
)
from edgectl_protocol.messages import Reason, SlotOrder

__all__ = ["Asked", "LocalDesk", "Prepared"]

ANSWER_S_MAX = 10.0
"""The main loop is busy for longer only while a disk fails."""
_HINTS = {
    "rollback.busy": "edgectl-agent status shows how far it is",
    "rollback.nothing": "edgectl-agent models shows what runs in which slot, and what ran before",
    "rollback.rejected": "edgectl-agent models shows what runs in which slot, and what ran before",
    "update.remembered": "an operator can have it tried again: edgectl rollout start … --forgive",
}

Reply = queue.SimpleQueue[Answer]


class Prepared(Struct, frozen=True, kw_only=True):
    """A version that came as a file, verified and in the store."""

    slot: str
    wanted: SlotOrder


class Asked(Struct, frozen=True, kw_only=True):
    """A request on its way to the main thread, with where its answer goes."""

    request: Hold | Release | RollBack | Outcome | Status | Prepared
    reply: Any
    """A `Reply`; a queue is nothing that a struct can check."""


class Installer(Protocol):
    """Brings a file into the store."""

    def prepare(self, file: int, request: Install) -> Prepared:
        """Verify and store; raise `AgentError` or `OSError`."""


class LocalDesk:
    """The desk of one agent."""

    def __init__(
        self,
        hold: HoldFile,
        *,
        put: Callable[[Asked], None],
        feed: Callable[[steps.Event], None],
        installer: Installer,
        status: Callable[[], dict[str, Any]],
        tell: Callable[[Outcome], None],
        settled: Callable[[str], None],
    ) -> None:
        """Take what is asked about.

        Args:
            hold: who holds.
            put: brings a request into the main thread; may be called from any.
            feed: tells the update machine, in the main thread.
            installer: used from the threads of the peers.
            status: how the agent is; called in the main thread.
            tell: tells the server an outcome, or raises `AgentError`; called in the main thread.
            settled: the machine has heard of the version that came as a file for a slot.
        """
        self._hold = hold
        self._put = put
        self._feed = feed
        self._installer = installer
        self._status = status
        self._tell = tell
        self._settled = settled
        self._waiting: dict[str, Reply] = {}
        self._held: Reason | None = None
        self._begun = False

    # ------------------------------------------------------------ in the threads of the peers

    def handle(self, request: Request, file: int | None) -> Answer:
        """Answer one request; raise `AgentError` or `OSError`."""
        if isinstance(request, Install):
            assert file is not None
            prepared = self._installer.prepare(file, request)
            answer = self._ask(prepared)
            return msgspec.structs.replace(answer, data={"slot": prepared.slot})
        return self._ask(request)

    def _ask(self, request: Hold | Release | RollBack | Outcome | Status | Prepared) -> Answer:
        reply: Reply = queue.SimpleQueue()
        self._put(Asked(request=request, reply=reply))
        try:
            return reply.get(timeout=ANSWER_S_MAX)
        except queue.Empty as error:
            raise Unreachable(
                "agent.busy",
                f"the agent has not answered for {ANSWER_S_MAX:g} s",
                hint="its log says what it is doing: journalctl -u edgectl-agent",
            ) from error

    # ------------------------------------------------------------ in the main thread

    def watch(self, moment: Moment) -> None:
        """Tell the machine when somebody begins or ends to hold; cheap, called each turn."""
        held = self._hold.look(moment)
        if held != self._held or not self._begun:  # it may have changed while the agent began
            self._held, self._begun = held, True
            self._feed(steps.HoldChanged(held=held))

    def take(self, asked: Asked, moment: Moment) -> None:
        """Do what is asked, and answer."""
        try:
            answer = self._do(asked, moment)
        except AgentError as error:
            answer = answer_of(error)
        except OSError as error:
            answer = answer_of(
                Refused(
                    "disk.error",
                    f"the state directory: {error}",
                    hint="look at the disk: edgectl-agent doctor",
                )
            )
        if answer is not None:
            asked.reply.put(answer)

    def answered(self, request: str, reason: Reason | None) -> None:
        """Pass on what the update machine says to a request."""
        reply = self._waiting.pop(request, None)
        if reply is not None:
            hint = _HINTS.get(reason.code, "") if reason else ""
            reply.put(Answer(refused=reason, hint=hint))

    def shown(self, moment: Moment) -> dict[str, Any]:
        """Return the holds as plain values."""
        return self._hold.shown(moment)

    def _do(self, asked: Asked, moment: Moment) -> Answer | None:
        match asked.request:
            case Status():
                return Answer(data=self._status())
            case Hold() as wanted:
                held = Held(reason=wanted.reason, for_s=wanted.for_s)
                self._hold.put(wanted.name, held, moment)
                self.watch(moment)
                return Answer(data={"holds": self._hold.shown(moment)})
            case Release(name=name):
                had = self._hold.remove(name, moment)
                self.watch(moment)
                return Answer(data={"released": had, "holds": self._hold.shown(moment)})
            case Outcome() as outcome:
                self._tell(outcome)
                return Answer()
            case RollBack(slot=slot):
                number = self._note(asked.reply)
                self._feed(steps.RollbackAsked(slot=slot, request=number))
            case Prepared(slot=slot, wanted=wanted_slot):
                number = self._note(asked.reply)
                self._feed(steps.InstallAsked(slot=slot, wanted=wanted_slot, request=number))
                self._settled(slot)
        return None

    def _note(self, reply: Reply) -> str:
        number = secrets.token_hex(8)
        self._waiting[number] = reply
        return number
