"""What a device says of its models is shown, all of it, whatever its words are."""

from datetime import UTC, datetime

import pytest
from msgspec import to_builtins
from msgspec.structs import fields

from edgectl_protocol.messages import (
    DeviceEvent,
    Installed,
    ObservationReport,
    Reason,
    ReportedState,
    SlotReport,
    SwapReport,
    TrialReport,
    UpdateReport,
)
from edgectl_protocol.update import UpdateEvent, UpdateState
from edgectl_server import schemas
from edgectl_server.device_views import device_event, device_summary
from edgectl_server.storage.tables import DeviceEventRow
from server.fleet.fleet_helpers import new_device

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MANIFEST = "sha256:" + "4f" * 32
RUNNING = Installed(
    version="1",
    variant="int8",
    manifest=MANIFEST,
    since=NOW,
    threads=2,
    provider="CPUExecutionProvider",
)
TRIAL = TrialReport(
    golden_passed=16,
    golden_total=16,
    load_ms=3.0,
    latency_p50_us=100.0,
    latency_p95_us=200.0,
    rss_bytes=1,
    max_abs_diff=0.0,
    threads=2,
    throttled=True,
)
SHADOW = ObservationReport(mirrored=40, agreed=39, skipped=2, errors=1)
OBSERVATION = ObservationReport(
    requests=213, errors=66, latency_p95_us=1600.0, reference_p95_us=1250.0, class_shift=0.5
)
SWAP = SwapReport(load_ms=52.0, gap_ms=3.5, resident=True)
SEEN = {"trial": TRIAL, "shadow": SHADOW, "observation": OBSERVATION, "swap": SWAP}


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (schemas.InstalledInfo, Installed),
        (schemas.ObservationInfo, ObservationReport),
        (schemas.SwapInfo, SwapReport),
        (schemas.ReasonInfo, Reason),
    ],
)
def test_what_can_be_said_can_be_shown(shown, said):
    """A field on the wire that the API does not know would be refused there."""
    assert set(shown.model_fields) == {field.name for field in fields(said)}


def test_a_slot_is_shown_with_everything_that_was_seen_of_its_update():
    update = UpdateReport(
        order=7,
        version="2",
        variant="int8",
        manifest=MANIFEST,
        state=UpdateState.ROLLED_BACK,
        reason=Reason(code="observe.error_rate", detail="66 of 213"),
        **SEEN,
    )
    reported = ReportedState(
        device="pi-1",
        boot=1,
        seq=1,
        online=True,
        slots={"har": SlotReport(running=RUNNING, update=update)},
    )
    row = new_device("pi-1", NOW, reported=to_builtins(reported))
    row.device_class, row.group = "", ""
    (slot,) = device_summary(row, {}, 0, overdue=False)["slots"]
    assert (slot.running.threads, slot.running.provider) == (2, "CPUExecutionProvider")
    assert slot.update.manifest == MANIFEST
    assert_seen(slot.update)


def test_an_event_is_shown_with_what_was_seen():
    event = DeviceEvent(
        device="pi-1",
        boot=1,
        seq=1,
        at=NOW,
        slot="har",
        order=7,
        nonce="7" * 32,
        version="2",
        variant="int8",
        manifest=MANIFEST,
        before=UpdateState.OBSERVING,
        event=UpdateEvent.BREACHED,
        after=UpdateState.ROLLING_BACK,
        **SEEN,
    )
    row = DeviceEventRow(
        device="pi-1", boot=1, seq=1, at=NOW, received_at=NOW, slot="har", event=to_builtins(event)
    )
    assert_seen(device_event(row))


def assert_seen(shown):
    assert (shown.trial["threads"], shown.trial["throttled"]) == (2, True)
    assert (shown.shadow.mirrored, shown.shadow.agreed, shown.shadow.requests) == (40, 39, 0)
    assert (shown.observation.errors, shown.observation.class_shift) == (66, 0.5)
    assert (shown.swap.gap_ms, shown.swap.resident) == (3.5, True)
