"""Settings: where they come from, and that their reference is true."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from edgectl_server.errors import Refused
from edgectl_server.settings import Settings, load_settings

REFERENCE = Path(__file__).parents[3] / "docs" / "server.toml"


def test_the_reference_shows_every_key_with_its_default():
    lines = re.findall(r"^# (\w+ = .+)$", REFERENCE.read_text(), re.MULTILINE)
    assert tomllib.loads("\n".join(lines)) == msgspec.to_builtins(Settings())


def test_flags_before_environment_before_file_before_default(tmp_path):
    file = tmp_path / "server.toml"
    file.write_text('listen_port = 1\nbroker_port = 1\ntick_s = 2\nbroker = "mosquitto"\n')
    environment = {
        "EDGECTL_SERVER_LISTEN_PORT": "2",
        "EDGECTL_SERVER_BROKER_PORT": "2",
        "OTHER": "x",
    }
    settings = load_settings({"listen_port": 3, "tick_s": None}, environment, file)
    assert settings == Settings(listen_port=3, broker_port=2, tick_s=2.0, broker="mosquitto")


@pytest.mark.parametrize(
    ("flags", "environment", "text", "named"),
    [
        ({}, {}, "listen_prot = 1", "listen_prot"),
        ({}, {"EDGECTL_SERVER_LISTEN_PROT": "1"}, "", "EDGECTL_SERVER_LISTEN_PROT"),
        ({}, {"EDGECTL_SERVER_LISTEN_PORT": "many"}, "", "EDGECTL_SERVER_LISTEN_PORT"),
        ({"listen_port": 70000}, {}, "", "listen_port"),
        ({}, {}, 'tick_s = "fast"', "tick_s"),
        ({}, {}, "listen_port = ", "TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, flags, environment, text, named):
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(Refused) as caught:
        load_settings(flags, environment, file)
    assert caught.value.code == "settings.invalid"
    assert named in caught.value.detail + caught.value.hint


def test_the_command_shows_what_would_be_used(tmp_path):
    file = tmp_path / "server.toml"
    file.write_text('database_url = "postgresql+psycopg://anna:secret@host/name"\n')
    command = [sys.executable, "-P", "-m", "edgectl_server", "settings"]
    options = ["--config", str(file), "--port", "7", "--json"]
    environment = {**os.environ, "EDGECTL_SERVER_TICK_S": "3"}
    answer = subprocess.run(
        [*command, *options], env=environment, capture_output=True, check=True, timeout=60
    )
    shown = json.loads(answer.stdout)
    assert shown["database_url"] == "postgresql+psycopg://anna:***@host/name"
    assert (shown["listen_port"], shown["tick_s"]) == (7, 3.0)
    assert set(shown) == set(msgspec.to_builtins(Settings()))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(Refused):
        load_settings({}, {}, tmp_path / "none.toml")


def test_a_worker_has_options_for_what_it_uses_alone():
    command = [sys.executable, "-P", "-m", "edgectl_server", "worker"]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert {"--database-url", "--blobs-url", "--data", "--pipeline-workers"} <= set(shown.split())
    for other in ("--broker", "--listen-port", "--tls", "--oidc-issuer"):
        assert other not in shown
