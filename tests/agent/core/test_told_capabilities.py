"""What a device is: said once in a connection where the server keeps it, else in every report."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from edgectl_agent.reporter import DISK_CHANGE, PROGRESS_PERIOD_S, Reporter
from edgectl_agent.spool import Kind, Spooled
from edgectl_protocol.compression import decompress
from edgectl_protocol.envelopes import Envelope, decode_envelope
from edgectl_protocol.messages import (
    MESSAGE_BYTES_MAX,
    REPORT_BYTES_MAX,
    Capabilities,
    ReportedState,
    SystemSample,
    TelemetryBatch,
    decode,
    encode,
)

AT = datetime(2026, 11, 23, tzinfo=UTC)
WHAT = Capabilities(
    machine="aarch64",
    cpu_features=("asimd", "crc32", "fp"),
    cores=4,
    memory_bytes=4_000_000_000,
    disk_free_bytes=10_000_000_000,
    runtimes={"onnxruntime": "1.32.0"},
)


class Site:
    """A reporter with nothing around it."""

    def __init__(self) -> None:
        self.what, self.sent, self.elapsed_s = WHAT, [], 0.0
        self.bytes_sent = 0
        self.waiting: list[Spooled] = []
        self.others: list[Envelope] = []
        record = SimpleNamespace(counter=0, nonce=None, rejected=())
        self.reporter = Reporter(
            device="pi-1",
            boot=3,
            signer=SimpleNamespace(key_id="0" * 64, sign=lambda _: b"signature"),
            machine=SimpleNamespace(record=record, slots=dict),  # type: ignore[arg-type]
            outbox=SimpleNamespace(put=None, pending=self.pending),  # type: ignore[arg-type]
            channel=SimpleNamespace(connected=lambda: True, publish=self.publish),  # type: ignore[arg-type]
            capabilities=lambda: self.what,
            endpoint=lambda: "",
            now=lambda: AT,
            say=lambda _: None,
        )

    def pending(self, limit: int, *, without: Collection[Kind]) -> list[Spooled]:
        return [one for one in self.waiting if one.kind not in without][:limit]

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        assert retain == topic.endswith("/state")
        if not retain:
            self.others.append(decode_envelope(payload, bytes_max=MESSAGE_BYTES_MAX))
            return True
        self.bytes_sent = len(payload)
        self.sent.append(
            decode(ReportedState, decode_envelope(payload, bytes_max=MESSAGE_BYTES_MAX).payload)
        )
        return True

    def report(self) -> ReportedState:
        self.reporter.report()
        self.reporter.pump(self.elapsed_s)
        return self.sent[-1]


@pytest.fixture
def site() -> Site:
    return Site()


def test_they_are_said_each_time_to_a_server_that_does_not_keep_them(site: Site) -> None:
    assert [site.report().capabilities for _ in range(3)] == [WHAT] * 3
    assert {one.capabilities_seq for one in site.sent} == {1}


def test_they_are_left_out_once_they_are_kept(site: Site) -> None:
    site.report()
    whole = site.bytes_sent
    site.reporter.kept(3, 1)
    state = site.report()
    assert (state.capabilities, state.capabilities_seq) == (None, 1)
    assert site.bytes_sent < whole - 200


def test_another_connection_hears_them_again(site: Site) -> None:
    site.report()
    site.reporter.kept(3, 1)
    site.reporter.reconnected()
    assert site.report().capabilities == WHAT
    site.reporter.kept(3, 1)
    assert site.report().capabilities is None


def test_a_change_is_said_and_a_little_of_the_disk_is_none(site: Site) -> None:
    site.report()
    site.reporter.kept(3, 1)
    site.what = replace(WHAT, disk_free_bytes=int(WHAT.disk_free_bytes * (1 - DISK_CHANGE / 2)))
    assert site.report().capabilities is None
    site.what = replace(WHAT, disk_free_bytes=int(WHAT.disk_free_bytes * (1 - 2 * DISK_CHANGE)))
    assert site.report().capabilities == site.what
    site.what = replace(site.what, labels={"site": "porto"})
    state = site.report()
    assert (state.capabilities, state.capabilities_seq) == (site.what, state.seq)
    site.reporter.kept(3, 1)  # late: of what was
    assert site.report().capabilities == site.what


def test_a_server_that_has_lost_them_gets_them_and_who_floods_gets_no_flood(site: Site) -> None:
    site.report()
    site.reporter.kept(3, 1)
    site.report()
    count = len(site.sent)
    site.elapsed_s += PROGRESS_PERIOD_S
    for _ in range(50):
        site.reporter.kept(3, 0)
        site.reporter.pump(site.elapsed_s)
    assert [one.capabilities for one in site.sent[count:]] == [WHAT]


def test_what_is_said_of_another_start_is_not_of_this_one(site: Site) -> None:
    site.report()
    site.reporter.kept(2, 1)
    assert site.report().capabilities == WHAT


def test_telemetry_is_compressed_for_a_server_that_has_said_so_in_this_connection(
    site: Site,
) -> None:
    window = encode(TelemetryBatch(device="pi-1", boot=3, seq=1, system=SystemSample(at=AT)))
    long = window[:-1] + b" " * 2000 + b"}"
    reports = {"telemetry": long, "event": long}
    site.waiting = [
        Spooled(kind=kind, boot=3, seq=seq, payload=payload)  # type: ignore[arg-type]
        for seq, (kind, payload) in enumerate(reports.items(), 1)
    ]

    def types() -> list[str]:
        site.others.clear()
        site.elapsed_s += 100
        site.reporter.pump(site.elapsed_s)
        return [one.payload_type.rpartition("+")[2] for one in site.others]

    assert types() == ["json", "json"], "nobody has said anything"
    site.reporter.kept(3, 1)
    assert types() == ["json", "json"], "an older server"
    site.reporter.kept(2, 1, decompresses=True)
    assert types() == ["json", "json"], "of another start"
    site.reporter.kept(3, 1, decompresses=True)
    assert types() == ["zlib", "json"], "telemetry alone"
    (telemetry, _) = site.others
    assert decompress(telemetry.payload, bytes_max=REPORT_BYTES_MAX) == long
    site.waiting[0] = replace(site.waiting[0], payload=b"{}")
    assert types() == ["json", "json"], "what does not get shorter"
    site.reporter.reconnected()
    site.waiting[0] = replace(site.waiting[0], payload=long)
    assert types() == ["json", "json"], "perhaps another server"


def test_outcomes_wait_for_a_server_that_knows_them_and_nothing_waits_for_them(site: Site) -> None:
    def told() -> list[int]:
        site.others.clear()
        site.elapsed_s += 100
        site.reporter.pump(site.elapsed_s)
        return [json.loads(one.payload)["seq"] for one in site.others]

    kinds = ["outcome"] * 40 + ["telemetry"]
    site.waiting = [
        Spooled(kind=kind, boot=3, seq=seq, payload=b'{"seq":%d}' % seq)
        for seq, kind in enumerate(kinds, 1)
    ]
    assert told() == [41], "an older server acknowledges no outcome"
    site.reporter.kept(3, 1)
    assert told() == list(range(1, 33))
    site.reporter.reconnected()
    assert told() == [41], "perhaps another server"
    site.reporter.kept(3, 0)
    assert told() == list(range(1, 33)), "it has lost what we are, and knows outcomes"
