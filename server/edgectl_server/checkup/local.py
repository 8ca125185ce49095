"""What lies on this machine: the data folder, room, keys, the clock, ports."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import socket
import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from edgectl_server.backup.resumption import check_finished
from edgectl_server.checkup.findings import Finding, bad, fine, unsure
from edgectl_server.errors import Unavailable
from edgectl_server.settings import Settings
from edgectl_server.signing.key_files import check_private, load_private_key, read_passphrase
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Repository
from edgectl_server.tls import ServerTls, check_listening
from edgectl_server.working_lock import LOCK_FILE

__all__ = ["check_clock", "check_data", "check_disk", "check_keys", "check_ports", "running"]

_BACKWARDS = timedelta(minutes=5)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_SOON = timedelta(days=14)
_OLDEST = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
"""Before this program was written."""
_INODES_MIN = 1000
_SECRETS = ("keys/*.pem", "keys/signers.json", "pki/*.key", "audit/key.pem", "admin-password")


def running(data: Path) -> str:
    """Return the process that works in a data folder; empty: none does."""
    try:
        descriptor = os.open(data / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(descriptor)
    return ""


def check_data(settings: Settings) -> Iterator[Finding]:
    """Look at the data folder: whose it is, and who may read it."""
    data = settings.data_path
    if not data.exists():
        parent = next(one for one in data.parents if one.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            yield fine("data", f"{data} is made at the first start")
        else:
            yield bad(
                "data", f"{data} cannot be made in {parent}", f"mkdir, and chown it to {_me()}"
            )
        return
    found = data.stat()
    if not stat.S_ISDIR(found.st_mode):
        yield bad("data", f"{data} is no folder", "name another with --data")
        return
    if found.st_uid != os.geteuid():
        yield bad(
            "data",
            f"{data} belongs to {_name(found.st_uid)}, and this is {_me()}",
            f"run as {_name(found.st_uid)}, or: chown -R {_me()} {data}",
        )
        return
    try:
        check_finished(data)
    except Unavailable as unfinished:
        yield bad("data", unfinished.detail, unfinished.hint)
        return
    wrong = [path for pattern in _SECRETS for path in data.glob(pattern) if _is_open(path)]
    foreign = [path for path in data.iterdir() if path.lstat().st_uid != os.geteuid()]
    if foreign:
        yield bad(
            "data",
            f"{foreign[0]} belongs to {_name(foreign[0].lstat().st_uid)}, expected {_me()}",
            f"chown -R {_me()} {data}",
        )
    for path in wrong:
        yield bad(
            "data",
            f"others may read or write {path}",
            f"decide whether the secret may be known to others, then: chmod 600 {path}",
        )
    if stat.S_IMODE(found.st_mode) & _OTHERS:
        yield unsure("data", f"others may look into {data}", "the server closes it at its start")
    elif not wrong and not foreign:
        yield fine("data", f"{data} belongs to {_me()} alone")


def check_disk(settings: Settings) -> Iterator[Finding]:
    """Look at the room on the disk of the data folder."""
    place = next(one for one in (settings.data_path, *settings.data_path.parents) if one.exists())
    free = shutil.disk_usage(place).free
    needed = settings.upload_free_bytes_min
    said = f"{free / 1e9:.1f} GB are free in {place}"
    found = os.statvfs(place)
    if free <= needed:
        yield bad("disk", f"{said}, uploads need {needed / 1e9:.2f} GB", "make room")
    elif found.f_files > 0 and found.f_favail < _INODES_MIN:
        yield bad("disk", f"{found.f_favail} files may be made in {place}", "delete small files")
    else:
        yield fine("disk", said)


def check_keys(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Look whether what signs is there, opens, and has not ended."""
    data = settings.data_path
    passphrase = read_passphrase(settings.key_passphrase_file)
    if settings.tls == "files":
        files = Path(settings.tls_certificate), Path(settings.tls_key)
        ServerTls(*files, lambda: now, passphrase=passphrase).load()
    if not (data / "tuf/timestamp.json").exists():
        if any((data / "tuf").glob("staged/*.json")):
            yield bad("keys", "the first signed metadata waits", "edgectl keys status")
        else:
            yield fine("keys", "are made at the first start")
        return
    for name in ("pki/authority.key", "pki/authority.pem", "keys/signers.json"):
        if not (data / name).exists():
            yield bad("keys", f"{data / name} is missing", "restore it from a backup")
            return
    for path in [*sorted((data / "keys").glob("*.pem")), data / "pki/authority.key"]:
        load_private_key(path, passphrase=passphrase)
    check_private(data / "keys/signers.json")
    keys = Keys(data / "keys", passphrase)
    keys.reload()
    status = Repository.inspect(data / "tuf", keys).status(now)
    for alert in status.alerts:
        # The server starts all the same, and signs anew what it can.
        yield unsure("keys", alert.detail, alert.hint)
    for name in ("authority.pem", "server.pem", "broker.pem"):
        yield from _certificate(data / "pki" / name, now, own=name != "authority.pem")
    if not status.alerts:
        yield fine("keys", "are there, and open; the signed metadata is in its time")


def check_clock(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Look whether the clock goes behind what was written here already."""
    newest, where = _OLDEST, "this program"
    for name in ("edgectl.sqlite", "edgectl.sqlite-wal", "tuf/timestamp.json", LOCK_FILE):
        path = settings.data_path / name
        if path.exists():
            at = datetime.fromtimestamp(path.stat().st_mtime, tz=now.tzinfo)
            newest, where = max((newest, where), (at, str(path)))
    if now < newest - _BACKWARDS:
        yield bad(
            "clock",
            f"it is {now:%Y-%m-%d %H:%M} here, and {where} is of {newest:%Y-%m-%d %H:%M}",
            "set the clock (timedatectl): signatures and certificates would be of the past",
        )
    else:
        yield fine("clock", f"{now:%Y-%m-%d %H:%M} UTC")


def check_ports(settings: Settings) -> Iterator[Finding]:
    """Look whether the addresses to listen on are there and free."""
    check_listening(settings)
    wanted = [("the API", settings.listen_host, settings.listen_port)]
    if "://" not in settings.broker:
        wanted.append(("the broker", settings.broker_host, settings.broker_port))
    process = running(settings.data_path)
    for what, host, port in wanted:
        if process:
            yield fine("ports", f"{what}: the server runs already, process {process}")
            continue
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            hint = f"ss -ltnp 'sport = :{port}' says who is there"
            problem = os.strerror(error.errno) if error.errno else str(error)
            yield bad("ports", f"{what}: {host} port {port}: {problem}", hint)
        else:
            yield fine("ports", f"{what}: {host} port {port or 'any'} is free")


def _certificate(path: Path, now: datetime, *, own: bool) -> Iterator[Finding]:
    if not path.exists():
        return
    try:
        ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except ValueError as error:
        yield bad("keys", f"cannot read {path}: {error}", "restore it from a backup")
        return
    if now < ends - _SOON:
        return
    if own:
        yield unsure("keys", f"{path} ends {ends:%Y-%m-%d}", "the server renews it at its start")
    elif now < ends:
        yield unsure("keys", f"{path} ends {ends:%Y-%m-%d}", "plan a new installation")
    else:
        hint = "set up a server with a new data folder, and enrol every device again"
        yield bad("keys", f"{path} has ended {ends:%Y-%m-%d}", hint)


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & _OTHERS)


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def _me() -> str:
    return _name(os.geteuid())
