"""A serial port: eight bits, no parity, no flow control, and nobody else on it.

It is opened when it is first used, and again after an error: a board on USB comes and goes.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import termios
import tty
from pathlib import Path

from edgectl_agent.errors import UsageError

__all__ = ["SerialPort"]

_READ_BYTES = 4096
_WRITE_S = 5.0


class SerialPort:
    """One port; used by one thread at a time."""

    def __init__(self, path: Path, baud: int) -> None:
        """Take which one; nothing is opened.

        Raises:
            UsageError: ``board.baud``: there is no such speed.
        """
        if not hasattr(termios, f"B{baud}"):
            raise UsageError(
                "board.baud", f"there is no speed {baud}", hint="--baud 115200, or what is built in"
            )
        self.path = path
        self._speed: int = getattr(termios, f"B{baud}")
        self._port: int | None = None

    def write(self, content: bytes) -> None:
        """Send all of it; raise `OSError` where it cannot be."""
        port = self._open()
        while content:
            if not select.select((), (port,), (), _WRITE_S)[1]:
                raise OSError(f"{self.path} takes nothing")
            content = content[os.write(port, content) :]

    def read(self, timeout_s: float) -> bytes:
        """Return what has come, nothing after a while; raise `OSError` where it is gone."""
        port = self._open()
        if not select.select((port,), (), (), max(0.0, timeout_s))[0]:
            return b""
        received = os.read(port, _READ_BYTES)
        if not received:
            raise OSError(f"{self.path} has gone")
        return received

    def close(self) -> None:
        """Close it; the next use opens it again."""
        port, self._port = self._port, None
        if port is not None:
            os.close(port)

    def _open(self) -> int:
        if self._port is not None:
            return self._port
        flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        port = os.open(self.path, flags)
        try:
            self._take(port)
        except OSError:
            os.close(port)
            raise
        self._port = port
        return port

    def _take(self, port: int) -> None:
        """Have it alone, and set it up."""
        if not stat.S_ISCHR(os.fstat(port).st_mode) or not os.isatty(port):
            raise OSError(f"{self.path} is no serial port")
        try:
            fcntl.flock(port, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OSError(f"{self.path} is in use by another program") from error
        try:
            self._set_up(port)
        except termios.error as error:
            raise OSError(f"{self.path} is no serial port: {error}") from error

    def _set_up(self, port: int) -> None:
        tty.setraw(port)
        attributes = termios.tcgetattr(port)
        attributes[4] = attributes[5] = self._speed
        attributes[2] |= termios.CLOCAL | termios.CREAD
        attributes[2] &= ~(termios.CRTSCTS | termios.CSTOPB | termios.HUPCL)
        termios.tcsetattr(port, termios.TCSANOW, attributes)
        termios.tcflush(port, termios.TCIOFLUSH)
