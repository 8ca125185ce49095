"""The control socket: who is on this device asks the running agent.

Rules:

1. Only root, the agent's own user, and, where the setting `control_group` names one, members of
   that group are heard: by the file's mode, and by what the kernel says of the peer
   (``SO_PEERCRED``, ``SO_PEERGROUPS``; unix(7)).
2. One request a connection, of at most `REQUEST_BYTES_MAX`, within `REQUEST_S_MAX`; at most
   `PEERS_MAX` connections at once. Whoever is slow or silent holds up nobody.
3. It lives in threads of its own. The main loop never waits for it.
4. The socket appears with its final mode, in one step, and replaces what a dead agent has left.
"""

from __future__ import annotations

import grp
import logging
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from edgectl_agent.errors import AgentError, Refused, UsageError
from edgectl_agent.local_messages import (
    ANSWER_BYTES_MAX,
    REQUEST_BYTES_MAX,
    Answer,
    Install,
    Request,
    answer_of,
    decode_request,
)
from edgectl_agent.unix_path import short_path
from edgectl_protocol.errors import ProtocolError

__all__ = ["PEERS_MAX", "REQUEST_S_MAX", "LocalControl"]

PEERS_MAX = 8
REQUEST_S_MAX = 5.0
_ACCEPT_S = 0.5
_ANSWER_S_MAX = 10.0
_HANG_UP_S_MAX = 1.0
_SO_PEERGROUPS = 59
_GROUPS_MAX = 256
"""As many as Python's getsockopt takes."""
_CREDENTIALS = struct.Struct("3i")
_log = logging.getLogger(__name__)

Handle = Callable[[Request, int | None], Answer]
"""Answers one request; the descriptor of `Install` stays the caller's."""


class LocalControl:
    """The socket of one agent; `handle` is called from its threads."""

    def __init__(self, path: Path, handle: Handle, *, group: str = "") -> None:
        """Prepare; `start` opens the socket.

        Args:
            path: of the socket.
            handle: answers; what it raises as `AgentError` or `OSError` becomes the answer.
            group: whose members may ask as well; empty: nobody's.

        Raises:
            UsageError: ``settings.value``: there is no such group.
        """
        self._path = path
        self._handle = handle
        self._group = None if not group else _group_id(group)
        self._peers = threading.BoundedSemaphore(PEERS_MAX)
        self._stopping = threading.Event()
        self._listener: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)

    def start(self) -> None:
        """Open the socket and begin; an agent without one works all the same, and says so."""
        try:
            self._listener = self._listen()
        except OSError as error:
            _log.error("no control socket at %s: %s", self._path, error)
            return
        self._thread.start()

    def stop(self) -> None:
        """Close the socket and remove it; answers under way are not waited for."""
        self._stopping.set()
        if self._listener is None:
            return
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends the wait for the next peer
        self._thread.join(2 * _ACCEPT_S)
        self._listener.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _listen(self) -> socket.socket:
        temporary = self._path.with_name(self._path.name + ".tmp")
        temporary.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(temporary) as address:
                listener.bind(address)
            mode = stat.S_IRUSR | stat.S_IWUSR
            if self._group is not None:
                os.chown(temporary, -1, self._group)
                mode |= stat.S_IRGRP | stat.S_IWGRP
            temporary.chmod(mode)
            listener.listen(PEERS_MAX)
            listener.settimeout(_ACCEPT_S)
            temporary.replace(self._path)
        except BaseException:
            listener.close()
            raise
        return listener

    def _serve(self) -> None:
        assert self._listener is not None
        while not self._stopping.is_set():
            try:
                peer, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if not self._stopping.is_set():
                    _log.warning("the control socket: %s", error)
                self._stopping.wait(_ACCEPT_S)
                continue
            if not self._peers.acquire(blocking=False):
                peer.close()
                continue
            threading.Thread(
                target=self._answer, args=(peer,), name="control-peer", daemon=True
            ).start()

    def _answer(self, peer: socket.socket) -> None:
        try:
            with peer, suppress(OSError):
                answer = self._ask(peer)
                content = msgspec.json.encode(answer)
                assert len(content) < ANSWER_BYTES_MAX, len(content)
                peer.settimeout(_ANSWER_S_MAX)
                peer.sendall(content + b"\n")
                _hang_up(peer)
        finally:
            self._peers.release()

    def _ask(self, peer: socket.socket) -> Answer:
        with ExitStack() as opened:
            try:
                self._check(peer)
                content, descriptors = _receive(peer)
                for descriptor in descriptors:
                    opened.callback(os.close, descriptor)
                request = decode_request(content)
                return self._handle(request, _file_of(request, descriptors))
            except AgentError as error:
                return answer_of(error)
            except ProtocolError as error:
                return answer_of(Refused("local.malformed", f"{error}"))
            except OSError as error:
                return answer_of(
                    Refused("disk.error", f"{error}", hint="look at the disk: edgectl-agent doctor")
                )
            except Exception:  # noqa: BLE001 - our bug; whoever asks must not end the agent
                _log.exception("a request on the control socket")
                return answer_of(
                    Refused("local.broken", "the agent met a bug of its own", hint="see its log")
                )

    def _check(self, peer: socket.socket) -> None:
        """Raise `Refused` ``local.stranger`` for who may not ask."""
        packed = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, group = _CREDENTIALS.unpack(packed)
        if user in {0, os.geteuid()}:
            return
        if self._group is not None and self._group in {group, *_groups(peer)}:
            return
        raise Refused(
            "local.stranger",
            f"the user with number {user} may not ask this agent",
            hint="ask as root or as the agent's user, or name a group in the setting control_group",
        )


def _hang_up(peer: socket.socket) -> None:
    """Let the peer read its answer: closed with something unread, its end is reset (unix(7))."""
    peer.shutdown(socket.SHUT_WR)
    peer.settimeout(_HANG_UP_S_MAX)
    deadline_s = time.monotonic() + _HANG_UP_S_MAX
    while time.monotonic() < deadline_s and peer.recv(4096):
        pass


def _receive(peer: socket.socket) -> tuple[bytes, list[int]]:
    """Return one line and the descriptors that came with it; the caller closes them."""
    content = bytearray()
    descriptors: list[int] = []
    deadline_s = time.monotonic() + REQUEST_S_MAX
    with ExitStack() as opened:
        while b"\n" not in content:
            peer.settimeout(max(0.001, deadline_s - time.monotonic()))
            part, came, _, _ = socket.recv_fds(peer, 4096, 1, socket.MSG_CMSG_CLOEXEC)
            for descriptor in came:
                opened.callback(os.close, descriptor)
            descriptors += came
            content += part
            if not part or len(content) > REQUEST_BYTES_MAX or len(descriptors) > 1:
                raise Refused("local.malformed", "not one request of a bounded length")
        opened.pop_all()
    return bytes(content[: content.index(b"\n")]), descriptors


def _file_of(request: Request, descriptors: list[int]) -> int | None:
    """Return the file that goes with a request; raise `Refused` for one too many or too few."""
    expected = int(isinstance(request, Install))
    if len(descriptors) != expected:
        raise Refused(
            "local.malformed", f"{len(descriptors)} files came with the request, not {expected}"
        )
    return descriptors[0] if descriptors else None


def _groups(peer: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups of the peer; none where the kernel does not say."""
    try:
        packed = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _GROUPS_MAX)
    except OSError:
        return ()
    return struct.unpack(f"{len(packed) // 4}I", packed)


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise UsageError(
            "settings.value",
            f"there is no group {name!r}",
            hint=f"make it with `groupadd {name}`, or leave control_group empty",
        ) from error
