"""What applications say of requests: within bounds, and only where samples are wanted."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from agent.core.control_plane import ControlPlane
from agent.core.device import Device
from agent.core.test_local_commands import MakeDevice, started
from edgectl_agent import InputRefused, SdkError, tell_outcome
from edgectl_agent.clock import now
from edgectl_agent.local_messages import Outcome, decode_request
from edgectl_agent.spool import OUTCOMES_MAX, Spool
from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.messages import decode
from edgectl_protocol.outcomes import OutcomeReport


def report(seq: int, at: datetime) -> OutcomeReport:
    return OutcomeReport(
        device="pi-1", boot=1, seq=seq, at=at, model="har", request_id=f"r-{seq}", label="walk"
    )


def test_the_spool_holds_so_many_and_drops_the_oldest(tmp_path: Path) -> None:
    spool = Spool(tmp_path, bytes_max=1 << 22, boot=1)
    try:
        for _ in range(OUTCOMES_MAX + 20):
            spool.put("outcome", lambda seq: report(seq, now()))
        kept = [decode(OutcomeReport, one.payload).seq for one in spool.pending(2000)]
        assert kept == list(range(21, OUTCOMES_MAX + 21))
    finally:
        spool.close()


def test_what_is_no_outcome_is_refused() -> None:
    good = b'{"request": "outcome", "slot": "har", "name": "r-1", "label": "walk"}'
    assert decode_request(good) == Outcome(slot="har", name="r-1", label="walk")
    for old, new in (
        (b"r-1", b""), (b"r-1", b"a b"), (b"r-1", b"x" * 65), (b"walk", b""),
        (b"walk", b"x" * 257), (b"har", b"../x"),
    ):  # fmt: skip
        with pytest.raises(MalformedMessage):
            decode_request(good.replace(old, new))


def test_nothing_is_told_where_no_sample_is_asked_for(
    plane: ControlPlane, make_device: MakeDevice
) -> None:
    device: Device = started(plane, make_device)
    code, _, errors = device.command("outcome", "har", "r-1", "walking")
    assert (code, "error[outcome.unasked]" in errors) == (1, True)
    code, _, errors = device.command("outcome", "har", "a b", "walking")
    assert (code, "error[outcome.value]" in errors) == (2, True)
    control = device.state / "control.sock"
    with pytest.raises(SdkError) as unasked:
        tell_outcome("har", "r-1", "walking", socket=control)
    assert unasked.value.code == "outcome.unasked"
    for wrong in (("har", "a b", "walking"), ("../x", "r-1", "walking"), ("har", "r-1", "")):
        with pytest.raises(InputRefused):
            tell_outcome(*wrong, socket=control)
    for line in (("har",), ("har", "r-1"), ("har", "r-1", "x", "--from", "mqtt://localhost/a")):
        code, _, errors = device.command("outcome", *line)
        assert (code, "give ID and CLASS, or --from" in errors) == (2, True)
    code, _, errors = device.command("outcome", "har", "--from", "folder:/tmp")
    assert (code, "is no topic" in errors) == (2, True)
