"""Two MQTT clients for tests: `Peer` on paho, as our agents use it, and `Raw`, packet by packet."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
from pathlib import Path
from typing import NamedTuple

import mqtt5
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

WAIT_S = 60.0


class Files(NamedTuple):
    """PEM files of one party."""

    certificate: Path
    key: Path
    authority: Path
    serial: int


def client_context(files):
    context = ssl.create_default_context(cafile=str(files.authority))
    context.load_cert_chain(files.certificate, files.key)
    return context


class Peer:
    """A paho client that remembers everything it hears."""

    def __init__(self, name, files, *, manual_ack=False, client_id=None):
        self.name = name
        self.session_present = False
        self.messages = queue.Queue()
        self.connects = queue.Queue()
        self.disconnects = queue.Queue()
        self._answers = queue.Queue()
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name if client_id is None else client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=manual_ack,
            reconnect_on_failure=False,
        )
        if files is not None:
            self.client.tls_set_context(client_context(files))
        self.client.on_connect = lambda _c, _u, flags, reason, _p: self.connects.put(
            (reason.value, flags.session_present)
        )
        self.client.on_disconnect = lambda _c, _u, _f, reason, _p: self.disconnects.put(
            reason.value
        )
        self.client.on_socket_open = lambda _c, _u, one: one.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        self.client.on_message = lambda _c, _u, message: self.messages.put(message)
        answer = self._answers.put
        self.client.on_publish = lambda _c, _u, mid, reason, _p: answer((mid, reason.value))
        self.client.on_subscribe = lambda _c, _u, mid, reasons, _p: answer(
            (mid, [reason.value for reason in reasons])
        )
        self.client.on_unsubscribe = self.client.on_subscribe

    def connect(self, broker, *, clean_start=True, expiry_s=0, keepalive=60):
        """Connect and return the reason code."""
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = expiry_s
        self.client.connect(
            broker.host, broker.port, keepalive, clean_start=clean_start, properties=properties
        )
        self.client.loop_start()
        reason, self.session_present = self.connects.get(timeout=WAIT_S)
        return reason

    def _answer(self, mid):
        got, reason = self._answers.get(timeout=WAIT_S)
        assert got == mid
        return reason

    def subscribe(self, pattern, qos=1, **options):
        _, mid = self.client.subscribe(pattern, options=SubscribeOptions(qos=qos, **options))
        return self._answer(mid)[0]

    def unsubscribe(self, pattern):
        _, mid = self.client.unsubscribe(pattern)
        return self._answer(mid)[0]

    def publish(self, topic, payload=b"x", *, retain=False):
        """Publish with QoS 1 and return the reason code of the acknowledgement."""
        return self._answer(self.client.publish(topic, payload, qos=1, retain=retain).mid)

    def next(self):
        return self.messages.get(timeout=WAIT_S)

    def until(self, topic):
        """Return the messages before the one on `topic`, which ends the waiting."""
        before = []
        while (message := self.next()).topic != topic:
            before.append(message)
        return before

    def die(self):
        """Vanish without a DISCONNECT."""
        raw = self.client.socket()
        with contextlib.suppress(OSError):
            raw.shutdown(socket.SHUT_RDWR)
        self.client.loop_stop()
        raw.close()

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


class Raw:
    """A client that sends and sees single packets, over TCP, or TLS when it has `files`."""

    def __init__(self, broker, *, receive_buffer=0, files=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(WAIT_S)
        self.socket.connect((broker.host, broker.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if files is not None:
            plain = self.socket
            try:
                context = client_context(files)
                self.socket = context.wrap_socket(plain, server_hostname=broker.host)
            except BaseException:
                plain.close()
                raise
        self._buffer = b""
        self._early = []
        self._packet_id = 0

    def connect(self, client_id, **fields):
        """Connect and return the CONNACK."""
        fields = {"clean_start": True, "keep_alive": 60, "username": "tester"} | fields
        self.send(mqtt5.ConnectPacket(client_id, **fields))
        return self.receive()

    def send(self, packet):
        self.socket.sendall(packet if isinstance(packet, bytes) else packet.write())

    def receive(self):
        """Return the next packet, or None when the broker has closed."""
        return self._early.pop(0) if self._early else self._read()

    def _read(self):
        while True:
            with contextlib.suppress(IndexError):
                packet, used = mqtt5.read(memoryview(self._buffer))
                self._buffer = self._buffer[used:]
                return packet
            try:
                content = self.socket.recv(65536)
            except (ConnectionError, ssl.SSLError):
                return None
            if not content:
                return None
            self._buffer += content

    def packet_id(self):
        self._packet_id += 1
        return self._packet_id

    def subscribe(self, *filters, identifier=None, **options):
        """Subscribe and return the reason codes; options as of `TopicFilter`."""
        options = {"max_qos": mqtt5.QoS.AT_LEAST_ONCE} | options
        items = [mqtt5.TopicFilter(pattern, **options) for pattern in filters]
        self.send(mqtt5.SubscribePacket(self.packet_id(), items, subscription_id=identifier))
        while not isinstance(packet := self._read(), mqtt5.SubAckPacket):
            assert packet is not None, "closed"
            self._early.append(packet)  # messages may come before the answer (§3.8.4)
        return packet.reason_codes

    def publish(self, topic, payload=b"x", *, qos=1, acknowledged=True, **fields):
        """Publish; with QoS 1 return the reason code of the acknowledgement."""
        self.send(
            mqtt5.PublishPacket(
                topic,
                payload,
                qos=mqtt5.QoS(qos),
                packet_id=self.packet_id() if qos else None,
                **fields,
            )
        )
        if not qos or not acknowledged:
            return None
        packet = self.receive()
        assert isinstance(packet, mqtt5.PubAckPacket), packet
        return packet.reason_code

    def message(self, *, acknowledge=True):
        """Return the next publication."""
        packet = self.receive()
        assert isinstance(packet, mqtt5.PublishPacket), packet
        if acknowledge and packet.packet_id:
            self.send(mqtt5.PubAckPacket(packet.packet_id))
        return packet

    def ping(self):
        """Return what comes before the answer to a PINGREQ: everything that was on its way."""
        self.send(mqtt5.PingReqPacket())
        before = []
        while not isinstance(packet := self.receive(), mqtt5.PingRespPacket):
            assert packet is not None, "closed"
            before.append(packet)
        return before

    def disconnect(self, **fields):
        self.send(mqtt5.DisconnectPacket(**fields))
        assert self.receive() is None
        self.socket.close()

    def die(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
