"""Any sequence of changes, signed by whoever is asked: the device follows all of them.

Every change may be followed by a push, a restart, or another change before anything is signed; the
device looks at whatever is published in between.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgectl_server.errors import Conflict, NotFound, Refused
from edgectl_server.signing import documents as documents_module
from edgectl_server.signing.keys import ROLES, Keys
from edgectl_server.signing.repository import Repository
from server.signing.devices import NOW, ClientDevice, Person, Published, target

PEOPLE = {name: Person(name) for name in ("ana", "ben", "cleo", "dora")}
KEYIDS = {person.key.keyid: person for person in PEOPLE.values()}
people = st.sampled_from(sorted(PEOPLE))
changes = st.one_of(
    st.tuples(st.just("replace"), st.sampled_from(ROLES)),
    st.tuples(st.just("add"), st.sampled_from(["root", "targets", "vision"]), people),
    st.tuples(st.just("remove"), st.sampled_from(["root", "targets", "vision"]), people),
    st.tuples(
        st.just("threshold"), st.sampled_from(["root", "targets", "vision"]), st.integers(1, 3)
    ),
    st.tuples(st.just("delegate"), people),
    st.tuples(st.just("undelegate"), st.booleans()),
    st.tuples(st.just("revoke"), people),
    st.tuples(st.just("push"), st.sampled_from(["har", "vision-door"]), st.integers(2, 9)),
    st.tuples(st.just("sign")),
    st.tuples(st.just("restart")),
)


class World:
    """A repository, everybody's keys, and what the device must find."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.open()
        self.device = ClientDevice(folder / "device", self.repository.first_root)
        self.repository.add_targets([target("models/har/1/a"), target("models/vision-1/1/a")], NOW)

    def open(self) -> None:
        keys = Keys.open(self.folder / "keys")
        self.repository = Repository.open(self.folder / "tuf", keys, NOW)

    def sign(self) -> None:
        """Everybody who may signs everything that waits, until nothing does."""
        for _ in range(4):
            for one in self.repository.status(NOW).staged:
                try:
                    document = self.repository.staged(one.role)
                except NotFound:  # it came with another
                    continue
                for key in one.unsigned:
                    if key.keyid in KEYIDS:
                        document = KEYIDS[key.keyid].sign(document)
                self.repository.submit(one.role, document, NOW)
        assert not self.repository.status(NOW).staged

    def change(self, name: str, *arguments: object) -> None:
        repository = self.repository
        match name, *arguments:
            case "replace", str(role):
                repository.rotate(role, NOW)
            case "add", str(role), str(who):
                repository.rotate(role, NOW, add=[PEOPLE[who].key])
            case "remove", str(role), str(who):
                repository.rotate(role, NOW, remove=[PEOPLE[who].key.keyid])
            case "threshold", str(role), int(count):
                repository.rotate(role, NOW, threshold=count)
            case "delegate", str(who):
                repository.delegate("vision", ["vision-*"], [PEOPLE[who].key], 1, NOW)
            case "undelegate", bool(keep):
                repository.undelegate("vision", NOW, keep_targets=keep)
            case "revoke", str(who):
                repository.revoke([PEOPLE[who].key.keyid], NOW)
            case "push", str(model), int(version):
                repository.add_targets([target(f"models/{model}/{version}/a")], NOW)
            case ("sign",):
                self.sign()
            case ("restart",):
                self.open()

    def check(self) -> None:
        published = Published(self.repository.metadata())
        for path in ("models/har/1/a", "models/vision-1/1/a"):
            assert self.device.look_up(published, path, NOW) is not None, path
            assert self.repository.find(path) is not None


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(changes, max_size=12))
def test_the_device_follows_any_sequence_of_changes(
    monkeypatch: pytest.MonkeyPatch, sequence: list[tuple[object, ...]]
) -> None:
    monkeypatch.setattr(documents_module, "BIN_BIT_LENGTH", 1)  # fewer files
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for change in sequence:
            try:
                world.change(*change)  # type: ignore[arg-type]
            except (Refused, NotFound, Conflict):
                continue  # said so, and left everything as it was
            finally:
                world.check()
        world.sign()
        world.check()
