"""MQTT 5 clients that cost little: asyncio, TLS, QoS 1 with a window; and their certificates."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import mqtt5
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from mqtt5 import QoS

from edgectl_server.signing.authority import Authority

__all__ = ["Client", "Identities"]

_READ_BYTES = 256 * 1024
_WINDOW = 20


class Identities:
    """An authority of its own, and TLS settings for whoever connects."""

    def __init__(self, folder: Path, at: datetime) -> None:
        self._folder, self._at = folder, at
        self.authority = Authority.open(folder / "pki", at)
        self._known: dict[str, ssl.SSLContext] = {}

    def context(self, name: str) -> ssl.SSLContext:
        """Return the settings of ``server``, or of a device by its name; made once."""
        if name not in self._known:
            files = self._server() if name == "server" else self._device(name)
            context = ssl.create_default_context(cafile=str(self._folder / "pki" / "authority.pem"))
            context.load_cert_chain(*files)
            self._known[name] = context
        return self._known[name]

    def _server(self) -> tuple[Path, Path]:
        identity = self.authority.server_identity(self._at)
        return identity.certificate, identity.key

    def _device(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
        pem = request.public_bytes(Encoding.PEM).decode()
        issued = self.authority.issue_device(pem, name, self._at)
        certificate, secret = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_text(issued.certificate_pem)
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, secret


class Client:
    """One connection to the broker."""

    def __init__(self, name: str, context: ssl.SSLContext) -> None:
        self.name, self._context = name, context
        self._buffer = b""
        self._early: list[mqtt5.PublishPacket] = []
        self._number = 0
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def connect(self, port: int, *, session_s: int = 0) -> None:
        """Connect, with a new session that outlives the connection for `session_s`."""
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=self._context, limit=_READ_BYTES
        )
        packet = mqtt5.ConnectPacket(
            self.name, clean_start=True, session_expiry_interval=session_s, keep_alive=300
        )
        self._writer.write(packet.write())
        answer = await self._receive()
        assert isinstance(answer, mqtt5.ConnAckPacket), answer
        assert int(answer.reason_code) == 0, answer

    async def subscribe(self, *patterns: str) -> None:
        """Subscribe with QoS 1."""
        filters = [mqtt5.TopicFilter(one, max_qos=QoS.AT_LEAST_ONCE) for one in patterns]
        self._writer.write(mqtt5.SubscribePacket(self._next(), filters).write())
        while not isinstance(answer := await self._receive(), mqtt5.SubAckPacket):
            assert isinstance(answer, mqtt5.PublishPacket)
            self._early.append(answer)
        assert all(int(code) == 1 for code in answer.reason_codes), answer

    async def unsubscribe(self, *patterns: str) -> None:
        """End subscriptions."""
        self._writer.write(mqtt5.UnsubscribePacket(self._next(), list(patterns)).write())
        answer = await self._receive()
        assert isinstance(answer, mqtt5.UnsubAckPacket), answer

    async def publish(
        self,
        topic: str,
        payloads: Iterable[bytes],
        *,
        retain: bool = False,
        room: asyncio.Semaphore | None = None,
    ) -> None:
        """Publish with QoS 1, a window at a time; ``%d`` in the topic is the message's number.

        `room`, shared with the `take` of a reader, keeps what waits for the reader below what a
        broker keeps for it.
        """
        flying = 0
        for number, payload in enumerate(payloads):
            if room is not None:
                await room.acquire()
            packet = mqtt5.PublishPacket(
                topic.replace("%d", str(number)),
                payload,
                qos=QoS.AT_LEAST_ONCE,
                packet_id=self._next(),
                retain=retain,
            )
            self._writer.write(packet.write())
            await self._writer.drain()
            flying += 1
            while flying >= _WINDOW:
                await self._acknowledged()
                flying -= 1
        for _ in range(flying):
            await self._acknowledged()

    async def _acknowledged(self) -> None:
        answer = await self._receive()
        assert isinstance(answer, mqtt5.PubAckPacket), answer
        assert int(answer.reason_code) < 0x80, answer

    async def take(self, count: int, room: asyncio.Semaphore | None = None) -> int:
        """Receive and acknowledge `count` publications; return the bytes of their payloads."""
        size = 0
        for _ in range(count):
            packet = self._early.pop(0) if self._early else await self._receive()
            assert isinstance(packet, mqtt5.PublishPacket), packet
            assert packet.packet_id is not None
            self._writer.write(mqtt5.PubAckPacket(packet.packet_id).write())
            size += len(packet.payload)
            if room is not None:
                room.release()
        return size

    async def ping(self) -> None:
        """Say that we live, and hear it of the broker."""
        self._writer.write(mqtt5.PingReqPacket().write())
        assert isinstance(await self._receive(), mqtt5.PingRespPacket)

    async def close(self) -> None:
        """End the session and the connection."""
        goodbye = mqtt5.DisconnectPacket(session_expiry_interval=None)
        self._writer.write(goodbye.write())
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def _next(self) -> int:
        self._number = self._number % 65535 + 1
        return self._number

    async def _receive(self) -> mqtt5.Packet:
        while True:
            with contextlib.suppress(IndexError):
                packet, used = mqtt5.read(memoryview(self._buffer))
                self._buffer = self._buffer[used:]
                return packet
            content = await self._reader.read(_READ_BYTES)
            if not content:
                raise ConnectionError(f"{self.name}: the broker has closed")
            self._buffer += content
