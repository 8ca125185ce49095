"""A broker in a process of its own, for tests that kill it.

``python broker_process.py STATE PORT [N [CERTIFICATE KEY AUTHORITY]]``: with N it kills itself
before the Nth statement that it gives to SQLite after it got SIGUSR1; with files it speaks TLS.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from pathlib import Path

from edgectl_broker import Broker, BrokerSettings, TlsFiles


async def main(state: Path, port: int, dies_at: int, tls: TlsFiles | None) -> None:
    settings = BrokerSettings(
        state=state,
        tls=tls,
        port=port,
        tick_s=0.05,
        will_grace_s=0.2,
        privileged=frozenset({"server", "fleet"}),
    )
    broker = Broker(settings, lambda *_: True)
    await broker.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _die_at, broker, dies_at)
    sys.stdout.write(f"{broker.port}\n")
    sys.stdout.flush()
    await broker.serve()


def _die_at(broker: Broker, statement: int) -> None:
    numbers = itertools.count(1)

    def trace(_statement: str) -> None:
        if next(numbers) == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    broker.exchange.state._connection.set_trace_callback(trace)


if __name__ == "__main__":
    state, port, *rest = sys.argv[1:]
    files = TlsFiles(*map(Path, rest[1:])) if rest[1:] else None
    asyncio.run(main(Path(state), int(port), int(rest[0]) if rest else 0, files))
