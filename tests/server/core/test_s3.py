"""Blobs in an object store: the rules of the store, and pulling from `/v2/` out of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgectl_protocol.manifest import decode_manifest
from edgectl_protocol.names import digest_of, hex_of
from edgectl_server.errors import NotFound, Refused, Unavailable
from edgectl_server.storage.blobs import BlobStore
from server.core.oci_site import Site, running
from server.core.s3_server import BUCKET, S3Server

URL = f"s3://{BUCKET}/site-a"
NONE = "sha256:" + "0" * 64


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    server = S3Server(tmp_path / "s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def blobs_url(s3: S3Server) -> str:
    return URL


@pytest.fixture
def site(services, people, clock) -> Iterator[Site]:
    with running(services, people, clock) as site:
        site.bundles = site.version("1", sizes={"fp32": 3_000_000, "int8": 150_000})
        yield site


# ---------------------------------------------------------------- the store


@pytest.mark.parametrize("length", [0, 1, 65537, 9 * 1024**2 + 5])
def test_what_goes_in_comes_out(s3, tmp_path, length):
    blobs = BlobStore(URL)
    content = os.urandom(length)
    source = tmp_path / "source"
    source.write_bytes(content)
    digest = blobs.add_file(source, expected=digest_of(content))
    name = hex_of(digest)
    assert s3.names() == [f"site-a/sha256/{name[:2]}/{name}"]
    assert blobs.add_bytes(content) == digest
    assert blobs.size(digest) == length
    assert blobs.read(digest) == content
    assert blobs.read(digest, 10, 20) == content[10:30]
    pieces = list(blobs.stream(digest, 65536))
    assert b"".join(pieces) == content
    assert all(len(piece) == 65536 for piece in pieces[:-1])
    if length > 1:
        assert b"".join(blobs.stream_range(digest, 7, length - 3)) == content[7:-3]
    blobs.copy_to(digest, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    blobs.delete(digest)
    blobs.delete(digest)
    assert not blobs.exists(digest)


def test_a_large_file_is_put_in_parts(s3, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(20 * 1024**2))
    BlobStore(URL).add_file(source, consume=True)
    assert s3.requests().count("partNumber=") == 3  # 8 + 8 + 4 MiB
    assert not source.exists()


def test_other_content_is_refused_and_what_is_missing_is_named(s3, tmp_path):
    blobs = BlobStore(URL)
    source = tmp_path / "source"
    source.write_bytes(b"content")
    with pytest.raises(Refused) as caught:
        blobs.add_file(source, expected=NONE, consume=True)
    assert caught.value.code == "blob.digest"
    for look in (blobs.size, blobs.read, lambda digest: list(blobs.stream_range(digest, 0, 9))):
        with pytest.raises(NotFound) as missing:
            look(NONE)
        assert missing.value.code == "blob.missing"
    assert s3.names() == []


def test_a_blob_that_the_store_has_cut_short_is_not_taken_for_whole(s3, tmp_path):
    blobs = BlobStore(URL)
    digest = blobs.add_bytes(b"x" * 100_000)
    stored = next(path for path in (tmp_path / "s3" / "data").rglob(hex_of(digest)))
    stored.write_bytes(b"x" * 70_000)
    with pytest.raises(Unavailable) as caught:
        list(blobs.stream_range(digest, 0, 100_000))
    assert caught.value.code == "blobs.unavailable"


def test_wrong_credentials_are_said_plainly(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(Unavailable) as caught:
        BlobStore(URL).probe()
    assert caught.value.code == "blobs.unavailable"
    assert "credentials" in caught.value.hint


# ---------------------------------------------------------------- pulling


def test_every_blob_of_a_bundle_is_pulled_out_of_the_store(site, s3):
    for digest in site.bundles.values():
        manifest = decode_manifest(site.ask(f"/v2/models/har/manifests/{digest}").body)
        for part in (manifest.config, *manifest.layers):
            answer = site.ask(f"/v2/models/har/blobs/{part.digest}")
            assert (answer.status, digest_of(answer.body)) == (200, part.digest)
            head = site.ask(f"/v2/models/har/blobs/{part.digest}", method="HEAD")
            assert (head.headers["Content-Length"], head.body) == (str(part.size), b"")
            if part.chunk_index is not None:
                index = site.ask(f"/v2/models/har/blobs/{part.chunk_index}")
                assert digest_of(index.body) == part.chunk_index
    assert all(key.startswith("site-a/sha256/") for key in s3.names())


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=65536-131071", 65536, 131072),
        ("bytes=2000000-", 2_000_000, None),
        ("bytes=-100", -100, None),
        ("bytes=1000000-2500000", 1_000_000, 2_500_001),  # over several reads
    ],
)
def test_ranges(site, asked, start, stop):
    manifest = decode_manifest(site.services.blobs.read(site.bundles["fp32"]))
    layer = max(manifest.layers, key=lambda one: one.size)
    whole = site.services.blobs.read(layer.digest)
    path = f"/v2/models/har/blobs/{layer.digest}"
    answer = site.ask(path, {"Range": asked})
    assert answer.status == 206
    assert answer.body == whole[start:stop]
    first = start if start >= 0 else layer.size + start
    expected = f"bytes {first}-{first + len(answer.body) - 1}/{layer.size}"
    assert answer.headers["Content-Range"] == expected
    assert site.ask(path, {"Range": asked, "If-Range": '"another"'}).status == 200
    assert site.ask(path, {"Range": f"bytes={layer.size}-"}).status == 416
    assert site.ask(path, {"If-None-Match": answer.headers["ETag"]}).status == 304


def test_skopeo_and_oras_pull_out_of_the_store(site, tmp_path):
    oras = pytest.importorskip("oras.client")
    address = f"127.0.0.1:{site.port}/models/har"
    client = oras.OrasClient(hostname=f"127.0.0.1:{site.port}", insecure=True, auth_backend="basic")
    client.auth.set_basic_auth("anybody", site.token)
    client.pull(target=f"{address}:1-fp32", outdir=str(tmp_path / "oras"))
    manifest = decode_manifest(site.services.blobs.read(site.bundles["fp32"]))
    for layer in manifest.layers:
        assert digest_of((tmp_path / "oras" / layer.file).read_bytes()) == layer.digest
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        pytest.skip("skopeo is not installed; packaging/install_test_packages.py installs it")
    done = subprocess.run(
        [skopeo, "--insecure-policy", "copy", "--all", "--preserve-digests",
         "--src-tls-verify=false", f"--src-creds=anybody:{site.token}",
         f"docker://{address}:1-fp32", f"dir:{tmp_path / 'skopeo'}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for part in (manifest.config, *manifest.layers):
        copy = tmp_path / "skopeo" / hex_of(part.digest)
        assert digest_of(copy.read_bytes()) == part.digest


def test_a_store_that_is_away_is_told_and_comes_back(site, s3):
    manifest = decode_manifest(site.services.blobs.read(site.bundles["int8"]))
    path = f"/v2/models/har/blobs/{manifest.layers[0].digest}"
    assert site.ask(path).status == 200
    s3.stop()
    away = site.ask(path)
    assert away.status == 503
    assert b"blobs.unavailable" in away.body or b"blob store" in away.body
    s3.start()
    again = site.ask(path)
    assert (again.status, digest_of(again.body)) == (200, manifest.layers[0].digest)
