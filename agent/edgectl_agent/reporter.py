"""What the device says: its state, its events, its telemetry.

Rules:

1. The reported state is the whole, retained, and sent after every transition; progress or a
   refusal alone makes it be sent at most twice a second: whoever can write orders that are refused
   must not be able to make the device shout.
2. What the device is (`Capabilities`) is left out while it is as it was told in this connection
   and the server has said that it keeps that: one that does not say so is told each time.
3. Everything is signed when it is sent, with the device's key; so is the last will, which is
   written anew for each connection and speaks of that connection alone.
4. Events and telemetry go into the spool first. They are published from there, oldest first, again
   after every reconnect and every 30 s, until the server has acknowledged them. Telemetry is
   compressed once the server of this connection has said that it takes that. Outcomes wait until
   it has said what it keeps of ours: an older one says nothing of that, knows no outcomes, and
   would take who sends them for an attacker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, Protocol

from msgspec import structs

from edgectl_agent.alarms import Alarms
from edgectl_agent.core import steps
from edgectl_agent.core.machine import Machine
from edgectl_agent.core.timing import Moment
from edgectl_agent.downloader import Progress
from edgectl_agent.errors import AgentError, TokenAway
from edgectl_agent.signing import Signer, seal, seal_encoded
from edgectl_agent.spool import Kind, Spooled
from edgectl_agent.uploads import Held
from edgectl_protocol import __version__, topics
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.messages import (
    Ack,
    BenchmarkReport,
    BenchmarkRequest,
    BenchmarkResult,
    Capabilities,
    DeviceEvent,
    InferenceWindow,
    Reason,
    Report,
    ReportedState,
    SecurityEvent,
    SlotReport,
    SystemSample,
    TelemetryBatch,
    decode,
)
from edgectl_protocol.outcomes import OutcomeReport
from edgectl_protocol.update import ENDED, UpdateEvent, UpdateState
from edgectl_protocol.uploads import UploadOffer
from edgectl_protocol.watching import FeatureWindow

__all__ = ["Reporter"]

PROGRESS_PERIOD_S = 0.5
DISK_CHANGE = 0.05
"""A larger share of the free disk space is news."""
RESEND_S = 30.0
_SENT_AT_ONCE_MAX = 32
_ENDED_BADLY = frozenset({UpdateEvent.FAILED, UpdateEvent.REJECTED, UpdateEvent.BREACHED})
_SPOOLED: dict[Kind, tuple[Callable[[str], str], type[Report]]] = {
    "event": (topics.event, DeviceEvent),
    "security": (topics.event, SecurityEvent),
    "benchmark": (topics.event, BenchmarkReport),
    "upload": (topics.event, UploadOffer),
    "outcome": (topics.event, OutcomeReport),
    "telemetry": (topics.telemetry, TelemetryBatch),
}
_NOT_OF_OLD: Collection[Kind] = frozenset({"outcome"})
"""What a server that says nothing of what it keeps does not know."""
_log = logging.getLogger(__name__)

Say = Callable[[dict[str, Any]], None]


class Outbox(Protocol):
    """The spool, as it is used here."""

    def put(self, kind: Kind, make: Callable[[int], Any]) -> int:
        """Keep a message."""

    dropped: int
    """Messages that its budget has cost."""

    def pending(self, limit: int = 32, *, without: Collection[Kind] = ()) -> list[Spooled]:
        """Return the oldest ones, none of some kinds."""

    def oldest(self) -> tuple[int, int] | None:
        """Return boot and number of the oldest one."""

    def acknowledge(self, boot: int, seq: int) -> None:
        """Forget one; nothing happens when it is not there."""


class Channel(Protocol):
    """The connection, as it is used here."""

    def connected(self) -> bool:
        """Say whether there is a connection now."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Send."""


class Reporter:
    """The voice of one start of the agent; used by the main thread, but for `will`."""

    def __init__(
        self,
        *,
        device: str,
        boot: int,
        signer: Signer,
        machine: Machine,
        outbox: Outbox,
        channel: Channel,
        capabilities: Callable[[], Capabilities],
        endpoint: Callable[[], str],
        now: Callable[[], datetime],
        say: Say,
    ) -> None:
        """Take where to say what; `say` gets each transition for whoever watches the process."""
        self._device = device
        self._boot = boot
        self._signer = signer
        self._machine = machine
        self._outbox = outbox
        self._channel = channel
        self._capabilities = capabilities
        self._endpoint = endpoint
        self._now = now
        self._say = say
        self._alarms = Alarms(device, boot, lambda make: self._put("security", make))
        self._seq = 0
        self._connection = 0
        self._dirty = True
        self._progress: dict[str, Progress] = {}
        self._progress_dirty = False
        self._sent_s = float("-inf")
        self._unsigned = ""
        """Why the last report could not be signed."""
        self._outstanding: dict[tuple[int, int], float] = {}
        self._told: Capabilities | None = None
        self._told_seq = 0
        """Number of the report that told them first."""
        self._kept_seq: int | None = None
        """Of the capabilities that the server keeps; None: it has not said anything of that."""
        self._compresses = False
        """Whether the server of this connection takes compressed telemetry."""
        self.refusal: Reason | None = None
        """Why what came last as an order is not obeyed."""
        self._refused_counter: int | None = None
        self._faults: dict[str, tuple[str, Reason]] = {}
        """Slot to the manifest that failed there last, and how."""

    # ------------------------------------------------------------ what the engine says

    def announce(self, announcement: steps.Announce, moment: Moment) -> None:
        """Spool a transition as an event."""
        update = announcement.update
        if update.state in {*ENDED, UpdateState.REFRESHING}:
            self._progress.pop(update.slot, None)

        def make(seq: int) -> DeviceEvent:
            return DeviceEvent(
                device=self._device,
                boot=self._boot,
                seq=seq,
                at=moment.wall,
                slot=update.slot,
                order=update.order,
                nonce=update.nonce,
                version=update.version,
                variant=update.candidate.variant,
                manifest=update.manifest,
                before=announcement.before,
                event=announcement.event,
                after=update.state,
                rollout=update.wanted.rollout,
                reason=update.reason,
                trial=update.trial,
                shadow=update.shadow,
                observation=update.observation,
                swap=update.swap,
                transfer=update.transfer,
            )

        self._put("event", make)
        if update.reason is not None and announcement.event in _ENDED_BADLY:
            self._alarms.note(update.reason, moment, order=update.order)
        line: dict[str, Any] = {
            "event": "transition",
            "slot": update.slot,
            "version": update.version,
            "variant": update.candidate.variant,
            "manifest": update.manifest,
            "before": announcement.before,
            "after": update.state,
        }
        if update.reason is not None:
            line["reason"] = {"code": update.reason.code, "detail": update.reason.detail}
        self._say(line)

    def accept(self) -> None:
        """Forget what was refused before."""
        if self.refusal is not None:
            self.refusal = self._refused_counter = None
            self._dirty = True

    def refuse(self, reason: Reason, counter: int | None, moment: Moment) -> None:
        """Say once that an order is not obeyed."""
        self._alarms.note(reason, moment, order=counter)
        if (reason, counter) != (self.refusal, self._refused_counter):
            self.refusal, self._refused_counter = reason, counter
            self._progress_dirty = True
            self._say({"event": "refused", "code": reason.code, "detail": reason.detail})

    def fault(self, slot: str, manifest: str, reason: Reason) -> None:
        """Say how what runs in `slot` has failed; it is told until something else runs there."""
        self._faults[slot] = (manifest, reason)
        self._dirty = True

    def well(self, slot: str) -> None:
        """Say no longer that what runs in `slot` has failed."""
        if self._faults.pop(slot, None) is not None:
            self._dirty = True

    def alarm(self, reason: Reason, moment: Moment) -> None:
        """Note what an attacker may have done."""
        self._alarms.note(reason, moment)

    def report(self) -> None:
        """Send the state with the next `pump`."""
        self._dirty = True

    # ------------------------------------------------------------ what the supervisor says

    def progress(self, slot: str, progress: Progress) -> None:
        """Note how far a download is."""
        self._progress[slot] = progress
        self._progress_dirty = True

    def telemetry(self, windows: tuple[InferenceWindow, ...], system: SystemSample) -> None:
        """Spool a batch, which says what still waits: what is older and has not come is lost."""
        oldest, dropped = self._outbox.oldest(), self._outbox.dropped

        def make(seq: int) -> TelemetryBatch:
            boot_of, seq_of = oldest or (self._boot, seq)
            sample = structs.replace(system, waits_boot=boot_of, waits_seq=seq_of, dropped=dropped)
            return TelemetryBatch(
                device=self._device, boot=self._boot, seq=seq, windows=windows, system=sample
            )

        self._put("telemetry", make)

    def features(self, window: FeatureWindow) -> None:
        """Spool a window of features, in a batch of its own."""
        self._put(
            "telemetry",
            lambda seq: TelemetryBatch(
                device=self._device, boot=self._boot, seq=seq, features=window
            ),
        )

    def benchmark(
        self,
        request: BenchmarkRequest,
        done: int,
        moment: Moment,
        *,
        result: BenchmarkResult | None = None,
        reason: Reason | None = None,
    ) -> None:
        """Spool what came of a request so far."""
        self._put(
            "benchmark",
            lambda seq: BenchmarkReport(
                device=self._device,
                boot=self._boot,
                seq=seq,
                at=moment.wall,
                job=request.job,
                request=request.counter,
                nonce=request.nonce,
                done=done,
                result=result,
                reason=reason,
            ),
        )
        line: dict[str, Any] = {"event": "benchmark", "job": request.job, "done": done}
        if result is not None:
            line |= {"variant": result.variant, "verdict": result.verdict}
        if reason is not None:
            line["reason"] = {"code": reason.code, "detail": reason.detail}
        self._say(line)

    def offer(self, held: Held) -> None:
        """Spool that there is something to upload."""
        self._put(
            "upload",
            lambda seq: UploadOffer(
                device=self._device,
                boot=self._boot,
                seq=seq,
                at=held.at,
                kind=held.kind,
                upload=held.upload,
                length=held.length,
                chunk_index=held.chunk_index,
                media_type=held.media_type,
                request=held.request,
                sample=held.sample,
            ),
        )
        self._say({"event": "upload", "upload": held.upload, "state": "offered"})

    def outcome(self, model: str, request: str, label: str) -> None:
        """Spool what an application says that a request has turned out to be of.

        Raises:
            AgentError: it cannot be kept.
        """
        self._outbox.put(
            "outcome",
            lambda seq: OutcomeReport(
                device=self._device,
                boot=self._boot,
                seq=seq,
                at=self._now(),
                model=model,
                request_id=request,
                label=label,
            ),
        )

    def reconnected(self) -> None:
        """Say everything again: nobody knows what was lost."""
        self._outstanding.clear()
        self._kept_seq = None
        self._compresses = False
        self._dirty = True

    def kept(self, boot: int, capabilities_seq: int, *, decompresses: bool = False) -> None:
        """Note which capabilities the server keeps, and whether it takes compressed telemetry.

        Args:
            boot: of which start it speaks.
            capabilities_seq: number of the capabilities; 0: none of ours.
            decompresses: see `Ack`.
        """
        if boot == self._boot:
            self._compresses = decompresses
            self._kept_seq = capabilities_seq
            self._progress_dirty |= not capabilities_seq

    def take_ack(self, payload: bytes) -> None:
        """Take what came as an `Ack`: a message was stored, or what the server keeps of ours."""
        try:
            ack = decode(Ack, payload)
        except ProtocolError as error:
            _log.warning("%s", error)
            return
        if ack.capabilities_seq is not None:
            self.kept(ack.boot, ack.capabilities_seq, decompresses=ack.decompresses)
            return
        self._outbox.acknowledge(ack.boot, ack.seq)
        self._outstanding.pop((ack.boot, ack.seq), None)

    def pump(self, elapsed_s: float) -> None:
        """Send what is to be sent now; without the device's key, at a later call."""
        self._alarms.pump(elapsed_s)
        if not self._channel.connected():
            return
        try:
            self._send(elapsed_s)
        except TokenAway as error:  # it must not stop an update or a model
            if str(error) != self._unsigned:
                _log.warning("nothing can be reported: %s", error)
            self._unsigned = str(error)
        else:
            self._unsigned = ""

    def _send(self, elapsed_s: float) -> None:
        due = elapsed_s - self._sent_s >= PROGRESS_PERIOD_S
        wanted = self._dirty or (self._progress_dirty and due)
        if wanted and self._channel.publish(*self.sealed_state(online=True), retain=True):
            self._dirty = self._progress_dirty = False
            self._sent_s = elapsed_s
        self._drain(elapsed_s)

    def sealed_state(self, *, online: bool) -> tuple[str, bytes]:
        """Return topic and signed payload of the whole of what the device is now."""
        return topics.state(self._device), seal(self._signer, self.state(online=online))

    def last_words(self) -> tuple[str, bytes] | None:
        """Return topic and signed payload of what is said at an end in good order.

        None: the device's key is away, so that nothing can be said.
        """
        try:
            self._alarms.flush()
            return self.sealed_state(online=False)
        except TokenAway as error:
            _log.warning("no last words: %s", error)
            return None

    def will(self) -> tuple[str, bytes]:
        """Return what the broker says when we vanish from the connection that is made next.

        Called from the network thread.
        """
        self._connection += 1
        state = ReportedState(
            device=self._device,
            boot=self._boot,
            seq=0,
            online=False,
            connection=self._connection,
        )
        return topics.state(self._device), seal(self._signer, state)

    def state(self, *, online: bool) -> ReportedState:
        """Return the whole of what the device is now, under a new number."""
        self._seq += 1
        machine = self._machine
        capabilities = self._capabilities()
        if self._told is None or not _alike(capabilities, self._told):
            self._told, self._told_seq = capabilities, self._seq
        return ReportedState(
            device=self._device,
            boot=self._boot,
            seq=self._seq,
            online=online,
            sent_at=self._now(),
            agent_version=__version__,
            connection=self._connection,
            order_counter=machine.record.counter,
            order_nonce=machine.record.nonce,
            refusal=self.refusal,
            refused_counter=self._refused_counter,
            capabilities=None if self._kept_seq == self._told_seq else capabilities,
            capabilities_seq=self._told_seq,
            endpoint=self._endpoint(),
            slots=self.slots(),
            rejected=machine.record.rejected,
        )

    def slots(self) -> dict[str, SlotReport]:
        """Return the slots as they are reported."""
        return {slot: self._complete(slot, one) for slot, one in self._machine.slots().items()}

    def _complete(self, slot: str, report: SlotReport) -> SlotReport:
        """Add what the machine does not know: the fault of what runs, and the progress."""
        manifest, fault = self._faults.get(slot, ("", None))
        if fault is not None:
            if report.running is not None and report.running.manifest == manifest:
                report = structs.replace(report, fault=fault)
            else:
                del self._faults[slot]
        progress = self._progress.get(slot)
        if progress is None or report.update is None:
            return report
        update = structs.replace(
            report.update, bytes_done=progress.bytes_done, bytes_total=progress.bytes_total
        )
        return structs.replace(report, update=update)

    def _drain(self, elapsed_s: float) -> None:
        without = _NOT_OF_OLD if self._kept_seq is None else ()
        for spooled in self._outbox.pending(_SENT_AT_ONCE_MAX, without=without):
            key = (spooled.boot, spooled.seq)
            sent_s = self._outstanding.get(key)
            if sent_s is not None and elapsed_s - sent_s < RESEND_S:
                continue
            topic, kind = _SPOOLED[spooled.kind]
            compressed = self._compresses and kind is TelemetryBatch
            payload = seal_encoded(self._signer, kind, spooled.payload, compressed=compressed)
            if not self._channel.publish(topic(self._device), payload):
                return
            self._outstanding[key] = elapsed_s

    def _put(self, kind: Kind, make: Callable[[int], Any]) -> None:
        try:
            self._outbox.put(kind, make)
        except AgentError as error:  # a full disk must not stop an update or a model
            _log.warning("a message is lost: %s", error)


def _alike(now: Capabilities, before: Capabilities) -> bool:
    """Say whether nothing of interest has changed: every update takes a little of the disk."""
    change = abs(now.disk_free_bytes - before.disk_free_bytes)
    same_disk = structs.replace(now, disk_free_bytes=before.disk_free_bytes)
    return same_disk == before and change <= DISK_CHANGE * before.disk_free_bytes
