"""Holds: whoever says "not now" is heard, and every hold that has an end ends."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgectl_agent.core.timing import Moment
from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import Refused
from edgectl_agent.hold_file import HOLDS_MAX, Held, HoldFile, decode_holds
from edgectl_agent.local_messages import HOLD_S_MAX

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def at(elapsed_s: float, wall_s: float | None = None) -> Moment:
    """A moment; the wall clock goes along unless it is set."""
    return Moment(NOON + timedelta(seconds=elapsed_s if wall_s is None else wall_s), elapsed_s)


@pytest.fixture
def disk(tmp_path: Path) -> RealDisk:
    return RealDisk(tmp_path / "state")


def test_a_hold_ends_after_its_time_and_its_file_goes(disk: RealDisk) -> None:
    hold = HoldFile(disk)
    assert hold.look(at(0)) is None
    hold.put("person", Held(reason="night shift", for_s=60), at(0))
    reason = hold.look(at(59))
    assert reason is not None
    assert reason.code == "update.held"
    assert "night shift" in reason.detail
    assert hold.shown(at(59))["person"]["left_s"] == 1.0
    assert hold.look(at(60)) is None
    assert disk.size("hold") is None


def test_a_hold_ends_under_a_wrong_clock(disk: RealDisk) -> None:
    hold = HoldFile(disk)
    hold.put("person", Held(for_s=60), at(0))
    assert hold.look(at(59, wall_s=-86400)) is not None
    assert hold.look(at(60, wall_s=-86400)) is None
    hold.put("person", Held(for_s=60), at(100))
    assert hold.look(at(101, wall_s=1e6)) is None, "the wall clock says that it is over"
    # After a restart with a clock that has lost the time: no longer than it was to last.
    hold.put("person", Held(for_s=60), at(200))
    again = HoldFile(disk)
    assert again.look(at(0, wall_s=-1e8)) is not None
    assert again.look(at(59, wall_s=-1e8)) is not None
    assert again.look(at(60, wall_s=-1e8)) is None


def test_a_hold_outlives_a_restart(disk: RealDisk) -> None:
    HoldFile(disk).put("person", Held(for_s=100), at(0))
    again = HoldFile(disk)
    assert again.look(at(3, wall_s=50)) is not None
    assert again.shown(at(3, wall_s=50))["person"]["left_s"] == 50
    assert again.look(at(53, wall_s=100)) is None


def test_touch_holds_without_end_until_the_file_goes(disk: RealDisk) -> None:
    hold = HoldFile(disk)
    path = Path(disk.locate("hold"))
    path.touch()
    assert hold.look(at(1)) is not None
    assert hold.look(at(1e9)) is not None
    path.unlink()
    assert hold.look(at(2)) is None


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b"\xff\xfe",
        b"[1, 2]",
        b'{"for_s": -1}',
        b'{"for_s": 1e300}',
        b'{"until": "yesterday"}',
        b'{"until": "2026-11-23T12:00:00"}',
        b'{"holds": {}}',
        b'{"holds": {"": {}}}',
        b"[" * 100_000,
        b'{"reason": "' + b"x" * 100_000 + b'"}',
        json.dumps({"holds": {str(n): {} for n in range(1000)}}).encode(),
    ],
)
def test_what_is_not_understood_holds_without_end(disk: RealDisk, content: bytes) -> None:
    Path(disk.locate("hold")).write_bytes(content)
    hold = HoldFile(disk)
    assert hold.look(at(0)) is not None
    assert hold.look(at(2 * HOLD_S_MAX)) is not None
    assert hold.remove(None, at(2 * HOLD_S_MAX))
    assert hold.look(at(2 * HOLD_S_MAX)) is None


def test_what_is_there_and_no_file_holds(disk: RealDisk) -> None:
    path = Path(disk.locate("hold"))
    hold = HoldFile(disk)
    os.mkfifo(path)  # reading it would wait for ever
    assert hold.look(at(0)) is not None
    path.unlink()
    path.symlink_to("/nowhere")
    assert hold.look(at(1)) is not None
    path.unlink()
    path.mkdir()
    assert hold.look(at(2)) is not None
    path.rmdir()
    assert hold.look(at(3)) is None


def test_an_application_may_write_a_single_hold(disk: RealDisk) -> None:
    Path(disk.locate("hold")).write_text('{"reason": "calibrating", "for_s": 10}')
    hold = HoldFile(disk)
    reason = hold.look(at(5))
    assert reason is not None
    assert "calibrating" in reason.detail
    assert hold.look(at(15)) is None
    assert decode_holds(b"")["file"] == Held()


def test_each_holder_ends_its_own(disk: RealDisk) -> None:
    hold = HoldFile(disk)
    hold.put("camera", Held(reason="filming"), at(0))
    hold.put("person", Held(for_s=10), at(0))
    assert hold.remove("camera", at(1))
    assert not hold.remove("camera", at(1))
    assert set(hold.shown(at(1))) == {"person"}
    hold.put("camera", Held(), at(2))
    assert hold.look(at(10)) is not None, "the camera still holds"
    assert set(hold.shown(at(10))) == {"camera"}
    assert hold.remove(None, at(11))
    assert hold.look(at(11)) is None


def test_there_is_a_bound_on_holders(disk: RealDisk) -> None:
    hold = HoldFile(disk)
    for number in range(HOLDS_MAX):
        hold.put(f"app-{number}", Held(), at(0))
    with pytest.raises(Refused, match=r"hold\.many"):
        hold.put("one-more", Held(), at(0))
    hold.put("app-0", Held(reason="again"), at(0))


def test_a_hold_ends_although_its_file_cannot_be_removed(disk: RealDisk) -> None:
    hold = HoldFile(disk)
    hold.put("person", Held(for_s=10), at(0))

    def broken(*_: object) -> None:
        raise OSError(30, "read-only file system")

    disk.unlink_durably = broken  # type: ignore[method-assign,assignment]
    assert hold.look(at(10)) is None
    assert hold.look(at(11)) is None
    assert hold.shown(at(11)) == {}


def test_whoever_only_looks_changes_nothing(disk: RealDisk) -> None:
    HoldFile(disk).put("person", Held(for_s=10), at(0))
    assert HoldFile(disk, changes=False).look(at(20)) is None
    assert disk.size("hold") is not None
