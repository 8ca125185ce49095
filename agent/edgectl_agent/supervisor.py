"""The agent at work: threads, processes and the order in which they begin and end.

::

    main thread     machine, journal, reporter, spool; starts the inference process
    worker          one step at a time: refresh, download, verify, trial, activate, roll back
                    measurements that the server asks for, when no update is under way
    orders          checks the signature of what comes as an order or as a request
    control         the control socket, and a thread for each who asks there
    mqtt            the connection; only puts things into the inbox or a mailbox
    renewal         asks the server for a new certificate when it is time to

Everything that the machine must hear goes through one bounded inbox to the main thread.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from edgectl_agent import health
from edgectl_agent.benchmarks import Benchmarks, Measured, Measurer
from edgectl_agent.clock import moment, now
from edgectl_agent.connection import Connection, Endpoint, Mailbox
from edgectl_agent.core import steps
from edgectl_agent.core.machine import Machine
from edgectl_agent.core.pacing import Pacer
from edgectl_agent.core.requests import RequestArrived, RequestRefused
from edgectl_agent.device_key import load_key
from edgectl_agent.disk_wait import DiskWait
from edgectl_agent.downloader import Downloader
from edgectl_agent.durable import RealDisk
from edgectl_agent.enrol import AUTHORITY_PATH, CERTIFICATE_PATH, ROOT_PATH, Identity
from edgectl_agent.errors import AgentError, TokenAway
from edgectl_agent.hold_file import HoldFile
from edgectl_agent.hooks import Hooks
from edgectl_agent.http_pieces import HttpPieces
from edgectl_agent.http_pull import HttpClient
from edgectl_agent.inbox import (
    AckCame,
    Alarmed,
    Inbox,
    Item,
    LinkChanged,
    ProgressMade,
    Said,
    WantCame,
)
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.journal import Journal
from edgectl_agent.keeper import Keeper
from edgectl_agent.keyring import Keyring
from edgectl_agent.live_status import LiveStatus
from edgectl_agent.local_desk import Asked
from edgectl_agent.local_service import LocalService
from edgectl_agent.log_ring import LogRing
from edgectl_agent.logs import Logs
from edgectl_agent.offline import LocalMetadata, Packages
from edgectl_agent.patching import Patcher
from edgectl_agent.performer import Engine, Performer
from edgectl_agent.pull_proof import make_proof, read_certificate
from edgectl_agent.renewal import Renewer
from edgectl_agent.reporter import Reporter
from edgectl_agent.request_ledger import RequestLedger
from edgectl_agent.serving import Serving
from edgectl_agent.settings import Settings
from edgectl_agent.signing import seal
from edgectl_agent.spool import Spool
from edgectl_agent.start import count_boot, endpoint_options, lock_state
from edgectl_agent.status import read_records
from edgectl_agent.store import Store
from edgectl_agent.trial import run_trial
from edgectl_agent.trust.process import Trust
from edgectl_agent.uploads import Uploads
from edgectl_agent.workers import Crashed, OrderDesk, Worker
from edgectl_protocol import topics
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.messages import Ack, Reason, decode
from edgectl_protocol.uploads import LogRequest

__all__ = ["Supervisor"]

POLL_S = 0.25
ORDER_AGAIN_S = 60.0
"""An order that was refused for the clock's sake is looked at again after this."""
_log = logging.getLogger(__name__)
Say = Callable[[dict[str, Any]], None]


class Supervisor:
    """One run of the agent on one state directory."""

    def __init__(self, settings: Settings, identity: Identity, disk: RealDisk, say: Say) -> None:
        """Prepare everything; nothing is started, nothing is connected.

        Raises:
            Refused: ``state.locked``: another agent runs on this state directory.
        """
        self._settings = settings
        self._device = identity.device
        self._disk = disk
        self._say = say
        self._lock_handle = lock_state(disk)
        self._ring = LogRing((settings.token,))
        logging.getLogger().addHandler(self._ring)
        self._boot = count_boot(disk)
        self._stopping = threading.Event()
        self._inbox = Inbox(self._stopping)
        self._disk_wait = DiskWait(self._stopping, self._look_after)
        self._orderly = False
        """It ends because it was asked to; whatever else ends it counts against the update."""
        self._random = random.SystemRandom()
        self._order_again_s: float | None = None
        self._telemetry_s = moment().elapsed_s + settings.telemetry_s
        self._capabilities = health.CapabilitySampler(settings.labels, settings.state_directory)
        self._inference = InferenceProcess(
            host=settings.host,
            port=settings.port,
            socket=settings.state_directory / settings.socket if settings.socket else None,
            hub=settings.state_directory / settings.models_socket
            if settings.models_socket
            else None,
            hub_group=settings.models_group,
            log=settings.state_directory / "inference.log",
            reserve_bytes=settings.memory_reserve_bytes,
            options=endpoint_options(settings),
        )
        self._key = load_key(disk, settings.key)
        self._connection = Connection(
            Endpoint(
                host=identity.broker.host,
                port=identity.broker.port,
                certificate=settings.state_directory / CERTIFICATE_PATH,
                key=self._key,
                authority=settings.state_directory / AUTHORITY_PATH,
                device=identity.device,
            ),
            will=lambda: self._reporter.will(),  # noqa: PLW0108 - it is made below
            on_change=lambda up: self._inbox.put(LinkChanged(up)),
            on_distrust=lambda reason: self._inbox.offer(Alarmed(reason)),
        )
        self._server = settings.server or identity.server
        self._renewer = Renewer(
            disk,
            server=self._server,
            server_ca=settings.server_ca,
            device=identity.device,
            key=self._key,
            connected=self._connection.connected,
            now=moment,
            say=lambda line: self._inbox.put(Said(line)),
        )
        self._assemble()

    def _assemble(self) -> None:
        """Put the parts together."""
        settings = self._settings
        store = self._store = Store(
            self._disk,
            keyring=Keyring(settings.key_path, self._device),
            reserve_bytes=settings.disk_reserve_bytes,
        )
        journal = Journal(self._disk)
        self._hold = HoldFile(self._disk)
        machine = Machine(
            self._device,
            journal.load(),
            store.pointers(),
            maintenance=settings.maintenance_windows,
            held=self._hold.look(moment()),  # before it may switch anything
        )
        self._serving = Serving(store, self._inference)
        self._trust = Trust(
            settings.state_directory / "tuf", self._disk.read(ROOT_PATH), Mailbox(self._connection)
        )
        self._packages = Packages(self._disk)
        self._metadata = LocalMetadata(self._trust, self._packages, self._connection.connected)
        self._orders = OrderDesk(self._trust, self._inbox.put)
        self._downloader = self._make_downloader(store)
        self._patcher = Patcher(self._downloader, store)
        self._worker = self._make_worker()
        self._spool = Spool(
            settings.state_directory / "spool", bytes_max=settings.spool_bytes_max, boot=self._boot
        )
        self._reporter = Reporter(
            device=self._device,
            boot=self._boot,
            signer=self._key,
            machine=machine,
            outbox=self._spool,
            channel=self._connection,
            capabilities=lambda: self._capabilities.take(moment().elapsed_s),
            endpoint=lambda: self._inference.endpoint,
            now=now,
            say=self._say_with_bytes,
        )
        self._engine = Engine(
            machine,
            journal,
            outlet=self._reporter,
            submit=self._worker.submit,
            cancel=self._worker.cancel,
            give_up=self._give_up,
            wait_for_disk=self._disk_wait.wait,
            answer=lambda *answer: self._local.answered(*answer),  # noqa: PLW0108 - made below
        )
        ledger = RequestLedger(self._device, self._disk)
        self._benchmarks = Benchmarks(
            ledger, machine=machine, reporter=self._reporter, submit=self._worker.submit
        )
        self._uploads = Uploads(
            self._device,
            self._disk,
            bytes_max=settings.upload_bytes_max,
            bytes_per_s=settings.upload_bytes_per_s,
            offer=self._reporter.offer,
            voice=self._connection,
            say=self._say,
        )
        self._logs = Logs(
            ledger,
            self._ring,
            records=lambda: read_records(self._disk),
            uploads=self._uploads,
            reporter=self._reporter,
        )
        self._keeper = Keeper(
            inference=self._inference,
            serving=self._serving,
            machine=machine,
            reporter=self._reporter,
            feed=self._feed,
            changed=self._inbox.put,
            say=self._say,
            jitter=self._random.random,
        )
        live = LiveStatus(
            self._disk,
            settings=settings,
            machine=machine,
            reporter=self._reporter,
            connection=self._connection,
            inference=self._inference,
            begun_s=moment().elapsed_s,
        )
        self._local = LocalService(
            self._hold,
            settings=settings,
            machine=machine,
            store=store,
            packages=self._packages,
            trust=self._trust,
            put=self._inbox.put,
            feed=self._feed,
            status=lambda holds: live.take(moment(), holds),
            stopping=self._stopping.is_set,
        )

    def _make_downloader(self, store: Store) -> Downloader:
        """Put together where bundles come from."""
        settings, pacer = self._settings, Pacer(self._settings.bandwidth)

        def alarm(reason: Reason) -> None:
            self._inbox.offer(Alarmed(reason))

        def source(address: str, certificate: Callable[[], str] = str) -> HttpPieces:
            proof = make_proof(self._device, self._key, now=now, certificate=certificate)
            client = HttpClient(address, proof=proof, server_ca=settings.server_ca)
            return HttpPieces(client, alarm=alarm, pacer=pacer)

        mirror = settings.mirror if settings.transfer != "mqtt" else ""
        return Downloader(
            self._device,
            store,
            Mailbox(self._connection, once=True),
            seal=lambda request: seal(self._key, request),
            alarm=alarm,
            pacer=pacer,
            before=(source(mirror, lambda: read_certificate(self._disk)),) if mirror else (),
            after=(source(self._server),) if settings.transfer != "mqtt" else (),
            broker=settings.transfer != "http",
        )

    def _make_worker(self) -> Worker:
        """Put together what fetches and tries."""
        settings = self._settings
        trial = partial(
            run_trial,
            timeout_s=settings.trial_timeout_s,
            memory_bytes_max=settings.trial_memory_bytes_max,
        )
        performer = Performer(
            metadata=self._metadata,
            patcher=self._patcher,
            store=self._store,
            serving=self._serving,
            trial=trial,
            progress=lambda slot, progress: self._inbox.offer(ProgressMade(slot, progress)),
            hooks=Hooks(settings.hooks_directory, timeout_s=settings.hook_timeout_s),
            pinned=self._packages.pinned,
        )
        measurer = Measurer(
            metadata=self._trust,
            downloader=self._downloader,
            store=self._store,
            trial=lambda bundle, runs, cancelled: trial(bundle, runs=runs, cancelled=cancelled),
        )
        return Worker(performer, measurer, self._inbox.put)

    def request_stop(self) -> None:
        """Ask `run` to end; may be called from a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Work until `request_stop`; then end everything in good order.

        Raises:
            AgentError: the inference process cannot be started at all.
        """
        try:
            self._inference.start()
            self._worker.start()
            self._orders.start()
            self._keeper.begin(moment().elapsed_s)
            self._engine.start(moment(), self._random.random())
            self._local.begin()
            self._benchmarks.start(moment())
            self._spool.forget("upload")
            self._uploads.start(moment().elapsed_s)
            self._say(
                {"event": "ready", "endpoint": self._inference.endpoint, "device": self._device}
            )
            self._connection.subscribe([topics.order(self._device)], self._orders.put)
            self._connection.subscribe([topics.command(self._device)], self._orders.put_request)
            self._connection.subscribe(
                [topics.ack(self._device)], lambda _, payload: self._inbox.put(AckCame(payload))
            )
            self._connection.subscribe(
                [topics.wanted(self._device)],
                lambda _, payload: self._inbox.offer(WantCame(payload)),
            )
            self._connection.start()
            self._renewer.start()
            while not self._stopping.is_set():
                self._turn()
            self._orderly = True
        finally:
            self._end()

    # ------------------------------------------------------------ one turn of the main loop

    def _turn(self) -> None:
        for event in self._disk_wait.due():
            self._feed(event)
        for item in self._inbox.take(POLL_S):
            self._take(item)
        self._keeper.watch(moment().elapsed_s)
        self._local.watch()
        self._watch_health()
        elapsed_s = moment().elapsed_s
        due_s = self._engine.machine.due_s
        if due_s is not None and due_s <= elapsed_s:
            self._feed(steps.Ticked())
        if self._order_again_s is not None and self._order_again_s <= elapsed_s:
            self._order_again_s = None
            self._orders.look_again()
        if elapsed_s >= self._telemetry_s:
            self._telemetry_s = elapsed_s + self._settings.telemetry_s
            self._sample()
        self._connection.watch()
        self._trust.watch()
        self._reporter.pump(elapsed_s)
        self._uploads.pump(elapsed_s)

    def _take(self, item: Item) -> None:  # noqa: C901, PLR0912 - one row a kind
        match item:
            case LinkChanged(up=up):
                if up:
                    self._reporter.reconnected()
                self._say({"event": "connected" if up else "disconnected"})
            case AckCame(payload=payload):
                try:
                    ack = decode(Ack, payload)
                except ProtocolError as error:
                    _log.warning("%s", error)
                    return
                self._spool.acknowledge(ack.boot, ack.seq)
                self._reporter.acknowledged(ack.boot, ack.seq)
            case WantCame(payload=payload):
                self._uploads.take(payload, moment().elapsed_s)
            case RequestArrived(request=LogRequest()):
                self._logs.take(item, moment())
            case RequestArrived():
                self._benchmarks.take(item, moment())
            case RequestRefused(reason=reason):
                self._benchmarks.refused(reason, moment())
            case Measured():
                self._benchmarks.take_result(item, moment())
            case Alarmed(reason=reason):
                self._reporter.alarm(reason, moment())
            case Asked():
                self._local.take(item)
            case Crashed(error=error):
                raise error
            case Said(line=line):
                self._say(line)
            case ProgressMade(slot=slot, progress=progress):
                self._reporter.progress(slot, progress)
            case _:
                self._feed(item)

    def _feed(self, event: steps.Event) -> None:
        if self._disk_wait.defer(event):
            return
        before = self._reporter.refusal
        self._engine.feed(event, moment(), self._random.random())
        refusal = self._reporter.refusal
        if isinstance(event, steps.OrderArrived):
            if self._engine.machine.record.order is event.order:
                self._renew_keys(event.order.keys)
            waits = refusal is not None and refusal.code in {"order.expired", "order.clock"}
            if waits and (refusal is not before or self._order_again_s is None):
                self._order_again_s = moment().elapsed_s + ORDER_AGAIN_S

    # ------------------------------------------------------------ what is looked at each turn

    def _watch_health(self) -> None:
        machine = self._engine.machine
        for slot in (*machine.observed, *machine.shadowed):
            seen = self._serving.health(slot) if self._keeper.answering else None
            if seen is not None:
                self._feed(seen)

    def _sample(self) -> None:
        """Spool one batch of telemetry."""
        rss, patched = self._inference.rss_bytes(), self._patcher.counts()
        bad = self._downloader.bad_pieces
        sample = health.system_sample(now(), self._settings.state_directory, rss, patched, bad)
        windows = self._serving.windows() if self._keeper.answering else ()
        self._reporter.telemetry(windows, sample)

    # ------------------------------------------------------------ small things

    def _say_with_bytes(self, line: dict[str, Any]) -> None:
        if line.get("event") == "transition":
            line["bytes_received"] = self._downloader.bytes_received
            self._local.tidy()
        self._say(line)

    def _renew_keys(self, keys: Mapping[str, bytes]) -> None:
        try:
            self._store.renew_keys(keys)
        except OSError as error:
            _log.warning("the keys of an order cannot be kept: %s", error)

    def _look_after(self, elapsed_s: float) -> None:
        """Do what cannot wait while the update machine stands still for the disk."""
        self._keeper.watch(elapsed_s)
        self._connection.watch()
        self._reporter.pump(elapsed_s)

    def _give_up(self, reason: Reason) -> None:
        """End, because a step hangs where nothing can end it but the end of the process."""
        raise AgentError(
            reason.code, reason.detail, hint="whoever supervises the agent starts it anew"
        )

    def _end(self) -> None:
        self._stopping.set()
        self._local.stop()
        self._renewer.stop()
        self._orders.stop()
        self._worker.stop()
        self._trust.close()
        try:
            if self._orderly:
                self._engine.stop(moment())
        except OSError as error:
            _log.warning("the journal cannot be written: %s", error)
        if self._inference.alive():
            self._sample()
        try:
            self._connection.stop(self._reporter.last_words())
        except TokenAway as error:
            _log.warning("no last words: %s", error)
            self._connection.stop()
        self._inference.stop()
        self._spool.close()
        os.close(self._lock_handle)
        logging.getLogger().removeHandler(self._ring)
        self._say({"event": "stopped"})
