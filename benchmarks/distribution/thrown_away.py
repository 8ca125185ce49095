"""What a broker alone takes: a client that asks for pieces as the agent does and throws them away.

It neither hashes nor writes, and decodes nothing but lengths and packet identifiers; so no device
can be faster from the same broker, whatever language it is written in, by more than what TLS and
these few lines cost.
"""

from __future__ import annotations

import socket
import ssl
import time

import mqtt5

from edgectl_agent.core.packets import PacketBuffer, Retained, subscribe_packet, unsubscribe_packet
from edgectl_agent.packet_client import PACKET_BYTES_MAX
from edgectl_protocol import topics
from edgectl_protocol.chunks import chunk_count

__all__ = ["throw_away"]

WINDOW = 16
BATCH = 8
_PUBLISH = 0x30
_CONNACK = 0x20


def throw_away(port: int, context: ssl.SSLContext, name: str, digest: str, length: int) -> float:
    """Return the seconds in which a retained blob comes, from the first SUBSCRIBE.

    Args:
        port: of the broker.
        context: of the client `name`.
        name: who asks.
        digest: of the blob.
        length: its bytes.
    """
    packets = PacketBuffer(PACKET_BYTES_MAX, long_bytes=0)
    names = [topics.chunk(digest, number) for number in range(chunk_count(length))]
    count = len(names)
    asked = came = 0
    began_s = 0.0
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
    ):
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(mqtt5.ConnectPacket(name, clean_start=True, keep_alive=60).write())
        while came < count:
            size = line.recv_into(packets.room())
            if not size:
                raise ConnectionError(f"the broker has closed, {came} of {count} have come")
            packets.came(size)
            answer = bytearray()
            while (taken := packets.take()) is not None:
                packet, content = taken
                if packet[0] & 0xF0 == _PUBLISH:
                    at = content + 2 + int.from_bytes(packet[content : content + 2], "big")
                    answer += b"\x40\x02" + packet[at : at + 2]
                    came += 1
                elif packet[0] == _CONNACK:
                    began_s = time.perf_counter()
            while began_s and asked < count and asked - came <= WINDOW - BATCH:
                batch = names[asked : asked + BATCH]
                over = names[max(0, asked - 3 * BATCH) : max(0, asked - 2 * BATCH)]
                if over:  # they came before the window moved on to this batch
                    answer += unsubscribe_packet(2 * asked + 1, over)
                answer += subscribe_packet(2 * asked + 2, batch, Retained.ALWAYS)
                asked += len(batch)
            if answer:
                line.sendall(answer)
        took_s = time.perf_counter() - began_s
        line.sendall(mqtt5.DisconnectPacket(session_expiry_interval=None).write())
    return took_s
