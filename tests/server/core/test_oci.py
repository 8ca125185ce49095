"""The pull-only registry, asked byte by byte over a real socket."""

from __future__ import annotations

import base64
import json
import socket

import pytest
from sqlalchemy import select

from edgectl_protocol.chunks import CHUNK_BYTES, make_index
from edgectl_protocol.manifest import CARD_FILE, decode_manifest, layer_by_file, model_layer
from edgectl_protocol.names import digest_of
from edgectl_protocol.referrers import referrers_of
from edgectl_server import pullers
from edgectl_server.api import oci
from edgectl_server.storage.tables import BundleVariant
from server.core.oci_site import running
from waiting import wait_for

BASE = "/v2/models/har"


@pytest.fixture
def site(services, people, clock):
    with running(services, people, clock) as site:
        yield site


@pytest.fixture
def bundles(site):
    """Manifests by variant of version 1; version 2 is not signed yet."""
    bundles = site.version("1")
    site.version("2", state="unsigned", sizes={"int8": 70_000})
    return bundles


@pytest.fixture
def model(site, bundles):
    """The descriptor and the content of the model of 400,000 bytes."""
    manifest = decode_manifest(site.services.blobs.read(bundles["fp32"]))
    layer = model_layer(manifest)
    return layer, site.services.blobs.read(layer.digest)


def error(answer) -> str:
    (only,) = json.loads(answer.body)["errors"]
    assert answer.headers["Content-Type"] == "application/json"
    assert only["message"]
    return str(only["code"])


def test_everything_of_a_bundle_and_each_by_its_digest(site, bundles):
    assert site.ask("/v2/").status == 200
    tags = json.loads(site.ask(f"{BASE}/tags/list").body)
    assert tags == {"name": "models/har", "tags": ["1", "1-fp32", "1-int8"]}
    index = site.ask(f"{BASE}/manifests/1")
    assert index.headers["Content-Type"] == "application/vnd.oci.image.index.v1+json"
    assert index.headers["Docker-Content-Digest"] == digest_of(index.body)
    assert site.ask(f"{BASE}/manifests/{digest_of(index.body)}").body == index.body
    listed = [one["digest"] for one in json.loads(index.body)["manifests"]]
    assert listed == [bundles["int8"], bundles["fp32"]]
    for variant, digest in bundles.items():
        by_tag = site.ask(f"{BASE}/manifests/1-{variant}")
        by_digest = site.ask(f"{BASE}/manifests/{digest}")
        assert digest_of(by_tag.body) == digest
        assert by_tag.body == by_digest.body
        assert by_tag.headers["Cache-Control"] == "no-cache"
        assert "immutable" in by_digest.headers["Cache-Control"]
        manifest = decode_manifest(by_digest.body)
        for part in (manifest.config, *manifest.layers):
            found = site.ask(f"{BASE}/blobs/{part.digest}")
            assert digest_of(found.body) == part.digest
            assert found.headers["ETag"] == f'"{part.digest}"'
            assert found.headers["X-Content-Type-Options"] == "nosniff"
            head = site.ask(f"{BASE}/blobs/{part.digest}", method="HEAD")
            assert (head.status, head.body) == (200, b"")
            assert head.headers["Content-Length"] == str(part.size)


def test_the_chunk_index_is_a_blob_of_the_repository(site, model):
    layer, content = model
    pieces = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
    answer = site.ask(f"{BASE}/blobs/{layer.chunk_index}")
    assert answer.body == make_index(pieces)
    assert digest_of(answer.body) == layer.chunk_index


ONE_RANGE = [
    ("bytes=0-0", 0, 1),
    ("bytes=65536-131071", 65536, 131072),
    ("bytes=399999-", 399_999, 400_000),
    ("bytes=399999-9999999", 399_999, 400_000),
    ("bytes=-1", 399_999, 400_000),
    ("bytes=-999999", 0, 400_000),
    ("BYTES = 1-2", 1, 3),
]
NOT_ONE_RANGE = [
    "bytes=0-0,2-2",
    "bytes=" + ",".join(f"{n}-{n}" for n in range(3000)),  # a thousand answers for one question
    "bytes=5-2",
    "bytes=-",
    "bytes=a-b",
    "bytes=-1-2",
    "bytes=99999999999999999999999-",
    "items=0-1",
    "bytes=\xb2-\xb3",
    "",
]
RANGE_OF_NOTHING = ["bytes=400000-", "bytes=400000-400001", "bytes=-0"]


def test_ranges(site, model):
    layer, content = model
    path = f"{BASE}/blobs/{layer.digest}"
    for header, start, stop in ONE_RANGE:
        answer = site.ask(path, {"Range": header})
        assert (answer.status, answer.body) == (206, content[start:stop]), header
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/400000"
        assert answer.headers["Content-Length"] == str(stop - start)
    for header in NOT_ONE_RANGE:
        answer = site.ask(path, {"Range": header})
        assert (answer.status, answer.body) == (200, content), header[:80]
    for header in RANGE_OF_NOTHING:
        answer = site.ask(path, {"Range": header})
        assert answer.status == 416, header
        assert answer.headers["Content-Range"] == "bytes */400000"
        assert answer.headers["Cache-Control"] == "no-store"


def test_conditions(site, model):
    layer, content = model
    path, etag = f"{BASE}/blobs/{layer.digest}", f'"{layer.digest}"'
    ranged = {"Range": "bytes=0-9"}
    assert site.ask(path, {**ranged, "If-Range": etag}).status == 206
    for other in ('"other"', f"W/{etag}", "Sun, 29 Nov 2026 00:00:00 GMT"):
        answer = site.ask(path, {**ranged, "If-Range": other})
        assert (answer.status, answer.body) == (200, content)
    for known in (etag, f'"x", W/{etag}', "*"):
        answer = site.ask(path, {"If-None-Match": known})
        assert (answer.status, answer.body) == (304, b"")
    assert site.ask(path, {**ranged, "Range": "bytes=0-9"}, method="HEAD").status == 200
    assert "Content-Encoding" not in site.ask(path, {"Accept-Encoding": "gzip, br"}).headers


def test_only_what_a_signed_version_of_that_model_names(site, bundles):
    blobs = site.services.blobs
    upload = blobs.add_bytes(b"somebody's training data")
    unsigned = decode_manifest(
        blobs.read(site.version("3", state="unsigned", sizes={"int8": 99_000})["int8"])
    )
    other = site.version("1", model="vision", sizes={"int8": 88_000})
    other_layer = model_layer(decode_manifest(blobs.read(other["int8"])))
    assert site.ask(f"/v2/models/vision/blobs/{other_layer.digest}").status == 200
    unsigned_layer = model_layer(unsigned)
    for digest in (
        upload,
        unsigned_layer.digest,
        unsigned_layer.chunk_index,
        other_layer.digest,
        bundles["int8"],  # it is a manifest, and no blob
    ):
        answer = site.ask(f"{BASE}/blobs/{digest}")
        assert (answer.status, error(answer)) == (404, "BLOB_UNKNOWN"), digest
    for reference in ("2", "2-int8", "3", other["int8"], upload, "1-int4", "x" * 128):
        answer = site.ask(f"{BASE}/manifests/{reference}")
        assert (answer.status, error(answer)) == (404, "MANIFEST_UNKNOWN"), reference


ELSEWHERE = [
    ("/v2/models/none/tags/list", 404, "NAME_UNKNOWN"),
    ("/v2/models/har/blobs/sha256:zz", 400, "DIGEST_INVALID"),
    ("/v2/models/har/blobs/sha512:" + "0" * 128, 400, "DIGEST_INVALID"),
    ("/v2/models/har/blobs/sha256:" + "A" * 64, 400, "DIGEST_INVALID"),
    ("/v2/models/har/blobs/sha256:" + "0" * 63 + "%0a", 400, "NAME_INVALID"),
    ("/v2/models/har/manifests/-1", 400, "TAG_INVALID"),
    ("/v2/models/har/manifests/" + "x" * 129, 400, "TAG_INVALID"),
    ("/v2/models/har/manifests/%2e%2e", 400, "TAG_INVALID"),
    ("/v2/models/har/tags/list?n=many", 400, "TAG_INVALID"),
    ("/v2/models/HAR/tags/list", 400, "NAME_INVALID"),
    ("/v2/models/../har/tags/list", 400, "NAME_INVALID"),
    ("/v2/models/%2e%2e/har/tags/list", 400, "NAME_INVALID"),
    ("/v2/models%2f..%2f..%2fetc/blobs/sha256:" + "0" * 64, 400, "NAME_INVALID"),
    ("/v2/models/har%00/tags/list", 400, "NAME_INVALID"),
    ("/v2/models/har/extra/tags/list", 400, "NAME_INVALID"),
    ("/v2//tags/list", 400, "NAME_INVALID"),
    ("/v2/models/ha%CC%81r/tags/list", 400, "NAME_INVALID"),
    ("/v2/har/tags/list", 400, "NAME_INVALID"),
    ("/v2/_catalog", 404, "NAME_UNKNOWN"),
    ("/v2/models/har/blobs/uploads/", 404, "NAME_UNKNOWN"),
]


def test_names_that_lead_elsewhere(site, bundles):
    for path, status, code in ELSEWHERE:
        answer = site.ask(path)
        assert (answer.status, error(answer)) == (status, code), path


def test_nothing_is_pushed_or_deleted(site, bundles):
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for path in (f"{BASE}/manifests/1", f"{BASE}/blobs/{bundles['int8']}", f"{BASE}/tags/list"):
            answer = site.ask(path, method=method)
            assert (answer.status, error(answer)) == (405, "UNSUPPORTED")
    assert site.ask(f"{BASE}/manifests/1").status == 200


def test_tags_of_versions_with_plus_and_names_that_collide(site):
    site.version("1.0+pi4", sizes={"int8": 70_000})
    first = site.version("2", sizes={"int8": 71_000})
    site.version("2-int8", sizes={"int8": 72_000})
    tags = json.loads(site.ask(f"{BASE}/tags/list").body)["tags"]
    assert tags == ["1.0_pi4", "1.0_pi4-int8", "2", "2-int8", "2-int8-int8"]
    version = site.ask(f"{BASE}/manifests/2-int8")  # the version's tag wins over the variant's
    assert version.headers["Content-Type"].startswith("application/vnd.oci.image.index")
    assert site.ask(f"{BASE}/manifests/{first['int8']}").status == 200
    page = site.ask(f"{BASE}/tags/list?n=2")
    assert json.loads(page.body)["tags"] == tags[:2]
    assert page.headers["Link"] == f'<{BASE}/tags/list?n=2&last={tags[1]}>; rel="next"'
    rest = site.ask(f"{BASE}/tags/list?n=9&last={tags[1]}")
    assert (json.loads(rest.body)["tags"], rest.headers["Link"]) == (tags[2:], None)


def test_the_documents_of_a_bundle_refer_to_it(site, bundles):
    digest = bundles["int8"]
    answer = site.ask(f"{BASE}/referrers/{digest}")
    assert answer.headers["Content-Type"] == "application/vnd.oci.image.index.v1+json"
    assert "OCI-Filters-Applied" not in answer.headers
    (listed,) = json.loads(answer.body)["manifests"]
    assert listed["artifactType"] == "text/markdown"
    found = site.ask(f"{BASE}/manifests/{listed['digest']}")
    assert digest_of(found.body) == listed["digest"]
    assert len(found.body) == listed["size"]
    artifact = json.loads(found.body)
    assert artifact["artifactType"] == listed["artifactType"]
    assert artifact["subject"]["digest"] == digest
    (document,) = artifact["layers"]
    card = layer_by_file(decode_manifest(site.services.blobs.read(digest)), CARD_FILE)
    assert document["digest"] == card.digest
    for part in (artifact["config"], document):
        content = site.ask(f"{BASE}/blobs/{part['digest']}").body
        assert (digest_of(content), len(content)) == (part["digest"], part["size"])


def test_referrers_of_one_type_and_of_what_is_no_bundle(site, bundles):
    def kinds(of, query=""):
        answer = site.ask(f"{BASE}/referrers/{of}{query}")
        assert answer.status == 200
        assert answer.headers.get("OCI-Filters-Applied") == ("artifactType" if query else None)
        return [one["artifactType"] for one in json.loads(answer.body)["manifests"]]

    assert kinds(bundles["int8"], "?artifactType=text/markdown") == ["text/markdown"]
    assert kinds(bundles["int8"], "?artifactType=application/vnd.cyclonedx%2Bjson") == []
    index = site.ask(f"{BASE}/manifests/1").headers["Docker-Content-Digest"]
    listed = json.loads(site.ask(f"{BASE}/referrers/{bundles['int8']}").body)["manifests"]
    for digest in (index, listed[0]["digest"], digest_of(b"never seen")):
        assert kinds(digest) == []
    # Of what is not signed nothing is told, nor is there an artifact of it.
    with site.services.database.read() as session:
        rows = session.scalars(select(BundleVariant)).all()
    (waits,) = {one.manifest for one in rows} - set(bundles.values())
    assert kinds(waits) == []
    content = site.services.blobs.read(waits)
    (artifact,) = referrers_of(content, decode_manifest(content))
    assert error(site.ask(f"{BASE}/manifests/{artifact.digest}")) == "MANIFEST_UNKNOWN"
    assert error(site.ask(f"{BASE}/referrers/sha256:x")) == "DIGEST_INVALID"


# ------------------------------------------------------------ who may


def paths(bundles):
    return (
        "/v2/",
        f"{BASE}/manifests/1",
        f"{BASE}/manifests/{bundles['int8']}",
        f"{BASE}/blobs/{bundles['int8']}",
        f"{BASE}/tags/list",
        f"{BASE}/referrers/{bundles['int8']}",
        "/v2/models/none/tags/list",
    )


def test_every_route_is_asked_without_credentials():
    """What is added is added to `paths` too."""
    found = {route.path for route in oci.make_oci_application(None).routes}
    named = ("", "manifests/{reference}", "blobs/{digest}", "tags/list", "referrers/{digest}")
    assert found == {f"/{{name:path}}/{one}" if one else "/" for one in named}


def test_nobody_pulls_without_saying_who_they_are(site, bundles, people, services):
    session = services.auth.start_session("viewer").cookie
    wrong = base64.b64encode(b"viewer:correct horse battery").decode()
    for headers in (
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic"},
        {"Authorization": f"Basic {wrong}"},  # a password is no token
        {"Authorization": "Basic \xff\xff"},
        {"Authorization": f"Digest {site.token}"},
        {"Authorization": "EdgectlDevice"},
        {"Authorization": "", "Cookie": f"edgectl_session={session}"},
    ):
        for path in paths(bundles):
            for method in ("GET", "HEAD"):
                answer = site.ask(path, headers, method=method)
                assert answer.status == 401, (path, headers)
                assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
                if method == "GET":
                    assert error(answer) == "UNAUTHORIZED"


def test_a_token_pulls_as_bearer_and_as_password(site, bundles, services):
    owner = services.auth.check_password("viewer", "correct horse battery", "t")
    for name in (b"", b"anything", b"viewer"):
        password = base64.b64encode(name + b":" + site.token.encode()).decode()
        assert site.ask("/v2/", {"Authorization": f"basic {password}"}).status == 200
    other = services.auth.create_token(owner, "t", None, None, ["tokens"]).text
    answer = site.ask(f"{BASE}/manifests/1", {"Authorization": f"Bearer {other}"})
    assert (answer.status, error(answer)) == (403, "DENIED")


def test_a_device_pulls_with_its_own_key(site, model):
    layer, content = model
    path = f"{BASE}/blobs/{layer.digest}"
    device, other = site.device("pi-1"), site.device("pi-2")
    assert site.ask(path, device.proof(path)).body == content
    ranged = site.ask(path, {**device.proof(path, skew_s=-299), "Range": "bytes=1-3"})
    assert ranged.body == content[1:4]
    for wrong in (
        device.proof(path, key=other.key),
        device.proof(path, name="pi-2"),
        device.proof(path, name="nobody"),
        device.proof(f"{BASE}/manifests/1"),  # it is for one address
        device.proof(path + "?x=1"),
    ):
        answer = site.ask(path, wrong)
        assert (answer.status, error(answer)) == (401, "UNAUTHORIZED")
        assert json.loads(answer.body)["errors"][0]["detail"]["code"] == "pull.proof"
    for skew_s in (-301, 301):
        answer = site.ask(path, device.proof(path, skew_s=skew_s))
        assert answer.status == 401
        assert json.loads(answer.body)["errors"][0]["detail"]["code"] == "pull.clock"
        assert answer.headers["Date"]


def test_a_device_that_was_shut_out_or_whose_certificate_has_ended(site, clock, bundles):
    path = f"{BASE}/manifests/1"
    for state in ("revoked", "decommissioned"):
        gone = site.device(f"pi-{state}", state=state)
        assert site.ask(path, gone.proof(path)).status == 401
    device = site.device("pi-1")
    assert site.ask(path, device.proof(path)).status == 200
    clock.pass_s(86401)
    answer = site.ask(path, device.proof(path))
    assert json.loads(answer.body)["errors"][0]["detail"]["code"] == "pull.expired"


# ------------------------------------------------------------ how much


def test_bytes_are_counted_for_who_took_them(site, model):
    layer, content = model
    path = f"{BASE}/blobs/{layer.digest}"
    device = site.device("pi-1")
    site.ask(path, device.proof(path))
    site.ask(path, {**device.proof(path), "Range": "bytes=0-99"})
    site.ask(path, {**device.proof(path), "Range": "bytes=400000-"})
    site.ask(path, {"Range": "bytes=0-9"})
    counted = {one.puller.name: one for one in site.services.pullers.pulled()}
    assert counted["device/pi-1"].bytes_sent == len(content) + 100
    assert counted["device/pi-1"].answers == 2
    (person,) = [one for name, one in counted.items() if name.startswith("token/")]
    assert (person.puller.user, person.bytes_sent) == ("viewer", 10)


def test_one_puller_does_not_take_every_place(site, monkeypatch):
    """Clients who do not read hold their own places, and lose them."""
    monkeypatch.setattr(pullers, "BODIES_MAX_EACH", 2)
    monkeypatch.setattr(oci, "PIECE_S_MAX", 1.0)
    big = decode_manifest(
        site.services.blobs.read(site.version("9", sizes={"int8": 60_000_000})["int8"])
    )
    path = f"{BASE}/blobs/{model_layer(big).digest}"
    greedy, other = site.device("greedy"), site.device("other")
    lines = "".join(f"{name}: {value}\r\n" for name, value in greedy.proof(path).items())
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()
    idle = [socket.create_connection(("127.0.0.1", site.port), 60) for _ in range(2)]
    try:
        for one in idle:
            one.sendall(request)
            assert one.recv(12).startswith(b"HTTP/1.1 200")
        refused = site.ask(path, {**greedy.proof(path), "Range": "bytes=0-1"})
        assert (refused.status, error(refused)) == (429, "TOOMANYREQUESTS")
        assert refused.headers["Retry-After"] == "5"
        assert site.ask(path, {**other.proof(path), "Range": "bytes=0-1"}).status == 206
        wait_for(
            lambda: site.ask(path, {**greedy.proof(path), "Range": "bytes=0-1"}).status == 206,
            "the places of those who do not read",
        )
    finally:
        for one in idle:
            one.close()


def test_who_hangs_up_is_sent_no_more(site):
    big = decode_manifest(
        site.services.blobs.read(site.version("9", sizes={"int8": 60_000_000})["int8"])
    )
    path = f"{BASE}/blobs/{model_layer(big).digest}"
    device = site.device("pi-1")
    lines = "".join(f"{name}: {value}\r\n" for name, value in device.proof(path).items())
    with socket.create_connection(("127.0.0.1", site.port), 60) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
        assert client.recv(12).startswith(b"HTTP/1.1 200")
    wait_for(lambda: not site.services.pullers._under_way, "the end of what nobody reads")
    (counted,) = site.services.pullers.pulled()
    assert counted.bytes_sent < 30_000_000
