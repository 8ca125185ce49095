"""The agent at work: threads, processes and the order in which they begin and end.

::

    main thread     machine, journal, reporter, spool; starts the inference process
    worker          one step at a time: refresh, download, verify, trial, activate, roll back
                    measurements that the server asks for, when no update is under way
    orders          checks the signature of what comes as an order or as a request
    control         the control socket, and a thread for each who asks there
    mqtt            the connection; only puts things into the inbox or a mailbox
    checkpoint      makes durable what has come of a download
    renewal         asks the server for a new certificate when it is time to

What the main thread of every agent does is in `edgectl_agent.main_loop`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from socket import socket
from typing import Any

from edgectl_agent import health
from edgectl_agent.benchmarks import Benchmarks, Measured, Measurer
from edgectl_agent.clock import moment, now
from edgectl_agent.core import steps
from edgectl_agent.core.machine import Machine
from edgectl_agent.core.requests import RequestArrived, RequestRefused
from edgectl_agent.durable import RealDisk
from edgectl_agent.enrol import Identity
from edgectl_agent.errors import Refused, TokenAway
from edgectl_agent.hold_file import HoldFile
from edgectl_agent.hooks import Hooks
from edgectl_agent.inbox import Item, ProgressMade, SampleMade, WantCame
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.keeper import Keeper
from edgectl_agent.live_status import LiveStatus
from edgectl_agent.local_desk import Asked
from edgectl_agent.local_messages import Outcome
from edgectl_agent.local_service import LocalService
from edgectl_agent.log_ring import LogRing
from edgectl_agent.log_tail import LogTail
from edgectl_agent.logs import Logs
from edgectl_agent.main_loop import MainLoop, Say
from edgectl_agent.offline import LocalMetadata, Packages
from edgectl_agent.patching import Patcher
from edgectl_agent.performer import Engine, Performer
from edgectl_agent.reporter import Reporter
from edgectl_agent.request_ledger import RequestLedger
from edgectl_agent.sample_desk import Redaction, SampleDesk
from edgectl_agent.samples import Samples
from edgectl_agent.serving import Serving
from edgectl_agent.settings import Settings
from edgectl_agent.signing import seal
from edgectl_agent.start import endpoint_options
from edgectl_agent.status import read_records
from edgectl_agent.trial import run_trial
from edgectl_agent.uploads import Uploads
from edgectl_agent.workers import Worker
from edgectl_protocol import topics
from edgectl_protocol.log_lines import LogFollowRequest, LogLines
from edgectl_protocol.uploads import LogRequest

__all__ = ["Supervisor"]

_log = logging.getLogger(__name__)


class Supervisor(MainLoop):
    """One run of the agent on one state directory."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        disk: RealDisk,
        say: Say,
        *,
        alive: Callable[[float], None] = lambda _elapsed_s: None,
        listener: socket | None = None,
    ) -> None:
        """Prepare everything; nothing is started, nothing is connected.

        Args:
            settings: of this run.
            identity: who this device is.
            disk: the state directory.
            say: is told what happens, one line at a time.
            alive: is called by the main thread with the elapsed seconds as long as it works.
            listener: of the inference endpoint, where it listens already.

        Raises:
            Refused: ``state.locked``: another agent runs on this state directory.
        """
        super().__init__(settings, identity, disk, say, alive=alive)
        self._ring = LogRing((settings.token,))
        logging.getLogger().addHandler(self._ring)
        self._sampling = False
        """The inference process was told of a policy: it must be told of the end of it too."""
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
            listener=listener,
        )
        self._assemble()

    def _assemble(self) -> None:
        """Put the parts together."""
        super()._assemble()
        settings, store = self._settings, self._store
        self._hold = HoldFile(self._disk)
        machine = Machine(
            self._device,
            self._journal.load(),
            store.pointers(),
            maintenance=settings.maintenance_windows,
            held=self._hold.look(moment()),  # before it may switch anything
        )
        self._serving = Serving(store, self._inference)
        self._packages = Packages(self._disk)
        self._metadata = LocalMetadata(self._trust, self._packages, self._connection.connected)
        self._patcher = Patcher(self._downloader, store)
        self._worker = self._make_worker()
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
            self._journal,
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
        self._sample_desk = SampleDesk(
            Redaction.of(settings),
            device=self._device,
            state=settings.state_directory,
            done=lambda content: self._inbox.put(SampleMade(content)),
        )
        self._samples = Samples(
            self._disk,
            self._uploads,
            allowed=settings.samples,
            bytes_max=settings.samples_bytes_max,
            redacts=self._sample_desk.redacts,
        )
        self._logs = Logs(
            ledger,
            self._ring,
            records=lambda: read_records(self._disk),
            uploads=self._uploads,
            reporter=self._reporter,
            tail=self._make_tail,
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
            status=lambda holds: live.take(moment(), holds, self._sample_status()),
            tell=self._tell_outcome,
            stopping=self._stopping.is_set,
        )

    def _make_tail(self, journal: Callable[[datetime], list[tuple[datetime, bytes]]]) -> LogTail:
        """Put together what sends log lines to whoever looks."""
        topic = topics.event(self._device)

        def send(lines: LogLines) -> bool:
            try:
                return self._connection.publish_bulk(topic, seal(self._key, lines))
            except TokenAway:
                return False

        return LogTail(
            self._device,
            self._ring,
            journal=journal,
            bytes_per_s=self._settings.upload_bytes_per_s,
            send=send,
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

    def _begin(self) -> None:
        self._inference.start()
        self._worker.start()
        self._orders.start()
        self._keeper.begin(moment().elapsed_s)
        self._engine.start(moment(), self._random.random())
        self._local.begin()
        self._benchmarks.start(moment())
        self._spool.forget("upload")
        self._samples.tidy(self._samples.policies(self._engine.machine.samples))
        self._uploads.start(moment().elapsed_s)  # only what may still leave
        self._say({"event": "ready", "endpoint": self._inference.endpoint, "device": self._device})
        self._connection.subscribe([topics.command(self._device)], self._orders.put_request)
        self._connection.subscribe(
            [topics.wanted(self._device)], lambda _, payload: self._inbox.offer(WantCame(payload))
        )

    def _end(self) -> None:
        self._local.stop()
        self._sample_desk.stop()
        self._end_work()
        if self._inference.alive():
            self._sample()
        self._connection.stop(self._reporter.last_words())
        self._inference.stop()
        logging.getLogger().removeHandler(self._ring)
        self._end_run()

    # ------------------------------------------------------------ one turn of the main loop

    def _turn(self) -> None:
        super()._turn()
        elapsed_s = moment().elapsed_s
        self._uploads.pump(elapsed_s)
        self._logs.pump(moment())

    def _take(self, item: Item) -> None:
        match item:
            case WantCame(payload=payload):
                self._uploads.take(payload, moment().elapsed_s)
            case SampleMade(content=content):
                policies = self._samples.policies(self._engine.machine.samples)
                self._samples.keep(content, policies)
                self._samples.pump(policies, moment())
            case RequestArrived(request=LogRequest()):
                self._logs.take(item, moment())
            case RequestArrived(request=LogFollowRequest()):
                self._logs.follow(item, moment())
            case RequestArrived():
                self._benchmarks.take(item, moment())
            case RequestRefused(reason=reason):
                self._benchmarks.refused(reason, moment())
            case Measured():
                self._benchmarks.take_result(item, moment())
            case Asked():
                self._local.take(item)
            case _:
                super()._take(item)

    def _feed(self, event: steps.Event) -> None:
        super()._feed(event)
        taken = self._engine.machine.record.order
        if isinstance(event, steps.OrderArrived) and taken is event.order:
            self._renew_keys(event.order.keys)

    # ------------------------------------------------------------ what is looked at each turn

    def _look(self) -> None:
        self._keeper.watch(moment().elapsed_s)
        self._local.watch()
        self._watch_health()
        if moment().elapsed_s >= self._telemetry_s:
            self._telemetry_s = moment().elapsed_s + self._settings.telemetry_s
            self._sample()

    def _watch_health(self) -> None:
        machine = self._engine.machine
        for slot in (*machine.observed, *machine.shadowed):
            seen = self._serving.health(slot) if self._keeper.answering else None
            if seen is not None:
                self._feed(seen)

    def _sample(self) -> None:
        """Spool one batch of telemetry."""
        rss, patched = self._inference.rss_bytes(), self._patcher.counts()
        sample = health.system_sample(
            now(),
            self._settings.state_directory,
            rss,
            deltas=patched,
            bad_pieces=self._downloader.bad_pieces,
            samples=self._sample_desk.counts(),
        )
        windows = self._serving.windows() if self._keeper.answering else ()
        self._reporter.telemetry(windows, sample)
        if self._keeper.answering:
            for window in self._serving.watched(self._engine.machine.watch):
                self._reporter.features(window)
        self._take_samples()

    def _tell_outcome(self, outcome: Outcome) -> None:
        """Tell what a request has turned out to be of, where samples of its model are asked for."""
        if outcome.slot not in self._samples.policies(self._engine.machine.samples):
            raise Refused(
                "outcome.unasked",
                f"no policy asks for samples of {outcome.slot}, or this device's setting forbids "
                "them: nothing is told",
                hint="an admin can ask: edgectl samples policy MODEL --bytes-per-day 5M …",
            )
        self._reporter.outcome(outcome.slot, outcome.name, outcome.label)

    def _sample_status(self) -> dict[str, Any]:
        """Return what is shown of samples at the device."""
        allowed = self._settings.samples
        return {"allowed": allowed, "waiting": self._samples.waiting, **self._sample_desk.status()}

    def _take_samples(self) -> None:
        """Keep what was taken of inputs and answers, and offer what may leave now."""
        policies = self._samples.policies(self._engine.machine.samples)
        if self._keeper.answering and (policies or self._sampling):
            for taken in self._serving.sampled(policies):
                key = self._samples.key_of(taken.content, policies)
                content = self._sample_desk.take(taken.content, key)
                if content is not None:
                    self._samples.keep(content, policies)
            self._sampling = bool(policies)
        self._samples.pump(policies, moment())

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
        self._keeper.watch(elapsed_s)
        super()._look_after(elapsed_s)
