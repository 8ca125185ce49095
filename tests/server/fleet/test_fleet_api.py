"""The routes for devices, enrolment, rollouts and telemetry, on everything that a server opens."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from msgspec import structs
from starlette.testclient import TestClient

from edgectl_protocol import topics
from edgectl_protocol.enrolment import EnrolReply, EnrolRequest
from edgectl_protocol.messages import DeviceEvent, ObservationReport, SwapReport
from edgectl_protocol.update import UpdateEvent, UpdateState
from edgectl_server.api.app import create_app
from edgectl_server.clock import now as clock_now
from edgectl_server.delta_making import DELTAS
from edgectl_server.job_rows import new_job
from edgectl_server.services import Services, open_services
from edgectl_server.settings import Settings
from edgectl_server.storage.tables import Delta, ModelVersion
from server.fleet.fleet_helpers import Pi, add_version, make_request
from waiting import wait_for


@dataclass
class Api:
    """A client for each role, and the services behind it."""

    services: Services
    client: TestClient
    tokens: dict[str, str]

    def call(self, method: str, path: str, *, role: str = "admin", **options):
        headers = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        return self.client.request(method, f"/api/v1{path}", headers=headers, **options)

    def get(self, path: str, *, role: str = "viewer", **query):
        answer = self.call("GET", path, role=role, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def enrol(self, request: EnrolRequest) -> EnrolReply:
        answer = self.call("POST", "/enrol", role="", json=msgspec.to_builtins(request))
        assert answer.status_code == 200, answer.text
        return msgspec.convert(answer.json(), EnrolReply)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    settings = Settings(data=str(tmp_path / "data"), broker_port=0, tick_s=0.1)
    settings.data_path.mkdir(mode=0o700)
    services = open_services(settings)
    with TestClient(create_app(services)) as client:
        password = services.first_password
        tokens = {}
        for role in ("admin", "operator", "viewer"):
            login = {"username": "admin", "password": password}
            if role == "admin":
                answer = client.post("/api/v1/tokens:login", json=login)
            else:
                answer = client.post(
                    "/api/v1/tokens",
                    json={"name": role, "role": role},
                    headers={"Authorization": f"Bearer {tokens['admin']}"},
                )
            assert answer.status_code in {200, 201}, answer.text
            tokens[role] = answer.json()["token"]
        yield Api(services, client, tokens)
    services.close()


@pytest.fixture
def pis(api: Api, tmp_path: Path) -> Iterator[list[Pi]]:
    answer = api.call("POST", "/enrolment/tokens", role="operator", json={"uses": 2})
    assert answer.status_code == 201
    pis = [Pi(f"pi-{n}", tmp_path / f"pi-{n}", api.enrol, answer.json()["token"]) for n in (1, 2)]
    for pi in pis:
        pi.connect()
        pi.report()
    wait_for(lambda: api.get("/fleet")["online"] == 2)
    yield pis
    for pi in pis:
        pi.disconnect()


def test_from_a_token_to_a_committed_version(api: Api, pis: list[Pi]) -> None:
    services = api.services
    add_version(services.database, services.blobs, services.repository)
    body = {"model": "har", "version": "1", "selector": {"all": True}, "policy": {"observe_s": 2}}
    answer = api.call("POST", "/rollouts", role="operator", json=body)
    assert answer.status_code == 201, answer.text
    rollout = answer.json()["id"]
    assert answer.json()["counts"]["pending"] == 2

    pis[0].run(pis[0].order(1))
    wait_for(lambda: api.get(f"/rollouts/{rollout}")["counts"]["committed"] == 1)
    (committed,) = api.get(f"/rollouts/{rollout}/devices", state="committed")["items"]
    assert (committed["device"], committed["step"], committed["variant"]) == (
        "pi-1", "committed", "int8",
    )  # fmt: skip
    assert api.get("/rollouts", state="running", model="har")["total"] == 1
    assert api.get("/rollouts", state="paused")["total"] == 0

    paused = api.call(
        "POST", f"/rollouts/{rollout}/actions/pause", role="operator", json={"reason": "lunch"}
    )
    assert (paused.status_code, paused.json()["state"]) == (200, "paused")
    again = api.call("POST", f"/rollouts/{rollout}/actions/pause", role="operator", json={})
    assert (again.status_code, again.json()["code"]) == (409, "rollout.state")
    assert api.get(f"/rollouts/{rollout}")["note"] == "paused by admin: lunch"
    api.call("POST", f"/rollouts/{rollout}/actions/resume", role="operator", json={})
    pis[1].run(pis[1].order(1))
    wait_for(lambda: api.get(f"/rollouts/{rollout}")["state"] == "completed")
    kinds = [one["kind"] for one in api.get(f"/rollouts/{rollout}/events", limit=200)["items"]]
    assert kinds[0] == "completed"
    assert kinds[-1] == "started"
    assert api.get("/fleet")["versions"] == [{"model": "har", "version": "1", "devices": 2}]
    assert api.get("/models/har")["devices_running"] == 2


def test_all_that_an_update_is_reported_with_is_shown(api: Api, pis: list[Pi]) -> None:
    """Also what a trial has chosen, and what shadow, swap and observation have shown."""
    services = api.services
    add_version(services.database, services.blobs, services.repository)
    body = {"model": "har", "version": "1", "selector": {"devices": ["pi-1"]}}
    rollout = api.call("POST", "/rollouts", role="operator", json=body).json()["id"]
    pi, order = pis[0], pis[0].order(1)
    pi.run(order)
    shadow = ObservationReport(mirrored=40, agreed=39, skipped=2, latency_p95_us=900.0)
    swap = SwapReport(load_ms=41.5, gap_ms=12.0, resident=True)
    seen = ObservationReport(requests=500, errors=3, class_shift=0.125)
    slot = pi.slots["har"]
    pi.slots = {
        "har": structs.replace(
            slot,
            running=structs.replace(slot.running, threads=2, provider="XnnpackDelegate"),
            update=structs.replace(slot.update, shadow=shadow, swap=swap, observation=seen),
        )
    }
    pi.report()
    event = DeviceEvent(
        device="pi-1", boot=1, seq=pi.seq + 1, at=clock_now(), slot="har", order=1,
        nonce=order.nonce, version="1", variant=slot.update.variant,
        manifest=slot.update.manifest, before=UpdateState.OBSERVING, event=UpdateEvent.OK,
        after=UpdateState.COMMITTED, rollout=rollout, shadow=shadow, swap=swap, observation=seen,
    )  # fmt: skip
    pi.publish(topics.event("pi-1"), event)
    wait_for(lambda: api.get("/devices/pi-1/events")["total"] == 1)
    wait_for(lambda: api.get("/devices/pi-1")["slots"][0]["update"]["swap"] is not None)

    (listed, _) = api.get("/devices")["items"]
    assert listed["slots"] == api.get("/devices/pi-1")["slots"]
    (shown,) = listed["slots"]
    assert (shown["running"]["threads"], shown["running"]["provider"]) == (2, "XnnpackDelegate")
    (in_rollout,) = api.get(f"/rollouts/{rollout}/devices")["items"]
    (told,) = api.get("/devices/pi-1/events")["items"]
    for place in (shown["update"], in_rollout, told):
        assert place["swap"] == {"load_ms": 41.5, "gap_ms": 12.0, "resident": True}
        assert (place["shadow"]["mirrored"], place["shadow"]["agreed"]) == (40, 39)
        assert place["shadow"]["latency_p95_us"] == 900.0
        assert (place["observation"]["requests"], place["observation"]["class_shift"]) == (
            500, 0.125,
        )  # fmt: skip


def test_devices_are_found_by_what_they_do(api: Api, pis: list[Pi]) -> None:
    services = api.services
    add_version(services.database, services.blobs, services.repository)
    body = {"model": "har", "version": "1", "selector": {"devices": ["pi-1"]}}
    api.call("POST", "/rollouts", json=body)
    pis[0].run(pis[0].order(1))
    pis[1].kill()

    def names(**query) -> list[str]:
        return [one["id"] for one in api.get("/devices", **query)["items"]]

    wait_for(lambda: names(model="har", version="1") == ["pi-1"])
    wait_for(lambda: names(online=True) == ["pi-1"])
    assert names(online=False) == ["pi-2"]
    assert names(failing=True) == names(updating=True) == []
    assert names(failing=False) == names(updating=False) == ["pi-1", "pi-2"]
    assert names(q="PI-2") == ["pi-2"]
    assert names(sort="-id") == ["pi-2", "pi-1"]
    assert names(model="har", version="2") == []
    shown = api.get("/devices/pi-1")
    assert shown["slots"][0]["running"]["version"] == "1"
    assert shown["accepted_order_counter"] == shown["order_counter"] == 1
    assert api.get("/devices/pi-1/events")["total"] == 0
    assert api.get("/devices/pi-1/telemetry") == []
    assert api.get("/telemetry", model="har", since_s=60) == []


def test_the_list_holds_what_the_fleet_counts(api: Api, pis: list[Pi]) -> None:
    services = api.services
    add_version(services.database, services.blobs, services.repository)
    body = {"model": "har", "version": "1", "selector": {"all": True}, "policy": {"observe_s": 60}}
    api.call("POST", "/rollouts", json=body)
    pis[0].run(pis[0].order(1), state=UpdateState.OBSERVING)
    pis[1].run(pis[1].order(1), state=UpdateState.REJECTED)
    lists = {
        "devices": {},
        "online": {"online": True},
        "offline": {"online": False},
        "updating": {"updating": True},
        "failing": {"failing": True},
    }

    def counted() -> list[dict[str, int]]:
        fleet = api.get("/fleet")
        listed = {name: api.get("/devices", **query)["total"] for name, query in lists.items()}
        return [{name: fleet[name] for name in lists}, listed]

    full = {"devices": 2, "online": 2, "offline": 0, "updating": 1, "failing": 1}
    wait_for(lambda: counted() == [full, full])
    assert [one["id"] for one in api.get("/devices", updating=True)["items"]] == ["pi-1"]
    for pi in pis:
        api.call("POST", f"/devices/{pi.name}/actions/decommission")
    assert counted() == [dict.fromkeys(full, 0)] * 2
    gone = api.get("/devices", state="decommissioned")
    assert [(one["id"], one["state"]) for one in gone["items"]] == [
        ("pi-1", "decommissioned"),
        ("pi-2", "decommissioned"),
    ]
    assert api.get("/devices", state="decommissioned", online=True)["total"] == 0


REFUSED = [
    ("GET", "/devices/nobody", None, 404, "device.unknown"),
    ("GET", "/devices/nobody/events", None, 404, "device.unknown"),
    ("GET", "/devices/nobody/telemetry", None, 404, "device.unknown"),
    ("GET", "/devices/.._x", None, 422, "request.invalid"),
    ("GET", "/devices?online=maybe", None, 422, "request.invalid"),
    ("GET", "/devices?state=lost", None, 422, "request.invalid"),
    ("GET", "/devices?updating=maybe", None, 422, "request.invalid"),
    ("GET", "/devices?sort=password", None, 422, "request.sort"),
    ("GET", "/devices?colour=red", None, 422, None),
    ("GET", "/telemetry?since_s=0", None, 422, "request.invalid"),
    ("GET", "/telemetry?since_s=99999999", None, 422, "request.invalid"),
    ("POST", "/devices/nobody/actions/decommission", None, 404, "device.unknown"),
    ("POST", "/enrolment/tokens", {"uses": 0}, 422, "request.invalid"),
    ("GET", "/enrolment/image-snippet?server=https://a;b", None, 422, "request.invalid"),
    ("GET", "/enrolment/image-snippet?server=http://a&prefix=x%0Ay", None, 422, "request.invalid"),
    ("GET", "/enrolment/image-snippet?server=http://a&package=x", None, 422, "request.invalid"),
    ("POST", "/enrolment/tokens", {"expires_in_s": 10**9}, 422, "request.invalid"),
    ("GET", "/rollouts/0000000000000000", None, 404, "rollout.unknown"),
    ("GET", "/rollouts/0000000000000000/devices", None, 404, "rollout.unknown"),
    ("GET", "/rollouts/0000000000000000/events", None, 404, "rollout.unknown"),
    ("GET", "/rollouts/x", None, 422, "request.invalid"),
    ("GET", "/rollouts?state=lost", None, 422, "request.invalid"),
    ("POST", "/rollouts/0000000000000000/actions/abort", {}, 404, "rollout.unknown"),
    ("POST", "/rollouts/0000000000000000/actions/explode", {}, 422, "request.invalid"),
    (
        "POST", "/rollouts",
        {"model": "har", "version": "1", "selector": {"all": True}}, 404, "version.unknown",
    ),
    (
        "POST", "/rollouts",
        {"model": "har", "version": "1", "selector": {"all": True}, "speed": 1},
        422, "request.invalid",
    ),
    (
        "POST", "/rollouts",
        {
            "model": "har", "version": "1", "selector": {"all": True},
            "policy": {"max_in_progress": 0},
        },
        422, "request.invalid",
    ),
]  # fmt: skip


def test_what_is_refused(api: Api) -> None:
    for method, path, body, status, code in REFUSED:
        answer = api.call(method, path, json=body)
        assert answer.status_code == status, (path, answer.text)
        assert code is None or answer.json()["code"] == code, path
        assert answer.headers["content-type"] == "application/problem+json"


def test_enrolment_needs_no_login_and_a_good_token(api: Api) -> None:
    request = make_request("ee_0123456789abcdef_" + "A" * 43, "pi-1")
    answer = api.call("POST", "/enrol", role="", json=msgspec.to_builtins(request))
    assert (answer.status_code, answer.json()["code"]) == (401, "enrol.token")
    bad = [
        {},
        {**msgspec.to_builtins(request), "device": "a/b"},
        {**msgspec.to_builtins(request), "proof": "short"},
        {**msgspec.to_builtins(request), "csr_pem": "x" * 9000},
    ]
    for body in bad:
        answer = api.call("POST", "/enrol", role="", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid")
    token = api.call("POST", "/enrolment/tokens", json={}).json()["token"]
    good = {**msgspec.to_builtins(make_request(token, "pi-1")), "of_a_newer_agent": True}
    assert api.call("POST", "/enrol", role="", json=good).status_code == 200


def test_decommissioning_is_for_admins_and_ends_the_connection(api: Api, pis: list[Pi]) -> None:
    path = "/devices/pi-1/actions/decommission"
    for role in ("viewer", "operator"):
        assert api.call("POST", path, role=role).status_code == 403
    answer = api.call("POST", path)
    assert (answer.status_code, answer.json()["state"]) == (200, "decommissioned")
    wait_for(lambda: not pis[0].connected.is_set())
    assert api.get("/fleet")["devices"] == 1
    again = {"model": "har", "version": "1", "selector": {"devices": ["pi-1"]}}
    add_version(api.services.database, api.services.blobs, api.services.repository)
    refused = api.call("POST", "/rollouts", json=again)
    assert (refused.status_code, refused.json()["code"]) == (422, "rollout.selector")


def test_deltas_that_are_cancelled_before_they_are_begun_are_waited_for_no_more(api: Api) -> None:
    """Another worker makes them than the one that people ask to cancel."""
    services, at = api.services, clock_now()
    add_version(services.database, services.blobs, services.repository)
    with services.database.write() as session:
        version = session.query(ModelVersion).one().id
        subject = {"model": "har", "version": "1"}
        job = new_job(DELTAS, {"version_id": version, "subject": subject}, "server", at)
        job.lease_until = at + timedelta(hours=1)  # not to be taken up while we look
        session.add(job)
        named = {"variant": "fp32", "base_version": "0", "base_manifest": "a", "manifest": "b"}
        session.add(Delta(version_id=version, state="waiting", created_at=at, **named))
    answer = api.call("POST", f"/jobs/{job.id}/actions/cancel", role="operator")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    with services.database.read() as session:
        (row,) = session.query(Delta)
        assert (row.state, row.reason["code"]) == ("failed", "job.cancelled")
