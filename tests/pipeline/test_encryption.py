"""Encrypted layers: what the server seals the device opens, and nothing that was changed opens."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgectl_agent.bundle import Bundle
from edgectl_agent.decryption import Undecipherable, read_layer
from edgectl_protocol.encryption import (
    ENCRYPTION_ANNOTATION,
    SCHEME,
    SEGMENT_BYTES,
    TAG_BYTES,
    encrypted_size,
    plain_size,
)
from edgectl_protocol.errors import MalformedMessage
from edgectl_protocol.manifest import Lineage, decode_manifest, is_encrypted, layer_by_file
from edgectl_server.pipeline.encryption import encrypt_layer, make_content_key
from edgectl_server.pipeline.pack import pack
from edgectl_server.storage.blobs import BlobStore

PLAIN_BYTES = SEGMENT_BYTES - TAG_BYTES
KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))


def content(size: int) -> bytes:
    return bytes(number * 7 % 251 for number in range(size))


def bundle(key: bytes = KEY) -> Bundle:
    """Only its key is looked at."""
    return SimpleNamespace(key=bytearray(key))  # type: ignore[return-value]


def sealed(tmp_path: Path, plain: bytes, *, key: bytes = KEY, file: str = "model.onnx") -> bytes:
    source, target = tmp_path / "plain", tmp_path / "sealed"
    target.unlink(missing_ok=True)
    source.write_bytes(plain)
    encrypt_layer(source, target, content_key=key, file=file)
    return target.read_bytes()


def opened(tmp_path: Path, ciphertext: bytes, **options: object) -> bytes:
    path = tmp_path / "ciphertext"
    path.write_bytes(ciphertext)
    return read_layer(
        bundle(options.get("key", KEY)),  # type: ignore[arg-type]
        str(path),
        str(options.get("file", "model.onnx")),
    )


SIZES = [0, 1, PLAIN_BYTES - 1, PLAIN_BYTES, PLAIN_BYTES + 1, 3 * PLAIN_BYTES, 3 * PLAIN_BYTES + 5]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_sealed_opens(tmp_path, size):
    plain = content(size)
    ciphertext = sealed(tmp_path, plain)
    assert len(ciphertext) == encrypted_size(size)
    assert plain_size(len(ciphertext)) == size
    assert opened(tmp_path, ciphertext) == plain
    for at in range(0, size - 32, 997):
        assert plain[at : at + 32] not in ciphertext


def test_lengths_that_no_layer_has():
    for size in (0, 1, TAG_BYTES - 1, SEGMENT_BYTES + 1, SEGMENT_BYTES + TAG_BYTES):
        with pytest.raises(MalformedMessage):
            plain_size(size)


def segments(ciphertext: bytes) -> list[bytes]:
    return [ciphertext[at : at + SEGMENT_BYTES] for at in range(0, len(ciphertext), SEGMENT_BYTES)]


def flipped(ciphertext: bytes, at: int) -> bytes:
    return ciphertext[:at] + bytes([ciphertext[at] ^ 1]) + ciphertext[at + 1 :]


CHANGES = {
    "first bit": lambda c: flipped(c, 0),
    "in the middle": lambda c: flipped(c, len(c) // 2),
    "the last tag": lambda c: flipped(c, len(c) - 1),
    "cut off at a segment": lambda c: b"".join(segments(c)[:-1]),
    "cut off to one segment": lambda c: segments(c)[0],
    "cut off within a segment": lambda c: c[:-100],
    "cut off to nothing": lambda c: b"",
    "two segments exchanged": lambda c: b"".join(
        [segments(c)[1], segments(c)[0], *segments(c)[2:]]
    ),
    "a segment left out": lambda c: b"".join([segments(c)[0], *segments(c)[2:]]),
    "a segment repeated": lambda c: b"".join([segments(c)[0], *segments(c)]),
    "the last segment first": lambda c: segments(c)[-1],
    "bytes appended": lambda c: c + bytes(20),
    "itself appended": lambda c: c + c,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("size", [3 * PLAIN_BYTES, 3 * PLAIN_BYTES + 1000])
def test_what_was_changed_does_not_open(tmp_path, size, change):
    ciphertext = sealed(tmp_path, content(size))
    assert opened(tmp_path, ciphertext) == content(size)
    with pytest.raises(Undecipherable):
        opened(tmp_path, change(ciphertext))


def test_another_key_or_another_layer_does_not_open(tmp_path):
    ciphertext = sealed(tmp_path, content(1000))
    with pytest.raises(Undecipherable):
        opened(tmp_path, ciphertext, key=OTHER_KEY)
    with pytest.raises(Undecipherable):
        opened(tmp_path, ciphertext, file="golden.npz")


def test_segments_of_two_layers_are_not_exchanged(tmp_path):
    model = sealed(tmp_path, content(3 * PLAIN_BYTES))
    golden = sealed(tmp_path, content(3 * PLAIN_BYTES), file="golden.npz")
    mixed = b"".join([segments(model)[0], segments(golden)[1], segments(model)[2]])
    with pytest.raises(Undecipherable):
        opened(tmp_path, mixed)


def test_content_keys_are_never_the_same():
    assert len({make_content_key() for _ in range(100)}) == 100


# ---------------------------------------------------------------- bundles


def pack_encrypted(run, blobs, encrypt):
    return pack(
        run.result,
        run.directory,
        blobs=blobs,
        model="har",
        version="1",
        labels=run.spec.labels,
        lineage=Lineage(source=run.result.source),
        encrypt=encrypt,
    )


@pytest.fixture
def run(activity_run, tmp_path):
    """The result of the pipeline in a folder of its own, because packing writes beside it."""
    import shutil

    directory = tmp_path / "run"
    shutil.copytree(activity_run.directory, directory)
    return SimpleNamespace(result=activity_run.result, spec=activity_run.spec, directory=directory)


def test_an_encrypted_bundle_holds_no_plaintext_and_opens(run, tmp_path):
    blobs = BlobStore(str(tmp_path / "blobs"))
    packed = pack_encrypted(run, blobs, ["fp32", "int8"])
    stored = b"".join(file.read_bytes() for file in (tmp_path / "blobs").rglob("*/*/*"))
    for one in packed:
        assert one.content_key is not None
        assert one.content_key not in stored
        assert one.content_key.hex() not in repr(one)
        manifest = decode_manifest(one.manifest)
        assert is_encrypted(manifest)
        for file in ("model.onnx", "golden.npz"):
            plain = (run.directory / one.variant / file).read_bytes()
            layer = layer_by_file(manifest, file)
            assert layer.media_type.endswith(".raw+encrypted")
            assert layer.annotations[ENCRYPTION_ANNOTATION] == SCHEME
            assert layer.size == encrypted_size(len(plain))
            # The runs are long enough not to be zeros or a header that stand elsewhere as well.
            for at in range(256, len(plain) - 64, 4099):
                run_of_bytes = plain[at : at + 64]
                if len(set(run_of_bytes)) > 16:
                    assert run_of_bytes not in stored
            ciphertext = blobs.read(layer.digest)
            assert opened(tmp_path, ciphertext, key=one.content_key, file=file) == plain
        assert one.model_bytes == (run.directory / one.variant / "model.onnx").stat().st_size
        assert not layer_by_file(manifest, "edgectl.json").encrypted
    assert packed[0].content_key != packed[1].content_key


def test_one_variant_may_be_encrypted_alone(run, tmp_path):
    packed = pack_encrypted(run, BlobStore(str(tmp_path / "blobs")), ["int8"])
    assert {one.variant: is_encrypted(decode_manifest(one.manifest)) for one in packed} == {
        "int8": True,
        "fp32": False,
    }
    assert {one.variant: one.content_key is None for one in packed} == {
        "int8": False,
        "fp32": True,
    }


# ---------------------------------------------------------------- manifests that are not believed


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r'"io.edgectl.encryption":"[^"]*"', '"io.edgectl.encryption":"rot13"'),
        (r'"io.edgectl.encryption":"[^"]*",', ""),
        (r"dataset.v1.raw\+encrypted", "dataset.v1.raw"),
        (r"doc.v1.raw", "doc.v1.raw+encrypted"),
        (r"weight.config.v1.raw", "weight.config.v1.raw+encrypted"),
    ],
)
def test_a_manifest_of_another_encryption_is_refused(run, tmp_path, old, new):
    packed = pack_encrypted(run, BlobStore(str(tmp_path / "blobs")), ["fp32", "int8"])
    text = packed[0].manifest.decode()
    changed = re.sub(old, new, text)
    assert changed != text
    with pytest.raises(MalformedMessage):
        decode_manifest(changed.encode())
