"""Other people's registry clients pull bundles, and every digest stays what it was."""

from __future__ import annotations

import shutil
import subprocess
from types import SimpleNamespace

import pytest

from edgectl_protocol.manifest import CARD_FILE, decode_manifest, layer_by_file
from edgectl_protocol.names import digest_of, hex_of
from server.core.oci_site import running


@pytest.fixture
def site(services, people, clock):
    with running(services, people, clock) as site:
        site.bundles = site.version("1.0+pi4")
        yield site


@pytest.fixture
def skopeo(site):
    found = shutil.which("skopeo")
    if found is None:
        pytest.skip("skopeo is not installed; packaging/install_test_packages.py installs it")

    def run(*words: str, token: str = site.token) -> SimpleNamespace:
        credentials = ["--src-tls-verify=false", f"--src-creds=anybody:{token}"]
        done = subprocess.run(
            [found, "--insecure-policy", "copy", *credentials, *words],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return SimpleNamespace(code=done.returncode, text=done.stdout + done.stderr)

    return run


def address(site, reference: str) -> str:
    return f"docker://127.0.0.1:{site.port}/models/har{reference}"


def test_skopeo_copies_a_variant_with_its_digest(site, skopeo, tmp_path):
    for reference in (":1.0_pi4-fp32", f"@{site.bundles['fp32']}"):
        folder = tmp_path / hex_of(digest_of(reference.encode()))
        copied = skopeo("--preserve-digests", address(site, reference), f"dir:{folder}")
        assert copied.code == 0, copied.text
        content = (folder / "manifest.json").read_bytes()
        assert digest_of(content) == site.bundles["fp32"]
        manifest = decode_manifest(content)
        for part in (manifest.config, *manifest.layers):
            assert digest_of((folder / hex_of(part.digest)).read_bytes()) == part.digest


def test_skopeo_copies_a_version_with_all_its_variants(site, skopeo, tmp_path):
    folder = tmp_path / "version"
    # It writes the index itself anew, which nobody signs, and which older releases cannot keep.
    copied = skopeo("--all", address(site, ":1.0_pi4"), f"dir:{folder}")
    assert copied.code == 0, copied.text
    for digest in site.bundles.values():
        copy = folder / f"{hex_of(digest)}.manifest.json"
        assert digest_of(copy.read_bytes()) == digest


def test_skopeo_is_told_that_it_may_not(site, skopeo, tmp_path):
    refused = skopeo(address(site, ":1.0_pi4-fp32"), f"dir:{tmp_path / 'x'}", token="wrong")
    assert refused.code != 0
    assert "unauthorized: pulling needs an API token" in refused.text


def test_oras_pulls_the_files_under_their_names(site, tmp_path):
    oras = pytest.importorskip("oras.client")
    client = oras.OrasClient(hostname=f"127.0.0.1:{site.port}", insecure=True, auth_backend="basic")
    client.auth.set_basic_auth("anybody", site.token)
    files = client.pull(
        target=f"127.0.0.1:{site.port}/models/har:1.0_pi4-int8", outdir=str(tmp_path)
    )
    manifest = decode_manifest(site.services.blobs.read(site.bundles["int8"]))
    assert len(files) == len(manifest.layers)
    for layer in manifest.layers:
        assert digest_of((tmp_path / layer.file).read_bytes()) == layer.digest
    tags = client.get_tags(f"127.0.0.1:{site.port}/models/har")
    assert tags == ["1.0_pi4", "1.0_pi4-fp32", "1.0_pi4-int8"]


def test_skopeo_and_oras_pull_what_refers_to_a_bundle(site, skopeo, tmp_path):
    oras = pytest.importorskip("oras.client")
    client = oras.OrasClient(hostname=f"127.0.0.1:{site.port}", insecure=True, auth_backend="basic")
    client.auth.set_basic_auth("anybody", site.token)
    bundle = site.bundles["int8"]
    card = layer_by_file(decode_manifest(site.services.blobs.read(bundle)), CARD_FILE)
    listed = client.do_request(
        f"http://127.0.0.1:{site.port}/v2/models/har/referrers/{bundle}"
    ).json()["manifests"]
    (digest,) = [one["digest"] for one in listed if one["artifactType"] == "text/markdown"]
    name = f"127.0.0.1:{site.port}/models/har@{digest}"
    client.pull(target=name, outdir=str(tmp_path / "oras"))
    assert digest_of((tmp_path / "oras" / CARD_FILE).read_bytes()) == card.digest
    copied = skopeo("--preserve-digests", f"docker://{name}", f"dir:{tmp_path / 'skopeo'}")
    assert copied.code == 0, copied.text
    assert digest_of((tmp_path / "skopeo" / "manifest.json").read_bytes()) == digest
    assert digest_of((tmp_path / "skopeo" / hex_of(card.digest)).read_bytes()) == card.digest
