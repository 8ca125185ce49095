"""What must be published is, also when it changes in the very moment in which it is."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from edgectl_protocol import topics
from edgectl_server.storage.tables import Outbox
from server.fleet.conftest import Site
from waiting import wait_for


@pytest.fixture
def broker() -> str:
    """The broker has no part in it."""
    return "embedded"


class Link:
    """Takes everything; while it does, somebody makes the next order."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.topics: list[str] = []

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.topics.append(topic)

    def flush(self, timeout_s: float) -> bool:
        if len(self.topics) == 1:
            with self.site.database.write() as session:
                self.site.plane.ordering.issue(session, "pi-1")
        return True


def test_an_order_that_is_made_while_the_one_before_is_published_is_not_lost(site: Site) -> None:
    site.pi("pi-1")
    wait_for(lambda: site.plane.fleet.device("pi-1").online, "the device online")
    site.plane.ticker.close()
    with site.database.write() as session:
        site.plane.ordering.issue(session, "pi-1")
    link = Link(site)
    site.plane.ordering.drain(link)
    with site.database.read() as session:
        assert len(session.scalars(select(Outbox)).all()) == 1, "the second one waits"
    site.plane.ordering.drain(link)
    assert link.topics == [topics.order("pi-1")] * 2
    with site.database.read() as session:
        assert session.scalars(select(Outbox)).all() == []
