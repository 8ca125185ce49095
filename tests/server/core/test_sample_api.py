"""Samples by the API: who sees which are here, who reads them, and what the audit log tells."""

from datetime import UTC, datetime, timedelta

import pytest

from edgectl_protocol.names import digest_of
from edgectl_server.contracts import Contracts
from edgectl_server.device_uploads import open_device_uploads
from edgectl_server.ground_truth import GroundTruth
from edgectl_server.sample_keys import SampleKeys
from edgectl_server.sample_policies import SamplePolicies
from edgectl_server.samples import SAMPLE, SampleLimits, Samples
from edgectl_server.signing.sealed_secrets import SealedSecrets
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.tables import DeviceUpload, SampleRow
from server.fleet.fleet_helpers import new_device

TAKEN = datetime(2026, 11, 1, 12, tzinfo=UTC)
CONTENT = b"the file of a sample"
POLICY = "/api/v1/models/har/samples"


@pytest.fixture(autouse=True)
def kept(services, clock):
    """The parts of the server that have to do with it; return where contents are kept."""
    kept = BlobStore(services.settings.device_uploads_address)
    services.sample_policies = SamplePolicies(services.database, clock)
    secrets = SealedSecrets.open(services.settings.data_path / "keys")
    services.sample_keys = SampleKeys(services.database, secrets, clock)
    services.sample_keys.ensure()
    services.samples = Samples(
        database=services.database,
        keys=services.sample_keys,
        contracts=Contracts(services.blobs),
        ground_truth=GroundTruth(
            database=services.database, contracts=Contracts(services.blobs), now=clock
        ),
        uploads=kept,
        limits=SampleLimits(timedelta(days=30), 10**6),
        now=clock,
    )
    services.device_uploads = open_device_uploads(
        services.settings,
        services.database,
        owners={SAMPLE: services.samples},
        now=clock,
        wake=lambda: None,
    )
    return kept


@pytest.fixture
def sample(services, kept):
    """A sample that is here whole; return its id."""
    digest = kept.add_bytes(CONTENT)
    with services.database.write() as session:
        session.add(new_device("pi-1", TAKEN))
        session.flush()
        times = dict.fromkeys(("made_at", "created_at", "moved_at"), TAKEN)
        upload = DeviceUpload(
            device="pi-1", digest=digest, kind="sample", model="har", media_type="x", length=20,
            chunk_index=None, index=None, state="complete", bitmap=b"", asked=[], asked_at=None,
            window=2, stalls=0, refusals=0, job="", began_at=None, ended_at=TAKEN, reason=None,
            expires_at=TAKEN + timedelta(days=30000), **times,
        )  # fmt: skip
        session.add(upload)
        session.flush()
        row = SampleRow(
            id="5" * 16, upload=upload.id, device="pi-1", model="har", version="1",
            manifest="sha256:" + "a" * 64, digest=digest, reason="random", taken_at=TAKEN,
            received_at=TAKEN, length=20,
            tensors=[{"name": "input.x", "datatype": "F32", "shape": [1]}],
        )  # fmt: skip
        session.add(row)
    return "5" * 16


def audited(client, people, action):
    rows = client.get("/api/v1/audit", headers=people.admin).json()["items"]
    return [row for row in rows if row["action"] == action]


def test_viewers_see_which_are_here_and_operators_what_is_in_them(client, people, sample):
    listed = client.get("/api/v1/samples?model=har&reason=random", headers=people.viewer).json()
    assert [one["id"] for one in listed["items"]] == [sample]
    path = f"/api/v1/samples/{sample}"
    assert client.get(path, headers=people.viewer).status_code == 403
    answer = client.get(path, headers=people.operator)
    assert (answer.content, answer.headers["content-type"]) == (CONTENT, "application/octet-stream")
    assert answer.headers["content-disposition"].startswith("attachment; ")
    (read,) = [one for one in audited(client, people, "get_sample") if one["outcome"] == "done"]
    assert (read["actor"], read["object"]) == ("operator", sample)
    assert read["details"]["device"] == "pi-1"


def test_there_is_no_way_round_by_the_routes_for_logs(client, people, sample):
    """There reading leaves nothing in the audit log."""
    path = "/api/v1/devices/pi-1/uploads"
    assert client.get(path, headers=people.operator).json()["items"] == []
    answer = client.get(f"{path}/{digest_of(CONTENT)}", headers=people.operator)
    assert (answer.status_code, answer.json()["code"]) == (404, "upload.unknown")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("model=kws", 0), ("device=pi-2", 0), ("reason=uncertain", 0), ("device=pi-1", 1),
        ("since=2026-11-01T12:00:00Z", 1), ("until=2026-11-01T12:00:00Z", 0), ("q=PI", 1),
        ("sort=received_at&limit=1", 1), ("offset=1", 0),
    ],
)  # fmt: skip
def test_filters_and_pages(client, people, sample, query, found):
    page = client.get(f"/api/v1/samples?{query}", headers=people.viewer).json()
    assert len(page["items"]) == found, page


@pytest.mark.parametrize(
    "query", ["reason=x", "model=../x", "since=2026-11-01", "sort=digest", "limit=0", "secret=1"]
)
def test_what_is_no_filter(client, people, query):
    assert client.get(f"/api/v1/samples?{query}", headers=people.viewer).status_code == 422


def test_one_that_is_deleted_is_gone_with_its_content(client, people, kept, sample):
    path = f"/api/v1/samples/{sample}"
    assert client.delete(path, headers=people.viewer).status_code == 403
    assert client.delete(path, headers=people.operator).status_code == 204
    assert client.get(path, headers=people.operator).json()["code"] == "sample.unknown"
    assert client.delete(path, headers=people.operator).status_code == 404
    assert client.get("/api/v1/samples", headers=people.viewer).json()["total"] == 0
    assert not kept.exists(digest_of(CONTENT))
    (row,) = [one for one in audited(client, people, "delete_sample") if one["outcome"] == "done"]
    assert (row["object"], row["details"]["model"]) == (sample, "har")


def test_only_an_admin_says_what_may_leave_devices(client, people):
    empty = client.get(POLICY, headers=people.viewer).json()
    assert (empty["bytes_per_day"], empty["reasons"], empty["revision"]) == (0, [], 0)
    wanted = {"bytes_per_day": 5000, "reasons": ["uncertain", "random"], "random_share": 0.5}
    assert client.put(POLICY, json=wanted, headers=people.operator).status_code == 403
    put = client.put(POLICY, json={**wanted, "revision": 0}, headers=people.admin)
    assert put.status_code == 200, put.text
    assert (put.json()["reasons"], put.json()["changed_by"]) == (["random", "uncertain"], "admin")
    again = client.put(POLICY, json={**wanted, "revision": 0}, headers=people.admin)
    assert again.json()["code"] == "policy.changed"
    acts = audited(client, people, "put_sample_policy")
    (row,) = [one for one in acts if one["outcome"] == "done"]
    assert row["details"]["after"]["bytes_per_day"] == 5000


@pytest.mark.parametrize(
    "policy",
    [
        {"bytes_per_day": -1}, {"bytes_per_day": 2**40}, {"reasons": ["all"]},
        {"random_share": 1.5}, {"reasons": ["random"] * 7}, {"unknown": 1},
    ],
)  # fmt: skip
def test_what_is_no_policy(client, people, policy):
    assert client.put(POLICY, json=policy, headers=people.admin).status_code == 422
