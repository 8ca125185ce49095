"""As much of MQTT 5 as the node needs: one connection, QoS 1, messages read in pieces."""

import select
import socket
import struct
import time

import tls

_ACCEPTED = 0
_SILENT_S = 15
"""So long may what has begun, a handshake or a message, stand still."""


class Broken(Exception):
    """The connection is of no use any more."""


def _text(content):
    content = content if isinstance(content, bytes) else content.encode()
    return struct.pack(">H", len(content)) + content


def _varied(number):
    """Return a length, MQTT 5 1.5.5."""
    found = b""
    while True:
        number, part = number >> 7, number & 127
        found += bytes([part | (128 if number else 0)])
        if not number:
            return found


class Client:
    """A connection; `poll` hands messages to `take(topic, length, read)`."""

    def __init__(self, identity, will_topic, will, keep_alive_s, take):
        self._take, self._keep_alive_s = take, keep_alive_s
        self._number = 0
        context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
        context.verify_mode = tls.CERT_REQUIRED
        context.load_verify_locations(identity.authority)
        context.load_cert_chain(identity.certificate, identity.key)
        address = socket.getaddrinfo(identity.host, identity.port)[0][-1]
        plain = socket.socket()
        plain.settimeout(_SILENT_S)
        try:
            plain.connect(address)
            self._socket = context.wrap_socket(plain, server_hostname=identity.server)
        except Exception:
            plain.close()
            raise
        self._poller = select.poll()
        self._poller.register(self._socket, select.POLLIN)
        self._plain = plain
        self._heard = self._spoken = time.time()
        flags = 0x02 | 0x04 | 1 << 3 | 0x20  # clean start, will of QoS 1, retained
        head = _text("MQTT") + bytes([5, flags]) + struct.pack(">H", keep_alive_s) + b"\x00"
        self._send(0x10, head + _text(identity.device) + b"\x00" + _text(will_topic) + _text(will))
        kind, length = self._head()
        answer = self._read(length)
        if kind >> 4 != 2 or answer[1] != _ACCEPTED:
            raise Broken("the broker refuses the connection: %r" % answer)

    # ------------------------------------------------------------ bytes

    def _send(self, kind, content):
        content = bytes([kind]) + _varied(len(content)) + content
        self._socket.write(content)
        self._spoken = time.time()

    def _read(self, length):
        content = b""
        while len(content) < length:
            more = self._socket.read(length - len(content))
            if not more:
                raise Broken("the broker has closed the connection")
            content += more
        return content

    def _head(self):
        kind, length, shift = self._read(1)[0], 0, 0
        while True:
            part = self._read(1)[0]
            length |= (part & 127) << shift
            shift += 7
            if not part & 128:
                self._heard = time.time()
                return kind, length
            if shift > 21:
                raise Broken("a length that MQTT does not have")

    # ------------------------------------------------------------ for the node

    def _next(self):
        self._number = self._number % 65535 + 1
        return struct.pack(">H", self._number)

    def subscribe(self, topic):
        """Ask for a topic; a retained message comes at once."""
        self._send(0x82, self._next() + b"\x00" + _text(topic) + b"\x01")

    def unsubscribe(self, topic):
        """Ask for it no more."""
        self._send(0xA2, self._next() + b"\x00" + _text(topic))

    def publish(self, topic, content, retained=False):
        """Publish with QoS 1."""
        kind = 0x32 | (1 if retained else 0)
        self._send(kind, _text(topic) + self._next() + b"\x00" + content)

    def poll(self, wait_ms):
        """Handle what has come, or wait for it; raise `Broken`, or OSError."""
        now = time.time()
        if now - self._spoken >= self._keep_alive_s // 2:
            self._send(0xC0, b"")
        if now - self._heard > 2 * self._keep_alive_s:
            raise Broken("the broker is silent")
        if not self._poller.poll(wait_ms):
            return
        kind, length = self._head()
        if kind >> 4 == 3:
            self._message(kind, length)
        elif kind >> 4 == 14:
            raise Broken("the broker ends the connection")
        else:
            self._read(length)

    def _message(self, kind, length):
        size = struct.unpack(">H", self._read(2))[0]
        topic = self._read(size).decode()
        length -= 2 + size
        number = b""
        if kind & 0x06:
            number = self._read(2)
            length -= 2
        skipped, shift = 0, 0
        while True:
            part = self._read(1)[0]
            length -= 1
            skipped |= (part & 127) << shift
            shift += 7
            if not part & 128:
                break
        self._read(skipped)
        left = [length - skipped]

        def read(most):
            piece = self._read(min(most, left[0]))
            left[0] -= len(piece)
            return piece

        self._take(topic, left[0], read)
        while left[0]:
            read(512)
        if number:
            self._send(0x40, number)

    def close(self):
        """End it without a good-bye: the broker sends the last will."""
        self._plain.close()
