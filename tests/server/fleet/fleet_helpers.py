"""A device as the server sees it: a real MQTT client with a real certificate; and versions to push.

`Pi` speaks the wire protocol and nothing else: it knows no code of the agent.
"""

import json
import secrets
import ssl
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata

from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES, INDEX_ANNOTATION, chunk_count, make_index
from edgectl_protocol.enrolment import (
    Enrolment,
    EnrolReply,
    EnrolRequest,
    key_of,
    parse_token,
    reply_mac,
    request_proof,
)
from edgectl_protocol.manifest import (
    CARD_FILE,
    CONFIG_FILE,
    LAYER_CONFIG,
    LAYER_DOC,
    LAYER_WEIGHT,
    MODEL_FILES,
    TITLE_ANNOTATION,
    Descriptor,
    Manifest,
    bundle_bytes,
    decode_manifest,
)
from edgectl_protocol.messages import (
    Capabilities,
    Installed,
    Order,
    Report,
    ReportedState,
    SlotReport,
    UpdateReport,
    decode,
)
from edgectl_protocol.metadata import ORDER_KEYS_FIELD, target_path
from edgectl_protocol.names import digest_of
from edgectl_protocol.update import UpdateState
from edgectl_server.clock import now as clock_now
from edgectl_server.signing.repository import Target
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery
from edgectl_server.storage.tables import BundleVariant, Device, Model, ModelVersion
from signed import seal
from waiting import wait_for

PAGE_ALL = PageQuery("", "", 0, 100)
CAPABILITIES = Capabilities(machine="aarch64", runtimes={"onnxruntime": "1.32.0"})


class Clock:
    """A clock that a test sets."""

    def __init__(self, start: datetime | None = None) -> None:
        self.time = start or clock_now()

    def __call__(self) -> datetime:
        return self.time

    def advance(self, **by: float) -> None:
        self.time += timedelta(**by)


# ---------------------------------------------------------------- enrolling


def make_request(
    token: str, device: str, key: ec.EllipticCurvePrivateKey | None = None
) -> EnrolRequest:
    key = key or ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    csr_pem = csr.public_bytes(Encoding.PEM).decode()
    nonce = secrets.token_hex(16)
    parsed = parse_token(token)
    proof = request_proof(key_of(parsed.secret), nonce=nonce, device=device, csr_pem=csr_pem)
    return EnrolRequest(
        token_id=parsed.id, device=device, nonce=nonce, csr_pem=csr_pem, proof=proof
    )


def read_reply(reply: EnrolReply, token: str, request: EnrolRequest) -> Enrolment:
    """Check a reply as a device does."""
    key = key_of(parse_token(token).secret)
    assert reply.mac == reply_mac(key, nonce=request.nonce, enrolment=reply.enrolment)
    return msgspec.json.decode(reply.enrolment, type=Enrolment)


# ---------------------------------------------------------------- versions


def add_version(
    database: Database,
    blobs: BlobStore,
    repository,
    *,
    model: str = "har",
    version: str = "1",
    sizes: dict[str, int] | None = None,
    models: dict[str, bytes] | None = None,
    state: str = "ready",
    config: bytes | None = None,
) -> dict[str, str]:
    """Add a version with one variant for each of `sizes`; return the manifests by variant.

    `models` are the files themselves, by variant, and `config` is the contract of all of them,
    where it matters what is in them.
    """
    models = models or {}
    sizes = {name: len(model) for name, model in models.items()} or sizes
    manifests = {}
    now = clock_now()
    with database.write() as session:
        if session.get(Model, model) is None:
            session.add(Model(name=model, created_at=now, created_by="test"))
            session.flush()
        row = ModelVersion(
            model=model,
            version=version,
            state=state,
            content=digest_of(f"{model}{version}".encode()),
            source=digest_of(b"source"),
            source_size=1,
            source_name="m.onnx",
            calibration=None,
            evaluation=None,
            options={},
            report=None,
            parent=None,
            job=None,
            created_at=now,
            created_by="test",
        )
        session.add(row)
        session.flush()
        for rank, (variant, size) in enumerate(
            (sizes or {"int8": 150_000, "fp32": 400_000}).items()
        ):
            seed = f"{model}/{version}/{variant}"
            content = make_manifest(blobs, seed, size, models.get(variant), config)
            manifests[variant] = blobs.add_bytes(content)
            path = target_path(model, version, variant)
            repository.add_targets([Target(path, manifests[variant], len(content))], now)
            session.add(
                BundleVariant(
                    version_id=row.id,
                    variant=variant,
                    precision=variant.partition("-")[0],
                    target=path,
                    manifest=manifests[variant],
                    manifest_size=len(content),
                    bundle_bytes=bundle_bytes(content, decode_manifest(content))
                    if models
                    else size,
                    model_bytes=size,
                    rank=rank,
                    trial={
                        "recipe": variant,
                        "variant": variant,
                        "precision": variant.partition("-")[0],
                        "status": "accepted",
                        "latency_p50_us": 100.0,
                    },
                )
            )
    return manifests


def make_manifest(
    blobs: BlobStore,
    seed: str,
    size: int,
    model: bytes | None = None,
    config: bytes | None = None,
) -> bytes:
    """A manifest of a model of `size` bytes, a small config, and a report that no device needs."""
    model = model or (digest_of(seed.encode()) * (size // 71 + 1)).encode()[:size]

    def layer(media_type: str, file: str, content: bytes) -> Descriptor:
        annotations = {TITLE_ANNOTATION: file}
        if chunk_count(len(content)) > 1:
            parts = (content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES))
            annotations[INDEX_ANNOTATION] = digest_of(make_index(parts))
        digest = blobs.add_bytes(content)
        return Descriptor(
            media_type=media_type, digest=digest, size=len(content), annotations=annotations
        )

    manifest = Manifest(
        schema_version=2,
        media_type="application/vnd.oci.image.manifest.v1+json",
        artifact_type="application/vnd.cncf.model.manifest.v1+json",
        config=layer("application/vnd.cncf.model.config.v1+json", "config", b"{}"),
        layers=(
            layer(LAYER_WEIGHT, MODEL_FILES["onnx"], model),
            layer(LAYER_CONFIG, CONFIG_FILE, config or f'{{"of": "{seed}"}}'.encode()),
            layer(LAYER_DOC, CARD_FILE, f'{{"report": "{seed}"}}'.encode()),
        ),
    )
    return msgspec.json.encode(manifest)


# ---------------------------------------------------------------- a device


class Pi:
    """A device on the wire."""

    def __init__(
        self, name: str, folder: Path, enrol: Callable[[EnrolRequest], EnrolReply], token: str
    ) -> None:
        self.name = name
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        key = self.key = ec.generate_private_key(ec.SECP256R1())
        request = make_request(token, name, key)
        self.enrolment = read_reply(enrol(request), token, request)
        (folder / "certificate").write_text(self.enrolment.certificate_pem)
        (folder / "authority").write_text(self.enrolment.authority_pem)
        (folder / "key").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        self.boot, self.seq = 1, 0
        self.got: dict[str, list[bytes]] = {}
        self.connected = threading.Event()
        self.failure = ""
        self.accepted: tuple[int, str | None] = (0, None)
        self.slots: dict[str, SlotReport] = {}
        self.client: Client | None = None

    def connect(self, *, wait: bool = True) -> None:
        client = Client(
            CallbackAPIVersion.VERSION2, client_id=self.name, protocol=MQTTProtocolVersion.MQTTv5
        )
        context = ssl.create_default_context(cafile=str(self.folder / "authority"))
        context.load_cert_chain(self.folder / "certificate", self.folder / "key")
        client.tls_set_context(context)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.reconnect_delay_set(1, 1)
        will = ReportedState(device=self.name, boot=self.boot, seq=0, online=False)
        client.will_set(topics.state(self.name), seal(self.key, will), qos=1, retain=True)
        self.client = client
        broker = self.enrolment.broker
        client.connect_async(broker.host, broker.port, 10)
        client.loop_start()
        if wait:
            assert self.connected.wait(60), self.failure
            self.subscribe(topics.order(self.name), topics.ack(self.name))

    def _on_connect(self, client, data, flags, reason, properties) -> None:
        if reason.is_failure:
            self.failure = str(reason)
        else:
            self.connected.set()

    def _on_disconnect(self, client, data, flags, reason, properties) -> None:
        self.connected.clear()

    def _on_message(self, client, data, message) -> None:
        self.got.setdefault(message.topic, []).append(bytes(message.payload))

    def subscribe(self, *names: str) -> None:
        self.client.subscribe([(name, 1) for name in names])

    def publish(self, topic: str, message: bytes | Report, *, retain: bool = False) -> None:
        """Sign a message and send it; send bytes as they are."""
        payload = message if isinstance(message, bytes) else seal(self.key, message)
        self.client.publish(topic, payload, qos=1, retain=retain)

    def report(self, *, online: bool = True, **more: Any) -> ReportedState:
        self.seq += 1
        state = ReportedState(
            device=self.name,
            boot=self.boot,
            seq=self.seq,
            online=online,
            sent_at=clock_now(),
            agent_version="0.1.0",
            order_counter=self.accepted[0],
            order_nonce=self.accepted[1],
            capabilities=CAPABILITIES,
            slots=self.slots,
            **more,
        )
        self.publish(topics.state(self.name), state, retain=True)
        return state

    def kill(self) -> None:
        """Break the connection without a word: the broker sends the will."""
        self.client.loop_stop()
        self.client.socket().close() if self.client.socket() else None

    def disconnect(self) -> None:
        if self.client is not None:
            self.client.disconnect()
            self.client.loop_stop()
            self.client = None

    def order(self, counter: int) -> Order:
        """Wait for the order with this counter, and check it as a device does."""
        topic = topics.order(self.name)

        def find() -> Order | None:
            payloads = [payload for payload in self.got.get(topic, []) if payload]
            if not payloads:
                return None
            order = self.verify(payloads[-1])
            return order if order.counter >= counter else None

        return wait_for(find)

    def verify(self, payload: bytes) -> Order:
        order = decode(Order, self.verified(payload))
        assert order.device == self.name
        return order

    def verified(self, payload: bytes) -> bytes:
        """Return what a signed envelope of the server carries."""
        root = Metadata.from_bytes(self.enrolment.root.encode()).signed
        keys = [
            Key.from_dict(keyid, dict(key))
            for keyid, key in root.unrecognized_fields[ORDER_KEYS_FIELD].items()
        ]
        envelope = Envelope.from_dict(json.loads(payload))
        envelope.verify(keys, 1)
        return bytes(envelope.payload)

    def fetch(self, digest: str, size: int) -> bytes:
        """Take a blob from the broker's retained chunks."""
        names = [topics.chunk(digest, number) for number in range(chunk_count(size))]
        for name in names:
            self.got.pop(name, None)
            self.subscribe(name)
        wait_for(lambda: all(any(self.got.get(name, [])) for name in names))
        self.client.unsubscribe(names)
        return b"".join(self.got[name][-1] for name in names)

    def run(
        self, order: Order, slot: str = "har", state: UpdateState = UpdateState.COMMITTED
    ) -> None:
        """Report that the order was obeyed, or how it ended."""
        self.accepted = (order.counter, order.nonce)
        wanted = order.slots[slot]
        chosen = wanted.candidates[0]
        update = UpdateReport(
            order=order.counter,
            version=wanted.version,
            variant=chosen.variant,
            manifest=chosen.manifest,
            state=state,
            rollout=wanted.rollout,
        )
        before = self.slots.get(slot, SlotReport()).running
        installed = Installed(
            version=wanted.version,
            variant=chosen.variant,
            manifest=chosen.manifest,
            since=clock_now(),
        )
        running = installed if state is UpdateState.COMMITTED else before
        self.slots = {**self.slots, slot: SlotReport(running=running, update=update)}
        self.report()


def new_device(name: str, now: datetime, **fields: object) -> Device:
    """A row as enrolment makes it."""
    given: dict[str, object] = {
        "id": name, "state": "enrolled", "public_key_sha256": "0" * 64, "certificate_serial": "1",
        "certificate_expires_at": now, "certificate_pem": "", "earlier_serials": [],
        "enrol_token": "0" * 16, "enrolled_at": now, "decommissioned_at": None, "online": False,
        "last_seen_at": None, "boot": 0, "seq": 0, "order_counter": 0, "order": None,
        "order_expires_at": None, "reported": {}, "agent_version": "",
    }  # fmt: skip
    return Device(**(given | fields))
