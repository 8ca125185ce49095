"""A bundle for a microcontroller: header, golden cases, flat model. docs/firmware-format.md.

Refusals carry the code that a device reports, `firmware.` and a name of `core/status.h`.
"""

import struct

from ed25519 import verify
from flat_model import BadModel, FlatModel
from sha512 import SHA512

HEADER_BYTES = 224
_PIECE_BYTES = 1024


class Refused(Exception):
    """A bundle that is not installed, or does not run; the code says why."""

    def __init__(self, code):
        super().__init__(code)
        self.code = "firmware." + code


class Header:
    """The signed head of a bundle."""

    def __init__(self, content, key, name):
        """Check it: signed with `key`, and of the model `name`; raise `Refused`."""
        if len(content) != HEADER_BYTES or content[:4] != b"EMB1":
            raise Refused("bad_bundle")
        if not verify(content[160:224], key, content[:160]):
            raise Refused("bad_signature")
        fields = struct.unpack("<IQIIII", content[4:32])
        self.payload_bytes, self.counter, self.arena_bytes = fields[:3]
        self.cases, self.model_offset, reserved = fields[3:]
        self.digest = content[96:160]
        if reserved or not self.cases or self.model_offset % 4:
            raise Refused("bad_bundle")
        if self.model_offset >= self.payload_bytes:
            raise Refused("bad_bundle")
        if content[32:96] != name.encode() + bytes(64 - len(name)):
            raise Refused("other_model")


def load(path, key, name, arena_max):
    """Check all of a bundle in a file; return its header, its golden cases and its model.

    Cases are pairs of input and output. Raises `Refused`.
    """
    with open(path, "rb") as file:
        header = Header(file.read(HEADER_BYTES), key, name)
        hash, left = SHA512(), header.payload_bytes
        while left:
            piece = file.read(min(_PIECE_BYTES, left))
            if not piece:
                raise Refused("bad_payload")
            hash.update(piece)
            left -= len(piece)
        if file.read(1) or hash.digest() != header.digest:
            raise Refused("bad_payload")
        file.seek(HEADER_BYTES)
        cases = file.read(header.model_offset)
        try:
            model = FlatModel(file.read())
        except (BadModel, struct.error, ValueError):
            raise Refused("bad_model") from None
    if model.arena_bytes > header.arena_bytes or header.arena_bytes > arena_max:
        raise Refused("too_large")
    size = model.input.elements + model.output.elements
    if header.cases * size > len(cases):
        raise Refused("bad_bundle")
    found = []
    for at in range(0, header.cases * size, size):
        middle = at + model.input.elements
        found.append((cases[at:middle], cases[middle : at + size]))
    return header, found, model


def prove(cases, model):
    """Compute every golden case; raise `Refused` where an answer is not the signed one."""
    for given, wanted in cases:
        if model.run(given) != wanted:
            raise Refused("bad_self_test")
