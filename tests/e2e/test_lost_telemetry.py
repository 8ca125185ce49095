"""What a device's spool had no room for is known on the server as lost, not as still awaited."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

from edgectl_agent.reporter import RESEND_S, Reporter
from edgectl_agent.spool import Spool
from edgectl_protocol.envelopes import decode_envelope
from edgectl_protocol.messages import (
    MESSAGE_BYTES_MAX,
    Ack,
    InferenceWindow,
    SystemSample,
    TelemetryBatch,
    decode,
    encode,
)
from edgectl_protocol.names import digest_of
from edgectl_server.domain.receipts import Receipt, note, state_of

AT = datetime(2026, 11, 23, tzinfo=UTC)
WINDOW = InferenceWindow(
    slot="har", version="1", manifest=digest_of(b"m"), start=AT, end=AT, requests=1
)


class Device:
    """A spool with little room, a reporter, and a line that is sometimes there."""

    def __init__(self, folder: Path) -> None:
        self.connected, self.came = True, list[TelemetryBatch]()
        self.elapsed_s = 0.0
        self.spool = Spool(folder, bytes_max=4096, boot=3)
        record = SimpleNamespace(counter=0, nonce=None, rejected=())
        self.reporter = Reporter(
            device="pi-1",
            boot=3,
            signer=SimpleNamespace(key_id="0" * 64, sign=lambda _: b"signature"),
            machine=SimpleNamespace(record=record, slots=dict),  # type: ignore[arg-type]
            outbox=self.spool,
            channel=SimpleNamespace(connected=lambda: self.connected, publish=self.publish),  # type: ignore[arg-type]
            capabilities=lambda: None,  # type: ignore[arg-type,return-value]
            endpoint=lambda: "",
            now=lambda: AT,
            say=lambda _: None,
        )

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        if not retain and topic.endswith("telemetry"):
            content = decode_envelope(payload, bytes_max=MESSAGE_BYTES_MAX).payload
            self.came.append(decode(TelemetryBatch, content))
        return True

    def tell(self) -> None:
        self.reporter.telemetry((WINDOW,), SystemSample(at=AT))

    def pump(self) -> list[TelemetryBatch]:
        """Send what waits; the server acknowledges all of it."""
        self.elapsed_s += 2 * RESEND_S
        sent = len(self.came)
        self.reporter.pump(self.elapsed_s)
        for batch in self.came[sent:]:
            self.reporter.take_ack(encode(Ack(boot=batch.boot, seq=batch.seq)))
        return self.came[sent:]


def test_what_the_spool_had_no_room_for_is_lost_and_not_awaited(tmp_path: Path) -> None:
    device, receipt = Device(tmp_path), Receipt()
    device.tell()
    (first,) = device.pump()
    device.connected = False
    for _ in range(40):
        device.tell()
    device.pump()
    device.connected = True
    assert device.spool.dropped > 10
    while device.pump():
        pass
    device.tell()
    (last,) = device.pump()
    for batch in device.came:
        receipt = note(receipt, batch.seq, AT)
    (gap,) = receipt.gaps
    assert gap.first == first.seq + 1
    assert gap.last - gap.first + 1 == device.spool.dropped
    assert receipt.received + device.spool.dropped == last.seq
    said = last.system
    assert said is not None
    assert said.dropped == device.spool.dropped
    assert state_of(3, gap, (said.waits_boot, said.waits_seq)) == "lost"
    # While older messages still waited, nobody said so of what might yet come.
    earlier = next(one.system for one in device.came[1:] if one.seq > gap.last)
    assert earlier is not None
    assert (earlier.waits_boot, earlier.waits_seq) < (last.boot, last.seq)
