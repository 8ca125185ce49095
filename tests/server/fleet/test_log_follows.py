"""Who looks at the log of a device, on a real broker; the device says what it likes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from edgectl_protocol import topics
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.log_lines import LINES_MAX, LogFollowRequest, LogLine, LogLines
from edgectl_protocol.messages import decode, encode
from edgectl_server import log_follows
from edgectl_server.clock import now
from edgectl_server.errors import ServerError
from edgectl_server.log_follows import FOLLOWS_MAX
from edgectl_server.storage.tables import Device, LogFollow, LogFollowLines
from server.fleet.conftest import Site
from server.fleet.fleet_helpers import Pi
from waiting import wait_for


def line(text: str) -> LogLine:
    return LogLine(time=now(), level="info", logger="test", text=text)


class Follower:
    """A device, and somebody who looks at its log."""

    def __init__(self, site: Site, name: str = "pi-1") -> None:
        self.site, self.name = site, name
        self.pi: Pi = site.pi(name)
        self.pi.subscribe(topics.command(name))
        self.pi.report(capabilities_seq=1)
        wait_for(self._is_known, "the device's report")

    def _is_known(self) -> bool:
        with self.site.database.read() as session:
            return "capabilities_seq" in session.get_one(Device, self.name).reported

    def requests(self) -> list[LogFollowRequest]:
        payloads = self.pi.got.get(topics.command(self.name), [])
        return [decode(LogFollowRequest, self.pi.verified(payload)) for payload in payloads]

    def begin(self) -> LogFollowRequest:
        follow = self.site.plane.log_follows.start(self.name, "anna").id
        wait_for(lambda: any(one.follow == follow for one in self.requests()), "the request")
        return next(one for one in self.requests() if one.follow == follow)

    def say(self, request: LogFollowRequest, number: int, *texts: str, **lies: Any) -> None:
        fields: dict[str, Any] = {
            "device": self.name, "follow": request.follow, "nonce": request.nonce,
            "number": number, "first": 0, "lines": tuple(line(text) for text in texts),
        }  # fmt: skip
        self.pi.publish(topics.event(self.name), LogLines(**(fields | lies)))

    def page(self, follow: str, after: int = 0) -> Any:
        return self.site.plane.log_follows.page(self.name, follow, after)

    def texts(self, follow: str) -> list[str]:
        return [one.text for one in self.page(follow).lines]


@pytest.fixture
def follower(site: Site) -> Follower:
    return Follower(site)


def set_row(site: Site, **values: Any) -> None:
    with site.database.write() as session:
        session.execute(update(LogFollow).values(**values))


def test_lines_come_to_whoever_looks(site: Site, follower: Follower) -> None:
    request = follower.begin()
    assert (request.device, request.for_s) == ("pi-1", 120)
    follower.say(request, 1, "one", "two")
    wait_for(lambda: follower.texts(request.follow) == ["one", "two"], "the lines")
    after = follower.page(request.follow).after
    follower.say(request, 2, "three", first=2)
    wait_for(lambda: follower.page(request.follow, after).lines, "the next line")
    page = follower.page(request.follow, after)
    assert [one.text for one in page.lines] == ["three"]
    assert (page.follow.missing, page.follow.ended_at) == (0, None)
    again = site.plane.log_follows.start("pi-1", "ben")
    assert (again.id, again.started_by) == (request.follow, "anna"), "both see the same"


def test_what_is_missing_is_counted_and_what_comes_twice_is_not_shown_twice(
    follower: Follower,
) -> None:
    request = follower.begin()
    follower.say(request, 1, "one")
    follower.say(request, 1, "one")
    follower.say(request, 4, "late", first=41)
    wait_for(lambda: "late" in follower.texts(request.follow), "the lines")
    assert follower.texts(request.follow) == ["one", "late"]
    assert follower.page(request.follow).follow.missing == 40


def test_nobody_looks_and_it_ends_on_both_sides(site: Site, follower: Follower) -> None:
    request = follower.begin()
    set_row(site, watched_until=now())
    stop = wait_for(lambda: [one for one in follower.requests() if not one.for_s], "the end")[0]
    assert stop.follow == request.follow
    assert stop.counter > request.counter
    assert follower.page(request.follow).follow.reason == "unwatched"
    follower.say(request, 1, "too late")
    other = follower.begin()
    assert other.follow != request.follow
    follower.say(other, 1, "in time")
    wait_for(lambda: follower.texts(other.follow) == ["in time"], "the lines")
    assert follower.texts(request.follow) == []


def test_it_goes_on_while_somebody_looks_but_not_for_ever(site: Site, follower: Follower) -> None:
    request = follower.begin()
    set_row(site, asked_until=now() + timedelta(seconds=30))
    wait_for(lambda: len(follower.requests()) == 2, "a second request")
    assert follower.requests()[1].nonce == request.nonce
    set_row(site, ends_at=now())
    wait_for(lambda: follower.page(request.follow).follow.reason == "time", "the end")
    wait_for(lambda: follower.requests()[-1].for_s == 0, "the device told")
    set_row(site, ended_at=now() - timedelta(minutes=6))

    def gone() -> bool:
        with site.database.read() as session:
            return not session.query(LogFollow).count() + session.query(LogFollowLines).count()

    wait_for(gone, "nothing kept")
    with pytest.raises(ServerError, match="nobody looks"):
        follower.page(request.follow)


def test_what_nobody_asks_for_is_dropped(site: Site, follower: Follower) -> None:
    stranger = Follower(site, "pi-2")
    request = follower.begin()
    stranger.say(request, 1, "in the name of another")
    follower.say(request, 1, "with another nonce", nonce="0" * 32)
    follower.say(request, 1, "of no follow", follow="0" * 16)
    wait_for(lambda: site.plane.intake.dropped["logs.unasked"] == 3, "dropped")
    assert follower.texts(request.follow) == []


def test_a_device_cannot_fill_the_database(
    site: Site, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_follows, "BYTES_MAX", 30_000)
    request = follower.begin()
    for number in range(1, 30):
        follower.say(request, number, "x" * 4000, first=number - 1)
    wait_for(lambda: follower.page(request.follow).follow.reason == "enough", "the end")
    assert len(follower.texts(request.follow)) == 8
    for lines in ((line("x" * 5000),), (line("x"),) * (LINES_MAX + 1)):
        with pytest.raises(ProtocolError):
            decode(
                LogLines,
                encode(
                    LogLines(
                        device="pi-1",
                        follow=request.follow,
                        nonce=request.nonce,
                        number=99,
                        first=0,
                        lines=lines,
                    )
                ),
            )


def test_a_device_that_is_away_is_not_followed(site: Site, follower: Follower) -> None:
    request = follower.begin()
    follower.pi.kill()
    wait_for(lambda: follower.page(request.follow).follow.reason == "offline", "the end")
    with pytest.raises(ServerError, match="not connected"):
        site.plane.log_follows.start("pi-1", "anna")
    with pytest.raises(ServerError, match="no device"):
        site.plane.log_follows.start("pi-9", "anna")


def test_a_device_that_is_too_old_is_not_asked_for_what_it_would_call_an_attack(
    site: Site,
) -> None:
    old = site.pi("pi-1")
    old.subscribe(topics.command("pi-1"))
    wait_for(lambda: site.plane.fleet.device("pi-1").online, "the device online")
    with pytest.raises(ServerError) as refused:
        site.plane.log_follows.start("pi-1", "anna")
    assert (refused.value.code, refused.value.status) == ("logs.older", 409)
    assert old.got.get(topics.command("pi-1")) is None


def test_not_too_many_at_once(site: Site, follower: Follower) -> None:
    request = follower.begin()
    with site.database.write() as session:
        for number in range(FOLLOWS_MAX - 1):
            session.add(log_follows._new_row("pi-1", "anna", now()))
            session.flush()
            assert number < FOLLOWS_MAX
    other = Follower(site, "pi-2")
    with pytest.raises(ServerError, match="looked at already"):
        site.plane.log_follows.start(other.name, "anna")
    assert request
