"""The repository as a device sees it: python-tuf's client reads what would be published."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import Key
from tuf.api.exceptions import (
    BadVersionNumberError,
    ExpiredMetadataError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Timestamp

from edgectl_protocol.metadata import METADATA_BYTES_MAX, ORDER_KEYS_FIELD
from edgectl_protocol.names import digest_of
from edgectl_server.errors import Conflict, TooLarge, Unavailable
from edgectl_server.signing import documents as documents_module
from edgectl_server.signing import folder as folder_module
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import KEPT, LIFETIMES, Repository
from edgectl_server.storage import files as files_module
from server.signing.devices import NOW, ClientDevice, Published, target


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys.open(tmp_path / "keys")


@pytest.fixture
def repository(tmp_path: Path, keys: Keys) -> Repository:
    return Repository.open(tmp_path / "tuf", keys, NOW)


@pytest.fixture
def device(tmp_path: Path, repository: Repository) -> ClientDevice:
    return ClientDevice(tmp_path / "device", repository.first_root)


def test_a_device_finds_a_signed_target_and_no_other(
    repository: Repository, device: ClientDevice
) -> None:
    assert device.look_up(Published(repository.metadata()), "models/har/1/int8", NOW) is None
    assert repository.add_targets([target("models/har/1/int8")], NOW)

    found = device.look_up(Published(repository.metadata()), "models/har/1/int8", NOW)
    assert found is not None
    assert found.length == len(b"manifest")
    assert f"sha256:{found.hashes['sha256']}" == digest_of(b"manifest")
    assert device.look_up(Published(repository.metadata()), "models/har/2/int8", NOW) is None


def test_adding_is_idempotent_and_a_path_names_one_content(repository: Repository) -> None:
    assert repository.add_targets([target("models/har/1/int8")], NOW)
    before = repository.metadata()
    assert not repository.add_targets([target("models/har/1/int8")], NOW)
    assert repository.metadata() == before
    with pytest.raises(Conflict) as caught:
        repository.add_targets([target("models/har/1/int8", b"another")], NOW)
    assert caught.value.code == "tuf.target_exists"
    with pytest.raises(Conflict):
        repository.add_targets(
            [target("models/m/1/a", b"one"), target("models/m/1/a", b"other")], NOW
        )
    assert repository.metadata() == before


def test_the_root_names_the_order_key_under_its_signature(
    repository: Repository, keys: Keys
) -> None:
    metadata: Metadata[Root] = Metadata.from_bytes(repository.first_root)
    metadata.verify_delegate("root", metadata)
    listed = metadata.signed.unrecognized_fields[ORDER_KEYS_FIELD]
    order_key = keys.signer("orders").public_key
    assert Key.from_dict(order_key.keyid, dict(listed[order_key.keyid])) == order_key

    forged = json.loads(repository.first_root)
    forged["signed"][ORDER_KEYS_FIELD] = {}
    changed: Metadata[Root] = Metadata.from_bytes(json.dumps(forged).encode())
    with pytest.raises(UnsignedMetadataError):
        changed.verify_delegate("root", changed)


def test_a_reopened_repository_is_the_same(
    tmp_path: Path, repository: Repository, keys: Keys
) -> None:
    repository.add_targets([target("models/har/1/int8")], NOW)
    again = Repository.open(tmp_path / "tuf", keys, NOW + timedelta(hours=1))
    assert again.metadata() == repository.metadata()
    assert again.first_root == repository.first_root


def test_other_keys_are_refused_at_start(tmp_path: Path, repository: Repository) -> None:
    other = Keys.open(tmp_path / "other-keys")
    with pytest.raises(Unavailable) as caught:
        Repository.open(tmp_path / "tuf", other, NOW)
    assert caught.value.code == "tuf.keys"


@pytest.mark.parametrize(
    "name", ["timestamp.json", "1.snapshot.json", "1.bin-03.json", "1.models.json"]
)
def test_damaged_files_are_refused_at_start(
    tmp_path: Path, repository: Repository, keys: Keys, name: str
) -> None:
    (tmp_path / "tuf" / name).write_bytes(b"{}")
    with pytest.raises(Unavailable) as caught:
        Repository.open(tmp_path / "tuf", keys, NOW)
    assert caught.value.code == "tuf.damaged"


def test_a_device_refuses_an_older_timestamp(repository: Repository, device: ClientDevice) -> None:
    old = repository.metadata()
    repository.add_targets([target("models/har/1/int8")], NOW)
    device.look_up(Published(repository.metadata()), "models/har/1/int8", NOW)
    replayed = Published(repository.metadata())
    replayed.files["timestamp", None] = old[-1][2]
    with pytest.raises(BadVersionNumberError):
        device.look_up(replayed, "models/har/1/int8", NOW)


def test_a_device_refuses_another_installation(
    tmp_path: Path, repository: Repository, device: ClientDevice
) -> None:
    foreign = Repository.open(tmp_path / "foreign", Keys.open(tmp_path / "foreign-keys"), NOW)
    foreign.add_targets([target("models/har/1/int8")], NOW)
    with pytest.raises(RepositoryError):
        device.look_up(Published(foreign.metadata()), "models/har/1/int8", NOW)


def test_a_device_refuses_an_altered_bin(repository: Repository, device: ClientDevice) -> None:
    repository.add_targets([target("models/har/1/int8")], NOW)
    published = Published(repository.metadata())
    for (role, version), content in list(published.files.items()):
        if role.startswith("bin-") and b"models/har/1/int8" in content:
            published.files[role, version] = content.replace(b'"length":8', b'"length":9')
    with pytest.raises(RepositoryError):
        device.look_up(published, "models/har/1/int8", NOW)


def test_what_nears_its_end_is_signed_anew_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that looks once an hour for two years never lets a device see an expired file."""
    monkeypatch.setattr(documents_module, "BIN_BIT_LENGTH", 1)  # fewer files
    repository = Repository.open(tmp_path / "tuf", Keys.open(tmp_path / "keys"), NOW)
    device = ClientDevice(tmp_path / "device", repository.first_root)
    repository.add_targets([target("models/har/1/int8")], NOW)
    changes = 0
    for hour in range(0, 2 * 365 * 24, 7):
        at = NOW + timedelta(hours=hour)
        changes += repository.refresh(at)
        if hour % (7 * 24 * 5) == 0:
            found = device.look_up(Published(repository.metadata()), "models/har/1/int8", at)
            assert found is not None
    assert repository.root_version > 2  # the client walked over them too
    assert changes > 2 * 365
    assert not repository.refresh(at)


def test_a_stopped_server_is_noticed(repository: Repository, device: ClientDevice) -> None:
    late = NOW + LIFETIMES["timestamp"]
    with pytest.raises(ExpiredMetadataError):
        device.look_up(Published(repository.metadata()), "models/har/1/int8", late)
    repository.refresh(late)
    assert device.look_up(Published(repository.metadata()), "models/har/1/int8", late) is None


def test_old_files_are_kept_for_devices_in_the_middle_of_a_refresh(
    tmp_path: Path, repository: Repository
) -> None:
    for number in range(10):
        repository.add_targets([target(f"models/har/{number}/int8")], NOW)
    files = repository.metadata()
    snapshots = [version for role, version, _ in files if role == "snapshot"]
    assert snapshots == [9, 10, 11]
    on_disk = sorted((tmp_path / "tuf").glob("*.snapshot.json"))
    assert len(on_disk) == KEPT
    assert files[0][:2] == ("root", 1)
    assert files[-1][:2] == ("timestamp", None)


def test_one_thousand_targets_stay_small_for_a_device(
    repository: Repository, device: ClientDevice
) -> None:
    repository.add_targets([target(f"models/har/{n}/int8", b"%d" % n) for n in range(1000)], NOW)
    published = Published(repository.metadata())
    assert device.look_up(published, "models/har/500/int8", NOW) is not None
    assert published.fetched < 20_000
    published.fetched = 0
    assert device.look_up(published, "models/har/500/int8", NOW) is not None
    assert published.fetched < 1000  # the timestamp alone


def test_metadata_larger_than_devices_accept_is_refused_and_nothing_changes(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents_module, "METADATA_BYTES_MAX", METADATA_BYTES_MAX // 10)
    before = repository.metadata()
    with pytest.raises(TooLarge) as caught:
        repository.add_targets([target(f"models/har/{n}/int8") for n in range(5000)], NOW)
    assert caught.value.code == "tuf.full"
    assert repository.metadata() == before


class PowerLoss(Exception):
    """The machine stops."""


def power_loss_after(count: int, write: Callable[..., None]) -> Callable[..., None]:
    """Let `count` files be written, then stop the machine at every further one."""
    left = [count]

    def write_or_stop(path: Path, content: bytes, *, mode: int) -> None:
        if left[0] == 0:
            raise PowerLoss
        left[0] -= 1
        write(path, content, mode=mode)

    return write_or_stop


def test_a_power_loss_at_any_file_leaves_a_whole_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First start, then a change, each cut off after 0, 1, 2, … files, until none is cut off."""
    monkeypatch.setattr(documents_module, "BIN_BIT_LENGTH", 2)  # fewer files
    write = files_module.write_durably
    for change in ("first start", "add targets"):
        for count in range(90):
            folder = tmp_path / f"{change}-{count}"
            keys = Keys.open(folder / "keys")
            monkeypatch.setattr(folder_module, "write_durably", write)
            if change == "add targets":
                Repository.open(folder / "tuf", keys, NOW)
            monkeypatch.setattr(folder_module, "write_durably", power_loss_after(count, write))
            cut = False
            try:
                repository = Repository.open(folder / "tuf", keys, NOW)
                repository.add_targets([target("models/har/1/int8"), target("models/m/1/b")], NOW)
            except PowerLoss:
                cut = True
            monkeypatch.setattr(folder_module, "write_durably", write)

            again = Repository.open(folder / "tuf", keys, NOW)
            device = ClientDevice(folder / "device", again.first_root)
            published = Published(again.metadata())
            found = device.look_up(published, "models/har/1/int8", NOW)
            assert (found is None) == cut, (change, count)
            again.add_targets([target("models/har/1/int8"), target("models/m/1/b")], NOW)
            published = Published(again.metadata())
            assert device.look_up(published, "models/har/1/int8", NOW) is not None
            if not cut:
                break
        else:
            pytest.fail("never ran to its end")


def test_memory_follows_the_disk_when_a_write_fails(
    repository: Repository, device: ClientDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = repository.metadata()
    write = files_module.write_durably
    monkeypatch.setattr(folder_module, "write_durably", power_loss_after(2, write))
    with pytest.raises(PowerLoss):
        repository.add_targets([target("models/har/1/int8")], NOW)
    assert repository.metadata() == before
    monkeypatch.setattr(folder_module, "write_durably", write)
    repository.add_targets([target("models/har/1/int8")], NOW)
    timestamp: Metadata[Timestamp] = Metadata.from_bytes(repository.metadata()[-1][2])
    assert timestamp.signed.version == 2
    assert device.look_up(Published(repository.metadata()), "models/har/1/int8", NOW) is not None


def test_ten_thousand_targets_cost_a_device_less_than_100_kilobytes(
    repository: Repository, device: ClientDevice
) -> None:
    """The figure of docs/operations/keys.md: one refresh of everything, and one of nothing new."""
    repository.add_targets(
        [target(f"models/model-{n % 500}/{n // 500}/int8-x86", b"%d" % n) for n in range(10_000)],
        NOW,
    )
    published = Published(repository.metadata())
    assert device.look_up(published, "models/model-7/3/int8-x86", NOW) is not None
    assert 30_000 < published.fetched < 60_000, published.fetched
    assert max(len(content) for content in published.files.values()) < METADATA_BYTES_MAX // 2
    published.fetched = 0
    assert device.look_up(published, "models/model-7/3/int8-x86", NOW) is not None
    assert published.fetched < 1000
