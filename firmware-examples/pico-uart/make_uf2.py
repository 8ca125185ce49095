"""Write a program for an RP2040 as UF2: what is copied to a Pico that shows itself as a drive.

    python make_uf2.py node.bin node.uf2

The format is that of https://github.com/microsoft/uf2: blocks of 512 bytes, 256 of them of the
program, with the address at which they go into flash.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

BLOCK_BYTES = 512
PAYLOAD_BYTES = 256
MAGIC = (0x0A324655, 0x9E5D5157)
MAGIC_END = 0x0AB16F30
FAMILY_ID_PRESENT = 0x2000
RP2040 = 0xE48BFF56
FLASH_AT = 0x10000000
PROGRAM_BYTES_MAX = 1024 * 1024
"""Behind it lie journal and slots, which a new program leaves as they are."""


def make_uf2(program: bytes, address: int = FLASH_AT) -> bytes:
    """Return the program as UF2.

    Args:
        program: as it lies in flash.
        address: of its first byte.

    Raises:
        SystemExit: it is none, or reaches into the slots.
    """
    if not 0 < len(program) <= PROGRAM_BYTES_MAX:
        raise SystemExit(f"a program of {len(program)} bytes, at most {PROGRAM_BYTES_MAX}")
    pieces = [program[at : at + PAYLOAD_BYTES] for at in range(0, len(program), PAYLOAD_BYTES)]
    blocks = []
    for number, piece in enumerate(pieces):
        head = struct.pack(
            "<8I", *MAGIC, FAMILY_ID_PRESENT, address + number * PAYLOAD_BYTES, PAYLOAD_BYTES,
            number, len(pieces), RP2040,
        )  # fmt: skip
        body = (head + piece).ljust(BLOCK_BYTES - 4, b"\0")
        blocks.append(body + struct.pack("<I", MAGIC_END))
    return b"".join(blocks)


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(make_uf2(Path(sys.argv[1]).read_bytes()))
