"""What is attacked: a fleet that began with offline keys, and the hands in which parts of it fall.

The keys of root, targets and of the model family ``vault`` are Ana's, who is not on the server.
`prepare` makes a data folder once; each module attacks a copy of it.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
from click.testing import CliRunner

from e2e.fleet import Agent, Server
from edgectl_broker import BrokerSettings, BrokerThread, TlsFiles
from edgectl_protocol import topics
from edgectl_protocol.messages import Order, decode
from edgectl_server.ceremony.cli import main as keys_command
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.orders import OrderSigner
from signed import payload_of
from waiting import wait_for

POLICY = {"observe_s": 0.2}
PLAIN = {"precisions": ["fp32"]}
ONLINE = ("server models", "server snapshot", "server timestamp", "server orders")


class Ana:
    """The person with the offline key, and her machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "ana.pem"
        self.public = folder / "ana.pub"

    def keys(self, *words: object, answers: str = "") -> str:
        """Run ``edgectl keys``."""
        done = CliRunner().invoke(keys_command, [str(word) for word in words], input=answers)
        assert done.exit_code == 0, (words, done.output, done.exception)
        return done.output

    def generate(self) -> None:
        """Make her key."""
        self.keys("generate", self.key, "--name", "ana", "--no-passphrase")

    def sign(self, data: Path, *roles: str) -> None:
        """Take out what waits for her, sign it on her machine, bring it back."""
        for role in roles:
            file = self.folder / f"{role}.json"
            previous = Path(f"{file}.previous")
            previous.unlink(missing_ok=True)
            self.keys("export", role, "--output", file, "--data", data)
            known = ["--previous", previous] if previous.exists() else []
            self.keys("sign", file, "--key", self.key, *known, answers="y\n")
            self.keys("import", file, "--data", data)


def prepare(data: Path, ana: Ana, activity: dict[str, Any]) -> None:
    """Fill a data folder: the ceremony, the family, and versions 1 and 2 of the model ``har``."""
    ana.generate()
    ana.keys("init", "--root", ana.public, "--targets", ana.public, "--data", data)
    ana.sign(data, "root", "targets")
    ana.keys("delegate", "vault", "--pattern", "vault-*", "--key", ana.public, "--data", data)
    ana.sign(data, "targets", "vault")
    server = Server(data)
    server.start()
    try:
        for version in ("1", "2"):
            assert server.push("har", activity["model"], version, **PLAIN).state == "succeeded"
            if version == "1":
                shutil.copy(data / "tuf" / "timestamp.json", before(data))
    finally:
        server.stop()


def before(data: Path) -> Path:
    """Return where the timestamp is kept that was good before version 2 was pushed."""
    return data.parent / "timestamp-of-version-1.json"


class Site:
    """A server on a copy of the prepared folder, and devices that run version 1."""

    def __init__(self, folder: Path, prepared: Path, **options: Any) -> None:
        self.folder = folder
        shutil.copytree(prepared, folder / "server")
        self.server = Server(folder / "server", **options)
        self.agents: dict[str, Agent] = {}

    @property
    def client(self) -> Any:
        """An administrator's client."""
        return self.server.client

    def start(self, *devices: str, **settings: str) -> None:
        """Start the server, let the devices in, and have them run version 1."""
        self.server.start()
        token = self.server.enrol_token(uses=len(devices)) if devices else ""
        for name in devices:
            agent = Agent(self.server, name, self.folder / name, token, **settings)
            self.agents[name] = agent
            agent.start()
        if devices:
            self.settle("1")

    def stop(self) -> None:
        """Stop everything, the server last."""
        for agent in self.agents.values():
            agent.stop()
        self.server.stop()

    def settle(self, version: str, *devices: str) -> None:
        """Roll a version out to the devices, or to all, and wait until they run it."""
        names = devices or tuple(self.agents)
        for name in names:
            wait_for(lambda name=name: self.client.device(name).online, f"{name} online")
        wanted = [name for name in names if self.agents[name].served("har") != version]
        if wanted:
            rollout = self.server.roll_out("har", version, *wanted, **POLICY)
            ended = self.server.wait_rollout(rollout, bound_s=30)
            devices = self.client.rollout_devices(rollout).items
            assert ended.counts.committed == len(wanted), devices
        assert {self.agents[name].served("har") for name in names} == {version}

    def order(self, version: str, *devices: str) -> str:
        """Start a rollout and do not wait for it."""
        return self.server.roll_out("har", version, *devices, **POLICY)

    def told(self, device: str) -> set[str]:
        """Return the codes of the security events of a device."""
        return {one.code for one in self.client.security_events(device).items}

    def wait_told(self, device: str, code: str) -> None:
        """Wait until the operator is told of `code`."""
        wait_for(lambda: code in self.told(device), f"{code} of {device}", bound_s=20)

    def wait_refused(self, device: str, code: str, counter: int | None = None) -> None:
        """Wait until the device says that it has refused an order, and which one."""

        def look() -> Any:
            self.last = self.client.device(device)
            return (
                self.last.refusal
                and self.last.refusal.code == code
                and self.last.refused_order_counter == counter
            )

        wait_for(look, f"{code} {counter} of {device}", bound_s=20)


class Client:
    """A client of the broker that may be anybody; it keeps the newest message of each topic."""

    def __init__(
        self, port: int | str, identity: tuple[Path, Path], authority: Path, client_id: str
    ) -> None:
        self.got: dict[str, list[bytes]] = {}
        self.refused: list[str] = []
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5
        )
        context = ssl.create_default_context(cafile=str(authority))
        context.load_cert_chain(*map(str, identity))
        client.tls_set_context(context)
        client.on_message = self._keep
        client.on_publish = self._published
        client.on_subscribe = self._subscribed
        client.reconnect_delay_set(max_delay=1)  # who steals does not wait ever longer
        client.connect("127.0.0.1", int(port))
        client.loop_start()
        self.client = client
        wait_for(client.is_connected, f"{client_id} connected")

    def say(self, topic: str, payload: bytes, *, retain: bool = True) -> None:
        """Publish, and wait for the broker's answer, whatever it is."""
        self.client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)

    def listen(self, *patterns: str) -> None:
        """Subscribe, and wait for the broker's answer."""
        self._answers: list[str] | None = None
        self.client.subscribe([(pattern, 1) for pattern in patterns])
        wait_for(lambda: self._answers is not None, "the answer to a subscription")

    def newest(self, topic: str) -> bytes:
        """Wait for something on a topic that was subscribed to; return the newest."""
        found = wait_for(lambda: [one for one in self.got.get(topic, []) if one], topic)
        return found[-1]

    def close(self) -> None:
        """Go."""
        self.client.disconnect()
        self.client.loop_stop()

    def _keep(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        self.got.setdefault(message.topic, []).append(bytes(message.payload))

    def _published(self, _c: object, _d: object, _mid: int, reason: Any, _p: object) -> None:
        if reason.is_failure:
            self.refused.append(str(reason))

    def _subscribed(self, _c: object, _d: object, _mid: int, reasons: Any, _p: object) -> None:
        self.refused += [str(one) for one in reasons if one.is_failure]
        self._answers = [str(one) for one in reasons]


def with_the_servers_certificate(site: Site, client_id: str = "server-thief") -> Client:
    """Connect as who has taken the server's own certificate for the broker."""
    pki = site.server.data / "pki"
    identity = pki / "server.pem", pki / "server.key"
    return Client(site.server.broker_port, identity, pki / "authority.pem", client_id)


def files_of(agent: Agent) -> tuple[tuple[Path, Path], Path]:
    """Return a device's certificate and key, and the authority that it believes."""
    files = agent.state / "identity"
    return (files / "certificate.pem", files / "key.pem"), files / "authority.pem"


def with_the_certificate_of(agent: Agent, *, client_id: str | None = None) -> Client:
    """Connect as who has taken a device's certificate and key."""
    return Client(agent.server.broker_port, *files_of(agent), client_id or agent.device)


def is_let_in(
    port: int | str,
    identity: tuple[Path, Path],
    authority: Path,
    client_id: str,
    *,
    context: ssl.SSLContext | None = None,
) -> bool:
    """Say whether the broker answers CONNECT with success (MQTT 5, 3.1 and 3.2)."""
    if context is None:
        context = ssl.create_default_context(cafile=str(authority))
        context.load_cert_chain(*map(str, identity))
    name = client_id.encode()
    content = b"\0\4MQTT\5\2\0\x3c\0" + len(name).to_bytes(2, "big") + name
    try:
        with (
            socket.create_connection(("127.0.0.1", int(port)), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(b"\x10" + bytes([len(content)]) + content)
            answer = connection.recv(64)
    except (ssl.SSLError, ConnectionError):
        return False
    return len(answer) > 3 and answer[0] == 0x20 and answer[3] == 0


class StolenBroker:
    """A broker of the thief's making, with the certificate of ours: it has no rules but theirs."""

    def __init__(self, folder: Path, pki: Path) -> None:
        self.withheld: Callable[[str], bool] = lambda _: False
        """Topics on which nobody's publications are taken."""
        files = TlsFiles(pki / "broker.pem", pki / "broker.key", pki / "authority.pem")
        settings = BrokerSettings(state=folder, tls=files, port=0)
        self._thread = BrokerThread(settings, self._allow)
        self._thread.start()
        self.port = self._thread.port

    def _allow(self, _name: str, action: str, topic: str) -> bool:
        return action != "publish" or not self.withheld(topic)

    @contextlib.contextmanager
    def withholding(self, covered: Callable[[str], bool]) -> Iterator[None]:
        """Take nothing on these topics meanwhile."""
        self.withheld = covered
        try:
            yield
        finally:
            self.withheld = lambda _: False

    def stop(self) -> None:
        """Stop it."""
        self._thread.stop()


def order_of(envelope: bytes) -> Order:
    """Return the order in an envelope."""
    return decode(Order, payload_of(envelope))


def newer(order: Order, **changes: Any) -> Order:
    """Return an order that is as good as a newer one, but for its signature."""
    return msgspec.structs.replace(order, **{"counter": order.counter + 1000} | changes)


def sign_order(order: Order, keys: Path) -> bytes:
    """Sign with the keys in a folder; one that is empty gets keys of its own."""
    return OrderSigner(Keys.open(keys)).sign(order)


def send_order(thief: Client, device: str, envelope: bytes) -> None:
    """Put an order on a device's topic."""
    thief.say(topics.order(device), envelope)
