"""A running control plane on each broker, and devices for it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from databases import open_migrated
from edgectl_server.clock import now
from edgectl_server.control_plane import ControlPlane, open_control_plane
from edgectl_server.settings import Settings
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from server.fleet.fleet_helpers import Pi, add_version


@dataclass
class Site:
    """A data folder with its control plane, which can be stopped and started again."""

    settings: Settings
    database: Database
    blobs: BlobStore
    plane: ControlPlane
    pis: list[Pi] = field(default_factory=list)

    def pi(self, name: str, *, connect: bool = True) -> Pi:
        token = self.plane.admission.create_token(uses=1, expires_in_s=60, user="test").token
        folder = self.settings.data_path.parent / name
        pi = Pi(name, folder, self.plane.enrolment.enrol, token)
        self.pis.append(pi)
        if connect:
            pi.connect()
            pi.report()
        return pi

    def version(self, version: str = "1", **options: object) -> dict[str, str]:
        return add_version(
            self.database, self.blobs, self.plane.repository, version=version, **options
        )

    def stop(self) -> None:
        self.plane.close()

    def start(self) -> None:
        port = self.plane.broker.port
        settings = msgspec.structs.replace(self.settings, broker_port=port)
        self.plane = open_control_plane(settings, database=self.database, blobs=self.blobs, now=now)


@pytest.fixture(params=["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
def broker(request: pytest.FixtureRequest) -> str:
    """Which broker `site` runs on; a test that needs only one overrides it."""
    if request.param == "mosquitto":
        from edgectl_server.distribution.mosquitto import find_mosquitto

        if find_mosquitto() is None:
            pytest.skip("mosquitto is not installed")
    return request.param


@pytest.fixture
def site(tmp_path: Path, broker: str, sqlite_url: str) -> Iterator[Site]:
    settings = Settings(data=str(tmp_path / "data"), broker=broker, broker_port=0, tick_s=0.1)
    settings.data_path.mkdir()
    database = open_migrated(sqlite_url)
    blobs = BlobStore(settings.blobs_address)
    plane = open_control_plane(settings, database=database, blobs=blobs, now=now)
    site = Site(settings, database, blobs, plane)
    yield site
    for pi in site.pis:
        pi.disconnect()
    site.plane.close()
    database.close()
