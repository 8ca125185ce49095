"""What an attacker does to a repository: each function changes what a device gets from then on."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tuf.api.metadata import MetaFile, TargetFile

from conformance.attacked import V1, V2
from conformance.repository import SignedRepository, make_signer, meta_file, name_of, past
from edgectl_protocol.metadata import METADATA_BYTES_MAX
from edgectl_protocol.names import hex_of

Attack = Callable[[SignedRepository], object]
TEAM = "team"


# ---------------------------------------------------------------- rollback


def older_timestamp(repository: SignedRepository) -> None:
    stale = copy.deepcopy(repository.timestamp)
    stale.version = 1
    repository.files["timestamp.json"] = repository.sign(stale, repository.signers["timestamp"])


def older_snapshot(repository: SignedRepository) -> None:
    """By a thief of the timestamp's key."""
    old = repository.files["1.snapshot.json"]
    repository.timestamp.snapshot_meta = MetaFile.from_data(1, old, ["sha256"])
    repository.publish_timestamp()


def older_role(role: str) -> Attack:
    """By a thief of the snapshot's and timestamp's keys."""

    def attack(repository: SignedRepository) -> None:
        old = repository.files[f"1.{role}.json"]
        repository.snapshot.meta[f"{role}.json"] = MetaFile.from_data(1, old, ["sha256"])
        repository.publish_snapshot()

    return attack


def older_root(repository: SignedRepository) -> None:
    repository.files["2.root.json"] = repository.first_root


def role_left_out(repository: SignedRepository) -> None:
    del repository.snapshot.meta[f"{TEAM}.json"]
    repository.publish_snapshot()


# ---------------------------------------------------------------- freeze and expiry


def frozen(repository: SignedRepository) -> None:
    """The device is shown the set of version 1 for ever; it does not know of version 2."""
    repository.files = {
        name: content
        for name, content in repository.files.items()
        if not name.startswith("3.") and name != "timestamp.json"
    }
    stale = copy.deepcopy(repository.timestamp)
    stale.version = 2
    content = repository.files["2.snapshot.json"]
    stale.snapshot_meta = MetaFile.from_data(2, content, ["sha256"])
    repository.files["timestamp.json"] = repository.sign(stale, repository.signers["timestamp"])


def expired(role: str) -> Attack:
    """The set was never signed anew; root's next version has ended already."""

    def attack(repository: SignedRepository) -> None:
        repository.payload(role).expires = past(repository)
        match role:
            case "root":
                repository.publish_root()
            case "timestamp":
                repository.publish_timestamp()
            case "snapshot":
                repository.publish_snapshot()
            case _:
                repository.publish(role)

    return attack


def expired_team(repository: SignedRepository) -> None:
    only_by_team(repository)
    repository.add(V2, TEAM)
    repository.publish("targets")
    expired(TEAM)(repository)


# ---------------------------------------------------------------- mix and match


def snapshot_of_another_set(repository: SignedRepository) -> None:
    other = copy.deepcopy(repository.snapshot)
    other.meta["other.json"] = MetaFile(1)
    repository.put("snapshot", other)


def targets_of_another_set(repository: SignedRepository) -> None:
    other = copy.deepcopy(repository.targets["targets"])
    other.targets.clear()
    repository.put("targets", other)


def version_of_another_set(repository: SignedRepository) -> None:
    """No digests: only the version ties the set together."""
    repository.targets["targets"].version += 1
    content = repository.put("targets", repository.targets["targets"])
    repository.files[name_of("targets", repository.targets["targets"].version + 5)] = content
    repository.snapshot.meta["targets.json"] = MetaFile(repository.targets["targets"].version + 5)
    repository.publish_snapshot()


# ---------------------------------------------------------------- wrong keys, thresholds


def strangers(role: str) -> Attack:
    def attack(repository: SignedRepository) -> None:
        repository.signers[role] = [make_signer()]
        match role:
            case "root":
                repository.publish_root()
            case "timestamp":
                repository.publish_timestamp()
            case "snapshot":
                repository.publish_snapshot()
            case _:
                repository.publish(role)

    return attack


def by_key_of(other: str, role: str) -> Attack:
    """A role's key is good for that role only."""

    def attack(repository: SignedRepository) -> None:
        repository.signers[role] = repository.signers[other]
        if role in repository.targets:
            repository.publish(role)
        else:
            repository.put(role, repository.payload(role))

    return attack


def two_of_two(repository: SignedRepository) -> None:
    """`targets` needs two signatures."""
    second = make_signer()
    repository.signers["targets"].append(second)
    repository.root.add_key(second.public_key, "targets")
    repository.root.roles["targets"].threshold = 2
    repository.publish_root()
    repository.publish("targets")


def one_of_two(repository: SignedRepository) -> None:
    del repository.signers["targets"][1]
    repository.publish("targets")


def twice_one_of_two(repository: SignedRepository) -> None:
    def change(document: dict[str, Any]) -> None:
        document["signatures"] = [document["signatures"][0]] * 2

    rewrite_targets(repository, change)


def one_of_two_renamed(repository: SignedRepository) -> None:
    """The one signature again, under the other key's name."""

    def change(document: dict[str, Any]) -> None:
        first, second = document["signatures"]
        second["sig"] = first["sig"]

    rewrite_targets(repository, change)


def rewrite_targets(repository: SignedRepository, change: Callable[[dict[str, Any]], None]) -> None:
    """Serve the newest targets file changed, and name its digest: snapshot's key is stolen."""
    targets = repository.targets["targets"]
    targets.version += 1
    document = json.loads(repository.put("targets", targets))
    change(document)
    content = json.dumps(document).encode()
    repository.files[name_of("targets", targets.version)] = content
    repository.snapshot.meta["targets.json"] = meta_file(targets, content)
    repository.publish_snapshot()


def root_by(*roots: str) -> Attack:
    """The next root replaces the root's key, and only `roots` of old and new sign it."""

    def attack(repository: SignedRepository) -> None:
        old = repository.replace_key("root")
        (new,) = repository.signers["root"]
        repository.root.version += 1
        signers = [{"old": old, "new": new}[one] for one in roots]
        repository.put("root", repository.root, signers)

    return attack


def root_skipped(repository: SignedRepository) -> None:
    repository.root.version += 2
    content = repository.put("root", repository.root)
    repository.files["2.root.json"] = content


# ---------------------------------------------------------------- delegations


def team(repository: SignedRepository) -> None:
    """A team signs for its own models, and is asked before version 2 is found in `targets`."""
    repository.delegate(TEAM, ["models/*/*/*"])
    repository.publish(TEAM, bump=False)
    repository.publish(TEAM, "targets")


def only_by_team(repository: SignedRepository) -> None:
    del repository.targets["targets"].targets[V2.candidate.target]


def key_of_another_delegator(repository: SignedRepository) -> None:
    """Both `a` and `b` delegate to `shared`; a's key signs for what only b may delegate."""
    only_by_team(repository)
    repository.delegate("a", ["models/x/*/*"])
    repository.delegate("b", ["models/activity/*/*"])
    repository.delegate("shared", ["models/x/*/*"], parent="a")
    repository.delegate("shared", ["models/activity/*/*"], parent="b")
    repository.signers["shared"] = repository.signers["shared"][:1]  # a's
    repository.add(V2, "shared")
    repository.publish("shared", "b", "a", "targets")


def outside_its_pattern(repository: SignedRepository) -> None:
    only_by_team(repository)
    repository.delegate("narrow", ["models/other/*/*"])
    repository.add(V2, "narrow")
    repository.publish("narrow", "targets")


def outside_the_parents_pattern(repository: SignedRepository) -> None:
    """A role cannot hand on more than it has."""
    only_by_team(repository)
    repository.delegate("narrow", ["models/other/*/*"])
    repository.delegate("wide", ["*/*/*/*"], parent="narrow")
    repository.add(V2, "wide")
    repository.publish("wide", "narrow", "targets")


def behind_a_terminating_one(repository: SignedRepository) -> None:
    only_by_team(repository)
    repository.delegate("last", ["models/*/*/*"], terminating=True)
    repository.delegate("later", ["models/*/*/*"])
    repository.add(V2, "later")
    repository.publish("later", "last", "targets")


def not_in_the_snapshot(repository: SignedRepository) -> None:
    only_by_team(repository)
    repository.delegate("ghost", ["models/*/*/*"])
    repository.add(V2, "ghost")
    repository.put("ghost", repository.targets["ghost"])
    repository.publish("targets")


def too_deep(repository: SignedRepository) -> None:
    only_by_team(repository)
    parent = "targets"
    for depth in range(40):
        repository.delegate(f"level{depth}", ["models/*/*/*"], parent=parent)
        parent = f"level{depth}"
    repository.add(V2, parent)
    repository.publish(*repository.targets)


def too_many(repository: SignedRepository) -> None:
    only_by_team(repository)
    for number in range(40):
        repository.delegate(f"role{number}", ["models/*/*/*"])
    repository.add(V2, "role39")
    repository.publish(*repository.targets)


def in_a_circle(repository: SignedRepository) -> None:
    only_by_team(repository)
    repository.delegate("one", ["models/*/*/*"])
    repository.delegate("two", ["models/*/*/*"], parent="one")
    repository.delegate("one", ["models/*/*/*"], parent="two")
    repository.publish("two", "one", "targets")


def role_named(name: str) -> Attack:
    def attack(repository: SignedRepository) -> None:
        only_by_team(repository)
        repository.delegate(name, ["models/*/*/*"])
        repository.add(V2, name)
        repository.publish(name, "targets")

    return attack


# ---------------------------------------------------------------- what a target says


def signed_for_something_else(repository: SignedRepository) -> None:
    targets = repository.targets["targets"].targets
    targets[V2.candidate.target] = targets[V1.candidate.target]
    repository.publish("targets")


def signed_with_another_hash(repository: SignedRepository) -> None:
    path = V2.candidate.target
    hashes = {"sha512": hex_of(V2.digest) * 2}
    repository.targets["targets"].targets[path] = TargetFile(len(V2.manifest), hashes, path)
    repository.publish("targets")


def signed_for_a_huge_one(repository: SignedRepository) -> None:
    repository.targets["targets"].targets[V2.candidate.target].length = 2**40
    repository.publish("targets")


def swapped_on_the_broker(repository: SignedRepository) -> None:
    """Without a key: the bytes of the target's digest are changed in the signed file."""
    name = name_of("targets", repository.targets["targets"].version)
    changed = repository.files[name].replace(hex_of(V2.digest).encode(), b"0" * 64)
    assert changed != repository.files[name]
    repository.files[name] = changed


def swapped_without_digests(repository: SignedRepository) -> None:
    """The same, where snapshot and timestamp name no digests: the signature alone must hold."""
    repository.snapshot.meta = {
        name: MetaFile(meta.version) for name, meta in repository.snapshot.meta.items()
    }
    repository.publish_snapshot()
    repository.timestamp.snapshot_meta = MetaFile(repository.snapshot.version)
    repository.publish_timestamp()
    swapped_on_the_broker(repository)


# ---------------------------------------------------------------- bytes


def newest(repository: SignedRepository, role: str) -> str:
    """Return the name of the file that a device asks for next."""
    if role == "root":
        return f"{repository.root.version + 1}.root.json"
    return name_of(role, repository.payload(role).version)


def serving(role: str, content: bytes) -> Attack:
    def attack(repository: SignedRepository) -> None:
        repository.files[newest(repository, role)] = content

    return attack


def endless(role: str) -> Attack:
    """The signed file, and then blanks for as long as somebody reads."""

    def attack(repository: SignedRepository) -> None:
        name = newest(repository, role)
        content = repository.files.get(name, repository.first_root)
        repository.files[name] = content.ljust(METADATA_BYTES_MAX + 1)

    return attack


def in_place_of(role: str, other: str) -> Attack:
    """A file that is signed, of another role."""

    def attack(repository: SignedRepository) -> None:
        other_name = name_of(other, repository.payload(other).version)
        repository.files[newest(repository, role)] = repository.files[other_name]

    return attack


def of_type(role: str, kind: str) -> Attack:
    """Signed by the role's own key as something else."""
    return signing_raw(role, {"_type": kind})


def signing_raw(role: str, changes: dict[str, Any]) -> Attack:
    """Signed by the role's own key, with fields that no honest server writes."""

    def attack(repository: SignedRepository) -> None:
        repository.files[newest(repository, role)] = repository.sign_raw(role, changes)

    return attack


def next_root_raw(changes: dict[str, Any]) -> Attack:
    def attack(repository: SignedRepository) -> None:
        repository.files["2.root.json"] = repository.sign_raw("root", {"version": 2} | changes)

    return attack


def silent(role: str) -> Attack:
    def attack(repository: SignedRepository) -> None:
        del repository.files[name_of(role, repository.payload(role).version)]

    return attack


def fast_forwarded(version: int) -> Attack:
    return signing_raw("timestamp", {"version": version})


def targets_key_signs_root(repository: SignedRepository) -> None:
    content = repository.sign(next_root(repository), repository.signers["targets"])
    repository.files["2.root.json"] = content


def next_root(repository: SignedRepository) -> Any:
    root = copy.deepcopy(repository.root)
    root.version += 1
    root.expires += timedelta(days=365)
    return root
