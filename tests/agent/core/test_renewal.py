"""When the device asks for a new certificate: by its clock, its connection, and after failures."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.core.between import Site
from agent.core.simulated_disk import PowerCut, SimulatedDisk, Survival
from edgectl_agent.clock import Moment
from edgectl_agent.device_key import KEY_PATH, FileKey, load_key
from edgectl_agent.durable import Disk, RealDisk
from edgectl_agent.enrol import CERTIFICATE_PATH, enrol
from edgectl_agent.renewal import LOOK_S_MAX, OFFLINE_S, Renewer, Validity, read_validity, renew

DAY_S = 86400


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    running = Site(tmp_path / "site")
    yield running
    running.close()


class World:
    """A device with a certificate of 90 days, both its clocks, and its connection."""

    def __init__(self, site: Site, disk: Disk) -> None:
        self.site = site
        self.disk = disk
        enrol(disk, server=site.url, device="pi-1", token=site.token())
        self.wall = site.time
        self.elapsed_s = 0.0
        self.online = True
        self.lines: list[dict[str, Any]] = []
        self.renewer = Renewer(
            disk,
            server=site.url,
            device="pi-1",
            key=load_key(disk),
            connected=lambda: self.online,
            now=lambda: Moment(self.wall, self.elapsed_s),
            say=self.lines.append,
        )
        site.exchanges.clear()

    def live(self, *, hours: float, wall: bool = True) -> int:
        """Let time pass as the renewer asks for; return how often it has looked."""
        end = self.elapsed_s + hours * 3600
        looks = 0
        while self.elapsed_s < end:
            wait_s = max(self.renewer.look(), 1.0)
            assert wait_s <= LOOK_S_MAX
            looks += 1
            self.elapsed_s += wait_s
            if wall:
                self.wall += timedelta(seconds=wait_s)
                self.site.time += timedelta(seconds=wait_s)
        return looks

    @property
    def asked(self) -> int:
        return len(self.site.exchanges)


def test_it_asks_in_the_last_third_and_not_before(site: Site, tmp_path: Path) -> None:
    world = World(site, RealDisk(tmp_path / "state"))
    world.live(hours=1)
    assert world.asked == 0
    validity = read_validity(world.disk)
    world.wall = site.time = validity.end - timedelta(seconds=validity.life_s / 4 - 60)
    world.renewer.look()
    assert world.asked == 1
    assert [line["event"] for line in world.lines] == ["renewed"]
    assert read_validity(world.disk).end > validity.end
    world.live(hours=24)
    assert world.asked == 1


def test_a_fleet_does_not_come_at_once() -> None:
    start = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    validity = Validity(start, start + timedelta(days=90))
    moments = [validity.due_s(start, jitter / 100) / DAY_S for jitter in range(101)]
    assert max(moments) == pytest.approx(67.5)
    assert min(moments) == pytest.approx(60)
    assert moments == sorted(moments, reverse=True)


def test_it_tries_again_at_growing_intervals_for_as_long_as_it_takes(
    site: Site, tmp_path: Path
) -> None:
    world = World(site, RealDisk(tmp_path / "state"))
    end = read_validity(world.disk).end
    world.wall = site.time = end - timedelta(hours=3)
    site.between = lambda *_: (503, b'{"code": "server.busy", "detail": "x"}')
    world.live(hours=6)  # the certificate expires meanwhile
    assert 8 <= world.asked <= 20
    site.between = lambda _path, _request, answer: answer
    world.live(hours=1)
    assert read_validity(world.disk).end > end


def test_out_of_the_drawer_after_months(site: Site, tmp_path: Path) -> None:
    world = World(site, RealDisk(tmp_path / "state"))
    end = read_validity(world.disk).end
    world.wall = site.time = end + timedelta(days=200)
    world.renewer.look()
    assert read_validity(world.disk).end > site.time


def test_after_the_grace_it_is_told_to_enrol_again(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(site, RealDisk(tmp_path / "state"))
    world.wall = site.time = read_validity(world.disk).end + timedelta(days=366)
    before = world.disk.read(CERTIFICATE_PATH)
    world.renewer.look()
    assert "enrol.expired" in caplog.text
    assert world.disk.read(CERTIFICATE_PATH) == before


@pytest.mark.parametrize(
    "year", [pytest.param(1970, id="1970"), pytest.param(2126, id="a century on")]
)
def test_a_clock_that_is_far_off_loses_nothing(site: Site, tmp_path: Path, year: int) -> None:
    """Behind, it does not ask; ahead, it asks now and then, and is told to keep what it has."""
    world = World(site, RealDisk(tmp_path / "state"))
    before = world.disk.read(CERTIFICATE_PATH)
    right = site.time
    world.wall = right.replace(year=year, month=2, day=1)
    world.live(hours=24, wall=False)
    assert world.disk.read(CERTIFICATE_PATH) == before
    assert world.lines == []
    assert world.asked == 0 if year == 1970 else world.asked < 60
    world.wall = site.time = read_validity(world.disk).end  # set right, much later
    world.live(hours=2)
    assert read_validity(world.disk).end > world.wall


def test_a_clock_that_is_behind_does_not_keep_a_device_out(site: Site, tmp_path: Path) -> None:
    """Its certificate has expired, but it cannot know: it asks because nobody lets it in."""
    world = World(site, RealDisk(tmp_path / "state"))
    end = read_validity(world.disk).end
    site.time = end + timedelta(days=1)
    world.wall = end - timedelta(days=80)
    world.online = False
    world.live(hours=OFFLINE_S / 3600 - 0.01, wall=False)
    assert world.asked == 0
    world.live(hours=0.2, wall=False)
    assert world.asked >= 1
    assert read_validity(world.disk).end > site.time


def test_who_is_offline_for_long_does_not_hammer_the_server(site: Site, tmp_path: Path) -> None:
    world = World(site, RealDisk(tmp_path / "state"))
    world.online = False
    world.live(hours=48)
    assert 24 <= world.asked <= 120
    assert world.lines == []


def test_a_shut_out_device_is_refused_and_asks_seldom(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from edgectl_server.storage.tables import Device

    world = World(site, RealDisk(tmp_path / "state"))
    with site.database.write() as session:
        device = session.get_one(Device, "pi-1")
        device.state, device.decommissioned_at = "decommissioned", site.time
    world.wall = site.time = read_validity(world.disk).end - timedelta(days=1)
    before = world.disk.read(CERTIFICATE_PATH)
    world.live(hours=24)
    assert world.disk.read(CERTIFICATE_PATH) == before
    assert caplog.text.count("enrol.renewal") == 1  # said once, not at every attempt
    assert world.asked < 60


@pytest.mark.parametrize("survival", ["lost", "kept", "random"])
def test_at_every_power_cut_there_is_a_good_certificate(
    site: Site, tmp_path: Path, survival: Survival
) -> None:
    """Everything but the key is on a disk that loses power."""
    disk = SimulatedDisk()
    enrol(disk, server=site.url, device="pi-1", token=site.token())
    for path in disk.paths():
        disk.sync(path)
    disk.sync_directory("identity")
    key = FileKey(tmp_path / "key", disk.read(KEY_PATH))
    old = disk.read(CERTIFICATE_PATH)
    site.time = read_validity(disk).end - timedelta(days=1)
    outcomes = set()
    for operation in range(1, 6):
        disk.cut_at = disk.operations + operation
        try:
            renewed = renew(disk, server=site.url, device="pi-1", key=key)
        except PowerCut:
            renewed = None
        disk.reboot(survival, random.Random(operation))
        content = disk.read(CERTIFICATE_PATH)
        certificates = [answer["certificate_pem"].encode() for answer in renewals(site)]
        assert content in {old, *certificates}
        assert renewed is None or content != old
        outcomes.add(content == old)
    assert outcomes == {True, False}
    assert len(set(renewals_of(site))) == 1  # asked again, it was the same certificate


def renewals(site: Site) -> list[dict[str, str]]:
    import json

    return [
        json.loads(json.loads(answer[1])["renewal"])
        for path, _, answer in site.exchanges
        if path == "renew"
    ]


def renewals_of(site: Site) -> list[str]:
    return [one["certificate_pem"] for one in renewals(site)]
