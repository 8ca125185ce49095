"""Uploads in pieces: what came is kept, what is wrong is not, nobody writes over another."""

import hashlib
import os
import shutil

import pytest

from edgectl_server.api.limits import BODY_BYTES_MAX
from edgectl_server.errors import Conflict
from edgectl_server.storage.tables import Blob
from edgectl_server.uploads import Uploads


def named(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def send(client, people):
    def send(content, *, offset=0, stop=None, length=None, name=None):
        return client.patch(
            f"/api/v1/uploads/{name or named(content)}",
            content=content[offset:stop],
            headers={
                **people.operator,
                "Upload-Offset": str(offset),
                "Upload-Length": str(len(content) if length is None else length),
            },
        )

    return send


@pytest.fixture
def ask(client, people):
    def ask(content):
        answer = client.head(f"/api/v1/uploads/{named(content)}", headers=people.operator)
        assert answer.status_code == 200
        return int(answer.headers["upload-offset"]), answer.headers["upload-complete"]

    return ask


def part_of(services, content):
    return services.settings.data_path / "uploads" / f"{named(content)}.part"


@pytest.mark.parametrize("length", [0, 1, BODY_BYTES_MAX + 12345])
def test_a_whole_file_in_one_request(services, send, ask, length):
    content = os.urandom(length)
    assert ask(content) == (0, "?0")
    answer = send(content)
    assert answer.status_code == 204, answer.text
    assert answer.headers["upload-complete"] == "?1"
    assert ask(content) == (length, "?1")
    digest = f"sha256:{named(content)}"
    assert services.blobs.read(digest) == content
    assert not part_of(services, content).exists()
    with services.database.read() as session:
        assert session.get(Blob, digest).size == length
    again = send(content)
    assert (again.status_code, again.headers["upload-complete"]) == (204, "?1")


def test_in_pieces_and_over_a_restart(services, clock, send, ask):
    content = os.urandom(3_000_000)
    assert send(content, stop=1_000_000).headers["upload-offset"] == "1000000"
    assert ask(content) == (1_000_000, "?0")
    assert part_of(services, content).stat().st_mode & 0o777 == 0o600
    services.uploads = Uploads(
        services.settings.data_path / "uploads",
        services.settings,
        services.blobs,
        services.database,
        clock,
    )
    assert ask(content) == (1_000_000, "?0")
    assert send(content, offset=1_000_000, stop=2_500_000).status_code == 204
    assert send(content, offset=2_500_000).headers["upload-complete"] == "?1"
    assert services.blobs.read(f"sha256:{named(content)}") == content


@pytest.mark.parametrize("offset", [0, 99, 101, 1000])
def test_a_wrong_offset_is_told_the_right_one(services, send, offset):
    content = os.urandom(1000)
    send(content, stop=100)
    answer = send(content, offset=offset)
    assert answer.status_code == 409
    assert answer.json()["code"] == "upload.offset"
    assert answer.json()["data"] == {"offset": 100}
    assert part_of(services, content).read_bytes() == content[:100]


def test_other_content_than_announced_is_refused_and_forgotten(services, send, ask):
    content = os.urandom(1000)
    answer = send(content[:-1] + b"!", name=named(content))
    assert answer.status_code == 422
    assert answer.json()["code"] == "upload.digest"
    assert ask(content) == (0, "?0")
    assert not part_of(services, content).exists()
    assert send(content).headers["upload-complete"] == "?1"


def test_more_than_announced_is_refused(services, send, ask):
    content = os.urandom(1000)
    answer = send(content, length=999)
    assert (answer.status_code, answer.json()["code"]) == (413, "upload.length")
    assert ask(content)[0] <= 999
    assert not services.blobs.exists(f"sha256:{named(content)}")


def test_a_file_over_the_limit_is_refused_before_it_comes(services, send, ask):
    content = os.urandom(1000)
    answer = send(content, length=services.settings.upload_bytes_max + 1)
    assert (answer.status_code, answer.json()["code"]) == (413, "upload.size")
    assert ask(content) == (0, "?0")


def test_a_full_disk_is_said_before_it_is_full(send, monkeypatch):
    content = os.urandom(1000)
    usage = shutil.disk_usage("/")._replace(free=256 * 1024**2 + 999)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    answer = send(content)
    assert (answer.status_code, answer.json()["code"]) == (503, "upload.disk")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=usage.free + 1))
    assert send(content).status_code == 204


def test_room_is_kept_for_what_is_coming(services, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=services.settings.upload_free_bytes_min + 1500)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with services.uploads.writing("a" * 64, 0, 1000):
        with pytest.raises(Exception, match="1000 bytes to come") as caught:
            services.uploads.writing("b" * 64, 0, 1000).__enter__()
        assert caught.value.code == "upload.disk"
    with services.uploads.writing("b" * 64, 0, 1000):
        pass


def test_two_requests_do_not_write_at_once(services, send):
    content = os.urandom(1000)
    with services.uploads.writing(named(content), 0, 1000) as writer:
        answer = send(content)
        assert (answer.status_code, answer.json()["code"]) == (409, "upload.busy")
        with pytest.raises(Conflict):
            services.uploads.finish(named(content), 1000)
        writer.write(content[:10])
    assert send(content, offset=10).headers["upload-complete"] == "?1"


@pytest.mark.parametrize("name", ["0" * 63, "0" * 65, "g" * 64, "A" * 64, "..", "%2e%2e%2fx"])
def test_only_a_digest_names_an_upload(client, people, name):
    headers = {**people.operator, "Upload-Offset": "0", "Upload-Length": "1"}
    answer = client.patch(f"/api/v1/uploads/{name}", content=b"x", headers=headers)
    assert answer.status_code in {404, 405, 422}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upload-Offset": "0"},
        {"Upload-Offset": "-1", "Upload-Length": "1"},
        {"Upload-Offset": "0", "Upload-Length": "x"},
    ],
)
def test_wrong_headers_are_refused(client, people, headers):
    answer = client.patch(
        f"/api/v1/uploads/{'0' * 64}", content=b"x", headers={**people.operator, **headers}
    )
    assert answer.status_code == 422


def test_old_parts_are_swept_and_young_ones_kept(services, clock, send):
    old, young = os.urandom(10), os.urandom(10)
    for content in (old, young):
        send(content, stop=5)
    at = clock().timestamp() - services.settings.upload_keep_s - 1
    os.utime(part_of(services, old), (at, at))
    Uploads(
        services.settings.data_path / "uploads",
        services.settings,
        services.blobs,
        services.database,
        clock,
    )
    assert not part_of(services, old).exists()
    assert part_of(services, young).exists()


def test_a_link_in_the_folder_is_not_followed(services, send, tmp_path):
    content = os.urandom(10)
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    part_of(services, content).symlink_to(victim)
    assert send(content).status_code >= 400
    assert victim.read_bytes() == b""
