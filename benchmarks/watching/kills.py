"""The server is killed while devices tell, and its broker: nothing is lost, nothing is doubled.

Each kill is SIGKILL, at a random moment, to the server, or, with a broker of its own process, in
turn to that. Devices go on telling, and send again what is not acknowledged. In the end, when all
is, the database must hold exactly what they have made: each message once, the counts of windows and
of hours added up once, and no number missing in the receipts.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from benchmarks.fleet.kills import Killed, logged_in
from benchmarks.fleet.running import until
from benchmarks.watching.senders import Sender
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import AnsweredHour, MessageReceiptRow, TelemetryWindow
from edgectl_simulator.enrolling import Door
from edgectl_simulator.identities import Folder

__all__ = ["check", "run"]

ALIVE_S = (0.5, 4.0)
EACH_S = 0.25
"""From one message of a device to its next."""
WAITING_MAX = 64
"""Messages of a device that wait; then it makes no more, so that a slow machine comes to an end."""
BOUND_S = 240.0
_PUMP_S = 0.05


def run(
    kills: int, devices: int, folder: Path, *, database_url: str = "", broker: str = "embedded"
) -> dict[str, Any]:
    """Kill so often; return what was seen, with all that was wrong in ``wrong``.

    Args:
        kills: of server or broker.
        devices: that tell.
        folder: empty.
        database_url: of an empty PostgreSQL; empty: SQLite.
        broker: ``embedded``, or ``mosquitto``.
    """
    points = random.Random(20261130)  # noqa: S311 - a course that can be repeated
    arguments = ("--database-url", database_url) if database_url else ()
    server = Killed(folder / "data", arguments, broker=broker)
    url = database_url or f"sqlite:///{folder / 'data' / 'edgectl.sqlite'}"
    killed: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        stack.callback(server.close)
        server.launch()
        client = stack.enter_context(logged_in(server.wait_ready(), server.data))
        senders = _enrolled(client.url, _token(client, devices), devices, folder, server)
        telling = _Telling(senders)
        stack.callback(telling.close)
        until("a first message", lambda: all(one.made > one.waiting() for one in senders), BOUND_S)
        for kill in range(kills):
            time.sleep(points.uniform(*ALIVE_S))
            if kill % 2 and server.kill_broker():
                killed["broker"] += 1
                continue
            server.kill()
            killed["server"] += 1
            server.launch()
            server.wait_ready()
        telling.stop()
        until("the last acknowledgement", lambda: not any(map(Sender.waiting, senders)), BOUND_S)
        telling.close()
        found = check(url, {one.name: (one.made, one.requests) for one in senders})
    return {"devices": devices, "broker": broker, "killed": dict(killed), **found}


def check(url: str, made: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Compare a database with the truth.

    Args:
        url: of the database.
        made: messages and requests of each device.
    """
    database = Database(url)
    try:
        with database.read() as session:
            key = (TelemetryWindow.device, TelemetryWindow.seq)
            windows = Counter((device, seq) for device, seq in session.execute(select(*key)))
            requests, hours = _sums(session, TelemetryWindow), _sums(session, AnsweredHour)
            receipts = {row.device: row for row in session.scalars(select(MessageReceiptRow))}
    finally:
        database.close()
    wrong = []
    for name, (messages, total) in made.items():
        lost = [seq for seq in range(1, messages + 1) if not windows[name, seq]]
        odd = [seq for seq in range(1, messages + 1) if windows[name, seq] not in {0, 2}]
        row = receipts.get(name)
        if lost or odd:
            wrong.append(f"{name}: {len(lost)} messages are lost, {len(odd)} not whole")
        if requests.get(name) != total or hours.get(name) != total:
            wrong.append(f"{name}: {requests.get(name)} and {hours.get(name)} requests of {total}")
        if row is None or row.gaps or (row.received, row.last) != (messages, messages):
            wrong.append(f"{name}: its receipt is not that of {messages} messages")
    unknown = {name for name, _ in windows} - set(made)
    wrong += [f"{name}: nobody has sent that" for name in sorted(unknown)]
    return {
        "messages": sum(messages for messages, _ in made.values()),
        "repeated": sum(row.duplicates for row in receipts.values()),
        "requests": sum(total for _, total in made.values()),
        "wrong": wrong,
    }


def _sums(session: Session, table: type[TelemetryWindow | AnsweredHour]) -> dict[str, int]:
    sums = select(table.device, func.sum(table.requests)).group_by(table.device)
    return {device: int(total) for device, total in session.execute(sums)}


def _token(client: Any, devices: int) -> str:
    token: str = client.create_enrol_token(uses=devices, expires_in_s=3600).token
    return token


def _enrolled(url: str, token: str, devices: int, folder: Path, server: Killed) -> list[Sender]:
    names = [f"pi-{number:03}" for number in range(devices)]

    async def admit(identities: Folder) -> None:
        door = Door(url)
        try:
            await door.admit(identities, names, token, lambda _: None)
        finally:
            await door.close()

    with Folder.opened(folder / "devices") as identities:
        asyncio.run(admit(identities))
        authority = folder / "authority.pem"
        authority.write_text(identities.fleet.authority_pem)
        return [
            Sender(name, *identities.identity(name), authority, server.broker_port)
            for name in names
        ]


class _Telling:
    """One thread that has all devices tell and send."""

    def __init__(self, senders: list[Sender]) -> None:
        self._senders = senders
        self._ended, self._stopped = threading.Event(), threading.Event()
        for one in senders:
            one.start()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        next_s = 0.0
        while not self._ended.wait(_PUMP_S):
            if time.monotonic() >= next_s and not self._stopped.is_set():
                next_s = time.monotonic() + EACH_S
                for one in self._senders:
                    if one.waiting() < WAITING_MAX:
                        one.tell()
            for one in self._senders:
                one.pump()

    def stop(self) -> None:
        """Tell nothing new."""
        self._stopped.set()

    def close(self) -> None:
        """End; idempotent."""
        self._ended.set()
        self._thread.join()
        for one in self._senders:
            one.close()
