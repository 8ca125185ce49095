"""Who may sign what changes under the eyes of a device that nobody touches.

Each change is followed by a refresh of python-tuf's client, which keeps what it has believed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp

from edgectl_server.errors import Conflict, NotFound, Refused, ServerError, Unavailable
from edgectl_server.signing import documents as documents_module
from edgectl_server.signing import folder as folder_module
from edgectl_server.signing.keys import ONLINE_ROLES, ROLES, Keys
from edgectl_server.signing.repository import Repository
from edgectl_server.signing.status import TrustStatus
from edgectl_server.storage import files as files_module
from server.signing.devices import (
    NOW,
    ClientDevice,
    Person,
    Published,
    sign_and_submit,
    target,
)

HAR = "models/har/1/int8"
VISION = "models/vision-door/1/int8"


class Site:
    """A repository on disk, and a device that follows it."""

    def __init__(self, folder: Path, *, make: tuple[str, ...] = ROLES) -> None:
        self.folder = folder
        self.keys = Keys.open(folder / "keys", make=make)
        self.repository = Repository(folder / "tuf", self.keys)

    def start(self) -> None:
        self.repository = Repository.open(self.folder / "tuf", self.keys, NOW)
        self.device = ClientDevice(self.folder / "device", self.repository.first_root)

    def finds(self, path: str) -> bool:
        return self.device.look_up(Published(self.repository.metadata()), path, NOW) is not None

    def role(self, name: str) -> object:
        status = {one.name: one for one in self.repository.status(NOW).roles}
        return status[name]

    def keyids(self, role: str) -> set[str]:
        status = {one.name: one for one in self.repository.status(NOW).roles}
        return {key.keyid for key in status[role].keys}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.start()
    made.repository.add_targets([target(HAR), target(VISION)], NOW)
    assert made.finds(HAR)
    return made


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_rotated_without_touching_the_device(site: Site, role: str) -> None:
    before = site.keyids(role)
    old_file = next(iter(site.keys.held(role))).uri.removeprefix("file:")
    outcome = site.repository.rotate(role, NOW)
    assert not outcome.staged
    assert site.keyids(role).isdisjoint(before)
    assert site.finds(HAR)
    assert site.finds(VISION)
    assert not (site.folder / "keys" / old_file).exists()
    site.repository.rotate(role, NOW)
    assert site.finds(HAR)
    again = Repository.open(site.folder / "tuf", Keys.open(site.folder / "keys"), NOW)
    assert again.metadata() == site.repository.metadata()


def test_all_roles_one_after_the_other_for_a_device_that_slept(site: Site) -> None:
    for role in (*ROLES, *ROLES):
        site.repository.rotate(role, NOW)
    assert site.repository.root_version == 11
    assert site.finds(HAR)


def test_a_device_enrolled_after_a_revocation_never_trusts_the_revoked_key(site: Site) -> None:
    stolen = Published(site.repository.metadata())
    (keyid,) = site.keyids("timestamp")
    site.repository.revoke([keyid], NOW)
    new = ClientDevice(site.folder / "new", site.repository.newest_root)
    assert new.look_up(Published(site.repository.metadata()), HAR, NOW) is not None
    newer = ClientDevice(site.folder / "newer", site.repository.newest_root)
    with pytest.raises(RepositoryError):
        newer.look_up(stolen, HAR, NOW)


def people(*names: str) -> list[Person]:
    return [Person(name) for name in names]


def ceremony(folder: Path) -> tuple[Site, list[Person]]:
    """Root: two of three people; targets: two of the same."""
    site = Site(folder, make=ONLINE_ROLES)
    ana, ben, cleo = people("ana", "ben", "cleo")
    keys = [one.key for one in (ana, ben, cleo)]
    outcome = site.repository.begin(
        NOW, root=keys, root_threshold=2, targets=keys[:2], targets_threshold=2
    )
    assert outcome.staged == ("root", "targets")
    return site, [ana, ben, cleo]


def test_nothing_starts_before_the_first_metadata_is_signed(tmp_path: Path) -> None:
    site, (ana, ben, cleo) = ceremony(tmp_path)
    with pytest.raises(Unavailable, match="root lacks 2, targets lacks 2") as caught:
        site.start()
    assert caught.value.code == "tuf.unsigned"
    sign_and_submit(site.repository, "root", ana)
    sign_and_submit(site.repository, "targets", ana, ben)
    with pytest.raises(Unavailable, match="root lacks 1"):
        Repository.open(tmp_path / "tuf", Keys.open(tmp_path / "keys"), NOW)
    outcome = sign_and_submit(site.repository, "root", cleo)
    assert {"root", "targets", "models", "snapshot", "timestamp"} <= set(outcome.published)
    site.start()
    site.repository.add_targets([target(HAR)], NOW)
    assert site.finds(HAR)
    assert not any(one.keys[0].online for one in site.repository.status(NOW).roles[:2])


def test_an_offline_root_is_rotated_by_the_old_and_the_new_people(tmp_path: Path) -> None:
    site, (ana, ben, cleo) = ceremony(tmp_path)
    sign_and_submit(site.repository, "root", ana, ben)
    sign_and_submit(site.repository, "targets", ana, ben)
    site.start()
    assert not site.finds(HAR)
    dora, emil = people("dora", "emil")
    outcome = site.repository.rotate(
        "root", NOW, add=[dora.key, emil.key], remove=[ana.key.keyid, ben.key.keyid]
    )
    assert outcome.staged == ("root",)
    (staged,) = site.repository.status(NOW).staged
    assert staged.missing == 3  # cleo counts for both
    assert "root: + key dora" in " ".join(staged.summary)

    assert sign_and_submit(site.repository, "root", dora, emil).staged == ("root",)
    assert site.repository.root_version == 1
    assert sign_and_submit(site.repository, "root", ana).staged == ("root",)
    assert "root" in sign_and_submit(site.repository, "root", ben).published
    assert site.repository.root_version == 2
    assert not site.finds(HAR)

    # Who is out signs no more.
    site.repository.rotate("snapshot", NOW)
    with pytest.raises(Refused) as caught:
        sign_and_submit(site.repository, "root", ana)
    assert caught.value.code == "tuf.unknown_key"
    sign_and_submit(site.repository, "root", dora, cleo)
    assert site.repository.root_version == 3
    site.repository.add_targets([target(HAR)], NOW)
    assert site.finds(HAR)


def test_thresholds_go_up_and_down(site: Site) -> None:
    ana, ben = people("ana", "ben")
    for role in ("root", "targets"):
        site.repository.rotate(role, NOW, add=[ana.key, ben.key], threshold=2)
        # One key is the server's, so that one more signature is missing from now on.
        site.repository.rotate("models" if role == "targets" else "timestamp", NOW)
        assert site.finds(HAR)
        for one in list(site.repository.status(NOW).staged):
            assert one.missing == 1, one
            sign_and_submit(site.repository, one.role, ana)
        assert site.finds(HAR)
    for role in ("targets", "root"):
        site.repository.rotate(role, NOW, remove=[ana.key.keyid, ben.key.keyid], threshold=1)
        for one in list(site.repository.status(NOW).staged):
            sign_and_submit(site.repository, one.role, ben)
        assert site.finds(HAR), role
    assert not site.repository.status(NOW).staged
    assert all(one.online for one in site.repository.status(NOW).roles)


def test_targets_under_other_keys_come_together_with_the_root_that_names_them(
    site: Site,
) -> None:
    ana, ben = people("ana", "ben")
    old = site.keyids("targets")
    outcome = site.repository.rotate("targets", NOW, add=[ana.key, ben.key], remove=old)
    assert outcome.staged == ("root", "targets")
    assert site.finds(HAR)
    outcome = sign_and_submit(site.repository, "targets", ben)
    assert {"root", "targets"} <= set(outcome.published)
    assert site.finds(HAR)


def test_a_later_change_comes_on_top_and_voids_the_signatures(tmp_path: Path) -> None:
    site, (ana, ben, _) = ceremony(tmp_path)
    sign_and_submit(site.repository, "root", ana, ben)
    sign_and_submit(site.repository, "targets", ana, ben)
    site.start()
    site.repository.rotate("snapshot", NOW)
    first = ana.sign(site.repository.staged("root"))
    site.repository.submit("root", first, NOW)
    outcome = site.repository.rotate("timestamp", NOW)
    assert outcome.void == ("root",)
    (staged,) = site.repository.status(NOW).staged
    assert (staged.version, staged.missing) == (2, 2)
    with pytest.raises(Refused) as caught:
        site.repository.submit("root", first, NOW)
    assert caught.value.code == "tuf.changed"
    sign_and_submit(site.repository, "root", ana, ben)
    assert site.repository.root_version == 2
    assert not site.finds(HAR)
    assert len(site.keys.held("snapshot")) == len(site.keys.held("timestamp")) == 1


def test_staged_changes_survive_a_restart_and_can_be_given_up(tmp_path: Path) -> None:
    site, (ana, ben, _) = ceremony(tmp_path)
    sign_and_submit(site.repository, "root", ana, ben)
    sign_and_submit(site.repository, "targets", ana, ben)
    site.start()
    site.repository.rotate("timestamp", NOW)
    sign_and_submit(site.repository, "root", ana)
    site.keys = Keys.open(tmp_path / "keys")
    site.start()
    (staged,) = site.repository.status(NOW).staged
    assert staged.signed_by == ("ana",)
    assert site.repository.refresh(NOW + timedelta(hours=13))  # with the old key, meanwhile
    assert site.repository.discard("root", NOW).staged == ()
    with pytest.raises(NotFound):
        site.repository.staged("root")
    assert not site.finds(HAR)


@pytest.mark.parametrize(
    ("code", "spoil"),
    [
        ("tuf.malformed", lambda _: b"{}"),
        ("tuf.malformed", lambda _: b"[" * 60_000),
        ("tuf.malformed", lambda document: document + b" " * 120_000),
        ("tuf.changed", lambda document: document.replace(b'"threshold":2', b'"threshold":1')),
        ("tuf.signature", lambda document: document),
        ("tuf.unknown_key", lambda document: Person("mallory").sign(document)),
    ],
)
def test_a_document_that_comes_back_otherwise_is_refused(
    tmp_path: Path, code: str, spoil: Callable[[bytes], bytes]
) -> None:
    site, (ana, *_) = ceremony(tmp_path)
    document = Metadata.from_bytes(site.repository.staged("root")).to_bytes()
    with pytest.raises(Refused) as caught:
        site.repository.submit("root", spoil(document), NOW)
    assert caught.value.code == code
    forged = Metadata.from_bytes(document)
    forged.signatures = {ana.key.keyid: Person("mallory").signer.sign(b"something else")}
    forged.signatures[ana.key.keyid].keyid = ana.key.keyid
    with pytest.raises(Refused) as caught:
        site.repository.submit("root", forged.to_bytes(), NOW)
    assert caught.value.code == "tuf.signature"
    assert site.repository.status(NOW).staged[0].missing == 2


@pytest.mark.parametrize(
    ("role", "arguments", "code"),
    [
        ("root", {"threshold": 2}, "tuf.threshold"),
        ("root", {"threshold": 0}, "tuf.threshold"),
        ("orders", {"threshold": 2}, "tuf.threshold"),
        ("root", {"remove": ["00"]}, "tuf.unknown_key"),
        ("nobody", {}, "tuf.unknown_role"),
        ("bin-00", {}, "tuf.unknown_role"),
    ],
)
def test_changes_that_cannot_be_are_refused_and_nothing_changes(
    site: Site, role: str, arguments: dict[str, object], code: str
) -> None:
    before = site.repository.metadata()
    with pytest.raises(ServerError) as caught:
        site.repository.rotate(role, NOW, **arguments)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert site.repository.metadata() == before


@pytest.mark.parametrize("role", ONLINE_ROLES)
def test_a_role_that_signs_every_day_stays_with_the_server(site: Site, role: str) -> None:
    ana = Person("ana")
    with pytest.raises(Refused) as caught:
        site.repository.rotate(role, NOW, add=[ana.key], remove=site.keyids(role))
    assert caught.value.code == "tuf.offline"
    assert site.finds(HAR)


# ---------------------------------------------------------------- families


def test_a_team_signs_its_own_models(site: Site) -> None:
    ana, ben, cleo = people("ana", "ben", "cleo")
    team = [ana.key, ben.key, cleo.key]
    outcome = site.repository.delegate("vision", ["vision-*"], team, 2, NOW)
    assert outcome.staged == ("targets", "vision")
    assert site.finds(VISION)  # nothing has changed yet
    assert {"targets", "vision"} <= set(
        sign_and_submit(site.repository, "vision", ana, cleo).published
    )
    assert site.finds(VISION)
    assert site.finds(HAR)

    new = "models/vision-door/2/int8"
    site.repository.add_targets([target(new), target("models/har/2/int8")], NOW)
    assert site.finds("models/har/2/int8")
    assert (site.repository.role_of(new), site.repository.awaits(new)) == ("vision", "vision")
    assert site.repository.find(new) is None
    assert not site.finds(new)
    with pytest.raises(Conflict):
        site.repository.add_targets([target(new, b"another")], NOW)
    sign_and_submit(site.repository, "vision", ben, cleo)
    assert site.finds(new)
    assert site.repository.awaits(new) is None

    site.repository.rotate("vision", NOW, add=[Person("dora").key], remove=[ben.key.keyid])
    assert site.finds(new)  # signed by cleo and somebody who is out: waits for new signatures
    sign_and_submit(site.repository, "vision", ana, cleo)
    assert site.finds(new)


def test_the_online_keys_cannot_sign_for_a_family(site: Site) -> None:
    """A thief of models, snapshot and timestamp changes nothing of what the team signs."""
    ana = Person("ana")
    site.repository.delegate("vision", ["vision-*"], [ana.key], 1, NOW)
    sign_and_submit(site.repository, "vision", ana)
    published = Published(site.repository.metadata())
    forged: Metadata[Targets] = Metadata.from_bytes(site.repository.current("vision") or b"")
    forged.signed.targets[VISION].hashes["sha256"] = "0" * 64
    forged.signed.version += 1
    forged.sign(site.keys.signer("models"))
    republish(published, site.keys, "vision", forged)
    with pytest.raises(UnsignedMetadataError):
        site.device.look_up(published, VISION, NOW)


def test_a_family_comes_and_goes_and_comes_back(site: Site) -> None:
    ana = Person("ana")
    for _ in range(2):
        site.repository.delegate("vision", ["vision-*"], [ana.key], 1, NOW)
        sign_and_submit(site.repository, "vision", ana)
        assert site.finds(VISION)
        site.repository.undelegate("vision", NOW)
        assert site.finds(VISION)
        assert "vision" not in {one.name for one in site.repository.status(NOW).roles}
    names = {(role, version) for role, version, _ in site.repository.metadata()}
    assert not any(role == "vision" for role, _ in names)

    site.repository.delegate("vision", ["vision-*"], [ana.key], 1, NOW)
    sign_and_submit(site.repository, "vision", ana)
    site.repository.add_targets([target("models/vision-new/1/a")], NOW)
    sign_and_submit(site.repository, "vision", ana)
    assert site.finds("models/vision-new/1/a")
    site.repository.undelegate("vision", NOW)
    assert not site.finds("models/vision-new/1/a")
    site.repository.delegate("vision", ["vision-*"], [ana.key], 1, NOW)
    site.repository.add_targets([target("models/vision-new/1/a")], NOW)
    sign_and_submit(site.repository, "vision", ana)
    site.repository.undelegate("vision", NOW, keep_targets=True)
    assert site.finds("models/vision-new/1/a")


def test_what_is_pushed_while_a_family_waits_is_found_before_and_after(site: Site) -> None:
    ana = Person("ana")
    new = "models/vision-door/2/int8"
    site.repository.delegate("vision", ["vision-*"], [ana.key], 1, NOW)
    site.repository.add_targets([target(new)], NOW)
    assert site.finds(new)
    sign_and_submit(site.repository, "vision", ana)
    assert site.finds(new)
    assert site.repository.role_of(new) == "vision"


@pytest.mark.parametrize(
    ("family", "patterns", "threshold", "code"),
    [
        ("models", ["vision-*"], 1, "tuf.family"),
        ("bin-03", ["vision-*"], 1, "tuf.family"),
        ("timestamp", ["vision-*"], 1, "tuf.family"),
        ("../x", ["vision-*"], 1, "tuf.family"),
        ("vision", ["*vision"], 1, "tuf.family"),
        ("vision", ["vision/*"], 1, "tuf.family"),
        ("vision", ["v[a-z]"], 1, "tuf.family"),
        ("vision", [], 1, "tuf.family"),
        ("vision", ["vision-*"], 2, "tuf.threshold"),
        ("sound", ["vision-*"], 1, None),
        ("sound2", ["sound-*", "vis*"], 1, "tuf.family_exists"),
        ("sound2", ["vision-door"], 1, "tuf.family_exists"),
    ],
)
def test_names_and_patterns_of_families(
    site: Site, family: str, patterns: list[str], threshold: int, code: str | None
) -> None:
    ana = Person("ana")
    if code is None or code == "tuf.family_exists":
        site.repository.delegate("sound", ["vision-*"], [ana.key], 1, NOW)
    if code is not None:
        with pytest.raises(ServerError) as caught:
            site.repository.delegate(family, patterns, [ana.key], threshold, NOW)
        assert caught.value.code == code


# ---------------------------------------------------------------- thieves


def republish(published: Published, keys: Keys, role: str, forged: Metadata[Targets]) -> None:
    """Publish `forged` as somebody can who has the keys of snapshot and timestamp."""
    timestamp: Metadata[Timestamp] = Metadata.from_bytes(published.files["timestamp", None])
    version = timestamp.signed.snapshot_meta.version
    snapshot: Metadata[Snapshot] = Metadata.from_bytes(published.files["snapshot", version])
    content = forged.to_bytes()
    published.files[role, forged.signed.version] = content
    snapshot.signed.meta[f"{role}.json"] = MetaFile(forged.signed.version)
    stolen = (keys.signer("snapshot"), keys.signer("timestamp"))
    resign(published, stolen, snapshot, timestamp, by=1)


def resign(
    published: Published,
    stolen: tuple[Signer, Signer],
    snapshot: Metadata[Snapshot],
    timestamp: Metadata[Timestamp],
    *,
    by: int,
) -> None:
    snapshot.signed.version += by
    snapshot.sign(stolen[0])
    published.files["snapshot", snapshot.signed.version] = snapshot.to_bytes()
    timestamp.signed.version += by
    timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
    timestamp.sign(stolen[1])
    published.files["timestamp", None] = timestamp.to_bytes()


def test_a_fast_forward_by_the_thief_of_online_keys_is_recovered_from(site: Site) -> None:
    """TUF 1.0.33 §5.3.11: after the rotation the device forgets the thief's versions."""
    published = Published(site.repository.metadata())
    timestamp: Metadata[Timestamp] = Metadata.from_bytes(published.files["timestamp", None])
    version = timestamp.signed.snapshot_meta.version
    snapshot: Metadata[Snapshot] = Metadata.from_bytes(published.files["snapshot", version])
    stolen = (site.keys.signer("snapshot"), site.keys.signer("timestamp"))
    resign(published, stolen, snapshot, timestamp, by=10**9)
    assert site.device.look_up(published, HAR, NOW) is not None
    with pytest.raises(RepositoryError):  # ours is older than what the device has believed
        site.finds(HAR)

    keyids = [signer.public_key.keyid for signer in stolen]
    outcome = site.repository.revoke(keyids, NOW)
    assert {"root", "snapshot", "timestamp"} <= set(outcome.published)
    assert site.finds(HAR)
    site.repository.add_targets([target("models/har/2/int8")], NOW)
    assert site.finds("models/har/2/int8")

    ours = Published(site.repository.metadata())
    resign(ours, stolen, snapshot, timestamp, by=1)
    with pytest.raises(RepositoryError):
        site.device.look_up(ours, HAR, NOW)


@pytest.mark.parametrize("role", ROLES)
def test_a_revoked_key_is_out_of_every_role(site: Site, role: str) -> None:
    (keyid,) = site.keyids(role)
    stolen = site.keys.signer(role)
    if role == "root":  # the same key in two roles
        site.repository.rotate("targets", NOW, add=[site.keys.held("root")[0].key])
    site.repository.revoke([keyid], NOW)
    listed = {key.keyid for one in site.repository.status(NOW).roles for key in one.keys}
    assert keyid not in listed
    assert stolen.public_key.keyid == keyid
    assert site.finds(HAR)
    with pytest.raises(NotFound):
        site.repository.revoke([keyid], NOW)


def test_revoking_leaves_nobody_locked_out(tmp_path: Path) -> None:
    site, (ana, ben, cleo) = ceremony(tmp_path)
    sign_and_submit(site.repository, "root", ana, ben)
    sign_and_submit(site.repository, "targets", ana, ben)
    site.start()
    with pytest.raises(Refused) as caught:  # targets would need two of one
        site.repository.revoke([ana.key.keyid], NOW)
    assert caught.value.code == "tuf.threshold"
    assert site.repository.revoke([cleo.key.keyid], NOW).staged == ("root",)
    sign_and_submit(site.repository, "root", ana, ben)
    assert not site.finds(HAR)


# ---------------------------------------------------------------- two programs, one folder


def test_the_server_takes_in_what_the_command_line_has_changed(site: Site) -> None:
    assert not site.repository.refresh(NOW)
    other = Repository.open(site.folder / "tuf", Keys.open(site.folder / "keys"), NOW)
    assert not site.repository.refresh(NOW)
    other.rotate("timestamp", NOW)
    other.add_targets([target("models/other/1/a")], NOW)
    site.repository.add_targets([target("models/ours/1/a")], NOW)  # on top, though not told
    assert site.finds("models/other/1/a")
    assert site.finds("models/ours/1/a")
    assert other.refresh(NOW)
    assert other.metadata() == site.repository.metadata()
    other.rotate("orders", NOW)
    assert site.repository.refresh(NOW)
    assert site.repository.order_keyids == other.order_keyids
    other.delegate("vision", ["vision-*"], [Person("ana").key], 1, NOW)
    assert site.repository.refresh(NOW)
    assert [one.role for one in site.repository.status(NOW).staged] == ["targets", "vision"]


class PowerLoss(Exception):
    """The machine stops."""


def change_all(site: Site, ana: Person) -> None:
    """Root, targets, online roles and a family, one after the other."""
    site.repository.rotate("timestamp", NOW)
    site.repository.rotate("models", NOW)
    site.repository.rotate("targets", NOW)
    site.repository.rotate("root", NOW)
    if "vision" not in {one.name for one in site.repository.status(NOW).roles}:
        site.repository.delegate("vision", ["vision-*"], [ana.key], 1, NOW)
        sign_and_submit(site.repository, "vision", ana)


def test_a_power_loss_at_any_file_of_any_rotation_leaves_a_whole_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents_module, "BIN_BIT_LENGTH", 1)  # fewer files
    write = files_module.write_durably
    modules = ("edgectl_server.signing.folder", "edgectl_server.signing.keys")
    for count in range(200):
        left = [count]

        def write_or_stop(path: Path, content: bytes, *, mode: int, left: list[int] = left) -> None:
            if left[0] == 0:
                raise PowerLoss
            left[0] -= 1
            write(path, content, mode=mode)

        site = Site(tmp_path / str(count))
        site.start()
        site.repository.add_targets([target(HAR), target(VISION)], NOW)
        assert site.finds(HAR)
        ana = Person("ana")
        cut = False
        with monkeypatch.context() as patch:
            for module in modules:
                patch.setattr(f"{module}.write_durably", write_or_stop)
            try:
                change_all(site, ana)
            except PowerLoss:
                cut = True
        site.keys = Keys.open(site.folder / "keys")
        site.repository = Repository.open(site.folder / "tuf", site.keys, NOW)
        assert site.finds(HAR), count
        assert site.finds(VISION), count
        for one in list(site.repository.status(NOW).staged):
            if one.role == "vision" and one.missing:
                sign_and_submit(site.repository, "vision", ana)
        change_all(site, ana)
        assert site.finds(VISION), count
        assert not site.repository.status(NOW).staged
        if not cut:
            return
    pytest.fail("never ran to its end")


# ---------------------------------------------------------------- what needs attention


def codes(status: TrustStatus) -> list[str]:
    return [one.code for one in status.alerts]


def test_offline_roles_are_staged_for_renewal_in_good_time_and_alerted(tmp_path: Path) -> None:
    site, (ana, ben, _) = ceremony(tmp_path)
    sign_and_submit(site.repository, "root", ana, ben)
    sign_and_submit(site.repository, "targets", ana, ben)
    site.start()
    assert not codes(site.repository.status(NOW))
    late = NOW + timedelta(days=310)
    site.repository.refresh(late)
    status = site.repository.status(late)
    assert [one.role for one in status.staged] == ["root", "targets"]
    assert all("nothing changes but version and end" in one.summary for one in status.staged)
    assert codes(status) == ["trust.unsigned", "trust.unsigned"]
    later = NOW + timedelta(days=340)
    site.repository.refresh(later)
    assert codes(site.repository.status(later))[:2] == ["trust.expiring", "trust.expiring"]
    for role in ("root", "targets"):
        sign_and_submit(site.repository, role, ana, ben, now=later)
    site.repository.refresh(later)
    assert not codes(site.repository.status(later))
    look_up = site.device.look_up(Published(site.repository.metadata()), HAR, later)
    assert look_up is None


def test_a_server_that_does_not_refresh_is_alerted(site: Site) -> None:
    assert not codes(site.repository.status(NOW + timedelta(hours=17)))
    assert codes(site.repository.status(NOW + timedelta(hours=19))) == ["trust.expiring"]
    assert "trust.expired" in codes(site.repository.status(NOW + timedelta(hours=25)))
    status = site.repository.status(NOW + timedelta(days=6))
    assert {one.detail.split()[0] for one in status.alerts} == {"timestamp", "snapshot"}
    assert {one.severity for one in status.alerts} == {"critical", "warning"}


def test_status_says_who_signs_what(site: Site) -> None:
    site.repository.delegate("vision", ["vision-*", "door"], [Person("ana").key], 1, NOW)
    roles = {one.name: one for one in site.repository.status(NOW).roles}
    assert list(roles) == ["root", "targets", "models", "snapshot", "timestamp", "orders"]
    assert (roles["models"].targets, roles["orders"].version) == (2, None)
    assert roles["root"].keys[0].name == "server root"
    staged = {one.role: one for one in site.repository.status(NOW).staged}
    assert (
        "+ vision signs for 'models/door/*/*', 'models/vision-*/*/*'" in staged["targets"].summary
    )
    assert staged["targets"].missing == 0
    assert any(VISION in line for line in staged["vision"].summary)


def test_damaged_staged_files_are_named(site: Site) -> None:
    site.repository.delegate("vision", ["vision-*"], [Person("ana").key], 1, NOW)
    (path,) = (site.folder / "tuf" / "staged").glob("*.vision.json")
    path.write_bytes(b"{}")
    with pytest.raises(Unavailable, match=r"vision\.json") as caught:
        Repository.open(site.folder / "tuf", Keys.open(site.folder / "keys"), NOW)
    assert caught.value.code == "tuf.damaged"
    assert folder_module.KEPT == 3
