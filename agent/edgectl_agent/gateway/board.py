"""A microcontroller on a serial line, asked one thing at a time: `firmware-examples/pico-uart`.

Rules:

1. A request that is not answered in time is sent again with the same number, a bounded number of
   times: the board does nothing twice. An answer with another number is of an earlier question.
2. What a board says is not believed for its length. It is believed for what it runs: there is
   nobody else to ask.
3. Whether a bundle may be installed decides the board. What is refused there is a `StepRejected`
   with the code ``firmware.…``, the name in `core/status.h`, unless the flash or the line is to
   blame.
"""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Protocol

from msgspec import Struct

from edgectl_agent.errors import StepCancelled, StepFailed, StepRejected
from edgectl_agent.gateway.frames import Frame, FrameReader, encode_frame

__all__ = ["HEADER_BYTES", "Board", "Hello", "Line", "Status", "digest_in"]

HEADER_BYTES = 224
"""Of a bundle; docs/firmware-format.md."""
_DIGEST_AT, _DIGEST_BYTES = 96, 64
_RUNNING_BYTES = 16
_PART_DIGEST_BYTES = 32
_NOTHING = bytes(_PART_DIGEST_BYTES)
"""Digest of no part: the board erases it, whatever it has."""
_HELLO = struct.Struct("<4B7I3QB3x16s64s32sI16s")
_HELLO_NUMBERS = (
    "booted",
    "data_bytes",
    "sector_bytes",
    "slot_bytes",
    "arena_bytes",
    "input_bytes",
    "output_bytes",
    "dropped",
    "counter",
    "floor",
    "memory_bytes",
)
_HELLO_TEXTS = ("model", "board", "machine")
_HELLO_FIELDS = (
    *("status", "version", "state"),
    *_HELLO_NUMBERS[:-1],
    *("rejected", "slot", "digest", "model", "board", "memory_bytes", "machine"),
)
_VERSION = 1
_ANSWER = 0x80
_TRIAL = 2
_NO_SLOT = 0xFF
_DATA_BYTES_MAX = 512
_SECTOR_BYTES_MAX = 1024 * 1024
_VALUES_MAX = 1024 * 1024
_OFFSET_BYTES = 4
TRIES = 4


class Status(IntEnum):
    """First byte of an answer: the codes of `core/status.h`, then those of `link.h`."""

    OK = 0
    BAD_BUNDLE = 1
    BAD_SIGNATURE = 2
    BAD_PAYLOAD = 3
    OTHER_MODEL = 4
    NOT_NEWER = 5
    REJECTED = 6
    TOO_LARGE = 7
    BAD_MODEL = 8
    BAD_SELF_TEST = 9
    NO_MODEL = 10
    BUSY = 11
    FLASH_FAILED = 12
    UNKNOWN = 64
    MALFORMED = 65
    NOT_BEGUN = 66
    ELSEWHERE = 67


_REFUSED = {
    Status.BAD_BUNDLE: "it is no bundle",
    Status.BAD_SIGNATURE: "it is not signed by the key that the board has pinned",
    Status.BAD_PAYLOAD: "its bytes are not those that were signed",
    Status.OTHER_MODEL: "the board runs another model",
    Status.NOT_NEWER: "its counter is not above the board's; to go back, push the model again",
    Status.REJECTED: "it has failed its trial on this board before",
    Status.TOO_LARGE: "it does not fit into the board's flash or memory",
    Status.BAD_MODEL: "its model breaks a rule of the format",
}
"""What a bundle is to blame for."""


class _Kind(IntEnum):
    HELLO = 1
    BEGIN = 2
    PART = 3
    DATA = 4
    END = 5
    RESET = 6
    INPUT = 7
    RUN = 8
    OUTPUT = 9


_WAIT_S = {_Kind.HELLO: 0.3, _Kind.PART: 3.0, _Kind.END: 10.0, _Kind.RUN: 30.0}
"""How long an answer may take; else `_USUAL_WAIT_S`. A sector takes 0.4 s at worst to be erased."""
_USUAL_WAIT_S = 1.0


class Line(Protocol):
    """What carries bytes to a board."""

    def write(self, content: bytes) -> None:
        """Send all of it; raise `OSError` where it cannot be."""

    def read(self, timeout_s: float) -> bytes:
        """Return what has come, nothing after a while; raise `OSError` where it is gone."""

    def close(self) -> None:
        """Begin anew with the next use."""


class Hello(Struct, frozen=True, kw_only=True):
    """What a board says of itself."""

    on_trial: bool
    """Something is staged and has not been tried: it wants a reset."""
    booted: int
    """`Status` of its boot."""
    data_bytes: int
    sector_bytes: int
    slot_bytes: int
    arena_bytes: int
    input_bytes: int
    output_bytes: int
    dropped: int
    """Runs of bytes that came there and were no frame."""
    counter: int
    """Of what runs; 0: nothing does."""
    floor: int
    rejected: bytes
    """First bytes of the digest of what failed its trial last; zeros: nothing."""
    running: bytes
    """First bytes of the digest of what runs; empty: nothing does."""
    model: str
    board: str
    memory_bytes: int
    machine: str
    """Its architecture, such as ``armv6-m``."""

    def runs(self, digest: bytes) -> bool:
        """Say whether it runs the bundle with this digest."""
        return bool(self.running) and digest[:_RUNNING_BYTES] == self.running

    def has_rejected(self, digest: bytes) -> bool:
        """Say whether the bundle with this digest is what failed last."""
        return digest[: len(self.rejected)] == self.rejected


def digest_in(header: bytes) -> bytes:
    """Return the digest of the payload that a bundle's header names."""
    return header[_DIGEST_AT : _DIGEST_AT + _DIGEST_BYTES]


class Board:
    """One board; used by one thread at a time."""

    def __init__(
        self,
        line: Line,
        *,
        patience: float = 1.0,
        cancelled: Callable[[], bool] = lambda: False,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the line; nothing is sent.

        Args:
            line: to the board.
            patience: factor to all waits, for slow boards.
            cancelled: says that nobody waits for an answer any more.
            elapsed: a clock that only grows, in seconds.
        """
        self._line = line
        self._patience = patience
        self._cancelled = cancelled
        self._elapsed = elapsed
        self._number = 0
        self._reader = FrameReader()

    # ------------------------------------------------------------ what it is

    def hello(self, *, tries: int = TRIES) -> Hello:
        """Ask what it is and what it runs; raise `StepFailed` where it does not say."""
        answer = self._ask(_Kind.HELLO, tries=tries)
        if len(answer) != _HELLO.size or answer[1] != _VERSION:
            version = answer[1] if len(answer) > 1 else 0
            raise StepFailed(
                "board.protocol",
                f"the board speaks version {version} of the line's protocol, this is {_VERSION}",
                hint="flash the program of this edgectl",
            )
        said = dict(zip(_HELLO_FIELDS, _HELLO.unpack(answer), strict=True))
        data, sector = said["data_bytes"], said["sector_bytes"]
        if not 0 < data <= _DATA_BYTES_MAX or not HEADER_BYTES < sector <= _SECTOR_BYTES_MAX:
            raise StepFailed("board.protocol", f"pieces of {data}, sectors of {sector} bytes")
        texts: dict[str, Any] = {name: _text(said[name]) for name in _HELLO_TEXTS}
        numbers: dict[str, Any] = {name: said[name] for name in _HELLO_NUMBERS}
        return Hello(
            on_trial=said["state"] == _TRIAL,
            running=b"" if said["slot"] == _NO_SLOT else said["digest"],
            rejected=said["rejected"].to_bytes(8, "little"),
            **texts,
            **numbers,
        )

    # ------------------------------------------------------------ installing

    def stage(
        self, content: bytes, hello: Hello, progress: Callable[[int], None] = lambda _: None
    ) -> int:
        """Bring a bundle into the spare slot, but for what is there already; try nothing.

        Args:
            content: the bundle.
            hello: what the board has said.
            progress: told how many bytes are there.

        Returns:
            The bytes that had to be sent.

        Raises:
            StepRejected: the board will not have it.
            StepFailed: its flash or the line fails.
        """
        if len(content) <= HEADER_BYTES:
            raise _refusal(Status.BAD_BUNDLE)
        if hashlib.sha512(content[HEADER_BYTES:]).digest() != digest_in(content):
            raise _refusal(Status.BAD_PAYLOAD)
        if len(content) > hello.slot_bytes:
            raise _refusal(Status.TOO_LARGE)
        self._do(_Kind.BEGIN, content[:HEADER_BYTES])
        sent = 0
        for start in range(0, len(content), hello.sector_bytes):
            sector = content[start : start + hello.sector_bytes]
            digest = hashlib.sha512(sector).digest()[:_PART_DIGEST_BYTES]
            if not self._part(start, sector, digest):
                sent += self._send(start, sector, hello.data_bytes)
            progress(start + len(sector))
        return sent

    def end(self, content: bytes, hello: Hello) -> None:
        """Have the whole checked and put on trial, after `stage`; errors as there.

        Where the board finds other bytes in its flash than were sent, all of them are sent again,
        once.
        """
        status, _ = self._answer(_Kind.END)
        if status == Status.BAD_PAYLOAD:
            self._do(_Kind.BEGIN, content[:HEADER_BYTES])
            for start in range(0, len(content), hello.sector_bytes):
                sector = content[start : start + hello.sector_bytes]
                self._part(start, sector, _NOTHING)
                self._send(start, sector, hello.data_bytes)
            status, _ = self._answer(_Kind.END)
            if status == Status.BAD_PAYLOAD:
                status = Status.FLASH_FAILED  # what was sent was right
        if status != Status.OK:
            raise _refusal(status)

    def reset(self) -> None:
        """Have it reset; it answers before."""
        self._do(_Kind.RESET)

    def _part(self, start: int, sector: bytes, digest: bytes) -> bool:
        """Say whether the board has a sector; it is erased there where it has not."""
        return self._do(_Kind.PART, struct.pack("<II", start, len(sector)) + digest) == b"\1"

    def _send(self, start: int, sector: bytes, data_bytes: int) -> int:
        """Send a sector; of the first one the board has the header already."""
        end, at = start + len(sector), start or HEADER_BYTES
        sent = 0
        while at < end:
            piece = sector[at - start : at - start + data_bytes]
            status, answer = self._answer(_Kind.DATA, struct.pack("<I", at) + piece)
            sent += len(piece)
            following = int.from_bytes(answer, "little")
            if status not in {Status.OK, Status.ELSEWHERE}:
                raise _refusal(status)
            if len(answer) != _OFFSET_BYTES or not at < following <= end:
                raise StepFailed("board.protocol", f"it wants byte {following} after {at}")
            at = following
        return sent

    # ------------------------------------------------------------ running

    def infer(self, values: bytes) -> tuple[bytes, int]:
        """Have the model that runs compute; return its output and the microseconds it took.

        Args:
            values: int8, channels first, as docs/firmware-format.md says.

        Raises:
            StepFailed: ``firmware.no_model``, ``board.input``: another number of values is wanted.
        """
        hello = self.hello()
        if not hello.running:
            raise StepFailed("firmware.no_model", "the board runs no model")
        if not len(values) == hello.input_bytes <= _VALUES_MAX >= hello.output_bytes:
            raise StepFailed(
                "board.input", f"{len(values)} values, the model takes {hello.input_bytes}"
            )
        for at in range(0, len(values), hello.data_bytes):
            piece = values[at : at + hello.data_bytes]
            self._do(_Kind.INPUT, struct.pack("<I", at) + piece)
        took = self._do(_Kind.RUN)
        output = b""
        while len(output) < hello.output_bytes:
            wanted = min(hello.data_bytes, hello.output_bytes - len(output))
            piece = self._do(_Kind.OUTPUT, struct.pack("<II", len(output), wanted))
            if len(piece) != wanted:
                raise StepFailed("board.protocol", f"{len(piece)} bytes, {wanted} were wanted")
            output += piece
        return output, int.from_bytes(took, "little")

    # ------------------------------------------------------------ asking

    def _do(self, kind: _Kind, payload: bytes = b"") -> bytes:
        """Ask, and return the answer behind its status; raise for another one than OK."""
        status, answer = self._answer(kind, payload)
        if status != Status.OK:
            raise _refusal(status)
        return answer

    def _answer(self, kind: _Kind, payload: bytes = b"") -> tuple[int, bytes]:
        answer = self._ask(kind, payload)
        return answer[0], answer[1:]

    def _ask(self, kind: _Kind, payload: bytes = b"", *, tries: int = TRIES) -> bytes:
        """Return the answer with its status, at least that; raise `StepFailed` where none comes."""
        self._number = (self._number + 1) % 256
        request = encode_frame(Frame(kind, self._number, payload))
        why = "it does not answer"
        for _ in range(tries):
            deadline = self._elapsed() + self._patience * _WAIT_S.get(kind, _USUAL_WAIT_S)
            try:
                self._line.write(request)
                answer = self._hear(kind, deadline)
            except OSError as error:
                why = error.strerror or str(error)
                self._line.close()
                self._pause(deadline)
                continue
            if answer is not None:
                return answer
        raise StepFailed(
            "board.silent",
            f"the board: {why}",
            hint="look at its power and the wires, RX to TX, and at --port and --baud",
        )

    def _hear(self, kind: _Kind, deadline: float) -> bytes | None:
        while (left_s := deadline - self._elapsed()) > 0:
            if self._cancelled():
                raise StepCancelled
            for frame in self._reader.feed(self._line.read(min(left_s, 0.25))):
                mine = frame.kind == kind | _ANSWER and frame.number == self._number
                if mine and frame.payload:
                    return frame.payload
        return None

    def _pause(self, deadline: float) -> None:
        while (left_s := deadline - self._elapsed()) > 0:
            if self._cancelled():
                raise StepCancelled
            time.sleep(min(left_s, 0.25))


def _refusal(status: int) -> StepFailed | StepRejected:
    """Return the error of a status other than OK."""
    if status in _REFUSED:
        return StepRejected(f"firmware.{Status(status).name.lower()}", _REFUSED[Status(status)])
    if status == Status.FLASH_FAILED:
        return StepFailed("firmware.flash_failed", "its flash does not hold what was written")
    if status == Status.BUSY:
        return StepFailed("firmware.busy", "it has something on trial: it wants a reset")
    if status == Status.NO_MODEL:
        return StepFailed("firmware.no_model", "the board runs no model")
    if status == Status.NOT_BEGUN:
        return StepFailed("board.reset", "it has reset in between; what it has it keeps")
    return StepFailed("board.protocol", f"it answers {status}")


def _text(field: bytes) -> str:
    return "".join(c for c in field.rstrip(b"\0").decode("ascii", "replace") if c.isprintable())
