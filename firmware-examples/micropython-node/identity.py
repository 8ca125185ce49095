"""Who the device is and whom it believes; written by provision.py, format in wire/identity.h."""

import binascii
import struct


class Identity:
    """The fields of the file."""

    def __init__(self, content):
        """Read it; raise ValueError where it is damaged."""
        length, check = struct.unpack("<II", content[4:12])
        rest = content[12 : 12 + length]
        if content[:4] != b"EMI1" or len(rest) != length or binascii.crc32(rest) != check:
            raise ValueError("the identity is damaged; write it again with provision.py")
        fields = []
        while rest:
            size = struct.unpack("<H", rest[:2])[0]
            fields.append(rest[2 : 2 + size])
            rest = rest[2 + size :]
        device, host, port, server, key_id, authority, certificate, key, order_keys = fields
        self.device, self.host, self.server = device.decode(), host.decode(), server.decode()
        self.port = struct.unpack("<H", port)[0]
        self.key_id = key_id.decode()
        self.authority, self.certificate, self.key = authority, certificate, key
        self.order_keys = [order_keys[at : at + 32] for at in range(0, len(order_keys), 32)]

    def secret(self):
        """Return the number that signs, out of PKCS #8 (RFC 5915: version 1, then the key)."""
        at = self.key.find(b"\x02\x01\x01\x04\x20")
        if at < 0:
            raise ValueError("the key of the identity is none of P-256")
        return int.from_bytes(self.key[at + 5 : at + 37], "big")
