"""A control plane for the agent's own tests: real signing, real broker, real HTTP, no database."""

from __future__ import annotations

import contextlib
import json
import threading
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509

from agent.core.made import MadeBundle
from edgectl_agent.clock import now
from edgectl_protocol import topics
from edgectl_protocol.enrolment import (
    BrokerAddress,
    Enrolment,
    EnrolReply,
    EnrolRequest,
    Token,
    format_token,
    key_of,
    reply_mac,
    request_proof,
)
from edgectl_protocol.messages import Ack, MetadataHead, Order, encode
from edgectl_server.distribution.brokers import open_broker
from edgectl_server.distribution.canary import make_canary
from edgectl_server.distribution.interface import RunningBroker
from edgectl_server.distribution.link import BrokerLink, Incoming
from edgectl_server.errors import Unavailable
from edgectl_server.signing.authority import Authority
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.orders import OrderSigner
from edgectl_server.signing.repository import Repository, Target
from signed import payload_of

HOST = "127.0.0.1"


class ControlPlane:
    """Signs, publishes, enrols, listens; acknowledges what devices send."""

    def __init__(self, directory: Path, *, broker: str) -> None:
        self.now = now()
        self.authority = Authority.open(directory / "pki", self.now)
        self.keys = Keys.open(directory / "keys")
        self.repository = Repository.open(directory / "tuf", self.keys, self.now)
        self.orders = OrderSigner(self.keys)
        self._kind, self._directory = broker, directory
        self.broker = self._open_broker(0)
        self.token = Token("0123456789abcdef", "s" * 43)
        self.messages: list[tuple[str, Any]] = []
        self.changed = threading.Condition()
        self.acknowledging = True
        self._pending: list[tuple[str, Any]] = []
        self.certificates: dict[str, x509.Certificate] = {}
        """By device: what it says is heard only when it is signed with this one's key."""
        self.link = BrokerLink(
            HOST,
            self.broker.port,
            self.authority.server_identity(self.now),
            on_message=self._received,
        )
        self.link.start()
        assert self.link.wait_connected(15), self.link.failure
        self._acknowledger = threading.Thread(target=self._acknowledge, daemon=True)
        self._stopping = False
        self._acknowledger.start()
        self.http = ThreadingHTTPServer((HOST, 0), _handler(self))
        self._server = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self._server.start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.http.server_port}"

    @property
    def token_text(self) -> str:
        return format_token(self.token)

    def _open_broker(self, port: int) -> RunningBroker:
        return open_broker(
            self._kind,
            host=HOST,
            port=port,
            identity=self.authority.broker_identity((HOST,), self.now),
            state=self._directory / "broker",
            is_revoked=self.authority.is_revoked,
            crl_pem=lambda: self.authority.crl_pem(self.now),
            make_canary=lambda: make_canary(
                self.authority, self._directory / "pki" / "authority.pem", self.now
            ),
        )

    def start_broker_again(self) -> None:
        """After `broker.stop()`: on the same port."""
        self.broker = self._open_broker(self.broker.port)
        assert self.link.wait_connected(30), self.link.failure

    def close(self) -> None:
        with self.changed:
            self._stopping = True
            self.changed.notify_all()
        self._acknowledger.join(5)
        self.http.shutdown()
        self._server.join(5)
        self.http.server_close()
        self.link.close()
        self.broker.stop()

    # ------------------------------------------------------------ publishing

    def publish_metadata(self) -> None:
        for role, version, content in self.repository.metadata():
            self.link.publish(topics.metadata(role, version), content, retain=True)
        head = MetadataHead(root=self.repository.root_version)
        self.link.publish(topics.head(), encode(head), retain=True)

    def release(self, *bundles: MadeBundle, chunks: bool = True) -> None:
        """Sign for bundles and publish metadata and chunks."""
        targets = [Target(one.candidate.target, one.digest, len(one.manifest)) for one in bundles]
        self.repository.add_targets(targets, self.now)
        for bundle in bundles:
            for topic, payload in bundle.retained.items() if chunks else ():
                self.link.publish(topic, payload, retain=True, bulk=True)
        self.publish_metadata()
        assert self.link.flush(20)

    def order(self, order: Order) -> None:
        self.publish(topics.order(order.device), self.orders.sign(order))

    def publish(self, topic: str, payload: bytes, *, retain: bool = True) -> None:
        self.link.publish(topic, payload, retain=retain)
        assert self.link.flush(20)

    # ------------------------------------------------------------ listening

    def _received(self, message: Incoming) -> None:
        message.done()
        up = topics.parse_up(message.topic)
        kind: str = up.kind
        content: Any = message.payload
        if message.payload:
            content = json.loads(payload_of(message.payload, self.certificates[up.device]))
            if b"security-event" in message.payload:
                kind = "security"
        with self.changed:
            self.messages.append((kind, content))
            if up.kind in {"event", "telemetry"}:
                self._pending.append((up.device, content))
            self.changed.notify_all()

    def _acknowledge(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self._stopping or self._pending)
                if self._stopping:
                    return
                pending, self._pending = self._pending, []
            for device, content in pending if self.acknowledging else ():
                ack = Ack(boot=content["boot"], seq=content["seq"])
                with contextlib.suppress(Unavailable):  # a test has closed the link
                    self.link.publish(topics.ack(device), encode(ack))

    def of(self, kind: str) -> list[Any]:
        with self.changed:
            return [content for one, content in self.messages if one == kind]

    def wait(self, kind: str, check: Any, timeout_s: float = 30.0) -> Any:
        """Return the first message of `kind` that `check` likes, past or to come."""
        with self.changed:
            found = self.changed.wait_for(
                lambda: [one for of, one in self.messages if of == kind and check(one)], timeout_s
            )
            seen = [one for of, one in self.messages if of == kind][-6:]
        assert found, f"no such {kind}; the last ones were {json.dumps(seen, indent=1)}"
        return found[0]

    def wait_state(self, device: str, slot: str, state: str, **wanted: Any) -> Any:
        """Wait until the device reports the slot's update in this state."""

        def check(report: Any) -> bool:
            if report["device"] != device or not report.get("online"):
                return False
            update = report.get("slots", {}).get(slot, {}).get("update", {})
            return update.get("state") == state and all(
                update.get(key) == value for key, value in wanted.items()
            )

        return self.wait("state", check)

    # ------------------------------------------------------------ enrolment

    def enrol(self, content: bytes) -> tuple[int, bytes]:
        request = msgspec.json.decode(content, type=EnrolRequest)
        secret = key_of(self.token.secret)
        proof = request_proof(
            secret, nonce=request.nonce, device=request.device, csr_pem=request.csr_pem
        )
        if request.token_id != self.token.id or request.proof != proof:
            return 401, json.dumps({"code": "enrol.token", "detail": "not a good token"}).encode()
        if request.device == "taken":
            return 409, json.dumps({"code": "enrol.exists", "detail": "name is taken"}).encode()
        issued = self.authority.issue_device(request.csr_pem, request.device, self.now)
        certificate = x509.load_pem_x509_certificate(issued.certificate_pem.encode())
        self.certificates[request.device] = certificate
        enrolment = msgspec.json.encode(
            Enrolment(
                device=request.device,
                certificate_pem=issued.certificate_pem,
                authority_pem=self.authority.certificate_pem,
                broker=BrokerAddress(host=HOST, port=self.broker.port),
                root=self.repository.first_root.decode(),
            )
        ).decode()
        mac = reply_mac(secret, nonce=request.nonce, enrolment=enrolment)
        return 200, msgspec.json.encode(EnrolReply(enrolment=enrolment, mac=mac))

    def expires(self) -> datetime:
        return self.now + timedelta(days=1)


def _handler(plane: ControlPlane) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = plane.enrol(content)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
