"""Checks everything of a backup against its list, piece by piece, before anybody uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256

from edgectl_server.backup.archives import Reader
from edgectl_server.backup.manifest import Backup, Member, decode_manifest, is_blob, members_of
from edgectl_server.backup.sealing import Seal
from edgectl_server.errors import Refused

__all__ = ["check_members", "read_backup"]

Sink = Callable[[bytes], object]


def read_backup(
    reader: Reader, passphrase: bytes | None, expected: str = ""
) -> tuple[Backup, Seal | None]:
    """Return the list of a backup, once it is known to be the right one.

    Args:
        reader: of the backup.
        passphrase: of the backup; None: nothing vouches for the list but `expected`.
        expected: digest of the list, as `edgectl server backup` has printed it; empty: any.

    Raises:
        Refused: ``backup.manifest``, ``backup.forged``, ``backup.passphrase``.
    """
    manifest, mac = reader.manifest()
    backup = decode_manifest(manifest)
    found = sha256(manifest).hexdigest()
    if expected and expected.removeprefix("sha256:") != found:
        raise Refused(
            "backup.forged",
            f"this backup is sha256:{found}, expected {expected[:80]}",
            hint="it is another backup, or somebody has changed it",
        )
    if passphrase is None:
        return backup, None
    if backup.sealing is None or mac is None:
        raise Refused(
            "backup.forged",
            "there is a passphrase, but this backup was made without one, or what vouched for it "
            "was taken away",
            hint="if it was made with --without-keys: leave out --passphrase-file, and give "
            "--expect with the digest that was printed then",
        )
    seal = Seal(passphrase, backup.sealing)
    seal.check(manifest, mac)
    return backup, seal


def check_members(
    reader: Reader,
    backup: Backup,
    open_sink: Callable[[Member], Sink] | None = None,
    on_damaged_blob: Callable[[Member], object] | None = None,
) -> Iterator[Member]:
    """Read a backup to its end, and yield each member once it is as the list says.

    Args:
        reader: whose list was read.
        backup: the list.
        open_sink: gives what takes a member's bytes; nobody may believe them before the member is
            yielded. None: they are checked only.
        on_damaged_blob: told of a blob that has other content, which is not yielded then. None: it
            ends there.

    Raises:
        Refused: ``backup.damaged``, ``backup.forged``.
    """
    expected = members_of(backup)
    for name, size, pieces in reader.members(backup):
        member = expected.pop(name, None)
        if member is None:
            raise _forged(f"it holds {name[:80]!r}, which its list does not name, or twice")
        if size != member.size:
            raise _damaged(f"{name} has {size} bytes, expected {member.size}")
        state, read = sha256(), 0
        sink = None if open_sink is None else open_sink(member)
        for piece in pieces:
            read += len(piece)
            if read > member.size:
                break
            state.update(piece)
            if sink is not None:
                sink(piece)
        if read != member.size or state.hexdigest() != member.sha256:
            if on_damaged_blob is not None and is_blob(name) and read == member.size:
                on_damaged_blob(member)
                continue
            raise _damaged(f"{name} has other content than when the backup was made")
        yield member
    if expected:
        raise _damaged(f"{next(iter(expected))} is missing")


def _damaged(problem: str) -> Refused:
    return Refused(
        "backup.damaged",
        f"the backup is damaged: {problem}",
        hint="copy it again from where it was made, or take an older one",
    )


def _forged(problem: str) -> Refused:
    return Refused(
        "backup.forged",
        f"this backup is not as it was made: {problem}",
        hint="look who has changed it, and take an older one",
    )
