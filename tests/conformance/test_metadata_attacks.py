"""Attacks on the metadata: each is refused by its code, and nothing on the device changes.

The device has installed version 1 and is ordered to install version 2, whose signed metadata was
published in good order. Then the attacker changes what the device gets, with the keys that the
attack gives to them. The verifier runs in this process; `ON_TOPICS` are done again with the one in
a process of its own behind retained topics, as on a device.

Where the attacker holds no key, the device must be none the worse: as soon as the honest files are
back, it installs version 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conformance.attacked import V1, V2, Device
from conformance.attacks import (
    TEAM,
    Attack,
    behind_a_terminating_one,
    by_key_of,
    endless,
    expired,
    expired_team,
    fast_forwarded,
    frozen,
    in_a_circle,
    in_place_of,
    key_of_another_delegator,
    next_root_raw,
    not_in_the_snapshot,
    of_type,
    older_role,
    older_root,
    older_snapshot,
    older_timestamp,
    one_of_two,
    one_of_two_renamed,
    outside_its_pattern,
    outside_the_parents_pattern,
    role_left_out,
    role_named,
    root_by,
    root_skipped,
    serving,
    signed_for_a_huge_one,
    signed_for_something_else,
    signed_with_another_hash,
    signing_raw,
    silent,
    snapshot_of_another_set,
    strangers,
    swapped_on_the_broker,
    swapped_without_digests,
    targets_key_signs_root,
    targets_of_another_set,
    team,
    too_deep,
    too_many,
    twice_one_of_two,
    two_of_two,
    version_of_another_set,
)
from edgectl_agent.trust.verifier import VERSION_MAX


@dataclass(frozen=True)
class Case:
    """What is done, and the code by which the device must refuse version 2."""

    name: str
    attack: Attack
    code: str
    stolen: bool = False
    """The attacker holds a key, so that what they sign may stay believed as the newest."""
    before: Attack = lambda repository: None
    """What the repository was like already, when version 1 was installed."""


REFUSED, ROLLBACK, EXPIRED = "trust.refused", "trust.rollback", "trust.expired"
CASES = (
    Case("rollback of the timestamp", older_timestamp, ROLLBACK),
    Case("rollback of the snapshot", older_snapshot, ROLLBACK, stolen=True),
    Case("rollback of targets", older_role("targets"), ROLLBACK, stolen=True),
    Case("rollback of a delegated role", older_role(TEAM), ROLLBACK, stolen=True, before=team),
    Case("rollback of root", older_root, ROLLBACK),
    Case("a role left out of the snapshot", role_left_out, REFUSED, stolen=True, before=team),
    Case("frozen at version 1", frozen, "trust.target"),
    *(Case(f"expired {role}", expired(role), EXPIRED, stolen=True)
      for role in ("root", "timestamp", "snapshot", "targets")),
    Case("expired delegated role", expired_team, EXPIRED, stolen=True, before=team),
    Case("mix and match: snapshot", snapshot_of_another_set, REFUSED),
    Case("mix and match: targets", targets_of_another_set, REFUSED),
    Case("mix and match: versions", version_of_another_set, ROLLBACK, stolen=True),
    *(Case(f"a stranger signs {role}", strangers(role), REFUSED, stolen=role != "timestamp")
      for role in ("root", "timestamp", "snapshot", "targets")),
    Case("snapshot's key signs the timestamp", by_key_of("snapshot", "timestamp"), REFUSED),
    Case("timestamp's key signs the snapshot", by_key_of("timestamp", "snapshot"), REFUSED),
    Case("snapshot's key signs targets", by_key_of("snapshot", "targets"), REFUSED, stolen=True),
    Case("targets' key signs a root", targets_key_signs_root, REFUSED),
    Case("one signature of two", one_of_two, REFUSED, stolen=True, before=two_of_two),
    Case("one signature, twice", twice_one_of_two, REFUSED, stolen=True, before=two_of_two),
    Case("one signature, two names", one_of_two_renamed, REFUSED, stolen=True, before=two_of_two),
    Case("a root of the new key alone", root_by("new"), REFUSED),
    Case("a root of the old key alone", root_by("old"), REFUSED, stolen=True),
    Case("a root of nobody", root_by(), REFUSED),
    Case("a root's version skipped", root_skipped, ROLLBACK, stolen=True),
    Case("key of another delegator", key_of_another_delegator, REFUSED, stolen=True),
    Case("target outside of the role's pattern", outside_its_pattern, "trust.target", stolen=True),
    Case("target outside of the parent's pattern", outside_the_parents_pattern, "trust.target",
         stolen=True),
    Case("target behind a terminating role", behind_a_terminating_one, "trust.target", stolen=True),
    Case("a role without a place in the snapshot", not_in_the_snapshot, REFUSED, stolen=True),
    Case("delegations too deep", too_deep, "trust.target", stolen=True),
    Case("delegations too many", too_many, "trust.target", stolen=True),
    Case("delegations in a circle", in_a_circle, "trust.target", stolen=True),
    *(Case(f"a role named {name!r:.30}", role_named(name), REFUSED, stolen=True)
      for name in ("../../identity/key", "モデル", "a" * 300, "Team", "a b", "x\0y", "timestamp")),
    Case("signed for something else", signed_for_something_else, "trust.mismatch", stolen=True),
    Case("signed with another hash", signed_with_another_hash, "trust.mismatch", stolen=True),
    Case("signed for a huge manifest", signed_for_a_huge_one, "bundle.malformed", stolen=True),
    Case("digest swapped on the broker", swapped_on_the_broker, REFUSED),
    Case("digest swapped, no digests above", swapped_without_digests, REFUSED, stolen=True),
    *(Case(f"endless {role}", endless(role), REFUSED)
      for role in ("root", "timestamp", "snapshot", "targets")),
    *(Case(f"silent {role}", silent(role), "trust.unreachable")
      for role in ("timestamp", "snapshot", "targets")),
    *(Case(f"{other} in place of {role}", in_place_of(role, other), REFUSED)
      for role, other in (("root", "targets"), ("timestamp", "snapshot"), ("snapshot", "targets"),
                          ("targets", "snapshot"), ("timestamp", "root"))),
    *(Case(f"timestamp of type {kind!r:.20}", of_type("timestamp", kind), REFUSED)
      for kind in ("snapshot", "root", "", "Timestamp", "timestamp\0")),
    *(Case(f"{role}: {content[:12]!r}", serving(role, content), REFUSED)
      for role in ("root", "timestamp", "snapshot", "targets")
      for content in (b"{}", b"null", b"\xff\xfe{", b"[" * 90_000, b'{"a":' * 15_000,
                      b"9" * 90_000, b'{"signed": {}, "signatures": []}')),
    *(Case(f"timestamp version {version!r:.20}", signing_raw("timestamp", {"version": version}),
           REFUSED)
      for version in (0, -1, "3", None, [3])),
    Case("timestamp version true", signing_raw("timestamp", {"version": True}), ROLLBACK),
    *(Case(f"timestamp version {version}", fast_forwarded(version), REFUSED, stolen=True)
      for version in (VERSION_MAX + 1, 2**70, 10**4000)),
    *(Case(f"root version {version!r:.20}", next_root_raw({"version": version}), code)
      for version, code in ((0, REFUSED), (-1, REFUSED), (2**63, ROLLBACK), ("2", REFUSED))),
    Case("root of another specification", next_root_raw({"spec_version": "2.0.0"}), REFUSED),
    Case("root without roles", next_root_raw({"roles": {}}), REFUSED),
    Case("timestamp that ends never", signing_raw("timestamp", {"expires": "never"}), REFUSED),
)  # fmt: skip


ON_TOPICS = frozenset({
    "rollback of the timestamp", "rollback of root", "frozen at version 1", "expired timestamp",
    "mix and match: snapshot", "a stranger signs root", "a root's version skipped",
    "delegations too deep", "a role named '../../identity/key'", "signed for something else",
    "signed for a huge manifest", "digest swapped on the broker", "endless root",
    "endless timestamp", "silent timestamp", "timestamp: b'[[[[[[[[[[[['",
    f"timestamp version {10**4000}", "root of another specification",
})  # fmt: skip


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[Callable[..., Device]]:
    made = []

    def make(before: Attack, *, process: bool) -> Device:
        device = Device(cache=tmp_path / "cache", process=process)
        made.append(device)
        repository = device.repository
        repository.add(V1)
        before(repository)
        repository.publish("targets")
        device.publish(V1, V2)
        device.begin()
        device.boot()
        assert device.order(V1) == ""
        repository.add(V2)
        repository.publish("targets")
        return device

    yield make
    for device in made:
        device.close()


MakeDevice = Callable[..., Device]
BOTH = [(case, False) for case in CASES] + [
    (case, True) for case in CASES if case.name in ON_TOPICS
]


def id_of(value: object) -> str:
    return value.name[:60] if isinstance(value, Case) else "process" if value else "here"


@pytest.mark.parametrize(("case", "process"), BOTH, ids=id_of)
def test_an_attack_on_the_metadata_changes_nothing(
    case: Case, process: bool, make_device: MakeDevice
) -> None:
    device = make_device(case.before, process=process)
    held, honest = device.kept(), dict(device.repository.files)
    case.attack(device.repository)
    assert device.order(V2) == case.code
    assert device.kept() == held
    if not case.stolen:
        device.repository.files = honest
        assert device.order(V2) == ""


def test_what_runs_on_topics_is_there() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert set(names) >= ON_TOPICS
