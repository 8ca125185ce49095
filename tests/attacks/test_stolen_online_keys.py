"""Who has the server's online keys and the broker: bins, snapshot, timestamp, orders.

Root, targets and the family ``vault`` are signed by Ana, whose key is elsewhere. The attempts are
made one after the other on one device, as a thief would; the last ones are of the time after
``edgectl keys revoke``.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from attacks.scene import (
    ONLINE,
    Ana,
    Client,
    Site,
    newer,
    order_of,
    send_order,
    sign_order,
    with_the_servers_certificate,
)
from e2e.falsified import add_falsified_version
from edgectl_protocol import topics
from edgectl_protocol.chunks import CHUNK_BYTES, make_index
from edgectl_protocol.manifest import decode_manifest
from edgectl_protocol.messages import Candidate, MetadataHead, Order, SlotOrder, decode, encode
from edgectl_protocol.metadata import BIN_BIT_LENGTH, target_path
from edgectl_protocol.names import digest_of
from edgectl_server.clock import now
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Repository
from edgectl_server.storage.blobs import BlobStore
from waiting import wait_for

pytestmark = pytest.mark.e2e
ATTACKER = "the online keys and the broker"
FAR = 2**31


class Loot:
    """A copy of what lay on the server, and the broker."""

    def __init__(self, folder: Path, site: Site, client: Client) -> None:
        self.site, self.client = site, client
        self.data = folder / "loot"
        shutil.copytree(site.server.data, self.data, ignore=shutil.ignore_patterns("lock"))
        assert not {one.stem for one in (self.data / "keys").glob("*.pem")} & {"root", "targets"}
        self.keys = Keys.open(self.data / "keys")
        self.counter = 100_000

    def newest(self, role: str) -> Metadata[Any]:
        """Return the newest file of a role, as it was stolen or as it was forged."""
        tuf = self.data / "tuf"
        if role == "timestamp":
            return Metadata.from_bytes((tuf / "timestamp.json").read_bytes())
        found = tuf.glob(f"*.{role}.json")
        return Metadata.from_bytes(
            max(found, key=lambda file: int(file.name.split(".")[0])).read_bytes()
        )

    def publish(self, role: str, metadata: Metadata[Any], *signers: Signer) -> bytes:
        """Sign a file, put it on the broker, and keep it."""
        metadata.signatures.clear()
        for signer in signers or (self.keys.signer(role),):
            metadata.sign(signer, append=True)
        content = metadata.to_bytes()
        version = None if role == "timestamp" else metadata.signed.version
        name = "timestamp.json" if version is None else f"{version}.{role}.json"
        (self.data / "tuf" / name).write_bytes(content)
        self.client.say(topics.metadata(role, version), content)
        return content

    def publish_below(self, role: str, metadata: Metadata[Targets], *, ahead: int = 1) -> None:
        """Publish a next version of a role, then the snapshot and the timestamp that name it."""
        metadata.signed.version += 1
        content = self.publish(role, metadata, self.keys.signer("models"))
        snapshot: Metadata[Snapshot] = self.newest("snapshot")
        meta = MetaFile.from_data(metadata.signed.version, content, ["sha256"])
        snapshot.signed.meta[f"{role}.json"] = meta
        snapshot.signed.version += ahead
        named = self.publish("snapshot", snapshot)
        timestamp: Metadata[Timestamp] = self.newest("timestamp")
        version = snapshot.signed.version
        timestamp.signed.snapshot_meta = MetaFile.from_data(version, named, ["sha256"])
        timestamp.signed.version += ahead
        self.publish("timestamp", timestamp)

    def publish_whole(self) -> None:
        """Publish what the stolen repository holds by now."""
        repository = Repository.open(self.data / "tuf", self.keys, now())
        for role, version, content in repository.metadata():
            self.client.say(topics.metadata(role, version), content)

    def publish_bundle(self, manifest: str) -> None:
        """Put a bundle's chunks on the broker."""
        blobs = BlobStore(str(self.data / "blobs"))
        layers = decode_manifest(blobs.read(manifest)).layers
        for digest in (manifest, *(layer.digest for layer in layers)):
            content = blobs.read(digest)
            chunks = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
            for number, chunk in enumerate(chunks):
                self.client.say(topics.chunk(digest, number), chunk)
            if len(chunks) > 1:
                self.client.say(topics.chunk_index(digest), make_index(chunks))

    def order(self, model: str, version: str, manifest: str, **changes: Any) -> Order:
        """Send the device an order that is signed as ours are; return it."""
        self.counter += 1
        self.publish_bundle(manifest)
        target = target_path(model, version, "fp32")
        candidate = Candidate(variant="fp32", target=target, manifest=manifest)
        slot = SlotOrder(model=model, version=version, candidates=(candidate,))
        known = order_of(self.client.newest(topics.order("pi-1")))
        order = newer(known, **{"counter": self.counter, "slots": {model: slot}} | changes)
        send_order(self.client, "pi-1", sign_order(order, self.data / "keys"))
        return order


@pytest.fixture(scope="module")
def site(open_site: Callable[..., Site]) -> Site:
    site = open_site()
    site.start("pi-1", "pi-2")
    return site


@pytest.fixture(scope="module")
def loot(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loot]:
    client = with_the_servers_certificate(site)
    client.listen("edgectl/v1/#")
    yield Loot(tmp_path_factory.mktemp("thief"), site, client)
    client.close()


def genuine(loot: Loot, version: str) -> str:
    """Return the manifest of a version that was pushed."""
    return str(loot.site.client.get_version("har", version).variants[0].manifest)


def test_making_a_new_root(site: Site, loot: Loot) -> None:
    root: Metadata[Root] = loot.newest("root")
    version, thief = root.signed.version, CryptoSigner.generate_ed25519()
    for role in ("root", "targets"):
        root.signed.add_key(thief.public_key, role)
    root.signed.version += 1
    held = [loot.keys.signer(role) for role in ("snapshot", "timestamp", "models", "orders")]
    loot.publish("root", root, thief, *held)
    loot.client.say(topics.head(), encode(MetadataHead(root=version + 1)))
    loot.order("har", "2", genuine(loot, "2"))
    site.wait_told("pi-1", "trust.refused")
    assert site.agents["pi-1"].served("har") == "1"
    loot.client.say(topics.head(), encode(MetadataHead(root=version)))
    loot.client.say(topics.metadata("root", version + 1), b"")
    (loot.data / "tuf" / f"{version + 1}.root.json").unlink()


@pytest.mark.admitted("any version that was signed, in any order, on any device")
def test_ordering_a_signed_version(site: Site, loot: Loot) -> None:
    loot.order("har", "2", genuine(loot, "2"))
    wait_for(lambda: site.agents["pi-1"].served("har") == "2", "version 2")


@pytest.mark.admitted("any model outside of families")
def test_installing_a_version_that_nobody_has_pushed(site: Site, loot: Loot) -> None:
    manifests = add_falsified_version(loot.data, "har", "2", "666", falsified="none")
    loot.publish_whole()
    loot.order("har", "666", manifests["fp32"])
    wait_for(lambda: site.agents["pi-1"].served("har") == "666", "version 666")


def test_installing_a_model_of_a_family(site: Site, loot: Loot) -> None:
    path, manifest = target_path("vault-door", "1", "fp32"), genuine(loot, "1")
    first = hashlib.sha256(path.encode()).digest()[0]
    role = f"bin-{first >> (8 - BIN_BIT_LENGTH):02x}"
    bin_of_path: Metadata[Targets] = loot.newest(role)
    length = len(BlobStore(str(loot.data / "blobs")).read(manifest))
    hashes = {"sha256": manifest.removeprefix("sha256:")}
    bin_of_path.signed.targets[path] = TargetFile(length, hashes, path)
    loot.publish_below(role, bin_of_path)
    loot.order("vault-door", "1", manifest)
    site.wait_told("pi-1", "trust.target")
    assert site.agents["pi-1"].served("vault-door") is None


@pytest.mark.admitted("it lasts until the keys are revoked, and no longer")
def test_locking_the_honest_server_out_by_numbers(site: Site, loot: Loot) -> None:
    loot.publish_below("models", loot.newest("models"), ahead=FAR)
    loot.order("har", "2", genuine(loot, "2"), counter=2**63 - 2)
    wait_for(lambda: site.agents["pi-1"].served("har") == "2", "version 2")


def test_writing_other_targets(site: Site, loot: Loot) -> None:
    loot.publish_below("targets", loot.newest("targets"))
    loot.order("har", "1", genuine(loot, "1"), counter=2**63 - 1)
    wait_for(
        lambda: "targets was signed by 0/1 keys" in site.agents["pi-1"].log.read_text(),
        "the refusal",
    )
    assert site.agents["pi-1"].served("har") == "2"


# ---------------------------------------------------------------- after the theft was found


@pytest.fixture(scope="module")
def recovered(site: Site, loot: Loot, ana: Ana) -> Site:
    """What docs/operations/keys.md says about a leaked online key."""
    data = site.server.data
    version = loot.newest("root").signed.version
    ana.keys("revoke", *ONLINE, "--data", data)
    ana.sign(data, "root", "targets")
    wait_for(
        lambda: decode(MetadataHead, loot.client.newest(topics.head())).root > version,
        "the new root",
        bound_s=20,
    )
    return site


def test_after_the_revocation_the_honest_server_is_obeyed(recovered: Site) -> None:
    healed = recovered.agents["pi-1"]  # the server has signed anew what it wants of each device
    wait_for(lambda: healed.served("har") == "1", "what the thief ordered is gone", bound_s=20)
    recovered.settle("2")
    recovered.settle("1")


def test_after_the_revocation_ordering_with_the_stolen_key(recovered: Site, loot: Loot) -> None:
    before = loot.client.newest(topics.order("pi-2"))
    known = order_of(before)
    order = newer(known, slots={}, withdrawn=("har",))
    send_order(loot.client, "pi-2", sign_order(order, loot.data / "keys"))
    recovered.wait_told("pi-2", "order.signature")
    assert recovered.agents["pi-2"].served("har") == "1"
    send_order(loot.client, "pi-2", before)


def test_after_the_revocation_signing_for_a_model(recovered: Site, loot: Loot) -> None:
    honest = recovered.server.data / "tuf" / "timestamp.json"
    timestamp = loot.newest("timestamp")
    timestamp.signed.version = FAR * 3
    loot.publish("timestamp", timestamp)
    rollout = recovered.order("2", "pi-2")
    recovered.wait_told("pi-2", "trust.refused")
    assert recovered.agents["pi-2"].served("har") == "1"
    loot.client.say(topics.metadata("timestamp", None), honest.read_bytes())
    recovered.server.wait_rollout(rollout)
    assert digest_of(honest.read_bytes())
