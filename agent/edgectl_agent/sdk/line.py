"""An application's end of the connection to the hub: lines, and descriptors that come with them."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from edgectl_agent.inference.hub_messages import (
    OFFER_BYTES_MAX,
    OFFER_FILES,
    Follow,
    FromHub,
    Offer,
    decode_from_hub,
)
from edgectl_agent.unix_path import short_path

__all__ = ["HubLine"]

_READ_BYTES = 64 * 1024
_FILES_MAX = 8
_WRITE_S_MAX = 5.0


class HubLine:
    """One connection; a thread reads and writes it, any may `close` it."""

    def __init__(self, path: Path, follow: Follow) -> None:
        """Connect and say which slot is followed; raise `OSError`."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(_WRITE_S_MAX)
            with short_path(path) as name:
                self._socket.connect(name)
            self.send(follow)
        except BaseException:
            self._socket.close()
            raise
        self._rest = b""
        self._files: list[int] = []

    def send(self, message: Struct) -> None:
        """Send a line; raise `OSError` when not all of it went."""
        self._socket.sendall(msgspec.json.encode(message) + b"\n")

    def receive(self, wake: int, timeout_s: float) -> tuple[FromHub, list[int]] | None:
        """Return the next line and its descriptors, which are the caller's then.

        Args:
            wake: a descriptor that ends the waiting when it can be read.
            timeout_s: how long to wait at most.

        Returns:
            None where none has come in time.

        Raises:
            OSError: the hub has gone.
            msgspec.MsgspecError, UnicodeDecodeError: not a line of the hub.
        """
        if b"\n" not in self._rest:
            ready = select.poll()
            ready.register(self._socket, select.POLLIN)
            ready.register(wake, select.POLLIN)
            if self._socket.fileno() not in {found for found, _ in ready.poll(timeout_s * 1000)}:
                return None
            part, files, _, _ = socket.recv_fds(
                self._socket, _READ_BYTES, _FILES_MAX, socket.MSG_CMSG_CLOEXEC
            )
            self._files.extend(files)
            self._rest += part
            if not part or len(self._rest) > OFFER_BYTES_MAX or len(self._files) > _FILES_MAX:
                raise ConnectionError("the hub has hung up")
            if b"\n" not in self._rest:
                return None
        content, _, self._rest = self._rest.partition(b"\n")
        message = decode_from_hub(content)
        files = []
        if isinstance(message, Offer):
            files, self._files = self._files[:OFFER_FILES], self._files[OFFER_FILES:]
            if len(files) != OFFER_FILES:
                _close(files)
                raise ConnectionError("an offer came without its files")
        return message, files

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
        _close(self._files)
        self._files = []


def _close(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)
