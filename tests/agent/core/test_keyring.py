"""The device's encryption key, and what opens with it."""

import stat

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from edgectl_agent.durable import RealDisk
from edgectl_agent.errors import KeyUnavailable, Refused, StepFailed
from edgectl_agent.keyring import Keyring
from edgectl_agent.store import Store
from edgectl_protocol.names import digest_of
from edgectl_server.signing.content_keys import ContentKeys

MANIFEST = digest_of(b"manifest")
OTHER = digest_of(b"another manifest")
TARGET = "models/har/1/int8"
CONTENT_KEY = bytes(range(32))


@pytest.fixture
def server(tmp_path):
    return ContentKeys.open(tmp_path / "server")


@pytest.fixture
def keyring(tmp_path):
    return Keyring(tmp_path / "keys", "pi-1")


def seal(server: ContentKeys, keyring: Keyring, **changes: str) -> bytes:
    bound = {"manifest": MANIFEST, "target": TARGET, "device": "pi-1"} | changes
    kept = server.keep(CONTENT_KEY, bound["manifest"])
    return server.seal(kept, recipient=keyring.public_key().hex(), **bound)


def test_a_key_that_was_sealed_to_the_device_opens(server, keyring):
    sealed = seal(server, keyring)
    assert CONTENT_KEY not in sealed
    assert keyring.open(sealed, target=TARGET, manifest=MANIFEST) == CONTENT_KEY
    assert sealed != seal(server, keyring), "a fresh key each time it is sealed"


def test_the_key_is_made_once_and_private(tmp_path, keyring):
    first = keyring.public_key()
    assert Keyring(tmp_path / "keys", "pi-1").public_key() == first
    file = tmp_path / "keys" / "encryption.pem"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "changes",
    [{"device": "pi-2"}, {"target": "models/har/2/int8"}, {"manifest": OTHER}],
    ids=["another device", "another target", "another bundle"],
)
def test_what_was_sealed_for_something_else_does_not_open(server, keyring, changes):
    with pytest.raises(KeyUnavailable) as caught:
        keyring.open(seal(server, keyring, **changes), target=TARGET, manifest=MANIFEST)
    assert caught.value.code == "key.sealed"
    assert isinstance(caught.value, StepFailed), "the bundle is not blamed"


def test_another_devices_sealed_key_does_not_open(tmp_path, server, keyring):
    thief = Keyring(tmp_path / "thief", "pi-1")  # even under the other's name
    thief.public_key()
    with pytest.raises(KeyUnavailable) as caught:
        thief.open(seal(server, keyring), target=TARGET, manifest=MANIFEST)
    assert caught.value.code == "key.sealed"


@pytest.mark.parametrize("length", [0, 1, 31, 32, 79, 81, 4096])
def test_what_is_no_sealed_key_does_not_open(keyring, length):
    keyring.public_key()
    with pytest.raises(KeyUnavailable) as caught:
        keyring.open(bytes(length), target=TARGET, manifest=MANIFEST)
    assert caught.value.code == "key.sealed"


@pytest.mark.parametrize("bit", [0, 100, 255, 256, 300, 511, 512, 639])
def test_a_changed_bit_does_not_open(server, keyring, bit):
    sealed = bytearray(seal(server, keyring))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(KeyUnavailable):
        keyring.open(bytes(sealed), target=TARGET, manifest=MANIFEST)


def test_without_its_key_the_device_opens_nothing(tmp_path, server, keyring):
    sealed = seal(server, keyring)
    file = tmp_path / "keys" / "encryption.pem"
    for content in (None, b"", b"junk", file.read_bytes()[:40]):
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(KeyUnavailable) as caught:
            keyring.open(sealed, target=TARGET, manifest=MANIFEST)
        assert caught.value.code == "key.device"
        file.touch()


def test_a_damaged_key_is_not_replaced(tmp_path, keyring):
    keyring.public_key()
    file = tmp_path / "keys" / "encryption.pem"
    file.write_bytes(b"junk")
    with pytest.raises(Refused) as caught:
        keyring.public_key()
    assert caught.value.code == "key.device"
    assert file.read_bytes() == b"junk"


def test_the_server_opens_what_it_keeps_only_for_its_bundle(tmp_path, server, keyring):
    from edgectl_server.errors import Unavailable

    kept = server.keep(CONTENT_KEY, MANIFEST)
    recipient = keyring.public_key().hex()
    for keys, manifest in ((server, OTHER), (ContentKeys.open(tmp_path / "other"), MANIFEST)):
        with pytest.raises(Unavailable) as caught:
            keys.seal(kept, manifest=manifest, target=TARGET, device="pi-1", recipient=recipient)
        assert caught.value.code == "keys.content"


def test_the_servers_key_is_encrypted_by_a_passphrase(tmp_path, keyring):
    server = ContentKeys.open(tmp_path / "sealed", passphrase=b"secret")
    kept = server.keep(CONTENT_KEY, MANIFEST)
    file = tmp_path / "sealed" / "content.pem"
    assert b"ENCRYPTED" in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = ContentKeys.open(tmp_path / "sealed", passphrase=b"secret")
    recipient = keyring.public_key().hex()
    sealed = again.seal(kept, manifest=MANIFEST, target=TARGET, device="pi-1", recipient=recipient)
    assert keyring.open(sealed, target=TARGET, manifest=MANIFEST) == CONTENT_KEY


# ---------------------------------------------------------------- what the store keeps


def test_sealed_keys_are_kept_renewed_and_collected(tmp_path):
    disk = RealDisk(tmp_path / "state")
    store = Store(disk)
    first, second = bytes(80), bytes(79) + b"\x01"
    store.keep_key(MANIFEST, first)
    file = tmp_path / "state/sealed" / MANIFEST.removeprefix("sha256:")
    assert file.read_bytes() == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    store.renew_keys({MANIFEST: second, OTHER: first})
    assert file.read_bytes() == second
    assert len(list(file.parent.iterdir())) == 1, "only those of bundles that are here"
    store.collect([MANIFEST])
    assert file.exists()
    store.collect([OTHER])
    assert not file.exists()


def test_a_signing_request_vouches_for_the_key(tmp_path):
    from edgectl_agent.device_key import load_or_make_key
    from edgectl_server.errors import Refused as Refusal
    from edgectl_server.signing.key_proofs import encryption_key_of

    identity = load_or_make_key(RealDisk(tmp_path / "state"))
    public = X25519PrivateKey.generate().public_key().public_bytes_raw()
    assert encryption_key_of(identity.signing_request("pi-1", public)) == public.hex()
    assert encryption_key_of(identity.signing_request("pi-1")) is None
    for useless in (bytes(32), b"\x01" + bytes(31), bytes(31), bytes(33), b"short"):
        with pytest.raises(Refusal) as caught:
            encryption_key_of(identity.signing_request("pi-1", useless))
        assert caught.value.code == "enrol.csr"


def test_an_order_carries_keys_within_bounds():
    from edgectl_protocol.encryption import SealedKey
    from edgectl_protocol.messages import KEYS_MAX, Order

    fields = {field.name: field for field in msgspec.structs.fields(Order)}
    assert fields["keys"].default_factory() == {}
    for size, good in ((79, False), (80, True), (81, False)):
        content = msgspec.json.encode({MANIFEST: bytes(size)})
        if good:
            msgspec.json.decode(content, type=dict[str, SealedKey])
        else:
            with pytest.raises(msgspec.ValidationError):
                msgspec.json.decode(content, type=dict[str, SealedKey])
    many = {digest_of(str(n).encode()): bytes(80) for n in range(KEYS_MAX + 1)}
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(many), type=fields["keys"].type)
