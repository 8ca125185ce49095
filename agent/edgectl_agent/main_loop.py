"""What the main thread of every agent does, whatever runs the models: a process, or a board.

::

    take the state directory → put the parts together → begin → turns, until asked to end → end

Rules: everything that the machine must hear goes through one bounded inbox to the main thread. A
subclass puts together what is its own (`_reporter`, `_engine`, `_worker`) and says what is begun,
looked at in each turn, and ended. Whatever ends a run but `request_stop` counts against the update
that is under way.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from edgectl_agent.clock import moment
from edgectl_agent.connection import Mailbox
from edgectl_agent.core import steps
from edgectl_agent.device_key import load_key
from edgectl_agent.disk_wait import DiskWait
from edgectl_agent.durable import RealDisk
from edgectl_agent.enrol import ROOT_PATH, Identity
from edgectl_agent.errors import AgentError
from edgectl_agent.inbox import (
    AckCame,
    Alarmed,
    Inbox,
    Item,
    LinkChanged,
    ProgressMade,
    Said,
)
from edgectl_agent.journal import Journal
from edgectl_agent.keyring import Keyring
from edgectl_agent.performer import Engine
from edgectl_agent.reporter import Reporter
from edgectl_agent.server_link import make_link
from edgectl_agent.settings import Settings
from edgectl_agent.sources import make_downloader
from edgectl_agent.spool import Spool
from edgectl_agent.start import count_boot, lock_state
from edgectl_agent.store import Store
from edgectl_agent.trust.process import Trust
from edgectl_agent.workers import Crashed, OrderDesk, Worker
from edgectl_protocol import topics
from edgectl_protocol.messages import Reason

__all__ = ["MainLoop", "Say"]

POLL_S = 0.25
ORDER_AGAIN_S = 60.0
"""An order that was refused for the clock's sake is looked at again after this."""
_log = logging.getLogger(__name__)
Say = Callable[[dict[str, Any]], None]


class MainLoop(ABC):
    """One run on one state directory."""

    _reporter: Reporter
    _engine: Engine
    _worker: Worker

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        disk: RealDisk,
        say: Say,
        *,
        alive: Callable[[float], None],
    ) -> None:
        """Take the state directory; nothing is started, nothing is connected.

        Args:
            settings: of this run.
            identity: who this device is.
            disk: the state directory.
            say: is told what happens, one line at a time.
            alive: is called by the main thread with the elapsed seconds as long as it works.

        Raises:
            Refused: ``state.locked``: another agent runs on this state directory.
        """
        self._settings = settings
        self._identity = identity
        self._device = identity.device
        self._disk = disk
        self._say, self._alive = say, alive
        self._lock_handle = lock_state(disk)
        self._stopping = threading.Event()
        self._inbox = Inbox(self._stopping)
        self._disk_wait = DiskWait(self._stopping, self._look_after)
        self._orderly = False
        """It ends because it was asked to; whatever else ends it counts against the update."""
        self._random = random.SystemRandom()
        self._order_again_s: float | None = None

    def _assemble(self) -> None:
        """Put together what every agent has; a subclass adds what is its own."""
        settings = self._settings
        self._boot = count_boot(self._disk, self._identity.boot)
        self._key = load_key(self._disk, settings.key)
        self._connection, self._renewer = make_link(
            settings,
            self._identity,
            self._disk,
            self._key,
            will=lambda: self._reporter.will(),  # noqa: PLW0108 - it is made later
            on_change=lambda up: self._inbox.put(LinkChanged(up)),
            on_distrust=lambda reason: self._inbox.offer(Alarmed(reason)),
            say=lambda line: self._inbox.put(Said(line)),
        )
        self._store = Store(
            self._disk,
            keyring=Keyring(settings.key_path, self._device),
            reserve_bytes=settings.disk_reserve_bytes,
        )
        self._journal = Journal(self._disk)
        self._trust = Trust(
            settings.state_directory / "tuf", self._disk.read(ROOT_PATH), Mailbox(self._connection)
        )
        self._orders = OrderDesk(self._trust, self._inbox.put)
        self._downloader = make_downloader(
            settings,
            self._disk,
            device=self._device,
            server=settings.server or self._identity.server,
            key=self._key,
            store=self._store,
            connection=self._connection,
            alarm=lambda reason: self._inbox.offer(Alarmed(reason)),
        )
        self._spool = Spool(
            settings.state_directory / "spool", bytes_max=settings.spool_bytes_max, boot=self._boot
        )

    def request_stop(self) -> None:
        """Ask `run` to end; may be called from a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Work until `request_stop`; then end everything in good order.

        Raises:
            AgentError: what runs the models cannot be started at all.
        """
        self._connection.subscribe([topics.order(self._device)], self._orders.put)
        self._connection.subscribe(
            [topics.ack(self._device)],
            # Repeated, as what it answers is; while the journal cannot be written nobody takes it,
            # and the thread of the connection must not wait for that.
            lambda _, payload: self._inbox.offer(AckCame(payload)),
        )
        try:
            self._begin()
            self._connection.start()
            self._renewer.start()
            while not self._stopping.is_set():
                self._turn()
            self._orderly = True
        finally:
            self._stopping.set()
            self._end()

    @abstractmethod
    def _begin(self) -> None:
        """Start the threads and the engine, and say that it is ready; then it connects."""

    @abstractmethod
    def _look(self) -> None:
        """Look at what runs the models, in each turn."""

    @abstractmethod
    def _end(self) -> None:
        """End everything: with `_end_work`, last words on the connection, and `_end_run`."""

    # ------------------------------------------------------------ one turn

    def _turn(self) -> None:
        for event in self._disk_wait.due():
            self._feed(event)
        for item in self._inbox.take(POLL_S):
            self._take(item)
        self._alive(moment().elapsed_s)
        self._look()
        elapsed_s = moment().elapsed_s
        due_s = self._engine.machine.due_s
        if due_s is not None and due_s <= elapsed_s:
            self._feed(steps.Ticked())
        if self._order_again_s is not None and self._order_again_s <= elapsed_s:
            self._order_again_s = None
            self._orders.look_again()
        self._connection.watch()
        self._trust.watch()
        self._reporter.pump(elapsed_s)

    def _take(self, item: Item) -> None:
        match item:
            case LinkChanged(up=up):
                if up:
                    self._reporter.reconnected()
                self._say({"event": "connected" if up else "disconnected"})
            case AckCame(payload=payload):
                self._reporter.take_ack(payload)
            case Alarmed(reason=reason):
                self._reporter.alarm(reason, moment())
            case Crashed(error=error):
                raise error
            case Said(line=line):
                self._say(line)
            case ProgressMade(slot=slot, progress=progress):
                self._reporter.progress(slot, progress)
            case _:
                assert isinstance(item, steps.Event), f"nobody puts {type(item).__name__} here"
                self._feed(item)

    def _feed(self, event: steps.Event) -> None:
        if self._disk_wait.defer(event):
            return
        before = self._reporter.refusal
        self._engine.feed(event, moment(), self._random.random())
        refusal = self._reporter.refusal
        if isinstance(event, steps.OrderArrived):
            waits = refusal is not None and refusal.code in {"order.expired", "order.clock"}
            if waits and (refusal is not before or self._order_again_s is None):
                self._order_again_s = moment().elapsed_s + ORDER_AGAIN_S

    def _look_after(self, elapsed_s: float) -> None:
        """Do what cannot wait while the update machine stands still for the disk."""
        self._alive(elapsed_s)
        self._connection.watch()
        self._reporter.pump(elapsed_s)

    # ------------------------------------------------------------ the end

    def _give_up(self, reason: Reason) -> None:
        """End, because a step hangs where nothing can end it but the end of the process."""
        raise AgentError(
            reason.code, reason.detail, hint="whoever supervises the agent starts it anew"
        )

    def _end_work(self) -> None:
        """Stop the threads that work, and note that the end was in good order, if it is."""
        self._renewer.stop()
        self._orders.stop()
        self._worker.stop()
        self._trust.close()
        try:
            if self._orderly:
                self._engine.stop(moment())
        except OSError as error:
            _log.warning("the journal cannot be written: %s", error)

    def _end_run(self) -> None:
        """Let go of the state directory."""
        self._spool.close()
        os.close(self._lock_handle)
        self._say({"event": "stopped"})
