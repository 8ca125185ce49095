"""One simulated device: its connection, its faults, and when it does what.

Rules:

1. One task a device. It does what is due, then sleeps until the next thing is, or until something
   comes. What the network brings is only put aside by the callbacks.
2. What it decides about updates is `edgectl_simulator.course`, how it says it
   `edgectl_simulator.voice`; here is when, and over which connection.
3. A device that is to be away, or has lost its power, is cut off without a word: the broker then
   says its last will.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from edgectl_protocol import __version__, topics
from edgectl_protocol.enrolment import BrokerAddress
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.fields import Reason
from edgectl_protocol.messages import (
    Ack,
    DeviceEvent,
    ReportedState,
    SecurityEvent,
    SeedRequest,
    SlotReport,
    TelemetryBatch,
    decode,
)
from edgectl_protocol.update import ENDED, UpdateEvent, UpdateState
from edgectl_simulator.clock import now
from edgectl_simulator.counts import Counts
from edgectl_simulator.course import NEEDS_NETWORK, Course, Transition
from edgectl_simulator.downloads import Download, DownloadFailed
from edgectl_simulator.draws import Draws
from edgectl_simulator.figures import CAPABILITIES, inference_windows, system_sample
from edgectl_simulator.gate import Gate
from edgectl_simulator.identities import Folder
from edgectl_simulator.link import Link, LinkFailed
from edgectl_simulator.memory import Memory, Update
from edgectl_simulator.profiles import Profile, Traits
from edgectl_simulator.trust import Trust, refuse
from edgectl_simulator.voice import Voice

__all__ = ["Device", "World"]

_BACKOFF_FIRST_S = 1.0
_BACKOFF_MAX_S = 60.0
_FAREWELL_S = 5.0
_ORDERS_WAITING_MAX = 4
_NEVER = float("inf")


@dataclass(frozen=True, kw_only=True)
class World:
    """What all devices share."""

    broker: BrokerAddress
    folder: Folder
    profile: Profile
    trust: Trust
    gate: Gate
    counts: Counts
    boot: int
    """First boot of every device in this run."""
    seed: int
    download: float
    """Share of the devices that fetch what they are ordered to run."""


class Device:
    """Lives until it is stopped."""

    def __init__(self, name: str, world: World, memory: Memory) -> None:
        self.name, self._world, self._memory = name, world, memory
        self._file, key = world.folder.identity(name)
        self._draws = Draws(world.seed, name)
        self.traits = Traits.of(world.profile, self._draws)
        self._downloads = self._draws.fixed("download") < world.download
        self._course = Course(memory, world.profile, self.traits, self._draws)
        self._voice = Voice(name, key, world.boot, self._count)
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._connection = 0
        self._failures = 0
        self._stopping = False
        self._sleeper: asyncio.Future[None] | None = None
        self._orders: deque[bytes] = deque(maxlen=_ORDERS_WAITING_MAX)
        self._due: dict[str, float] = {}
        self._download: tuple[Download, asyncio.Task[None]] | None = None
        self._refusal: tuple[Reason, int | None] | None = None
        self._dirty = False
        self._first_event: tuple[int, int, datetime] | None = None
        self._counted_until = self._now()
        begun_s = self._loop.time()
        self._back_s = begun_s
        # Not all at once: a fleet that started together would speak together for ever.
        self._telemetry_s = begun_s + world.profile.telemetry_s * self._draws.next()
        self._fault_s = self._next_fault_s()

    # ------------------------------------------------------------ for the fleet

    async def run(self) -> None:
        """Live until `stop`; then say good-bye."""
        for update in self._memory.updates.values():
            self._plan_step(update)
        while not self._stopping:
            if self._link is None and self._loop.time() >= self._back_s:
                await self._connect()
            while self._orders:
                await self._hear(self._orders.popleft())
            self._do_due()
            await self._sleep_until(self._next_due_s())
        await self._farewell()

    def stop(self) -> None:
        """End soon."""
        self._stopping = True
        self._stir()

    # ------------------------------------------------------------ the connection

    async def _connect(self) -> None:
        await self._world.gate.wait()
        if self._stopping:
            return
        self._connection += 1
        will = ReportedState(
            device=self.name,
            boot=self._voice.boot,
            seq=0,
            online=False,
            connection=self._connection,
        )
        counts = self._world.counts
        counts.happened["begun"] += 1
        number = self._connection
        try:
            async with self._world.gate.handshake():
                self._link = await Link.open(
                    self._world.broker.host,
                    self._world.broker.port,
                    self._tls(),
                    name=self.name,
                    will=self._voice.sealed(will),
                    received=self._received,
                    lost=lambda: self._lost(number),
                )
        except (OSError, LinkFailed) as error:  # ssl.SSLError is an OSError
            self._failures += 1
            counts.happened["refused"] += 1
            counts.problem(str(error)[:200] or type(error).__name__)
            whole = min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2.0 ** min(self._failures - 1, 16))
            self._back_s = self._loop.time() + whole * (0.5 + self._draws.next() / 2)
            return
        self._failures = 0
        counts.happened["connected"] += 1
        counts.online += 1
        self._link.subscribe(topics.order(self.name), topics.ack(self.name))
        self._voice.reconnected()
        self._dirty = True
        self._resume_downloads()

    def _tls(self) -> ssl.SSLContext:
        """Return the context of one connection; kept, those of a fleet would fill the memory."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=self._world.folder.fleet.authority_pem)
        context.load_cert_chain(self._file)
        return context

    def _cut_off(self, away_s: float, fault: str) -> None:
        """Be away from now on, without a word."""
        self._world.counts.happened[fault] += 1
        self._back_s = self._loop.time() + away_s
        if self._link is not None:
            self._link.abort()  # which tells it too, later
            self._lost(self._connection)

    def _lost(self, connection: int) -> None:
        """Note that a connection has ended; it may be told twice, and late."""
        if self._link is None or connection != self._connection:
            return
        self._link = None
        self._world.counts.online -= 1
        self._world.counts.happened["lost"] += 1
        self._end_download()
        self._stir()

    async def _farewell(self) -> None:
        """Say that we go, as an agent does that is stopped in good order."""
        self._end_download()
        link = self._link
        if link is None:
            return
        link.publish(*self._voice.sealed(self._state(online=False)), retain=True)
        await link.settle(_FAREWELL_S)
        if self._link is not None:  # else it has been lost meanwhile
            self._link = None
            self._world.counts.online -= 1
        link.close()

    # ------------------------------------------------------------ what comes

    def _received(self, topic: str, payload: bytes, _retained: bool) -> None:
        if topic == topics.ack(self.name):
            self._acknowledged(payload)
        elif topic == topics.order(self.name):
            if payload:
                self._orders.append(payload)
                self._stir()
        elif self._download is not None:
            self._download[0].take(topic, payload)

    def _acknowledged(self, payload: bytes) -> None:
        try:
            ack = decode(Ack, payload)
        except ProtocolError:
            self._count("malformed")
            return
        if self._voice.acknowledged(ack.boot, ack.seq):
            self._count("acknowledged")
            if self._voice.crowded():
                self._stir()
        if self._first_event is not None and self._first_event[:2] == (ack.boot, ack.seq):
            counts, issued_at = self._world.counts, self._first_event[2]
            counts.time(counts.acknowledged_s, (now() - issued_at).total_seconds())
            self._first_event = None

    async def _hear(self, payload: bytes) -> None:
        """Obey an order, or say why not."""
        opened = await self._world.trust.open(payload)
        counts = self._world.counts
        if isinstance(opened, Reason):
            self._refuse(opened, None)
            return
        if opened.counter == self._memory.floor and opened == self._memory.order:
            return  # it is retained, and comes with every connection
        reason = refuse(opened, self.name, self._memory.floor, self._now())
        if reason is not None:
            self._refuse(reason, opened.counter)
            return
        self._count("order")
        counts.time(counts.order_s, (now() - opened.issued_at).total_seconds())
        self._refusal = None
        self._dirty = True
        self._follow(self._course.obey(opened))

    def _refuse(self, reason: Reason, counter: int | None) -> None:
        before, self._refusal = self._refusal, (reason, counter)
        if before is not None and (before[0].code, before[1]) == (reason.code, counter):
            return
        self._world.counts.refusals[reason.code] += 1
        self._dirty = True
        at = self._now()
        self._voice.keep(
            SecurityEvent(
                device=self.name,
                boot=self._voice.boot,
                seq=self._voice.next(),
                at=at,
                until=at,
                reason=reason,
                order=counter,
            )
        )

    # ------------------------------------------------------------ what is due

    def _do_due(self) -> None:
        elapsed_s = self._loop.time()
        if elapsed_s >= self._fault_s:
            self._have_fault()
        if elapsed_s >= self._telemetry_s:
            self._measure()
        for slot, due_s in list(self._due.items()):
            update = self._memory.updates[slot]
            if elapsed_s >= due_s and (self._link or update.state not in NEEDS_NETWORK):
                self._step(update)
        if self._link is None:
            return
        if self._dirty:
            topic, payload = self._voice.sealed(self._state(online=True))
            self._dirty = not self._link.publish(topic, payload, retain=True)
        self._voice.drain(elapsed_s, self._publish)

    def _publish(self, topic: str, payload: bytes, retain: bool) -> bool:
        return self._link is not None and self._link.publish(topic, payload, retain=retain)

    def _next_due_s(self) -> float:
        steps = (
            due_s
            for slot, due_s in self._due.items()
            if self._link or self._memory.updates[slot].state not in NEEDS_NETWORK
        )
        network = self._back_s if self._link is None else self._voice.resend_at_s()
        return min(self._telemetry_s, self._fault_s, network, *steps)

    def _have_fault(self) -> None:
        offline, flapping = self.traits.offline, self.traits.flapping
        if flapping is not None:
            self._end_download()
            self._cut_off(0.0, "restarted")
            self._voice.restarted()
        elif offline is not None:
            self._cut_off(self._draws.around(offline.for_s), "away")
        self._fault_s = self._next_fault_s()

    def _next_fault_s(self) -> float:
        fault = self.traits.flapping or self.traits.offline
        return _NEVER if fault is None else self._loop.time() + self._draws.around(fault.every_s)

    def _measure(self) -> None:
        """Spool a batch of telemetry."""
        profile, end = self._world.profile, self._now()
        self._telemetry_s = self._loop.time() + profile.telemetry_s
        windows = inference_windows(
            self._memory.running,
            start=self._counted_until,
            end=end,
            requests_per_s=profile.requests_per_s,
            slow=1.0 if self.traits.slow is None else self.traits.slow.factor,
            draws=self._draws,
        )
        self._counted_until = end
        self._voice.keep(
            TelemetryBatch(
                device=self.name,
                boot=self._voice.boot,
                seq=self._voice.next(),
                windows=windows,
                system=system_sample(end, self._draws),
            )
        )

    # ------------------------------------------------------------ updates

    def _step(self, update: Update) -> None:
        """Let the present state of an update end, or the download begin that it is."""
        order = self._memory.order
        assert order is not None
        fails = self.traits.failing is not None and self.traits.failing.at == "downloading"
        if update.state is UpdateState.DOWNLOADING and self._downloads and not fails:
            if self._download is None:
                self._begin_download(update)
            self._due[update.slot] = _NEVER
            return
        self._follow([self._course.advance(update, order.policy, self._now())])

    def _begin_download(self, update: Update) -> None:
        assert self._link is not None
        download = Download(self.name, update.candidate, self._link, self._ask_for_chunks)
        task = self._loop.create_task(self._fetch(download, update))
        self._download = (download, task)

    async def _fetch(self, download: Download, update: Update) -> None:
        failure: Reason | None = None
        try:
            await download.run()
        except DownloadFailed as error:
            failure = error.reason
        self._download = None
        update.bytes_done = download.bytes_done
        self._world.counts.happened["bytes"] += download.bytes_done
        if update.state is not UpdateState.DOWNLOADING:
            return  # it was taken back meanwhile
        order = self._memory.order
        assert order is not None
        if failure is None:
            self._follow([self._course.advance(update, order.policy, self._now())])
        else:
            self._follow([self._course.fail(update, failure)])
        self._resume_downloads()
        self._stir()

    def _resume_downloads(self) -> None:
        """Have the next slot fetch, or the one whose connection was lost."""
        for slot, update in self._memory.updates.items():
            if update.state is UpdateState.DOWNLOADING and self._due.get(slot) == _NEVER:
                self._due[slot] = self._loop.time()

    def _end_download(self) -> None:
        if self._download is not None:
            self._download[1].cancel()
            self._download = None

    def _ask_for_chunks(self, request: SeedRequest) -> None:
        self._publish(*self._voice.sealed(request), False)

    def _follow(self, transitions: Iterable[Transition]) -> None:
        """Tell what has happened to updates, and plan what happens next."""
        for one in transitions:
            self._announce(one)
            self._plan_step(one.update)
            if one.after in ENDED and one.event is not UpdateEvent.ORDERED:
                self._world.counts.ended[one.after.value] += 1
                self._follow(self._course.consider())

    def _plan_step(self, update: Update) -> None:
        order = self._memory.order
        lasts_s = None if order is None else self._course.lasts_s(update, order.policy)
        if lasts_s is None:
            self._due.pop(update.slot, None)
        else:
            self._due[update.slot] = self._loop.time() + lasts_s

    def _announce(self, one: Transition) -> None:
        update, seq = one.update, self._voice.next()
        self._dirty = True
        self._voice.keep(
            DeviceEvent(
                device=self.name,
                boot=self._voice.boot,
                seq=seq,
                at=self._now(),
                slot=update.slot,
                order=update.order,
                nonce=update.nonce,
                version=update.wanted.version,
                variant=update.candidate.variant,
                manifest=update.manifest,
                before=one.before,
                event=one.event,
                after=one.after,
                rollout=update.wanted.rollout,
                reason=update.reason,
                trial=update.trial,
                shadow=update.shadow,
                observation=update.observation,
                swap=update.swap,
            )
        )
        if one.event is UpdateEvent.ORDERED and self._memory.order is not None:
            self._first_event = (self._voice.boot, seq, self._memory.order.issued_at)

    def _state(self, *, online: bool) -> ReportedState:
        memory, order = self._memory, self._memory.order
        refusal, refused = (None, None) if self._refusal is None else self._refusal
        slots = {*memory.running, *memory.updates}
        return ReportedState(
            device=self.name,
            boot=self._voice.boot,
            seq=self._voice.next(),
            online=online,
            sent_at=self._now(),
            agent_version=__version__,
            connection=self._connection,
            order_counter=memory.floor,
            order_nonce=None if order is None else order.nonce,
            refusal=refusal,
            refused_counter=refused,
            capabilities=CAPABILITIES,
            slots={slot: self._slot(slot) for slot in sorted(slots)},
            rejected=memory.rejected,
        )

    def _slot(self, slot: str) -> SlotReport:
        update = self._memory.updates.get(slot)
        return SlotReport(
            running=self._memory.running.get(slot),
            previous=self._memory.previous.get(slot),
            update=None if update is None else update.report(),
        )

    # ------------------------------------------------------------ time

    def _now(self) -> datetime:
        """Return the time by this device's clock, right or wrong."""
        wrong = self.traits.wrong_clock
        return now() if wrong is None else now() + timedelta(seconds=wrong.offset_s)

    def _count(self, what: str) -> None:
        self._world.counts.happened[what] += 1

    def _stir(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def _sleep_until(self, due_s: float) -> None:
        """Sleep until then, or until something comes."""
        if self._stopping or self._orders or due_s <= self._loop.time():
            await asyncio.sleep(0)
            return
        sleeper = self._sleeper = self._loop.create_future()
        timer = None if due_s == _NEVER else self._loop.call_at(due_s, self._stir)
        try:
            await sleeper
        finally:
            if timer is not None:
                timer.cancel()
            self._sleeper = None
