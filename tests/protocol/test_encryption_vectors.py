"""Encryption against its golden vectors; other languages run the same file."""

import hashlib
import json
from base64 import b64decode
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edgectl_agent.decryption import read_layer
from edgectl_agent.keyring import Keyring
from edgectl_protocol import encryption
from edgectl_protocol.errors import MalformedMessage
from edgectl_server.pipeline.encryption import encrypt_layer

PUBLISHED = json.loads((Path(__file__).parent.parent / "vectors/encryption.json").read_text())
KEY = bytes.fromhex(PUBLISHED["content_key_hex"])


def test_parts():
    assert PUBLISHED["scheme"] == encryption.SCHEME
    assert PUBLISHED["signing_request_extension"] == encryption.ENCRYPTION_KEY_OID
    for file, expected in PUBLISHED["layer_keys"].items():
        assert encryption.layer_key(KEY, file).hex() == expected
    for number, last, expected in PUBLISHED["nonces"]:
        assert encryption.segment_nonce(number, last=last).hex() == expected
    for plain, sealed in PUBLISHED["sizes"]:
        assert encryption.encrypted_size(plain) == sealed
        assert encryption.plain_size(sealed) == plain
    for size in PUBLISHED["impossible_sizes"]:
        with pytest.raises(MalformedMessage):
            encryption.plain_size(size)
    named = PUBLISHED["device"]
    bound = {name: named[name] for name in ("device", "target", "manifest")}
    assert encryption.device_context(**bound).hex() == named["context_hex"]
    storage = encryption.storage_context(manifest=named["manifest"])
    assert storage.hex() == PUBLISHED["storage_context_hex"]


@pytest.mark.parametrize("layer", PUBLISHED["layers"], ids=lambda layer: str(layer["size"]))
def test_layers(tmp_path, layer):
    plain = bytes(number * 7 % 251 for number in range(layer["size"]))
    source, sealed = tmp_path / "plain", tmp_path / "sealed"
    source.write_bytes(plain)
    encrypt_layer(source, sealed, content_key=KEY, file=layer["file"])
    ciphertext = sealed.read_bytes()
    assert hashlib.sha256(ciphertext).hexdigest() == layer["sha256"]
    if "ciphertext_hex" in layer:
        assert ciphertext.hex() == layer["ciphertext_hex"]
    bundle = SimpleNamespace(key=bytearray(KEY))
    assert read_layer(bundle, str(sealed), layer["file"]) == plain


def test_a_sealed_key_opens(tmp_path):
    named = PUBLISHED["device"]
    key = X25519PrivateKey.from_private_bytes(bytes.fromhex(named["private_key_hex"]))
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "encryption.pem").write_bytes(content)
    keyring = Keyring(tmp_path, named["device"])
    assert keyring.public_key().hex() == named["public_key_hex"]
    sealed = b64decode(named["sealed"])
    assert len(sealed) == encryption.SEALED_KEY_BYTES
    assert keyring.open(sealed, target=named["target"], manifest=named["manifest"]) == KEY
