"""A verifying process that somebody has taken over: ``python -m conformance.hostile_process``.

How it lies is in the environment variable `PYTHON_LIE`, which the supervisor passes on.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable

from edgectl_agent.trust.frames import (
    FRAME_BYTES_MAX,
    Begin,
    Failed,
    Found,
    Given,
    Good,
    Question,
    Ready,
    Want,
    receive,
    send,
)


def wants_for_ever(channel: socket.socket) -> None:
    while True:
        send(channel, Want("targets", 1))
        receive(channel, Given)


def half_a_frame(channel: socket.socket) -> None:
    channel.sendall((100).to_bytes(4, "big") + b"x")
    signal.pause()


LIES: dict[str, Callable[[socket.socket], object]] = {
    "long frame": lambda channel: channel.sendall((FRAME_BYTES_MAX + 1).to_bytes(4, "big")),
    "garbage": lambda channel: channel.sendall((3).to_bytes(4, "big") + b"\xc1\xc1\xc1"),
    "half a frame": half_a_frame,
    "other answer": lambda channel: send(channel, Good(b"{}", "key", ("key",), "x")),
    "negative floor": lambda channel: send(channel, Found(-1, -1, -1)),
    "wants for ever": wants_for_ever,
    "wants other topics": lambda channel: send(channel, Want("../d/pi-2/down/order", 1)),
    "wants a wildcard": lambda channel: send(channel, Want("#", 1)),
    "unknown kind": lambda channel: send(channel, Failed("refused", "x" * 300)),
    "killed": lambda _channel: os.kill(os.getpid(), signal.SIGSEGV),
    "silent": lambda _channel: signal.pause(),
    "ends": lambda _channel: sys.exit(3),
}


def main() -> None:
    lie = os.environ["PYTHON_LIE"]
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        receive(channel, Begin)
        if lie == "never ready":
            signal.pause()
        send(channel, Ready())
        receive(channel, Question)
        LIES[lie](channel)
        receive(channel, Question)  # until the supervisor has had enough


if __name__ == "__main__":
    main()
