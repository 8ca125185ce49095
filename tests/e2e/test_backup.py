"""A server is lost, and restored from a backup: the fleet goes on, and nothing comes alive again.

Everything is real: the commands that an operator types, a server, devices that have seen more than
the backup remembers.
"""

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from e2e.test_restarts import enrol_at
from server.fleet.fleet_helpers import Pi
from waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def command(tmp_path):
    """Run ``edgectl server …``; return what it prints, as JSON."""
    secret = tmp_path / "backup.passphrase"
    secret.write_text(f"{PASSPHRASE}\n")
    secret.chmod(0o600)

    def run(*words, code=0):
        words = [*words, "--passphrase-file", str(secret)] if words[0] != "check" else words
        done = subprocess.run(
            [sys.executable, "-m", "edgectl", "server", *words, "--json"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return json.loads(done.stdout)

    return run


def codes(server):
    """Return what was seen of attackers: device and code."""
    return {(one.device, one.code) for one in server.client.security_events(limit=100).items}


def states(server, rollout):
    return sorted(one.state for one in server.client.rollout_devices(rollout).items)


def refusals(agent):
    """Return what an agent has refused, by its log."""
    return [line for line in agent.log.read_text().splitlines() if "trust.rollback" in line]


def move(server, data):
    """Let the server object work in another folder, on the ports it had."""
    server.data = data
    return server


def test_after_a_loss_the_fleet_goes_on_and_nothing_comes_alive_again(
    start, pushed, activity, command, tmp_path
):
    models = dict.fromkeys(("1", "2"), activity["model"])
    server = start.server(data=pushed("har", models, precisions=["fp32"]))
    here, away = (start.agent(server, name) for name in ("here", "away"))
    Pi("lost", tmp_path / "lost", enrol_at(server.url), server.enrol_token())
    server.wait_rollout(server.roll_out("har", "1", "here", "away", observe_s=0.2))
    away.stop()
    rollout = server.roll_out("har", "2", "here", "away", observe_s=0.2)
    wait_for(lambda: here.served("har") == "2", "the first device on 2", bound_s=60)
    wait_for(lambda: states(server, rollout) == ["committed", "in_progress"], "its middle")
    token = server.enrol_token()
    folder = f"{tmp_path}/backups/"
    made = command("backup", folder, "--data", str(server.data))
    assert made["with_keys"]

    # What is forgotten: a version, orders, an abort, a device let in, another shut out.
    pushed_again = server.push("har", activity["model"], "3", precisions=["fp32"])
    assert pushed_again.state == "succeeded", pushed_again.error
    server.client.rollout_action(rollout, "abort", "it is poison")
    server.wait_rollout(rollout, "aborted")
    server.wait_rollout(server.roll_out("har", "3", "here", observe_s=0.2))
    Pi("stranger", tmp_path / "stranger", enrol_at(server.url), token)  # has used it up
    server.client.revoke_device("lost")
    with urllib.request.urlopen(f"{server.url}/api/v1/revocations.pem", timeout=60) as answer:
        (tmp_path / "revoked.pem").write_bytes(answer.read())
    server.kill()
    server.stop()
    shutil.rmtree(server.data)
    done = command(
        *("restore", folder, "--data", str(server.data), "--expect", made["manifest"]),
        *("--revocations", str(tmp_path / "revoked.pem")),
    )
    assert done["revoked"] == ["lost"]
    assert command("check", "--data", str(server.data))["ok"]
    server.start()

    # Nothing moves by itself, and what was out stays out.
    wait_for(lambda: server.client.device("here").online, "the device back")
    assert server.client.rollout(rollout).state == "paused"
    assert server.client.device("lost").state == "revoked"
    assert not server.client.device("lost").online
    with pytest.raises(urllib.error.HTTPError, match=r"401|403|404"):
        Pi("another", tmp_path / "another", enrol_at(server.url), token)
    away.start()
    wait_for(lambda: server.client.device("away").online, "the other device back")
    assert here.served("har") == "3"
    assert away.served("har") == "1"

    # Somebody has looked, and lets it go on: the device that was away has its turn.
    server.client.rollout_action(rollout, "resume")
    wait_for(lambda: away.served("har") == "2", "the rollout carried on", bound_s=60)
    server.wait_rollout(rollout)
    assert here.served("har") == "3", "it had committed; nobody has ordered it anything"

    # A new version reaches everybody who is in: metadata and orders are ahead of what they saw.
    pushed_again = server.push("har", activity["model"], "4", precisions=["fp32"])
    assert pushed_again.state == "succeeded", pushed_again.error
    server.wait_rollout(server.roll_out("har", "4", "here", "away", observe_s=0.2))
    assert (here.served("har"), away.served("har")) == ("4", "4")
    assert codes(server) == set()
    assert refusals(here) == refusals(away) == []
    assert [one.action for one in server.client.audit((), 200).items].count("restore") == 1
    assert not server.client.audit_state().alarm


def test_a_server_that_moves_carries_its_rollout_on(start, pushed, activity, command, tmp_path):
    models = dict.fromkeys(("1", "2"), activity["model"])
    server = start.server(data=pushed("har", models, precisions=["fp32"]))
    away = start.agent(server, "away")
    away.stop()
    rollout = server.roll_out("har", "1", observe_s=0.2)
    wait_for(lambda: states(server, rollout) == ["in_progress"], "the device ordered")
    server.stop()
    command("backup", str(tmp_path / "moved.backup"), "--data", str(server.data))
    there = tmp_path / "there"
    source = str(tmp_path / "moved.backup")
    command("restore", source, "--data", str(there), "--carry-on")
    move(server, there).start()
    away.start()
    server.wait_rollout(rollout)
    assert away.served("har") == "1"
    assert codes(server) == set()
