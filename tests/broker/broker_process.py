"""A broker in a process of its own, for tests that kill it: python broker_process.py STATE PORT."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from edgectl_broker import Broker, BrokerSettings


async def main(state: Path, port: int) -> None:
    settings = BrokerSettings(state=state, tls=None, port=port, tick_s=0.05, will_grace_s=0.2)
    broker = Broker(settings, lambda *_: True)
    await broker.start()
    sys.stdout.write(f"{broker.port}\n")
    sys.stdout.flush()
    await broker.serve()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
