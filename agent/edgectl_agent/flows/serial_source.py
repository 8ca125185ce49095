"""``serial:/dev/ttyUSB0``: lines of numbers on a serial port, as samples or sliding windows.

Options: ``baud`` (115200); ``window`` (1) and ``step`` (as ``window``): how many lines make an
input, and after how many the next begins; ``separator`` (``,``; ``space`` for blanks). A line that
is no row of finite numbers is counted and left out.
"""

from __future__ import annotations

import math
import os
import select
import termios
import threading
import tty
from pathlib import Path

from edgectl_agent.flows.addresses import Address
from edgectl_agent.flows.items import Contract, Deliver, Item, Malformed
from edgectl_agent.flows.windows import arranged, windows_of

__all__ = ["SerialSource", "row_of"]

LINE_BYTES_MAX = 4096
_READ_BYTES = 4096
_LOOK_MS = 200


class SerialSource:
    """See the module."""

    newest_wins = True

    def __init__(self, address: Address, contract: Contract) -> None:
        self._path = Path(address.place)
        self._contract = contract
        self._baud = address.number("baud", 115200, 50, 4_000_000)
        self._windows = windows_of(address)
        separator = address.text_option("separator", ",")
        self._separator = None if separator == "space" else separator
        if separator == "":
            raise address.refused("separator is empty")
        if not hasattr(termios, f"B{self._baud}"):
            raise address.refused(f"there is no speed {self._baud}")

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """See `Source.run`."""
        port = os.open(self._path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            try:
                self._set_up(port)
            except termios.error as error:
                raise OSError(f"{self._path} is no serial port: {error}") from error
            self._read(port, deliver, stop)
        finally:
            os.close(port)

    def _set_up(self, port: int) -> None:
        tty.setraw(port)
        attributes = termios.tcgetattr(port)
        speed = getattr(termios, f"B{self._baud}")
        attributes[4] = attributes[5] = speed
        attributes[2] |= termios.CLOCAL | termios.CREAD
        termios.tcsetattr(port, termios.TCSANOW, attributes)

    def _read(self, port: int, deliver: Deliver, stop: threading.Event) -> None:
        ready = select.poll()
        ready.register(port, select.POLLIN)
        rest, skipping = b"", False
        while not stop.is_set():
            if not ready.poll(_LOOK_MS):
                continue
            part = os.read(port, _READ_BYTES)
            if not part:
                raise OSError(f"{self._path} has gone")
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if not skipping and line.strip():
                    self._take(line, deliver)
                skipping = False
            if len(rest) > LINE_BYTES_MAX:
                if not skipping:
                    deliver(self._item(Malformed(f"a line is longer than {LINE_BYTES_MAX} bytes")))
                rest, skipping = b"", True

    def _take(self, line: bytes, deliver: Deliver) -> None:
        try:
            window = self._windows.push(row_of(line, self._separator))
            if window is not None:
                deliver(self._item(arranged(window, self._contract())))
        except Malformed as error:
            deliver(self._item(error))

    def _item(self, given: object) -> Item:
        return Item(name=str(self._path), given=given)


def row_of(line: bytes, separator: str | None) -> list[float]:
    """Return the numbers of a line; raise `Malformed`.

    Args:
        line: without its end.
        separator: None for any blanks.
    """
    if len(line) > LINE_BYTES_MAX:
        raise Malformed(f"a line is longer than {LINE_BYTES_MAX} bytes")
    try:
        row = [float(part) for part in line.decode("ascii").strip().split(separator)]
    except ValueError as error:
        raise Malformed(f"no row of numbers: {error}") from error
    if not all(map(math.isfinite, row)):
        raise Malformed("a number is not finite")
    return row
