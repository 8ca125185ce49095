"""Who is at the other end of a connection on this machine.

A Unix socket says it. Of a TCP connection over loopback, the kernel's table of connections says
whose the other end is; of one from another machine nobody knows, and it is nobody's here.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from collections.abc import Hashable
from functools import cached_property
from pathlib import Path

__all__ = ["NOBODY", "Peer"]

_CREDENTIALS = struct.Struct("3i")
"""Process, user and group: unix(7), SO_PEERCRED."""
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED = "01"
_VERSION_4 = 4

Address = tuple[str, int]


class Peer:
    """The other end of one connection.

    Attributes:
        share: whose share of the queue its requests take: an address, or a user.
    """

    def __init__(
        self,
        share: Hashable,
        theirs: Address | None = None,
        our_port: int = 0,
        our_host: str | None = None,
    ) -> None:
        """Describe a TCP connection by its two addresses, of which our host may be unknown."""
        self.share = share
        self._theirs = theirs
        self._our_host, self._our_port = our_host, our_port

    @classmethod
    def of(cls, connected: socket.socket) -> Peer:
        """Return the peer of a connected socket."""
        if connected.family == socket.AF_UNIX:
            try:
                found = connected.getsockopt(
                    socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
                )
            except OSError:
                return cls(None)  # it has gone already
            peer = cls(("user", uid := _CREDENTIALS.unpack(found)[1]))
            peer.__dict__["user"] = uid
            return peer
        try:
            theirs, ours = connected.getpeername()[:2], connected.getsockname()[:2]
        except OSError:
            return cls(None)
        return cls(theirs[0], theirs, ours[1], ours[0])

    @cached_property
    def user(self) -> int | None:
        """Number of the user whose process it is; None where that cannot be known."""
        if self._theirs is None or not _parsed(self._theirs[0]).is_loopback:
            return None
        users: set[int] = set()
        for table in _TABLES:
            try:
                rows = table.read_text("ascii").splitlines()[1:]
            except OSError:
                continue
            users.update(user for row in rows if (user := self._user_in(row.split())) is not None)
        return users.pop() if len(users) == 1 else None

    def _user_in(self, fields: list[str]) -> int | None:
        """Return the user of a row of the table if that is the other end."""
        assert self._theirs is not None
        local, remote, state, user, inode = (fields[at] for at in (1, 2, 3, 7, 9))
        host, _, port = local.partition(":")
        our_host, _, our_port = remote.partition(":")
        if int(port, 16) != self._theirs[1] or int(our_port, 16) != self._our_port:
            return None
        if host not in _shown(self._theirs[0]):
            return None
        if self._our_host is not None and our_host not in _shown(self._our_host):
            return None
        # An end that was closed already belongs to no process, and shows user 0.
        return int(user) if state == _ESTABLISHED and inode != "0" else None


NOBODY = Peer(None)
"""The other end of no connection."""


def _shown(host: str) -> set[str]:
    """Return an address as the kernel's tables may show it: words in the machine's order."""
    found = _parsed(host)
    forms = {found.packed}
    if found.version == _VERSION_4:
        forms.add(ipaddress.IPv6Address(f"::ffff:{found}").packed)
    return {
        "".join(
            f"{int.from_bytes(packed[at : at + 4], sys.byteorder):08X}"
            for at in range(0, len(packed), 4)
        )
        for packed in forms
    }


def _parsed(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    found = ipaddress.ip_address(host.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found
