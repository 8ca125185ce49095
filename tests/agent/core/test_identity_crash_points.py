"""Power cuts where the device gets, renews and keeps its identity, its keys and what it has to say.

What writes through `Disk` is cut before and within every operation. Two things do not: python-tuf's
cache, which is not durable by design and is checked by what is believed (the floor is in the
journal, see test_trust.py and test_recovery.py), and the spool, which is SQLite's: there what a
power loss leaves of SQLite's files is made by hand.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from agent.core.between import Site
from agent.core.simulated_disk import PowerCut, SimulatedDisk, Survival
from agent.inference.test_spool import event
from edgectl_agent.device_key import KEY_PATH, FileKey
from edgectl_agent.durable import PRIVATE
from edgectl_agent.enrol import CERTIFICATE_PATH, Identity, enrol, load_identity
from edgectl_agent.renewal import read_validity, renew
from edgectl_agent.spool import Spool
from edgectl_agent.start import count_boot
from edgectl_agent.store import Store
from edgectl_protocol.encryption import SEALED_KEY_BYTES

SURVIVALS: tuple[Survival, ...] = ("lost", "kept", "random")
MANIFEST = "sha256:" + "a" * 64


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    running = Site(tmp_path / "site")
    yield running
    running.close()


class IdentityDisk(SimulatedDisk):
    """With a copy of the key where the key's own reader looks for it."""

    folder: Path

    def locate(self, path: str) -> str:
        return str(self.folder / path)


def cut_points(act: Callable[[SimulatedDisk], object], make: Callable[[], SimulatedDisk]) -> int:
    """Return how many operations `act` takes."""
    disk = make()
    before = disk.operations
    act(disk)
    return disk.operations - before


def check_identity(disk: SimulatedDisk) -> Identity | None:
    """An identity that counts is whole: certificate, key and authority belong together."""
    identity = load_identity(disk)
    if identity is not None:
        key = FileKey(Path("key"), disk.read(KEY_PATH))
        certificate = x509.load_pem_x509_certificate(disk.read(CERTIFICATE_PATH))
        assert key.certifies(certificate), "the certificate is of another key"
        authority = x509.load_pem_x509_certificate(disk.read("identity/authority.pem"))
        certificate.verify_directly_issued_by(authority)
        assert disk.read("identity/root.json").startswith(b"{")
    return identity


def enrol_at_every_cut(site: Site, folder: Path, survival: Survival, *, within: bool) -> None:
    name = f"{survival}-{within}-".lower()

    def attempt(disk: SimulatedDisk, number: int = 0) -> None:
        enrol(disk, server=site.url, device=f"{name}{number}", token=tokens[number])

    def make() -> IdentityDisk:
        made = IdentityDisk(within=within)
        made.folder = folder
        return made

    tokens = {number: site.token() for number in range(30)}
    total = cut_points(attempt, make)
    assert 20 <= total < 30
    for number in range(1, total + 1):
        disk = make()
        disk.cut_at = number
        key = b""
        try:
            attempt(disk, number)
        except PowerCut:
            if disk.size(KEY_PATH) is not None:
                key = disk.read(KEY_PATH)
        disk.reboot(survival, random.Random(number))
        if check_identity(disk) is None:
            attempt(disk, number)  # again, as the agent does when it is started again
        assert check_identity(disk) is not None
        if number > 4:  # the key was on the disk before anybody was asked
            assert disk.read(KEY_PATH) == key, "a lost answer must be no lost name"


@pytest.mark.parametrize("within", [False, True], ids=["before", "within"])
def test_enrolment_is_whole_or_begins_again_with_the_same_key(
    site: Site, tmp_path: Path, within: bool
) -> None:
    enrol_at_every_cut(site, tmp_path, "lost", within=within)
    enrol_at_every_cut(site, tmp_path, "random", within=within)


def test_an_identity_written_first_is_found(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard: with the file that makes the device enrolled written first, not last."""
    right = SimulatedDisk.write_atomic
    held: list[tuple[str, bytes]] = []

    def reordered(self: SimulatedDisk, path: str, content: bytes, mode: int = 0o644) -> None:
        if path == KEY_PATH:
            right(self, path, content, mode)
            return
        held.append((path, content))
        if path.endswith("enrolment.json"):
            for one in reversed(held):
                right(self, *one)
            held.clear()

    monkeypatch.setattr(IdentityDisk, "write_atomic", reordered)
    with pytest.raises((AssertionError, FileNotFoundError)):
        enrol_at_every_cut(site, tmp_path, "lost", within=False)


@pytest.mark.parametrize("survival", SURVIVALS)
@pytest.mark.parametrize("within", [False, True], ids=["before", "within"])
def test_renewal_leaves_the_old_or_the_new_certificate(
    site: Site, tmp_path: Path, survival: Survival, within: bool
) -> None:
    old_disk = IdentityDisk()
    old_disk.folder = tmp_path
    enrol(old_disk, server=site.url, device="pi-1", token=site.token())
    files = {path: old_disk.read(path) for path in old_disk.paths()}
    key = FileKey(tmp_path / "key", files[KEY_PATH])
    site.time = read_validity(old_disk).end - timedelta(days=1)
    seen = set()
    for number in range(1, 6):
        disk = IdentityDisk(within=within)
        disk.folder = tmp_path
        for path, content in files.items():
            disk.write_atomic(path, content)
        disk.cut_at = disk.operations + number
        with contextlib.suppress(PowerCut):
            renew(disk, server=site.url, device="pi-1", key=key)
        disk.reboot(survival, random.Random(number))
        assert check_identity(disk) is not None
        seen.add(disk.read(CERTIFICATE_PATH) == files[CERTIFICATE_PATH])
        renew(disk, server=site.url, device="pi-1", key=key)
        disk.reboot("lost", random.Random(number))
        assert disk.read(CERTIFICATE_PATH) != files[CERTIFICATE_PATH], "it is renewed in the end"
    assert seen == {True, False}


# ---------------------------------------------------------------- content keys, start counter


@pytest.mark.parametrize("survival", SURVIVALS)
@pytest.mark.parametrize("within", [False, True], ids=["before", "within"])
def test_a_content_key_is_the_old_or_the_new_one(survival: Survival, within: bool) -> None:
    old, new = b"o" * SEALED_KEY_BYTES, b"n" * SEALED_KEY_BYTES
    for number in range(1, 5):
        disk = SimulatedDisk(within=within)
        store = Store(disk)
        store.keep_key(MANIFEST, old)
        disk.cut_at = disk.operations + number
        with pytest.raises(PowerCut):
            store.renew_keys({MANIFEST: new})
        disk.reboot(survival, random.Random(number))
        assert disk.read("sealed/" + "a" * 64) in {old, new}


class InPlace(SimulatedDisk):
    """Somebody writes in place instead of renaming."""

    def write_atomic(self, path: str, content: bytes, mode: int = PRIVATE) -> None:
        self.allocate(path, len(content))
        self.write_at(path, 0, content)
        self.sync(path)


def test_a_content_key_that_is_written_in_place_is_found() -> None:
    disk = InPlace()
    store = Store(disk)
    store.keep_key(MANIFEST, b"o" * SEALED_KEY_BYTES)
    disk.sync_directory("sealed")
    disk.cut_at = disk.operations + 3  # at the synchronization
    with pytest.raises(PowerCut):
        store.renew_keys({MANIFEST: b"n" * SEALED_KEY_BYTES})
    disk.reboot("lost", random.Random(1))
    assert disk.read("sealed/" + "a" * 64) == b"", "the key is lost"


@pytest.mark.parametrize("survival", SURVIVALS)
@pytest.mark.parametrize("within", [False, True], ids=["before", "within"])
def test_a_start_is_never_counted_twice(survival: Survival, within: bool) -> None:
    """Messages are numbered by it: what is told under a used number would be lost."""
    for seed in range(20):
        chooser = random.Random(seed)
        disk = SimulatedDisk(within=within)
        used: list[int] = []
        for _ in range(12):
            disk.cut_at = disk.operations + chooser.randint(1, 6)
            with contextlib.suppress(PowerCut):
                used.append(count_boot(disk))  # type: ignore[arg-type]
            disk.reboot(survival, chooser)
        assert used == sorted(set(used))


# ---------------------------------------------------------------- garbage


@pytest.mark.parametrize("within", [False, True], ids=["before", "within"])
def test_collecting_garbage_never_costs_what_is_needed(within: bool) -> None:
    from agent.core.made import simple_bundle

    kept, garbage = simple_bundle("1", length=2000), simple_bundle("2", length=2000)

    def filled() -> tuple[SimulatedDisk, Store]:
        disk = SimulatedDisk(within=within)
        store = Store(disk)
        for bundle in (kept, garbage):
            for digest, content in bundle.blobs.items():
                store.add(digest, content)
        disk.write("partial/leftover.tmp", b"x")
        return disk, store

    disk, store = filled()
    before = disk.operations
    store.collect([kept.digest])
    total = disk.operations - before
    assert total >= 4
    for survival in SURVIVALS:
        for number in range(1, total + 1):
            disk, store = filled()
            disk.cut_at = disk.operations + number
            with pytest.raises(PowerCut):
                store.collect([kept.digest])
            disk.reboot(survival, random.Random(number))
            for digest, content in kept.blobs.items():
                assert disk.read("blobs/sha256/" + digest.removeprefix("sha256:")) == content
            Store(disk).collect([kept.digest])
            assert all(Store(disk).has(digest) for digest in kept.blobs)
            assert not any(
                Store(disk).has(digest) for digest in set(garbage.blobs) - set(kept.blobs)
            )


# ---------------------------------------------------------------- the spool


def test_what_a_power_loss_leaves_of_the_spool_has_every_event_that_was_kept(
    tmp_path: Path,
) -> None:
    """At each moment at least what was in SQLite's log when `put` returned is on the disk.

    Behind it may stand anything: nothing, half a page, what was never written, another file's
    blocks. Whatever it is, the events are there, in order, under their own numbers.
    """
    live = tmp_path / "live"
    spool = Spool(live, bytes_max=1 << 20, boot=3)
    lengths = [(live / "spool.db-wal").stat().st_size]
    for _ in range(8):
        spool.put("event", event(boot=3))
        lengths.append((live / "spool.db-wal").stat().st_size)
    assert lengths == sorted(set(lengths)), "each is on the disk before the next"
    log = (live / "spool.db-wal").read_bytes()
    chooser = random.Random(1)
    for kept in range(1, 9):
        tails = (b"", bytes(3000), chooser.randbytes(5000), log[lengths[kept] :][:900])
        for number, tail in enumerate(tails):
            left = tmp_path / f"left-{kept}-{number}"
            left.mkdir()
            shutil.copy(live / "spool.db", left)
            (left / "spool.db-wal").write_bytes(log[: lengths[kept]] + tail)
            again = Spool(left, bytes_max=1 << 20, boot=4)
            told = [(one.boot, one.seq) for one in again.pending()]
            assert told == [(3, number) for number in range(1, kept + 1)]
            again.put("event", event(boot=4))
            assert [(one.boot, one.seq) for one in again.pending()] == [*told, (4, 1)]
            again.close()
    spool.close()


def test_an_event_that_is_not_waited_for_is_found_missing(tmp_path: Path) -> None:
    """The guard: the log cut where it was synchronized last is short of what `put` has promised."""
    live = tmp_path / "live"
    spool = Spool(live, bytes_max=1 << 20, boot=3)
    spool.put("event", event(boot=3))
    synchronized = (live / "spool.db-wal").stat().st_size
    spool.put("event", event(boot=3))
    left = tmp_path / "left"
    left.mkdir()
    shutil.copy(live / "spool.db", left)
    (left / "spool.db-wal").write_bytes((live / "spool.db-wal").read_bytes()[:synchronized])
    again = Spool(left, bytes_max=1 << 20, boot=4)
    assert len(again.pending()) == 1
    again.close()
    spool.close()


def test_a_spool_on_a_disk_that_cannot_be_written_is_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import sqlite3

    from edgectl_agent import spool as module

    right = module._open
    for cause in (OSError(errno.EROFS, "ro"), "attempt to write a readonly database"):

        def refuse(path: Path | None, cause: object = cause) -> sqlite3.Connection:
            if path is None:
                return right(None)
            if isinstance(cause, OSError):
                raise cause
            error = sqlite3.OperationalError(cause)
            error.sqlite_errorcode = sqlite3.SQLITE_READONLY
            raise error

        monkeypatch.setattr(module, "_open", refuse)
        spool = Spool(tmp_path / "spool", bytes_max=1 << 20, boot=1)
        assert spool.put("event", event(boot=1)) == 1
        assert len(spool.pending()) == 1
        spool.close()


def test_a_start_number_that_comes_once_more_uses_no_number_of_a_message_twice(
    tmp_path: Path,
) -> None:
    """A bit of the start counter flips; what the earlier start of that number has said waits."""
    for boot, told in ((1, [(1, 1)]), (2, [(1, 1), (2, 1)]), (1, [(1, 1), (2, 1), (1, 2)])):
        spool = Spool(tmp_path / "spool", bytes_max=1 << 20, boot=boot)
        spool.put("event", event(boot=boot))
        assert [(one.boot, one.seq) for one in spool.pending()] == told
        spool.close()
