"""A whole server with alerts: killed between an alert and its mail, which arrives all the same."""

import json
import signal
import sqlite3
from pathlib import Path

from server.core.test_alert_mail import Mailbox, Opened, free_port
from server.core.test_server_process import ServerProcess
from waiting import wait_for

DRIFTING = """
INSERT INTO drift_state
(manifest, level, "group", model, version, state, since, until, rows, findings, faults)
VALUES ('sha256:0', 'fleet', '', 'har', '1', 'drifting', '2031-01-01 12:00:00.000000',
        '2031-01-01 12:00:00.000000', 100, '[{"feature": "accel_x", "distance": 0.4}]', '[]')
"""


def test_what_an_alert_has_to_tell_survives_kill_9(tmp_path: Path) -> None:
    mailbox, port = Mailbox(), free_port()
    options = ("--smtp-host", "127.0.0.1", "--smtp-port", str(port), "--smtp-security", "off")
    options += ("--smtp-from", "edgectl@example.org")
    server = ServerProcess(tmp_path / "data", *options)
    with server.client() as client:
        asked = {"name": "ops", "channel": "email", "target": ["ops@example.org"]}
        route = client.post("/alert-routes", json=asked).raise_for_status().json()["id"]
        with sqlite3.connect(tmp_path / "data" / "edgectl.sqlite", timeout=30) as database:
            database.execute(DRIFTING)
        database.close()

        def waiting() -> dict[str, object] | None:
            found = client.get(f"/alert-routes/{route}/notices").json()["items"]
            return found[0] if found and found[0]["attempts"] else None

        notice = wait_for(waiting, "the first attempt, which nobody answers")
        assert "refused" in notice["error"].lower() or notice["error"] == ""
        with client.stream("GET", "/events", params={"topic": "alerts"}) as stream:
            data = next(line for line in stream.iter_lines() if line.startswith("data:"))
        assert json.loads(data.removeprefix("data:"))["snapshot"]["critical"] >= 1
        (alert,) = client.get("/alerts", params={"kind": "drift"}).json()["items"]
        assert (alert["severity"], alert["model"]) == ("critical", "har")
    server.stop(signal.SIGKILL)
    opened = Opened(mailbox)
    opened.port = port
    opened.start()
    again = ServerProcess(tmp_path / "data", *options)
    try:
        wait_for(lambda: mailbox.mails, "the mail, after the restart", bound_s=150)
        with again.client() as client:
            found = client.get(f"/alert-routes/{route}/notices").json()
            assert [one["state"] for one in found["items"]] == ["delivered"]
            assert client.get("/alerts/counts").json()["critical"] >= 1
    finally:
        again.stop()
        opened.stop()
    ((_, receivers, content),) = mailbox.mails
    assert receivers == ["ops@example.org"]
    assert b"har@1 sees other data on the fleet: accel_x" in content.replace(b"=\r\n", b"")
