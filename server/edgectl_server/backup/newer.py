"""What is newer than the backup and was kept elsewhere: signed metadata, a revocation list.

Both are public and signed, so whoever brings them has to be believed in nothing: what the restored
keys have not signed is refused.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from edgectl_server.errors import Refused, ServerError
from edgectl_server.signing.authority import add_revoked
from edgectl_server.signing.folder import MetadataFolder

__all__ = ["adopt_metadata", "adopt_revocations"]

_LIST_BYTES_MAX = 16 * 1024**2
_FILES_MAX = 20_000


def adopt_metadata(source: Path, folder: Path) -> None:
    """Put a newer copy of the folder ``tuf`` in the place of the restored one.

    Raises:
        Refused: ``backup.metadata``: it is of another server, older, or not whole.
    """
    if not source.is_dir():
        raise _refused(source, "there is no such folder")
    theirs = folder.with_name("tuf-newer")
    shutil.copytree(source, theirs, ignore=shutil.ignore_patterns(".*"), symlinks=True)
    found = list(theirs.rglob("*"))
    if len(found) > _FILES_MAX or any(one.is_symlink() for one in found):
        raise _refused(source, "it holds links, or more files than a server keeps")
    try:
        new, old = MetadataFolder(theirs), MetadataFolder(folder)
        published, restored = new.published(), old.published()
        roots = [one.content for one in new.roots()]
        known = [one.content for one in old.roots()]
    except ServerError as error:
        raise _refused(source, error.detail) from error
    if published is None or restored is None or roots[: len(known)] != known:
        raise _refused(source, "its roots do not follow those of the backup")
    if published.timestamp.version < restored.timestamp.version:
        raise _refused(source, "it is older than the backup")
    shutil.rmtree(folder)
    theirs.rename(folder)


def adopt_revocations(source: Path, pki: Path, rows: Path, now: datetime) -> tuple[str, ...]:
    """Revoke what a newer list of the same authority names; return the devices.

    Args:
        source: the list, PEM.
        pki: the restored folder.
        rows: the restored tables, SQLite.
        now: the time.

    Raises:
        Refused: ``backup.revocations``: another authority has signed it, or it is no list.
    """
    try:
        with source.open("rb") as file:
            found = x509.load_pem_x509_crl(file.read(_LIST_BYTES_MAX))
        authority = x509.load_pem_x509_certificate((pki / "authority.pem").read_bytes())
        key = authority.public_key()
        assert isinstance(key, EllipticCurvePublicKey), "ours are all of one kind"
        genuine = found.is_signature_valid(key)
    except (OSError, ValueError, TypeError) as error:
        raise _bad_list(source, str(error)) from error
    if not genuine:
        raise _bad_list(source, "the authority of this server has not signed it")
    serials = {one.serial_number: one.revocation_date_utc for one in found}
    add_revoked(pki / "revoked.json", serials)
    return _mark_revoked(rows, {f"{serial:x}" for serial in serials}, now)


def _mark_revoked(rows: Path, serials: set[str], now: datetime) -> tuple[str, ...]:
    out = []
    with contextlib.closing(sqlite3.connect(rows)) as database, database:
        for name, serial in database.execute(
            "SELECT id, certificate_serial FROM device WHERE state = 'enrolled' ORDER BY id"
        ).fetchall():
            if serial in serials:
                out.append(str(name))
        at = now.strftime("%Y-%m-%d %H:%M:%S.%f")
        for name in out:
            database.execute(
                "UPDATE device SET state = 'revoked', revoked_at = ? WHERE id = ?", (at, name)
            )
    return tuple(out)


def _refused(source: Path, problem: str) -> Refused:
    return Refused(
        "backup.metadata",
        f"{source} cannot take the place of the signed metadata in the backup: {problem}",
        hint="name the newest whole copy of this server's folder tuf, or leave --metadata out",
    )


def _bad_list(source: Path, problem: str) -> Refused:
    return Refused(
        "backup.revocations",
        f"{source} is no revocation list of this server: {problem}",
        hint="a broker of your own holds the newest one: revoked.pem",
    )
