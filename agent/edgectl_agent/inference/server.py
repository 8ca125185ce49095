"""The inference process itself: control channel, endpoint, models.

It ends when the supervisor's end of the channel is closed, for whatever reason. A thread of its own
watches for that, so that it ends even while the event loop is held up in native code. Where the
supervisor says so, the kernel kills it too when its parent dies (`PR_SET_PDEATHSIG`); only a second
line, because that fires already when the *thread* that started the process ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
from msgspec import Raw, Struct

from edgectl_agent.decryption import refuse_dumps
from edgectl_agent.inference.control import (
    LINE_BYTES_MAX,
    Accept,
    Accompany,
    Command,
    Exchange,
    Health,
    Load,
    Loaded,
    Mirror,
    Mirroring,
    Release,
    Reply,
    Sampled,
    Start,
    Unload,
    Watched,
    Window,
    Windows,
    decode_command,
    line,
)
from edgectl_agent.inference.errors import InferenceError, LoadFailed
from edgectl_agent.inference.listeners import Listeners
from edgectl_agent.inference.pulse import BEAT_S, Pulse
from edgectl_agent.inference.slots import Slots

__all__ = ["main"]

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


class _Server:
    """Carries out the supervisor's commands."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._slots = Slots(pulse=pulse)
        self._listeners = Listeners(self._slots, pulse)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reply to commands until the supervisor's end is closed."""
        self._beat()
        try:
            while content := await reader.readline():
                writer.write(line(await self._reply(decode_command(content))))
                await writer.drain()
        finally:
            await self._listeners.close()

    def _beat(self) -> None:
        self._pulse.beat()
        asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    async def _reply(self, command: Command) -> Reply:
        try:
            result = await self._execute(command)
        except LoadFailed as error:
            return Reply(code=error.code, detail=error.detail, slot=error.slot)
        except InferenceError as error:
            return Reply(code=error.code, detail=error.detail)
        except Exception as error:
            log.exception("a command could not be carried out")
            return Reply(code="inference.internal", detail=f"{type(error).__name__}: {error}"[:500])
        return Reply(result=Raw(msgspec.json.encode(result)))

    async def _execute(self, command: Command) -> Struct | Sequence[Struct] | None:
        slots = self._slots
        result: Struct | Sequence[Struct] | None = None
        match command:
            case Start() | Accept():
                result = await self._listeners.listen(command)
            case Load():
                deadline, hung = time.monotonic() + command.timeout_s, frozenset(command.hung)
                result = Loaded(swaps=await slots.load(command.bundles, deadline, hung=hung))
            case Exchange():
                result = Loaded(swaps=await slots.exchange(command.manifests))
            case Accompany(bundle=bundle):
                swap = await slots.accompany(
                    bundle,
                    time.monotonic() + command.timeout_s,
                    inline=bundle.manifest not in command.hung,
                    share=command.share,
                    cpu_max=command.cpu_max,
                )
                result = Loaded(swaps={bundle.slot: swap})
            case Mirror():
                on = await slots.mirror(command.slot, command.share, command.cpu_max)
                result = Mirroring(on=on)
            case Release():
                await slots.release(command.slot)
            case Unload():
                await slots.unload(command.slot)
                self._listeners.withdrawn(command.slot)
            case Health():
                result = slots.health(command.slot)
            case Windows():
                result = [
                    Window(
                        slot=bundle.slot,
                        version=bundle.version,
                        manifest=bundle.manifest,
                        tally=tally,
                    )
                    for bundle, tally in slots.take()
                ]
            case Watched():
                result = slots.watched(command.policy)
            case Sampled():
                result = slots.sampled(command.policies)
        return result


def main(arguments: list[str]) -> int:
    """Run with two inherited descriptors, and ``parent=<pid>`` to die with it.

    Args:
        arguments: the numbers of the channel and of the pulse's page, and perhaps the parent.
    """
    refuse_dumps()
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s"
    )
    channel = socket.socket(fileno=int(arguments[0]))
    _watch(channel.fileno(), lambda: os._exit(0))
    pulse = Pulse(int(arguments[1]))
    for argument in arguments[2:]:
        _die_with(int(argument.removeprefix("parent=")))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    gc.freeze()  # what was imported stays: to look through it for garbage holds up a request
    with suppress(ConnectionError):
        asyncio.run(_run(channel, pulse))
    # The worker may still be computing for clients who have gone: nothing is lost by not waiting.
    sys.stderr.flush()
    os._exit(0)


async def _run(channel: socket.socket, pulse: Pulse) -> None:
    reader, writer = await asyncio.open_connection(sock=channel, limit=LINE_BYTES_MAX)
    await _Server(pulse).serve(reader, writer)


def _watch(descriptor: int, gone: Callable[[], None]) -> None:
    """Call `gone` once the other end of `descriptor` has been closed for long enough.

    The event loop sees the end as well and has that long to close the endpoint in good order.
    """

    def wait() -> None:
        poll = select.poll()
        poll.register(descriptor, 0)  # only what cannot be masked: hang-up and error
        poll.poll()
        time.sleep(_GRACE_S)
        gone()

    threading.Thread(target=wait, name="watch", daemon=True).start()


_GRACE_S = 1.0


def _die_with(parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)  # it died before the kernel was told
