"""What a device that was stolen can make the server keep."""

from datetime import timedelta

from sqlalchemy import func, select

from edgectl_server import retention
from edgectl_server.allowance import (
    _DEVICES_MAX,
    BURST_BYTES,
    BYTES_PER_S,
    MESSAGE_BYTES,
    Allowance,
)
from edgectl_server.storage.tables import DeviceEventRow
from server.fleet.fleet_helpers import Clock, new_device

SIZE = 128 * 1024


def test_a_burst_then_a_trickle_and_nothing_is_lost_for_good() -> None:
    allowance = Allowance()
    stored = sum(allowance.take("pi-1", SIZE, 0.0) for _ in range(10_000))
    assert stored == BURST_BYTES // (SIZE + MESSAGE_BYTES)
    assert allowance.take("pi-2", SIZE, 0.0), "another device is not affected"
    hour = [allowance.take("pi-1", SIZE, float(second)) for second in range(3600)]
    assert sum(hour) <= 3600 * BYTES_PER_S / SIZE + 1
    assert allowance.take("pi-1", SIZE, 7200.0), "the bucket fills again"


def test_small_messages_cost_too() -> None:
    allowance = Allowance()
    stored = 0
    while allowance.take("pi-1", 0, 0.0):
        stored += 1
    assert stored == BURST_BYTES // MESSAGE_BYTES


def test_a_long_silence_does_not_add_up() -> None:
    allowance = Allowance()
    assert allowance.take("pi-1", SIZE, 0.0)
    stored = sum(allowance.take("pi-1", SIZE, 1e9) for _ in range(10_000))
    assert stored == BURST_BYTES // (SIZE + MESSAGE_BYTES)


def test_the_allowances_are_bounded() -> None:
    allowance = Allowance()
    for number in range(_DEVICES_MAX + 10):
        allowance.take(f"pi-{number}", 1, 0.0)
    assert len(allowance._buckets) == _DEVICES_MAX


def test_events_are_deleted_by_age_and_by_number(database, monkeypatch) -> None:
    monkeypatch.setattr(retention, "EVENTS_PER_DEVICE_MAX", 5)
    clock = Clock()
    with database.write() as session:
        session.add_all(new_device(name, clock()) for name in ("flood", "quiet"))
        session.flush()
        for device, ages in (("flood", range(20)), ("quiet", (0, 1, 40))):
            session.add_all(
                DeviceEventRow(
                    device=device,
                    boot=1,
                    seq=100 - age,
                    at=clock(),
                    received_at=clock() - timedelta(days=age),
                    slot="har",
                    rollout=None,
                    event={},
                )
                for age in ages
            )
    retention.delete_old_events(database, days=30, now=clock)
    with database.read() as session:
        left = {
            name: session.scalars(
                select(DeviceEventRow.seq)
                .where(DeviceEventRow.device == name)
                .order_by(DeviceEventRow.seq.desc())
            ).all()
            for name in ("flood", "quiet")
        }
        assert session.scalar(select(func.count()).select_from(DeviceEventRow)) == 7
    assert left == {"flood": [100, 99, 98, 97, 96], "quiet": [100, 99]}
