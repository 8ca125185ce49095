"""A running server takes in what ``edgectl keys`` does on its data folder, and devices follow."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from tuf.api.metadata import Metadata, Root

from edgectl_protocol import topics
from edgectl_protocol.messages import MetadataHead, decode
from edgectl_server.ceremony.cli import main
from edgectl_server.signing.documents import order_keys_of
from server.fleet.conftest import Site
from server.fleet.test_control_plane import start
from waiting import wait_for


@pytest.fixture
def broker() -> str:
    return "embedded"


def keys(site: Site, *arguments: str) -> str:
    done = CliRunner().invoke(main, [*arguments, "--data", site.settings.data])
    assert done.exit_code in {0, 3}, done.output
    return done.output


def test_order_keys_are_rotated_and_every_order_is_signed_anew(site: Site) -> None:
    pi = site.pi("pi-1")
    site.version()
    start(site)
    pi.order(1)
    before = pi.got[topics.order("pi-1")][-1]

    assert "published: root" in keys(site, "rotate", "orders")
    pi.subscribe(topics.head(), topics.metadata("root", 2))
    heads = wait_for(lambda: pi.got.get(topics.head()))
    wait_for(lambda: decode(MetadataHead, heads[-1]).root == 2)
    root = Metadata[Root].from_bytes(wait_for(lambda: pi.got.get(topics.metadata("root", 2)))[-1])
    listed = list(order_keys_of(root.signed).values())

    def signed_anew() -> bool:
        envelope = Envelope.from_dict(json.loads(pi.got[topics.order("pi-1")][-1]))
        try:
            return bool(envelope.verify(listed, 1))
        except VerificationError:
            return False

    wait_for(signed_anew)
    with pytest.raises(VerificationError):  # what the old key has signed counts no more
        Envelope.from_dict(json.loads(before)).verify(listed, 1)


def test_an_online_key_is_rotated_under_a_running_server(site: Site) -> None:
    pi = site.pi("pi-1")
    name = topics.metadata("timestamp", None)
    pi.subscribe(name)
    wait_for(lambda: name in pi.got)
    (before,) = {one.key.keyid for one in site.plane.repository._keys.held("timestamp")}
    keys(site, "rotate", "timestamp")
    wait_for(lambda: before not in Metadata.from_bytes(pi.got[name][-1]).signatures)
    site.version("2")  # the server signs with the new key
    wait_for(
        lambda: (
            pi.got[name][-1] == site.plane.repository.metadata()[-1][2]
            or not site.plane.publisher.publish_metadata()
        )
    )
