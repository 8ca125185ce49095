"""What may be on other machines: database, blob store, broker."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from edgectl_server.checkup.findings import Finding, bad, fine, unsure
from edgectl_server.distribution.brokers import address_of
from edgectl_server.settings import Settings
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database

__all__ = ["check_blobs", "check_broker", "check_database"]

_WAIT_S = 10.0


def check_database(settings: Settings) -> Iterator[Finding]:
    """Look whether the database answers, and of which version its tables are."""
    file = settings.data_path / "edgectl.sqlite"
    if not settings.database_url and not file.exists():
        yield fine("database", f"{file} is made at the first start")
        return
    with contextlib.closing(Database(settings.database_address)) as database:
        where = database.dialect
        try:
            encoding = database.encoding()
            there, newest = database.revisions()
            if there is not None:
                with database.write() as session:  # takes the lock, and changes nothing
                    session.execute(text("SELECT 1"))
        except DBAPIError as error:
            problem = str(error.orig or error).strip().splitlines()[0][:200]
            yield bad("database", f"{where}: {problem}", "check database_url, and that it runs")
            return
    if encoding != "UTF8":
        hint = "make another one: createdb --encoding UTF8 --template template0"
        yield unsure("database", f"{where}, encoded as {encoding}, not as UTF8", hint)
    if there is None:
        yield fine("database", f"{where}, empty: its tables are made at the first start")
    elif there > newest:
        hint = "install that edgectl, or restore a backup of this one's time"
        yield bad("database", f"{where}, of a newer edgectl ({there}, known: {newest})", hint)
    elif there < newest:
        hint = "back it up first, with that edgectl: there is no way back but a backup"
        yield unsure("database", f"{where}, goes from {there} to {newest} at the start", hint)
    else:
        yield fine("database", f"{where}, {there}")


def check_blobs(settings: Settings) -> Iterator[Finding]:
    """Look whether the blob store takes something, once, and gives it back."""
    address = settings.blobs_address
    if not settings.blobs_url and not settings.data_path.exists():
        yield fine("blobs", f"{address} is made at the first start")
        return
    BlobStore(address).check_writable()
    yield fine("blobs", f"{address} takes blobs, and none twice")


def check_broker(settings: Settings) -> Iterator[Finding]:
    """Look whether the broker can be started, or answers with a certificate of our authority."""
    if settings.broker == "embedded":
        yield fine("broker", "embedded")
        return
    if settings.broker == "mosquitto":
        path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
        found = shutil.which("mosquitto", path=path)
        if found is None:
            yield bad("broker", "mosquitto is not installed", "apt install mosquitto")
        else:
            yield fine("broker", f"{found} is started as a private broker")
        return
    host, port = address_of(settings.broker)
    pki = settings.data_path / "pki"
    if not (pki / "server.pem").exists():
        yield unsure(
            "broker",
            f"{host} port {port} cannot be tried before the first start",
            "the server makes its authority then: edgectl server broker-config",
        )
        return
    context = ssl.create_default_context(cafile=str(pki / "authority.pem"))
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    try:
        with (
            socket.create_connection((host, port), timeout=_WAIT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            secure.settimeout(_WAIT_S)
            said = f"{host} port {port} answers with {secure.version()}"
    except ssl.SSLError as error:
        hint = "its certificate must be of our authority: edgectl server broker-config"
        yield bad("broker", f"{host} port {port}: {error.reason or error}", hint)
    except OSError as error:
        # The server starts all the same, and waits for it.
        problem = error.strerror or str(error)
        yield unsure("broker", f"{host} port {port}: {problem}", "is it running, and reachable?")
    else:
        yield fine("broker", said)
