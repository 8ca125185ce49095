"""What is kept of a version that came as a file: until when, through which power cuts."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from agent.core.made import MadeBundle, simple_bundle, slot_order
from agent.core.simulated_disk import PowerCut, SimulatedDisk, Survival
from edgectl_agent.core.record import EMPTY, LocalWish, Record, Update
from edgectl_agent.durable import RealDisk
from edgectl_agent.offline import MetadataFiles, Package, Packages
from edgectl_agent.trust.frames import Want
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.messages import MetadataHead, decode
from edgectl_protocol.update import UpdateState

ONE, TWO = simple_bundle("1"), simple_bundle("2")
METADATA = {
    "1.root.json": b"r1",
    "2.root.json": b"r2",
    "timestamp.json": b"t",
    "3.bin-0a.json": b"b",
}


def package(*bundles: MadeBundle) -> Package:
    return Package(wanted=slot_order(bundles), metadata=METADATA)


def record(state: UpdateState, bundle: MadeBundle = ONE, **changes: object) -> Record:
    update = Update(
        slot="activity",
        order=0,
        nonce="0" * 32,
        wanted=slot_order([bundle]),
        manifest=bundle.digest,
        state=state,
    )
    return structs.replace(EMPTY, updates={"activity": update}, **changes)


@pytest.fixture
def disk(tmp_path: Path) -> RealDisk:
    return RealDisk(tmp_path / "state")


def test_metadata_comes_from_the_file(disk: RealDisk) -> None:
    packages = Packages(disk)
    packages.put("activity", package(ONE))
    for kept in (packages, Packages(disk)):
        assert kept.pinned() == (ONE.digest,)
        assert kept.files_for(TWO.digest) is None
        files = kept.files_for(ONE.digest)
        assert files is not None
        head = files(Want())
        assert head is not None
        assert decode(MetadataHead, head).root == 2
        assert files(Want("timestamp")) == b"t"
        assert files(Want("root", 2)) == b"r2"
        assert files(Want("bin-0a", 3)) == b"b"
        assert files(Want("root", 3)) is None
        assert files(Want("snapshot", 1)) is None


@pytest.mark.parametrize("name", ["../1.root.json", "root.json", "1.timestamp.json", "", "1.root"])
def test_names_that_no_metadata_has(name: str) -> None:
    with pytest.raises(ProtocolError):
        MetadataFiles({name: b""})


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        (EMPTY, False),
        (record(UpdateState.DOWNLOADING), True),
        (record(UpdateState.WAITING), True),
        (record(UpdateState.FAILED), True),
        (record(UpdateState.OBSERVING), True),
        (record(UpdateState.COMMITTED), False),
        (record(UpdateState.ROLLED_BACK), False),
        (record(UpdateState.IDLE), False),
        (record(UpdateState.REJECTED), True),
        (record(UpdateState.REJECTED, rejected=(ONE.digest,)), False),
        (record(UpdateState.COMMITTED, TWO), False),
        (
            record(
                UpdateState.DOWNLOADING,
                TWO,
                local={"activity": LocalWish(wanted=slot_order([ONE]), number=1)},
            ),
            True,
        ),
    ],
)
def test_it_is_kept_as_long_as_an_update_needs_it(disk: RealDisk, now: Record, kept: bool) -> None:
    packages = Packages(disk)
    packages.put("activity", package(ONE))
    packages.tidy(now)
    assert packages.pinned() == (ONE.digest,), "the machine has not heard of it yet"
    packages.handed_over("activity")
    packages.tidy(now)
    assert packages.pinned() == ((ONE.digest,) if kept else ())
    assert Packages(disk).pinned() == packages.pinned()


def test_what_is_damaged_is_not_used(disk: RealDisk) -> None:
    packages = Packages(disk)
    packages.put("activity", package(ONE))
    path = Path(disk.locate("offline/activity"))
    content = path.read_bytes()
    random_ = random.Random(3)
    spoiled = [b"", content[:-1], b"\xc1", b"\x91" * 100_000]
    spoiled.append(
        msgspec.msgpack.encode({"format": "edgectl-offline-2", "wanted": {}, "metadata": {}})
    )
    for _ in range(100):
        flipped = bytearray(content)
        flipped[random_.randrange(len(flipped))] ^= 1 << random_.randrange(8)
        spoiled.append(bytes(flipped))
    for one in spoiled:
        path.write_bytes(one)
        for digest in (ONE.digest, *Packages(disk).pinned()):
            Packages(disk).files_for(digest)  # its metadata is believed by nobody but the verifier
        path.write_bytes(content)
    (path.parent / "Not A Slot").write_bytes(content)
    (path.parent / "activity.tmp").write_bytes(content[:10])
    assert Packages(disk).pinned() == (ONE.digest,)
    assert sorted(one.name for one in path.parent.iterdir()) == ["activity"]


@pytest.mark.parametrize("survival", ["lost", "kept", "random"])
def test_at_every_power_cut_the_old_one_or_the_new_one_is_there(survival: Survival) -> None:
    whole = SimulatedDisk()
    _replace(whole)
    assert whole.operations > 5
    seen = set()
    for number in range(1, whole.operations + 1):
        for seed in range(4):
            disk = SimulatedDisk()
            disk.cut_at = number
            with pytest.raises(PowerCut):
                _replace(disk)
            disk.reboot(survival, random.Random(seed))
            packages = Packages(disk)
            pinned = packages.pinned()
            assert pinned in {(), (ONE.digest,), (TWO.digest,)}
            seen.add(pinned)
            for digest in pinned:
                assert packages.files_for(digest) is not None
            packages.put("activity", package(TWO))
            assert Packages(disk).pinned() == (TWO.digest,)
    assert (ONE.digest,) in seen


def _replace(disk: SimulatedDisk) -> None:
    packages = Packages(disk)
    packages.put("activity", package(ONE))
    packages.put("activity", package(TWO))
    packages.handed_over("activity")
    packages.tidy(EMPTY)
