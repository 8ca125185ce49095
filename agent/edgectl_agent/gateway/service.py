"""The gateway at work: the agent of one board, with the agent's own parts.

::

    main thread     machine, journal, reporter, spool; looks at the board now and then
    worker          one step at a time: refresh, download, verify; to the board; reset
    orders          checks the signature of what comes as an order
    mqtt            the connection, as the board
    renewal         asks the server for a new certificate when it is time to

What is different from `edgectl_agent.supervisor`: a board in the place of the inference and the
trial process (`BoardServing`). There is no telemetry, no benchmark, no upload and nothing to ask
locally, because a board has none of that to tell. What both do is in `edgectl_agent.main_loop`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgectl_agent.clock import moment, now
from edgectl_agent.core.machine import Machine
from edgectl_agent.core.record import SlotPointer
from edgectl_agent.downloader import Progress
from edgectl_agent.durable import RealDisk
from edgectl_agent.enrol import Identity
from edgectl_agent.gateway.board import Board, Hello
from edgectl_agent.gateway.port import SerialPort
from edgectl_agent.gateway.serving import BoardServing, silent_reason
from edgectl_agent.hooks import Hooks
from edgectl_agent.inbox import ProgressMade
from edgectl_agent.main_loop import MainLoop, Say
from edgectl_agent.patching import Patcher
from edgectl_agent.performer import Engine, Performer
from edgectl_agent.reporter import Reporter
from edgectl_agent.settings import Settings
from edgectl_agent.workers import Worker
from edgectl_protocol.messages import Capabilities

__all__ = ["Gateway"]

LOOK_S = 5.0


class Gateway(MainLoop):
    """One run on the state directory of one board."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        disk: RealDisk,
        say: Say,
        *,
        port: SerialPort,
        patience: float = 1.0,
        alive: Callable[[float], None] = lambda _elapsed_s: None,
    ) -> None:
        """Prepare everything; nothing is started, nothing is connected.

        Args:
            settings: of this run.
            identity: who the board is.
            disk: its state directory.
            say: is told what happens, one line at a time.
            port: where the board is.
            patience: factor to all waits for it.
            alive: is called by the main thread with the elapsed seconds as long as it works.

        Raises:
            Refused: ``state.locked``: another agent or gateway runs on this state directory.
        """
        super().__init__(settings, identity, disk, say, alive=alive)
        self._port = port
        self._patience = patience
        self._look_s = 0.0
        self._hello: Hello | None = None
        """What the board has said last; None: it does not answer."""
        self._told = Capabilities(machine="", labels=dict(settings.labels))
        self._silent: bool | None = None
        """What was said of it to whoever reads our output."""
        self._assemble()

    def _assemble(self) -> None:
        """Put the parts together."""
        super()._assemble()
        settings = self._settings
        machine = self._machine = Machine(
            self._device,
            self._journal.load(),
            self._store.pointers(),
            maintenance=settings.maintenance_windows,
        )
        board = Board(self._port, patience=self._patience, cancelled=self._stopping.is_set)
        self._serving = BoardServing(
            self._store,
            board,
            patience=self._patience,
            stopping=self._stopping.is_set,
            progress=lambda slot, done, total: self._inbox.offer(
                ProgressMade(slot, Progress(bytes_done=done, bytes_total=total))
            ),
        )
        performer = Performer(
            metadata=self._trust,
            patcher=Patcher(self._downloader, self._store),
            store=self._store,
            serving=self._serving,
            trial=self._serving.stage,
            progress=lambda slot, progress: self._inbox.offer(ProgressMade(slot, progress)),
            hooks=Hooks(settings.hooks_directory, timeout_s=settings.hook_timeout_s),
        )
        self._worker = Worker(performer, None, self._inbox.put)
        self._reporter = Reporter(
            device=self._device,
            boot=self._boot,
            signer=self._key,
            machine=machine,
            outbox=self._spool,
            channel=self._connection,
            capabilities=self._capabilities,
            endpoint=lambda: "",
            now=now,
            say=self._say,
        )
        self._engine = Engine(
            machine,
            self._journal,
            outlet=self._reporter,
            submit=self._worker.submit,
            cancel=self._worker.cancel,
            give_up=self._give_up,
            wait_for_disk=self._disk_wait.wait,
        )

    def _begin(self) -> None:
        self._worker.start()
        self._orders.start()
        self._look_first()
        self._engine.start(moment(), self._random.random())
        self._say({"event": "ready", "endpoint": str(self._port.path), "device": self._device})

    def _end(self) -> None:
        self._end_work()
        self._connection.stop(self._reporter.last_words())
        self._port.close()
        self._end_run()

    # ------------------------------------------------------------ the board

    def _look_first(self) -> None:
        """Ask the board what runs before the machine begins, or anything is said of it."""
        look = self._serving.look()
        if look is not None:
            self._hello = look.hello
            self._machine.pointers.update({one.slot: one.pointer for one in look.changed})

    def _look(self) -> None:
        """Ask the board what runs, tell the machine, and say whether it answers."""
        observes = bool(self._machine.observed) and self._hello is not None
        if moment().elapsed_s < self._look_s and not observes:
            return
        self._look_s = moment().elapsed_s + LOOK_S
        look = self._serving.look()
        if look is None:
            return
        self._hello = look.hello
        for change in look.changed:
            self._feed(change)
        for slot in self._machine.observed:
            seen = None if look.hello is None else self._serving.seen(slot, look.hello)
            if seen is not None:
                self._feed(seen)
        self._tell_of_board(silent=look.hello is None)

    def _tell_of_board(self, *, silent: bool) -> None:
        if silent == self._silent:
            return
        self._silent = silent
        line: dict[str, Any] = {"event": "board-silent" if silent else "board"}
        if self._hello is not None:
            hello = self._hello
            line |= {"board": hello.board, "model": hello.model, "counter": hello.counter}
        self._say(line)
        for slot in self._machine.pointers:
            running = self._machine.pointers.get(slot, SlotPointer()).running
            if not silent:
                self._reporter.well(slot)
            elif running is not None:
                self._reporter.fault(slot, running.manifest, silent_reason())
        self._reporter.report()

    def _capabilities(self) -> Capabilities:
        """Return what the board is; as it was, where it does not answer now."""
        hello = self._hello
        if hello is not None:
            self._told = Capabilities(
                machine=hello.machine,
                cpu_model=hello.board,
                memory_bytes=hello.memory_bytes,
                runtimes={"cortex-m": "1"},
                labels=dict(self._settings.labels),
            )
        return self._told
