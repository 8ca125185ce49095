"""Asks the running agent over its control socket; the other side is `local_control`."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import msgspec

from edgectl_agent.errors import Refused, Unreachable
from edgectl_agent.local_messages import (
    ANSWER_BYTES_MAX,
    Answer,
    Request,
    decode_answer,
    refusal_of,
)
from edgectl_agent.unix_path import short_path
from edgectl_protocol.errors import ProtocolError

__all__ = ["ANSWER_S_MAX", "INSTALL_S_MAX", "ask", "is_running", "open_file"]

ANSWER_S_MAX = 15.0
INSTALL_S_MAX = 900.0
"""A large bundle is hashed and copied before the answer."""


def ask(
    path: Path, request: Request, *, file: int | None = None, timeout_s: float = ANSWER_S_MAX
) -> dict[str, Any]:
    """Ask the agent and return the data of its answer.

    Args:
        path: of the control socket.
        request: what is asked.
        file: an open descriptor that goes with it.
        timeout_s: how long to wait for the answer.

    Raises:
        Unreachable: ``agent.down``: no agent listens there; ``agent.busy``: it does not answer.
        Refused: what the agent says; or ``local.answer``: it says nothing that is understood.
    """
    content = msgspec.json.encode(request) + b"\n"
    try:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel,
            short_path(path) as address,
        ):
            channel.settimeout(timeout_s)
            channel.connect(address)
            if file is None:
                channel.sendall(content)
            else:
                socket.send_fds(channel, [content], [file])
            line = _read_line(channel, time.monotonic() + timeout_s)
    except PermissionError as error:
        raise Refused(
            "local.permission",
            f"{path} may not be opened by this user",
            hint="use sudo, or become the agent's user",
        ) from error
    except (BrokenPipeError, ConnectionResetError):
        line = b""  # it is there, and has hung up
    except TimeoutError as error:
        raise Unreachable(
            "agent.busy",
            f"the agent at {path} has not answered for {timeout_s:g} s",
            hint="its log says what it is doing: journalctl -u edgectl-agent",
        ) from error
    except OSError as error:
        raise Unreachable(
            "agent.down",
            f"no agent answers at {path}: {error.strerror or error}",
            hint="start it: `systemctl start edgectl-agent`, or `edgectl-agent run`; "
            "it works without a network too",
        ) from error
    return _data(line)


def is_running(path: Path) -> bool:
    """Say whether somebody listens on the control socket."""
    try:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel,
            short_path(path) as address,
        ):
            channel.settimeout(ANSWER_S_MAX)
            channel.connect(address)
    except OSError:
        return False
    return True


def _data(line: bytes) -> dict[str, Any]:
    try:
        answer: Answer = decode_answer(line)
    except ProtocolError as error:
        raise Refused(
            "local.answer",
            "the agent hung up, or says something that this command does not understand",
            hint="too many may be asking at once: try again; or restart the agent after an upgrade",
        ) from error
    refusal = refusal_of(answer)
    if refusal is not None:
        raise refusal
    return answer.data


def _read_line(channel: socket.socket, deadline_s: float) -> bytes:
    content = bytearray()
    while b"\n" not in content and len(content) <= ANSWER_BYTES_MAX:
        channel.settimeout(max(0.001, deadline_s - time.monotonic()))
        part = channel.recv(65536)
        if not part:
            break
        content += part
    return bytes(content.partition(b"\n")[0])


def open_file(path: Path) -> int:
    """Open a regular file for the agent; the caller closes it.

    Raises:
        Refused: ``offline.file``: it cannot be read.
    """
    try:
        # Without O_NONBLOCK a pipe would be waited for; the agent refuses it.
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(
            "offline.file", f"cannot read {path}: {error.strerror}", hint="check the name"
        ) from error
