"""A mirror of a real server, in this process: what it keeps, what it believes, whom it lets in."""

from __future__ import annotations

import base64
import http.client
import json
import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from edgectl.mirror import door as door_module
from edgectl.mirror.cache import Cache
from edgectl.mirror.door import Door
from edgectl.mirror.service import Mirror
from edgectl.mirror.upstream import Upstream
from edgectl_protocol.manifest import decode_manifest, model_layer
from edgectl_protocol.names import digest_of, hex_of
from edgectl_protocol.pulls import CERTIFICATE_HEADER, blob_path, manifest_path
from server.core.conftest import blobs_url, clock, people, services  # noqa: F401
from server.core.oci_site import Answer, Device, running


class Authority:
    """Signs certificates and lists of revoked ones."""

    def __init__(self, clock) -> None:  # noqa: F811
        self.clock = clock
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self.sign("authority", self.key.public_key(), serial=1)
        self.revoked: list[int] = []

    def sign(self, name: str, public_key, *, serial: int, days: float = 1) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(serial)
            .not_valid_before(self.clock() - timedelta(days=10))
            .not_valid_after(self.clock() + timedelta(days=days))
            .sign(self.key, SHA256())
        )

    @property
    def certificate_pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def pem(self) -> str:
        built = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(self.clock())
            .next_update(self.clock() + timedelta(days=1))
        )
        for serial in self.revoked:
            row = x509.RevokedCertificateBuilder().serial_number(serial)
            built = built.add_revoked_certificate(row.revocation_date(self.clock()).build())
        return built.sign(self.key, SHA256()).public_bytes(Encoding.PEM).decode()


class Running:
    """A mirror on loopback, and its server."""

    def __init__(self, site, folder, authority, *, size=10**9, is_open=False) -> None:
        self.site = site
        self.authority = authority
        self.upstream = Upstream(f"http://127.0.0.1:{site.port}", site.token)
        self.cache = Cache(folder, size)
        self.door = None if is_open else Door(folder, self.upstream, site.clock)
        self.mirror = Mirror(
            "127.0.0.1", 0, cache=self.cache, upstream=self.upstream, door=self.door
        )
        self.thread = threading.Thread(target=self.mirror.serve_forever, args=(0.05,))
        self.thread.start()

    def stop(self) -> None:
        self.mirror.shutdown()
        self.thread.join()
        self.mirror.server_close()
        self.upstream.close()

    def ask(self, path: str, headers=None, method: str = "GET") -> Answer:
        connection = http.client.HTTPConnection(*self.mirror.server_address[:2], timeout=20)
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def device(self, name: str, *, serial: int = 7, certificate_of: str = "", days: float = 1):
        device = Device(name, self.site.clock)
        certificate = self.authority.sign(
            certificate_of or name, device.key.public_key(), serial=serial, days=days
        )
        der = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
        return lambda path, **options: {
            **device.proof(path, **options),
            CERTIFICATE_HEADER: der,
        }

    def upstream_bytes(self) -> int:
        return sum(one.bytes_sent for one in self.site.services.pullers.pulled())


@pytest.fixture
def authority(clock):  # noqa: F811
    return Authority(clock)


@pytest.fixture
def site(services, people, clock, authority):  # noqa: F811
    services.authority = SimpleNamespace(certificate_pem=authority.certificate_pem)
    services.revocations = authority
    with running(services, people, clock) as site:
        site.bundles = site.version("1")
        yield site


@pytest.fixture
def start(site, tmp_path, authority):
    started = []

    def start(**options):
        started.append(Running(site, tmp_path / "cache", authority, **options))
        return started[-1]

    yield start
    for one in started:
        if one.thread.is_alive():
            one.stop()


def parts(site, variant="fp32"):
    """The addresses of a bundle's manifest, layers and chunk indexes, with their digests."""
    digest = site.bundles[variant]
    manifest = decode_manifest(site.services.blobs.read(digest))
    named = [one.digest for one in (manifest.config, *manifest.layers)]
    named += [one.chunk_index for one in manifest.layers if one.chunk_index]
    return [(manifest_path("har", digest), digest)] + [
        (blob_path("har", one), one) for one in dict.fromkeys(named)
    ]


def test_everything_is_fetched_once_and_served_without_the_server(site, start, tmp_path):
    mirror = start(is_open=True)
    total = 0
    for path, digest in parts(site):
        answer = mirror.ask(path)
        assert (answer.status, digest_of(answer.body)) == (200, digest)
        assert answer.headers["ETag"] == f'"{digest}"'
        total += len(answer.body)
    assert mirror.upstream_bytes() == mirror.cache.bytes_held == total
    path, digest = max(parts(site), key=lambda one: len(mirror.ask(one[0]).body))
    whole = mirror.ask(path).body
    ranged = mirror.ask(path, {"Range": "bytes=65536-131071"})
    assert (ranged.status, ranged.body) == (206, whole[65536:131072])
    assert ranged.headers["Content-Range"] == f"bytes 65536-131071/{len(whole)}"
    assert mirror.ask(path, {"Range": f"bytes={len(whole)}-"}).status == 416
    assert mirror.ask(path, {"If-None-Match": f'"{digest}"'}).status == 304
    head = mirror.ask(path, method="HEAD")
    assert (head.headers["Content-Length"], head.body) == (str(len(whole)), b"")
    assert mirror.upstream_bytes() == total
    mirror.stop()
    site.services.auth.delete_user("viewer")  # the server gives nothing any more
    again = start(is_open=True)
    assert again.ask(path).body == whole
    other = parts(site, "int8")[0][0]
    assert again.ask(other).status == 502


def test_what_refers_to_a_bundle_is_the_same_as_on_the_server(site, start):
    mirror = start(is_open=True)
    digest = site.bundles["fp32"]
    path = f"/v2/models/har/referrers/{digest}"
    there = site.ask(path)
    here = mirror.ask(path)
    assert (here.status, here.body) == (200, there.body)
    assert here.headers["Content-Type"] == there.headers["Content-Type"]
    (artifact,) = json.loads(here.body)["manifests"]
    found = mirror.ask(manifest_path("har", artifact["digest"]))
    assert digest_of(found.body) == artifact["digest"]
    for part in (json.loads(found.body)["config"], *json.loads(found.body)["layers"]):
        assert digest_of(mirror.ask(blob_path("har", part["digest"])).body) == part["digest"]
    for query, listed in (("text/markdown", 1), ("application/vnd.cyclonedx%2Bjson", 0)):
        answer = mirror.ask(f"{path}?artifactType={query}")
        assert len(json.loads(answer.body)["manifests"]) == listed
        assert answer.headers["OCI-Filters-Applied"] == "artifactType"
    others = [artifact["digest"], "sha256:" + "0" * 64]
    for other in others:
        answer = mirror.ask(f"/v2/models/har/referrers/{other}")
        assert (answer.status, json.loads(answer.body)["manifests"]) == (200, [])
    assert mirror.ask(f"{path}?x=1").status == 404
    assert mirror.ask(path, method="HEAD").body == b""


def test_many_at_the_same_time_cost_the_server_one(site, start):
    site.bundles |= site.version("9", sizes={"big": 8_000_000})
    mirror = start(is_open=True)
    layer = model_layer(decode_manifest(site.services.blobs.read(site.bundles["big"])))
    answers = []

    def pull() -> None:
        answers.append(mirror.ask(blob_path("har", layer.digest), {"Range": "bytes=0-9"}))

    threads = [threading.Thread(target=pull) for _ in range(12)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert {one.status for one in answers} == {206}
    assert mirror.upstream_bytes() == layer.size


def test_content_that_is_not_what_its_digest_says_is_not_kept(site, start, monkeypatch):
    mirror = start(is_open=True)
    (path, digest), *_ = parts(site)
    stored = site.services.blobs.read
    monkeypatch.setattr(
        site.services.blobs, "read", lambda asked, *rest: stored(asked, *rest)[:-1] + b"x"
    )
    answer = mirror.ask(path)
    assert answer.status == 502
    assert json.loads(answer.body)["errors"][0]["detail"]["code"] == "mirror.content"
    assert mirror.cache.bytes_held == 0
    monkeypatch.undo()
    assert digest_of(mirror.ask(path).body) == digest


def test_a_file_that_was_damaged_while_it_was_off_is_fetched_again(site, start, tmp_path):
    mirror = start(is_open=True)
    path, digest = parts(site)[1]
    content = mirror.ask(path).body
    mirror.stop()
    file = tmp_path / "cache" / "blobs" / hex_of(digest)
    file.write_bytes(b"\0" * len(content))
    (tmp_path / "cache" / "blobs" / "..x").write_bytes(b"somebody's")
    (tmp_path / "cache" / "incoming" / hex_of(digest)).write_bytes(b"half")
    assert start(is_open=True).ask(path).body == content


def test_a_disk_that_is_full_is_told(site, start, monkeypatch):
    mirror = start(is_open=True)
    path, digest = parts(site)[0]

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mirror.cache, "_make_room", full)
    answer = mirror.ask(path)
    assert answer.status == 502
    assert json.loads(answer.body)["errors"][0]["detail"]["code"] == "mirror.disk"
    monkeypatch.undo()
    assert digest_of(mirror.ask(path).body) == digest


def test_the_cache_has_a_bound_and_keeps_what_is_asked_for(site, start):
    sizes = {f"v{number}": 300_000 + number for number in range(5)}
    bundles = site.version("8", sizes=sizes)
    layers = {
        variant: model_layer(decode_manifest(site.services.blobs.read(digest))).digest
        for variant, digest in bundles.items()
    }
    mirror = start(is_open=True, size=1_000_000)
    for variant in ("v0", "v1", "v2", "v0", "v3"):  # v0 again, so that v1 is the oldest
        assert mirror.ask(blob_path("har", layers[variant])).status == 200
    assert mirror.cache.bytes_held <= 1_000_000
    before = mirror.upstream_bytes()
    for variant in ("v0", "v2", "v3"):
        mirror.ask(blob_path("har", layers[variant]))
    assert mirror.upstream_bytes() == before
    mirror.ask(blob_path("har", layers["v1"]))
    assert mirror.upstream_bytes() == before + sizes["v1"]


def test_other_addresses_and_methods(site, start):
    mirror = start(is_open=True)
    digest = site.bundles["fp32"]
    for path in (
        "/",
        "/v2/",
        "/v2/models/har/manifests/1",
        "/v2/models/har/tags/list",
        f"/v2/models/../models/har/manifests/{digest}",
        f"/v2/models/har/manifests/{digest}?x=1",
        f"/v2/models/har%2f/manifests/{digest}",
        "/v2/models/har/blobs/sha256:../../../etc/passwd",
        "/../../etc/passwd",
        "/api/v1/devices",
    ):
        assert mirror.ask(path).status == 404, path
    assert mirror.ask(blob_path("har", "sha256:" + "0" * 64)).status == 404
    for method in ("POST", "PUT", "DELETE", "PATCH", "PROPFIND"):
        assert mirror.ask(manifest_path("har", digest), method=method).status == 405
    assert mirror.ask(blob_path("vision", digest)).status == 404


def test_devices_of_the_installation_and_nobody_else(site, start, authority, clock):  # noqa: F811
    mirror = start()
    path, digest = parts(site)[0]
    device = mirror.device("pi-1")
    assert digest_of(mirror.ask(path, device(path)).body) == digest
    stranger = Running.device(
        SimpleNamespace(site=site, authority=Authority(clock)), "pi-1"
    )  # of another authority with the same name
    other_key = mirror.device("pi-1")
    mixed = {**device(path), CERTIFICATE_HEADER: other_key(path)[CERTIFICATE_HEADER]}
    odd = device(path)["Authorization"][:-2] + '"'  # half a byte less
    for headers in (
        {},
        {"Authorization": f"Bearer {site.token}"},
        {"Authorization": device(path)["Authorization"]},
        {**device(path), CERTIFICATE_HEADER: "x"},
        {**device(path), CERTIFICATE_HEADER: "A" * 100_00},
        stranger(path),
        mixed,
        mirror.device("pi-2", certificate_of="pi-1")(path),
        mirror.device("pi-1", days=-1)(path),
        device("/v2/other"),
        {**device(path), "Authorization": odd},
    ):
        answer = mirror.ask(path, headers)
        assert answer.status == 401, headers
        assert json.loads(answer.body)["errors"][0]["detail"]["code"] == "pull.proof"
    late = mirror.ask(path, device(path, skew_s=400))
    assert json.loads(late.body)["errors"][0]["detail"]["code"] == "pull.clock"
    assert late.headers["Date"]


def test_a_revoked_device_pulls_no_more_and_the_list_outlives_the_server(
    site, start, authority, monkeypatch
):
    monkeypatch.setattr(door_module, "LIST_S", 0.0)
    mirror = start()
    path, _ = parts(site)[0]
    good, bad = mirror.device("pi-1", serial=7), mirror.device("pi-2", serial=8)
    assert mirror.ask(path, bad(path)).status == 200
    authority.revoked.append(8)
    assert mirror.ask(path, bad(path)).status == 401
    assert mirror.ask(path, good(path)).status == 200
    mirror.stop()
    site.services.revocations = None  # the server fails
    site.services.authority = None
    again = start()
    assert again.ask(path, bad(path)).status == 401
    assert again.ask(path, good(path)).status == 200
