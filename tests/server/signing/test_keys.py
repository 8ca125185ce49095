"""Private keys: closed to others, optionally encrypted, never replaced silently."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edgectl_server.errors import Unavailable
from edgectl_server.signing.keys import ROLES, Keys, read_passphrase


def test_keys_are_made_once_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    first = Keys.open(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    names = {"signers.json", *(f"{role}.pem" for role in ROLES)}
    assert {path.name for path in folder.iterdir()} == names
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}

    again = Keys.open(folder)
    assert [again.signer(role).public_key for role in ROLES] == [
        first.signer(role).public_key for role in ROLES
    ]
    assert len({first.signer(role).public_key.keyid for role in ROLES}) == len(ROLES)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_key_that_others_can_read_is_refused_with_the_next_step(
    tmp_path: Path, mode: int
) -> None:
    Keys.open(tmp_path)
    key = tmp_path / "timestamp.pem"
    key.chmod(mode)
    with pytest.raises(Unavailable) as caught:
        Keys.open(tmp_path)
    assert caught.value.code == "keys.permissions"
    assert caught.value.hint.endswith(f"chmod 600 {key}")
    assert stat.S_IMODE(key.stat().st_mode) == mode  # not repaired behind the operator's back


def test_a_passphrase_encrypts_and_is_needed_from_then_on(tmp_path: Path) -> None:
    first = Keys.open(tmp_path, passphrase=b"correct horse")
    assert all(b"ENCRYPTED" in path.read_bytes() for path in tmp_path.glob("*.pem"))

    again = Keys.open(tmp_path, passphrase=b"correct horse")
    assert again.signer("root").public_key == first.signer("root").public_key
    for wrong in (None, b"battery staple"):
        with pytest.raises(Unavailable) as caught:
            Keys.open(tmp_path, passphrase=wrong)
        assert caught.value.code == "keys.passphrase"


def test_a_passphrase_given_later_encrypts_what_was_plain(tmp_path: Path) -> None:
    first = Keys.open(tmp_path)
    Keys.open(tmp_path, passphrase=b"later")
    assert all(b"ENCRYPTED" in path.read_bytes() for path in tmp_path.glob("*.pem"))
    again = Keys.open(tmp_path, passphrase=b"later")
    assert again.signer("orders").public_key == first.signer("orders").public_key


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_damaged_key_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    Keys.open(tmp_path)
    key = tmp_path / "root.pem"
    key.write_bytes(content)
    with pytest.raises(Unavailable) as caught:
        Keys.open(tmp_path)
    assert caught.value.code == "keys.unreadable"
    assert str(key) in caught.value.detail
    assert key.read_bytes() == content


def test_passphrase_file(tmp_path: Path) -> None:
    assert read_passphrase("") is None
    file = tmp_path / "passphrase"
    file.write_bytes(b"correct horse\nsecond line\n")
    file.chmod(0o600)
    assert read_passphrase(str(file)) == b"correct horse"
    file.chmod(0o644)
    with pytest.raises(Unavailable, match="others may read"):
        read_passphrase(str(file))
    file.chmod(0o600)
    file.write_bytes(b"\n")
    with pytest.raises(Unavailable, match="no passphrase"):
        read_passphrase(str(file))
    with pytest.raises(Unavailable, match="cannot read"):
        read_passphrase(str(tmp_path / "absent"))
