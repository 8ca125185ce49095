"""What admins are shown of deeds and people, asked by what they look for."""

from datetime import timedelta

from server.core.api_routes import login


def listed(client, people, **asked):
    answer = client.get("/api/v1/audit", headers=people.admin, params={"sort": "number", **asked})
    assert answer.status_code == 200, answer.text
    return [(row["actor"], row["action"], row["object"]) for row in answer.json()["items"]]


def test_the_audit_log_is_asked_by_person_action_object_outcome_and_time(client, people, clock):
    clock.pass_s(60)
    begun = clock()

    def put_policy(model, headers):
        body = {"max_drop_points": 1, "revision": 0}
        return client.put(f"/api/v1/models/{model}/policy", headers=headers, json=body).status_code

    assert put_policy("har", people.admin) == 200
    assert client.delete("/api/v1/tokens/100%25", headers=people.operator).status_code == 404
    assert put_policy("har", people.viewer) == 403
    clock.pass_s(60)
    middle = clock()
    assert put_policy("kws", people.admin) == 200

    put, later = ("admin", "put_policy", "har"), ("admin", "put_policy", "kws")
    wrong, denied = ("operator", "delete_token", "100%"), ("viewer", "put_policy", "har")
    since = {"since": begun.isoformat()}
    assert listed(client, people, **since) == [put, wrong, denied, later]
    assert listed(client, people, actor="admin", **since) == [put, later]
    assert listed(client, people, actor="adm", **since) == [], "a person is asked for, not a part"
    assert listed(client, people, action="delete_token", **since) == [wrong]
    assert listed(client, people, object="HAR", **since) == [put, denied]
    assert listed(client, people, object="%", **since) == [wrong], "no wildcard of the database"
    assert listed(client, people, outcome="refused", **since) == [wrong, denied]
    assert listed(client, people, until=middle.isoformat(), **since) == [put, wrong, denied]
    assert listed(client, people, since=(clock() + timedelta(hours=1)).isoformat()) == []


def test_what_is_no_question_to_the_audit_log_is_refused(client, people):
    for asked in ({"outcome": "nearly"}, {"since": "yesterday"}, {"since": "2026-01-01T00:00:00"}):
        answer = client.get("/api/v1/audit", headers=people.admin, params=asked)
        assert answer.status_code == 422, asked


def test_who_may_log_in_is_shown_with_what_is_in_use(client, people):
    assert login(client, "viewer").status_code == 200
    client.cookies.clear()
    answer = client.get("/api/v1/users", headers=people.admin)
    assert answer.status_code == 200, answer.text
    users = {one["name"]: one for one in answer.json()["items"]}
    assert {name: one["role"] for name, one in users.items()} == {
        "admin": "admin",
        "operator": "operator",
        "viewer": "viewer",
    }
    assert {one["by"] for one in users.values()} == {"password"}
    viewer = users["viewer"]
    assert viewer["sessions"] >= 1
    assert viewer["last_login_at"] is not None
    assert viewer["tokens"] >= 1
    assert "argon2" not in answer.text
    found = client.get("/api/v1/users", headers=people.admin, params={"q": "VIEW"}).json()
    assert [one["name"] for one in found["items"]] == ["viewer"]


def test_limits_of_uploads_are_said_before(client, services, people):
    answer = client.get("/api/v1/uploads", headers=people.operator)
    assert answer.json()["file_bytes_max"] == services.settings.upload_bytes_max
    assert answer.json()["room_bytes"] > 0
