"""Who may do what: every route, and every way of not being allowed."""

import json

import pytest
from argon2 import extract_parameters
from argon2.exceptions import VerifyMismatchError
from fastapi.routing import iter_route_contexts

from edgectl_server.api.access import READING
from edgectl_server.api.app import create_app
from edgectl_server.auth import SCOPES as SCOPES_OF_ROLE
from edgectl_server.auth import Auth, _of_nobody
from edgectl_server.errors import Forbidden, ServerError
from edgectl_server.storage.paging import PageQuery
from server.core.api_routes import OPEN, PASSWORD, ROUTES, fill, login
from server.core.conftest import QUICK

ALL_SCOPES = SCOPES_OF_ROLE["admin"]
ROLES = {
    "login": OPEN,
    "logout": "viewer",
    "me": "viewer",
    "login_token": OPEN,
    "create_token": "viewer",
    "list_tokens": "viewer",
    "delete_token": "viewer",
    "sign_on_info": OPEN,
    "sign_on": OPEN,
    "sign_on_callback": OPEN,
    "offer_handover": "viewer",
    "take_handover": OPEN,
    "prove": "viewer",
    "change_own_password": "viewer",  # each with the own password
    "list_users": "admin",
    "create_user": "admin",
    "change_user": "admin",
    "reset_password": "admin",
    "log_out_user": "admin",
    "delete_user": "admin",
    "upload_limits": "operator",
    "upload_status": "operator",
    "upload": "operator",
    "list_models": "viewer",
    "get_model": "viewer",
    "list_versions": "viewer",
    "get_version": "viewer",
    "get_report_page": "viewer",
    "get_lineage": "viewer",
    "model_running": "viewer",
    "compare_versions": "viewer",
    "get_document": "viewer",
    "export_version": "viewer",
    "push_version": "operator",
    "import_version": "operator",
    "list_origins": "viewer",
    "forget_origin": "admin",
    "get_policy": "viewer",
    "put_policy": "admin",
    "list_jobs": "viewer",
    "get_job": "viewer",
    "cancel_job": "operator",
    "fleet_summary": "viewer",
    "list_sites": "viewer",
    "list_devices": "viewer",
    "get_device": "viewer",
    "device_events": "viewer",
    "device_telemetry": "viewer",
    "device_receipts": "viewer",
    "device_series": "viewer",
    "hold_device": "operator",
    "release_device": "operator",
    "roll_back_device": "operator",
    "get_accuracy": "viewer",
    "list_accuracy": "viewer",
    "get_drift": "viewer",
    "get_drift_history": "viewer",
    "get_usual_days": "viewer",
    "set_usual_days": "operator",
    "delete_usual_days": "operator",
    "list_drift": "viewer",
    "summarize_drift": "viewer",
    "list_drift_events": "viewer",
    "list_samples": "viewer",
    "get_sample": "operator",
    "delete_sample": "operator",
    "list_annotations": "viewer",
    "import_annotations": "operator",
    "get_annotations": "viewer",
    "put_annotation": "operator",
    "delete_annotation": "operator",
    "get_sample_content": "operator",
    "get_labelling": "viewer",
    "get_labelling_queue": "operator",
    "list_datasets": "viewer",
    "create_dataset": "operator",
    "get_dataset": "viewer",
    "delete_dataset": "operator",
    "get_dataset_archive": "operator",
    "check_dataset": "viewer",
    "list_trainers": "viewer",
    "retrain_model": "operator",
    "list_retrainings": "viewer",
    "get_retraining": "viewer",
    "list_loops": "viewer",
    "get_loop": "viewer",
    "put_loop": "admin",
    "loop_events": "viewer",
    "list_loop_runs": "viewer",
    "get_loop_run": "viewer",
    "act_on_loop": "operator",
    "get_sample_policy": "viewer",
    "put_sample_policy": "admin",
    "list_sample_keys": "viewer",
    "rotate_sample_key": "admin",
    "list_targets": "viewer",
    "list_measurements": "viewer",
    "start_benchmark": "operator",
    "device_logs": "operator",
    "follow_device_logs": "operator",
    "followed_device_logs": "operator",
    "device_uploads": "viewer",
    "device_upload": "operator",
    "decommission_device": "admin",
    "revoke_device": "operator",
    "authority": "viewer",
    "image_snippet": "viewer",  # a template: it holds no secret
    "create_enrol_token": "operator",
    "list_enrol_tokens": "viewer",
    "revoke_enrol_token": "operator",
    "preauthorise": "operator",
    "list_preauthorised": "viewer",
    "forget_preauthorised": "operator",
    "list_enrol_requests": "viewer",
    "approve_device": "operator",
    "reject_device": "operator",
    "enrol": OPEN,
    "renew": OPEN,
    "list_rollouts": "viewer",
    "label_devices": "operator",
    "list_selectors": "viewer",
    "selector_overlaps": "viewer",
    "put_selector": "operator",
    "delete_selector": "operator",
    "start_rollout": "operator",
    "apply_rollout": "operator",
    "plan_rollout": "viewer",
    "get_rollout": "viewer",
    "rollout_devices": "viewer",
    "rollout_phases": "viewer",
    "rollout_reasons": "viewer",
    "rollout_service": "viewer",
    "rollout_events": "viewer",
    "rollout_action": "operator",
    "telemetry_summary": "viewer",
    "list_pulls": "viewer",
    "events": "viewer",
    "security_events": "viewer",
    "device_security_events": "viewer",
    "get_trust": "viewer",
    "get_staged": "viewer",
    "get_published": "viewer",
    "submit_staged": "operator",  # the signature is its own authority
    "list_audit": "admin",
    "audit_state": "admin",
    "export_audit": "admin",
    "list_answers": "viewer",
    "metrics": "viewer",
    "list_alerts": "viewer",
    "count_alerts": "viewer",
    "get_alert": "viewer",
    "acknowledge_alert": "operator",
    "assign_alert": "operator",
    "resolve_alert": "operator",
    "list_silences": "viewer",
    "create_silence": "operator",
    "end_silence": "operator",
    "list_alert_routes": "admin",
    "create_alert_route": "admin",
    "change_alert_route": "admin",
    "delete_alert_route": "admin",
    "test_alert_route": "admin",
    "alert_route_notices": "admin",
    "list_webhooks": "admin",
    "create_webhook": "admin",
    "get_webhook": "admin",
    "change_webhook": "admin",
    "delete_webhook": "admin",
    "test_webhook": "admin",
    "webhook_deliveries": "admin",
    "version": OPEN,
    "live": OPEN,
    "ready": OPEN,
    "authority_pem": OPEN,
    "revocations": OPEN,
}
"""The least role of every route, by its operation."""
SCOPES = {
    "metrics": "metrics",
    "logout": "tokens",
    "create_token": "tokens",
    "delete_token": "tokens",
    "offer_handover": "tokens",
    "prove": "tokens",
    "change_own_password": "tokens",
    "list_users": "admin",
    "create_user": "admin",
    "change_user": "admin",
    "reset_password": "admin",
    "log_out_user": "admin",
    "delete_user": "admin",
    "upload_limits": "models:write",
    "upload_status": "models:write",
    "upload": "models:write",
    "push_version": "models:write",
    "import_version": "models:write",
    "forget_origin": "models:write",
    "put_policy": "models:write",
    "cancel_job": "models:write",
    "acknowledge_alert": "devices:write",
    "assign_alert": "devices:write",
    "resolve_alert": "devices:write",
    "create_silence": "devices:write",
    "end_silence": "devices:write",
    "decommission_device": "devices:write",
    "revoke_device": "devices:write",
    "hold_device": "devices:write",
    "release_device": "devices:write",
    "roll_back_device": "devices:write",
    "create_enrol_token": "devices:write",
    "revoke_enrol_token": "devices:write",
    "preauthorise": "devices:write",
    "forget_preauthorised": "devices:write",
    "approve_device": "devices:write",
    "reject_device": "devices:write",
    "start_benchmark": "devices:write",
    "device_logs": "devices:write",
    "follow_device_logs": "devices:write",
    "delete_sample": "devices:write",
    "import_annotations": "devices:write",
    "put_annotation": "devices:write",
    "delete_annotation": "devices:write",
    "set_usual_days": "models:write",
    "delete_usual_days": "models:write",
    "retrain_model": "models:write",
    "put_loop": "models:write",
    "act_on_loop": "models:write",
    "create_dataset": "models:write",
    "delete_dataset": "models:write",
    "put_sample_policy": "devices:write",
    "rotate_sample_key": "devices:write",
    "label_devices": "devices:write",
    "put_selector": "devices:write",
    "delete_selector": "devices:write",
    "start_rollout": "rollouts:write",
    "apply_rollout": "rollouts:write",
    "rollout_action": "rollouts:write",
    "submit_staged": "trust:write",
    "list_audit": "admin",
    "audit_state": "admin",
    "export_audit": "admin",
    "list_alert_routes": "admin",
    "create_alert_route": "admin",
    "change_alert_route": "admin",
    "delete_alert_route": "admin",
    "test_alert_route": "admin",
    "alert_route_notices": "admin",
    "list_webhooks": "admin",
    "create_webhook": "admin",
    "get_webhook": "admin",
    "change_webhook": "admin",
    "delete_webhook": "admin",
    "test_webhook": "admin",
    "webhook_deliveries": "admin",
}
"""What a token needs, where it is not ``read``."""
OPEN_CHANGES = {"login", "login_token", "take_handover", "enrol", "renew"}
"""What strangers may send; each proves in another way who it is from."""


def test_every_route_has_the_role_that_was_decided():
    assert {route.operation: route.role for route in ROUTES} == ROLES


def test_every_route_has_the_scope_that_was_decided():
    """Whatever is not named here only reads, and a change is never only reading.

    The plan of a rollout is sent as a change is, and changes nothing.
    """
    assert {route.operation: route.scope for route in ROUTES if route.role != OPEN} == {
        operation: SCOPES.get(operation, "read")
        for operation, role in ROLES.items()
        if role != OPEN
    }
    reads = {"GET", "HEAD"}
    assert all(
        route.method in reads or route.operation in READING
        for route in ROUTES
        if route.scope == "read"
    )
    writers = [route for route in ROUTES if route.role == OPEN and route.method not in reads]
    assert {route.operation for route in writers} == OPEN_CHANGES


def test_no_route_is_missing_in_the_document():
    """Else `include_in_schema=False` would be a way around these tests."""
    known = {(route.method, route.path) for route in ROUTES}
    for route in iter_route_contexts(create_app(None).routes):
        if route.path in {"/api/v1/openapi.json", "/api/{rest:path}", "/{path:path}", None}:
            continue
        if route.path in {"/v2", "/assets"}:  # all of /v2 is asked by test_oci.py; files of pages
            continue
        for method in route.methods:
            assert (method, route.path) in known, route.path


GUARDED = [pytest.param(route, id=route.operation) for route in ROUTES if route.role != OPEN]


@pytest.mark.parametrize("route", GUARDED)
def test_without_credentials_or_with_wrong_ones(client, services, people, clock, route):
    at, method = fill(route.path), route.method
    services.auth.set_user("gone", PASSWORD, "admin")
    gone = services.auth.check_password("gone", PASSWORD, "t")
    gone_token = services.auth.create_token(gone, "t", "admin", None).text
    gone_cookie = services.auth.start_session("gone").cookie
    services.auth.delete_user("gone")
    admin = services.auth.check_password("admin", PASSWORD, "t")
    short = services.auth.create_token(admin, "t", "admin", 60).text
    session = services.auth.start_session("admin").cookie
    right = people.admin["Authorization"].removeprefix("Bearer ")
    clock.pass_s(services.settings.session_s + 1)
    for headers in (
        {},
        {"Authorization": f"Bearer {short}"},
        {"Authorization": f"Bearer {gone_token}"},
        {"Authorization": f"Bearer {right[:-1]}"},
        {"Authorization": f"Bearer {right}x"},
        {"Authorization": f"Basic {right}"},
        {"Authorization": right},
        {"Authorization": ""},
        {"Cookie": f"edgectl_session={session}", "X-CSRF-Token": "x"},
        {"Cookie": f"edgectl_session={gone_cookie}", "X-CSRF-Token": "x"},
        {"Cookie": "edgectl_session="},
    ):
        answer = client.request(method, at, headers=headers)
        assert answer.status_code == 401, (headers, answer.text)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
        if method != "HEAD":
            assert answer.json()["code"] == "auth.required"


@pytest.mark.parametrize("route", [one for one in GUARDED if one.values[0].role != "viewer"])
def test_a_lower_role_is_not_enough(client, people, route):
    for lower in ("viewer", "operator")[: 1 if route.role == "operator" else 2]:
        answer = client.request(route.method, fill(route.path), headers=getattr(people, lower))
        assert answer.status_code == 403, answer.text
        if route.method != "HEAD":
            assert answer.json()["code"] == "auth.role"
            assert route.role in answer.json()["detail"]


@pytest.mark.parametrize("route", GUARDED)
def test_a_token_without_the_scope_is_not_enough(client, services, people, route):
    """Every other scope together does not replace the one that is needed."""
    owner = services.auth.check_password("admin", PASSWORD, "t")
    others = set(ALL_SCOPES) - {route.scope}
    token = services.auth.create_token(owner, "t", "admin", None, others - {"read"})
    if route.scope == "read":  # a scope that writes brings it with it: only this one does not
        token = services.auth.create_token(owner, "t", "admin", None, ["tokens"])
    headers = {"Authorization": f"Bearer {token.text}"}
    answer = client.request(route.method, fill(route.path), headers=headers)
    assert answer.status_code == 403, answer.text
    if route.method != "HEAD":
        assert answer.json()["code"] == "auth.scope"
        assert route.scope in answer.json()["detail"]


@pytest.mark.parametrize(
    "route", [one for one in GUARDED if one.values[0].method not in {"GET", "HEAD"}]
)
def test_a_change_by_cookie_needs_the_csrf_token(client, services, people, route):
    cookie = services.auth.start_session("admin").cookie
    other = services.auth.start_session("admin").principal.csrf
    for extra in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "é"}, {"X-CSRF-Token": other}):
        headers = {
            "Cookie": f"edgectl_session={cookie}",
            **{key: value.encode() for key, value in extra.items()},
        }
        answer = client.request(route.method, fill(route.path), headers=headers)
        assert answer.status_code == 403, (extra, answer.text)
        assert answer.json()["code"] == "auth.csrf"


def test_a_browser_logs_in_and_out(client, people):
    answer = login(client)
    assert answer.status_code == 200
    set_cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in set_cookie
    assert "SameSite=strict" in set_cookie
    me = client.get("/api/v1/me").json()
    assert me == answer.json()
    assert me["role"] == "admin"
    assert client.delete("/api/v1/session").status_code == 403
    csrf = {"X-CSRF-Token": me["csrf"]}
    cookie = {"Cookie": f"edgectl_session={client.cookies['edgectl_session']}"}
    assert client.delete("/api/v1/session", headers=csrf).status_code == 204
    assert client.get("/api/v1/me").status_code == 401
    assert client.get("/api/v1/me", headers=cookie).status_code == 401  # not only forgotten


def test_over_https_the_cookie_is_secure_and_of_this_host_only(services, people, client):
    client.base_url = "https://testserver"
    set_cookie = login(client).headers["set-cookie"]
    assert set_cookie.startswith("__Host-edgectl_session=")
    attributes = {one.strip() for one in set_cookie.split(";")[1:]}
    assert attributes == {"HttpOnly", "Max-Age=43200", "Path=/", "SameSite=strict", "Secure"}
    secret = client.cookies["__Host-edgectl_session"]
    client.cookies.clear()
    named = {"Cookie": f"__Host-edgectl_session={secret}"}
    assert client.get("/api/v1/me", headers=named).status_code == 200
    # A neighbour under the same domain, or a page by plain HTTP, can set this name: it is not read.
    planted = {"Cookie": f"edgectl_session={secret}"}
    assert client.get("/api/v1/me", headers=planted).status_code == 401
    client.base_url = "http://testserver"
    assert client.get("/api/v1/me", headers=named).status_code == 401


def test_a_role_that_is_taken_away_is_gone_at_once(client, services, people):
    services.auth.set_user("admin", PASSWORD, "viewer")
    answer = client.get("/api/v1/me", headers=people.admin)
    assert answer.json()["role"] == "viewer"


def test_a_new_password_ends_the_sessions(client, services, people):
    login(client)
    services.auth.set_user("admin", "another password", "admin")
    assert client.get("/api/v1/me").status_code == 401


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("admin", "wrong password"),
        ("nobody", PASSWORD),
        ("", ""),
        ("\0", "x"),
        ("admin", "x" * 9999),
        ("admin", "\udfff"),
        ("\ud800", PASSWORD),
    ],
)
def test_a_wrong_login_says_nothing_more(client, people, name, password):
    answer = login(client, name, password)
    assert answer.status_code == 401
    assert answer.json()["code"] == "auth.login"
    assert answer.json()["detail"] == "wrong user name or password"
    assert "set-cookie" not in answer.headers


def test_attempts_are_limited_and_a_right_password_ends_the_count(client, people):
    for _ in range(9):
        assert login(client, password="wrong password").status_code == 401
    assert login(client).status_code == 200
    for _ in range(10):
        assert login(client, password="wrong password").status_code == 401
    for path in ("session", "tokens:login"):
        body = {"username": "admin", "password": PASSWORD}
        answer = client.post(f"/api/v1/{path}", json=body)
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 61
    assert login(client, name="viewer").status_code == 200  # others may go on


def test_attempts_with_many_names_are_limited_by_address(client, people):
    statuses = [login(client, name=f"name{number}").status_code for number in range(61)]
    assert statuses == [401] * 60 + [429]


def test_tokens(client, people):
    body = {"username": "operator", "password": PASSWORD}
    created = client.post("/api/v1/tokens:login?name=laptop&expires_in_s=3600", json=body).json()
    token = {"Authorization": f"Bearer {created['token']}"}
    assert created["info"]["role"] == "operator"
    assert client.get("/api/v1/me", headers=token).json() == {
        "user": "operator",
        "role": "operator",
        "scopes": [
            "read",
            "metrics",
            "tokens",
            "models:write",
            "rollouts:write",
            "devices:write",
            "trust:write",
        ],
        "csrf": None,
    }
    narrow = client.post("/api/v1/tokens", headers=token, json={"name": "ci", "role": "viewer"})
    assert narrow.status_code == 201
    narrowed = {"Authorization": f"Bearer {narrow.json()['token']}"}
    wider = client.post("/api/v1/tokens", headers=narrowed, json={"name": "x", "role": "operator"})
    assert wider.status_code == 403
    mine = client.get("/api/v1/tokens", headers=token).json()
    assert mine["total"] == 3
    assert {one["user"] for one in mine["items"]} == {"operator"}
    assert "secret" not in json.dumps(mine)
    everybody = client.get("/api/v1/tokens?sort=user&limit=2", headers=people.admin).json()
    assert everybody["total"] == 5
    assert [one["user"] for one in everybody["items"]] == ["admin", "operator"]
    assert client.get("/api/v1/tokens?q=LAPT", headers=people.admin).json()["total"] == 1
    path = f"/api/v1/tokens/{created['info']['id']}"
    assert client.delete(path, headers=people.viewer).status_code == 404
    assert client.delete(path, headers=token).status_code == 204
    assert client.get("/api/v1/me", headers=token).status_code == 401


def test_a_token_does_not_live_for_ever_by_overflow(client, people):
    body = {"name": "x", "role": "viewer", "expires_in_s": 10**15}
    answer = client.post("/api/v1/tokens", headers=people.admin, json=body)
    assert answer.status_code == 422
    assert answer.json()["code"] == "auth.expiry"


def test_a_token_that_ends_makes_none_that_outlives_it(client, services, people, clock):
    """Else a token that was stolen for a minute would be stolen for ever."""
    admin = services.auth.check_password("admin", PASSWORD, "t")
    short = services.auth.create_token(admin, "short", "admin", 600).text
    headers = {"Authorization": f"Bearer {short}"}
    made = []
    for expiry in ({}, {"expires_in_s": 60}, {"expires_in_s": 86400}):
        body = {"name": "x", "role": "admin", **expiry}
        answer = client.post("/api/v1/tokens", headers=headers, json=body)
        assert answer.status_code == 201
        made.append({"Authorization": f"Bearer {answer.json()['token']}"})
    clock.pass_s(599)
    assert [client.get("/api/v1/me", headers=one).status_code for one in made] == [200, 401, 200]
    clock.pass_s(2)
    assert [client.get("/api/v1/me", headers=one).status_code for one in made] == [401, 401, 401]


def made(client, headers, **body):
    answer = client.post("/api/v1/tokens", headers=headers, json={"name": "x", **body})
    assert answer.status_code == 201, answer.text
    return answer.json()["info"], {"Authorization": f"Bearer {answer.json()['token']}"}


def test_scopes_of_a_token(client, people):
    info, _ = made(client, people.admin, scopes=["models:write"])
    assert (info["role"], info["scopes"]) == ("operator", ["read", "models:write"])
    info, headers = made(client, people.admin, scopes=["tokens", "devices:write"], role="admin")
    assert (info["role"], info["scopes"]) == ("admin", ["read", "tokens", "devices:write"])
    assert client.get("/api/v1/me", headers=headers).json()["scopes"] == info["scopes"]
    for body, status in (
        ({"scopes": ["models:write"]}, 403),  # what it has not, it cannot give
        ({"scopes": ["admin"]}, 403),
        ({"scopes": ["admin"], "role": "viewer"}, 422),  # nor may the role
        ({"scopes": []}, 422),
        ({"scopes": ["everything"]}, 422),
        ({"scopes": ["read", "devices:write"]}, 201),
    ):
        answer = client.post("/api/v1/tokens", headers=headers, json={"name": "x", **body})
        assert answer.status_code == status, (body, answer.text)
    info, _ = made(client, headers)  # all that the maker has, and the role may
    assert (info["role"], info["scopes"]) == ("viewer", ["read", "tokens"])
    info, _ = made(client, headers, role="admin")
    assert info["scopes"] == ["read", "tokens", "devices:write"]


def test_a_viewers_token_asks_what_a_rollout_would_do(client, people):
    """It cannot get a scope that writes: told to get one, it would have nowhere to go."""
    _, headers = made(client, people.viewer)
    asked = client.post("/api/v1/rollouts/plan", headers=headers, json={})
    assert (asked.status_code, asked.json()["code"]) == (422, "request.invalid")
    assert client.post("/api/v1/rollouts", headers=headers, json={}).status_code == 403


def test_what_a_token_has_made_goes_with_it(client, people):
    """A thief who makes tokens with a stolen one loses them all at once."""
    stolen_info, stolen = made(client, people.operator)
    child_info, child = made(client, stolen)
    assert child_info["made_by"] == stolen_info["id"]
    _, grandchild = made(client, child)
    _, other = made(client, people.operator)
    listed = client.get("/api/v1/tokens", headers=other).json()["total"]
    path = f"/api/v1/tokens/{stolen_info['id']}"
    assert client.delete(path, headers=other).status_code == 204
    for gone in (stolen, child, grandchild):
        assert client.get("/api/v1/me", headers=gone).status_code == 401
    assert client.get("/api/v1/tokens", headers=other).json()["total"] == listed - 3


def test_a_chain_of_tokens_is_never_too_long_to_be_deleted(database, clock):
    """SQLite deletes a thousand levels at once: a thief must not make more of them."""
    auth = Auth(database, clock, hasher=QUICK)
    auth.set_user("ana", PASSWORD, "operator")
    ana = auth.check_password("ana", PASSWORD, "t")
    made = [auth.create_token(ana, "stolen", None, None)]

    def go_on():
        for _ in range(1100):
            thief = auth.principal_of_token(made[-1].text)
            made.append(auth.create_token(thief, "x", None, None))

    with pytest.raises(Forbidden, match="each made with the one before"):
        go_on()
    auth.delete_token(ana, made[0].row.id)
    assert auth.principal_of_token(made[-1].text) is None


def test_expired_tokens_are_forgotten(database, clock):
    auth = Auth(database, clock, hasher=QUICK)
    auth.set_user("ana", PASSWORD, "operator")
    ana = auth.check_password("ana", PASSWORD, "t")
    issued = auth.create_token(ana, "parent", None, 3600)
    auth.create_token(auth.principal_of_token(issued.text), "child", None, 60)
    auth.create_token(ana, "kept", None, None)
    listed = PageQuery(q="", sort="", offset=0, limit=10)
    for days, expected in ((29, 4), (31, 4), (31, 4)):  # the child goes, then its parent
        clock.pass_s(days * 86_400)
        auth.create_token(ana, "x", None, None)
        assert auth.tokens(ana, listed)[1] == expected


def test_a_page_cannot_log_a_browser_in_by_a_form(client, people):
    """A form of a foreign page sends these types, and a fetch without preflight none other."""
    body = json.dumps({"username": "admin", "password": PASSWORD})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        headers = {"Content-Type": kind} if kind else {}
        answer = client.post("/api/v1/session", content=body, headers=headers)
        assert answer.status_code == 422, kind
        assert "set-cookie" not in answer.headers


def test_attempts_from_one_network_are_counted_together(services, people):
    sources = [f"2001:db8::{number:x}" for number in range(70)]
    codes = []
    for address in (*sources, "2001:db8:0:1::1", "::ffff:192.0.2.1", "192.0.2.1"):
        with pytest.raises(ServerError) as caught:
            services.auth.check_password("nobody", "wrong password", address)
        codes.append(caught.value.code)
    assert codes == ["auth.login"] * 10 + ["auth.attempts"] * 60 + ["auth.login"] * 3


def test_the_first_admin_is_made_once(services, tmp_path):
    file = tmp_path / "admin-password"
    password = services.auth.ensure_admin(file)
    assert file.read_text() == f"{password}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert services.auth.check_password("admin", password, "t").role == "admin"
    assert services.auth.ensure_admin(file) is None
    assert file.read_text() == f"{password}\n"


def test_secrets_are_not_kept(services, people, tmp_path):
    cookie = services.auth.start_session("admin").cookie
    token = people.admin["Authorization"].split("_", 2)[2]
    services.database.close()
    for file in services.settings.data_path.glob("edgectl.sqlite*"):
        content = file.read_bytes()
        for secret in (cookie, token, PASSWORD):
            assert secret.encode() not in content


def test_a_name_that_nobody_has_costs_what_a_wrong_password_costs():
    nobody = _of_nobody(QUICK)
    assert extract_parameters(nobody) == extract_parameters(QUICK.hash(PASSWORD))
    with pytest.raises(VerifyMismatchError):
        QUICK.verify(nobody, PASSWORD)
    assert _of_nobody(QUICK) != nobody
