"""The link to a real broker: what it loses (nothing), and what it survives."""

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgectl_protocol import topics
from edgectl_server.clock import now
from edgectl_server.distribution import link as link_module
from edgectl_server.distribution.brokers import open_broker
from edgectl_server.distribution.canary import make_canary
from edgectl_server.distribution.interface import RunningBroker
from edgectl_server.distribution.link import BrokerLink, Incoming
from edgectl_server.errors import Unavailable
from edgectl_server.signing.authority import Authority
from waiting import wait_for

TOPIC = topics.event("pi-1")


class Wires:
    """A broker that can be stopped and started on its port, and links to it."""

    def __init__(self, folder: Path, spec: str) -> None:
        self.folder, self.spec = folder, spec
        self.authority = Authority.open(folder / "pki", now())
        self.links: list[BrokerLink] = []
        self.port = 0
        self.broker: RunningBroker | None = None
        self.start()

    def start(self) -> None:
        self.broker = open_broker(
            self.spec,
            host="127.0.0.1",
            port=self.port,
            identity=self.authority.broker_identity([], now()),
            state=self.folder / "broker",
            is_revoked=self.authority.is_revoked,
            crl_pem=lambda: self.authority.crl_pem(now()),
            make_canary=lambda: make_canary(
                self.authority, self.folder / "pki" / "authority.pem", now()
            ),
        )
        self.port = self.broker.port

    def stop(self) -> None:
        self.broker.stop()

    def link(self, on_message=lambda incoming: incoming.done(), **options) -> BrokerLink:
        link = BrokerLink(
            "127.0.0.1",
            self.port,
            self.authority.server_identity(now()),
            on_message=on_message,
            **options,
        )
        self.links.append(link)
        return link

    def close(self) -> None:
        for link in self.links:
            link.close()
        self.stop()


@pytest.fixture
def wires(tmp_path: Path, broker: str) -> Iterator[Wires]:
    wires = Wires(tmp_path, broker)
    yield wires
    wires.close()


def device_publishes(
    wires: Wires, folder: Path, payloads: list[bytes], *, topic: str = TOPIC, retain: bool = False
) -> None:
    """Publish as the device pi-1 and wait for the broker's acknowledgements."""
    import ssl

    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

    from server.fleet.fleet_helpers import make_request

    key = ec.generate_private_key(ec.SECP256R1())
    csr = make_request("ee_0123456789abcdef_" + "A" * 43, "pi-1", key).csr_pem
    (folder / "d.pem").write_text(wires.authority.issue_device(csr, "pi-1", now()).certificate_pem)
    (folder / "d.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    context = ssl.create_default_context(cafile=str(folder / "pki" / "authority.pem"))
    context.load_cert_chain(folder / "d.pem", folder / "d.key")
    client = Client(
        CallbackAPIVersion.VERSION2, client_id="pi-1", protocol=MQTTProtocolVersion.MQTTv5
    )
    client.tls_set_context(context)
    acked = []
    client.on_publish = lambda client, data, mid, reason, properties: acked.append(mid)
    client.connect("127.0.0.1", wires.port, 10)
    client.loop_start()
    for payload in payloads:
        client.publish(topic, payload, qos=1, retain=retain)
    wait_for(lambda: len(acked) == len(payloads))
    client.disconnect()
    client.loop_stop()


def test_what_is_published_while_the_broker_is_away_arrives(wires: Wires) -> None:
    remembered: list[bool] = []
    link = wires.link(on_connected=remembered.append)
    link.start()
    assert link.wait_connected(10)
    wires.stop()
    wait_for(lambda: not link.connected)
    for number in range(100):
        link.publish(topics.order("pi-1"), b"%d" % number, retain=True)
    assert not link.flush(0.1)
    wires.start()
    assert link.wait_connected(15)
    assert link.flush(10)
    assert remembered == [False, True]
    assert link.refused == 0

    got: list[bytes] = []
    reader = wires.link(
        client_id="server",
        on_message=lambda incoming: (got.append(incoming.payload), incoming.done()),
    )
    link.close()
    reader.start()
    assert reader.wait_connected(10)
    reader._client.subscribe(topics.order("pi-1"), 1)
    wait_for(lambda: got)
    assert got == [b"99"]


def test_the_outbox_is_bounded_and_says_why(wires: Wires, monkeypatch) -> None:
    monkeypatch.setattr(link_module, "OUTBOX_BYTES_MAX", 10_000)
    monkeypatch.setattr(link_module, "BULK_BYTES_MAX", 1000)
    link = wires.link()  # never started
    for _ in range(2):
        link.publish("edgectl/v1/meta/head", b"x" * 600, bulk=True, timeout_s=0.01)
    with pytest.raises(Unavailable) as caught:
        link.publish("edgectl/v1/meta/head", b"x", bulk=True, timeout_s=0.01)
    assert caught.value.code == "broker.backlog"
    link.publish("edgectl/v1/meta/head", b"x" * 9000, timeout_s=0.01)  # what is urgent has room
    with pytest.raises(Unavailable, match="not connected"):
        link.publish("edgectl/v1/meta/head", b"x", timeout_s=0.01)
    assert not link.flush(0.01)


def test_what_was_not_dealt_with_comes_again(wires: Wires, tmp_path: Path) -> None:
    """The server dies with messages in its queue: the broker sends them to the next one."""
    first: list[Incoming] = []
    dead = wires.link(on_message=first.append)
    dead.start()
    assert dead.wait_connected(10)
    payloads = [b"%d" % number for number in range(15)]
    device_publishes(wires, tmp_path, payloads)
    wait_for(lambda: len(first) == 15)
    for incoming in first[:5]:
        incoming.done()
    dead.close()

    second: list[Incoming] = []
    link = wires.link(on_message=second.append)
    link.start()
    wait_for(lambda: len(second) >= 10)
    for incoming in second:
        incoming.done()
    again = {incoming.payload for incoming in second}
    assert again.issuperset(payloads[5:])
    for incoming in first:
        incoming.done()  # of an older connection: says nothing to anybody


# paho leaves sockets to the garbage collector where its loop dies or a handshake fails.
@pytest.mark.filterwarnings("ignore:unclosed <:ResourceWarning")
def test_a_failing_callback_and_a_dead_thread_are_survived(
    wires: Wires, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[bytes] = []

    def take(incoming: Incoming) -> None:
        if incoming.payload == b"bad":
            raise RuntimeError("a bug")
        got.append(incoming.payload)
        incoming.done()

    link = wires.link(on_message=take)
    link.start()
    assert link.wait_connected(10)
    device_publishes(wires, tmp_path, [b"bad", b"good"])
    wait_for(lambda: b"good" in got)
    assert "could not be taken in" in caplog.text

    def network_threads() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name == "paho-mqtt-client-server"]

    (before,) = network_threads()
    link._client._thread_terminate = True  # ends paho's loop behind our back
    before.join(60)
    wait_for(lambda: network_threads() and network_threads() != [before])
    assert link.wait_connected(10)
    device_publishes(wires, tmp_path, [b"after"])
    wait_for(lambda: b"after" in got)
    link.close()
    gc.collect()  # here, where the warning about paho's sockets is allowed


@pytest.mark.filterwarnings("ignore:unclosed <:ResourceWarning")
def test_a_broker_of_another_authority_is_not_believed(wires: Wires, tmp_path: Path) -> None:
    foreign = Authority.open(tmp_path / "foreign", now())
    link = BrokerLink(
        "127.0.0.1",
        wires.port,
        foreign.server_identity(now()),
        on_message=lambda incoming: None,
    )
    wires.links.append(link)
    link.start()
    assert not link.wait_connected(1.5)
    link.close()
    gc.collect()  # here, where the warning about paho's sockets is allowed


def test_what_is_retained_is_read_again(wires: Wires, tmp_path: Path) -> None:
    """As after a broker that has dropped it: once more each, and the subscription stays."""
    came: list[tuple[str, bytes, bool]] = []

    def take(incoming: Incoming) -> None:
        came.append((incoming.topic, incoming.payload, incoming.retained))
        incoming.done()

    state = topics.state("pi-1")
    device_publishes(wires, tmp_path, [b"old"], topic=state, retain=True)
    link = wires.link(take)
    link.read_again([state])  # it is not connected: nothing happens
    link.start()
    wait_for(lambda: (state, b"old", True) in came)
    before = len(came)
    link.read_again([state, *(topics.state(f"other-{number}") for number in range(20))])
    wait_for(lambda: len(came) > before)
    assert set(came) == {(state, b"old", True)}
    device_publishes(wires, tmp_path, [b"new"], topic=state, retain=True)
    wait_for(lambda: (state, b"new", False) in came)
