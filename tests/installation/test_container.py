"""What is shipped for containers: linted, valid, and taken by the programs that it is for."""

from __future__ import annotations

import http.server
import ipaddress
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from databases import open_migrated
from edgectl_server.settings import ENVIRONMENT_PREFIX, Settings, load_settings
from edgectl_server.signing.authority import Authority
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.repository import Repository
from waiting import wait_for

ROOT = Path(__file__).parents[2]
CONTAINER = ROOT / "packaging/container"
COMPOSE = ROOT / "packaging/compose"
OURS = ("server", "backup", "broker-files", "revocations")


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    return document


def example() -> dict[str, str]:
    lines = (COMPOSE / "example.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def filled(text: str, values: dict[str, str]) -> str:
    """Put values into a text as Compose does."""
    found = re.sub(r"\$\{(\w+)(?::[-?][^}]*)?\}", lambda match: values.get(match[1]) or "x", text)
    return found.replace("$$", "$")


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", CONTAINER / "Containerfile"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_image_is_of_no_user_and_looks_after_itself() -> None:
    final = (CONTAINER / "Containerfile").read_text().split("\nFROM ")[-1]
    user = re.search(r"(?m)^USER (\d+):(\d+)$", final)
    assert user is not None
    assert user[1] != "0"
    assert "\nHEALTHCHECK " in final
    for name in re.findall(rf"{ENVIRONMENT_PREFIX}\w+=\S+", final):
        load_settings({}, dict([name.split("=")]), None)


def test_the_compose_file_is_valid() -> None:
    schema = json.loads((ROOT / "tests/data/compose/compose-spec.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(compose())] == []


def test_the_compose_file_holds_together() -> None:
    document = compose()
    services, named = document["services"], set(document["volumes"])
    for name, service in services.items():
        for other in service.get("depends_on", ()):
            assert other in services, name
        for volume in service.get("volumes", ()):
            source = filled(volume, example()).split(":")[0]
            assert source in named or source.startswith(("/", "./")), volume
        if "image" in service and "edgectl" not in service["image"]:
            assert not service["image"].endswith(":latest"), name
    for name in OURS:
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert "user" not in services[name], "that of the image"
    wanted = set(re.findall(r"\$\{(\w+)", (COMPOSE / "compose.yaml").read_text()))
    assert wanted - {"EDGECTL_IMAGE"} == set(example())


def test_only_the_proxy_and_the_broker_are_reached_from_outside() -> None:
    services = compose()["services"]
    assert {name for name, one in services.items() if one.get("ports")} == {"nginx", "mosquitto"}
    assert compose()["networks"]["inside"]["internal"] is True


def test_who_talks_to_the_outside_is_not_where_the_data_is() -> None:
    document = compose()
    for name, service in document["services"].items():
        assert not {"outside", "store"} <= set(service.get("networks", ())), name
    assert document["networks"]["store"]["internal"] is True


def test_fixed_addresses_are_not_given_to_others() -> None:
    """Whoever starts first would get them, and the other could not start."""
    document = compose()
    (pool,) = document["networks"]["inside"]["ipam"]["config"]
    fixed = [
        one["networks"]["inside"]["ipv4_address"]
        for one in document["services"].values()
        if (one.get("networks", {}).get("inside") or {}).get("ipv4_address")
    ]
    assert len(fixed) == len(set(fixed)) == 2
    for address in map(ipaddress.ip_address, fixed):
        assert address in ipaddress.ip_network(pool["subnet"])
        assert address not in ipaddress.ip_network(pool["ip_range"])


def test_the_server_takes_the_settings_of_the_compose_file() -> None:
    services = compose()["services"]
    environment = {
        name: filled(str(value), example())
        for name, value in services["server"]["environment"].items()
    }
    settings = load_settings({}, environment, None)
    assert settings.broker == "mqtts://edge.example.org:8883"
    assert settings.trusted_proxies == services["nginx"]["networks"]["inside"]["ipv4_address"]
    aliases = services["mosquitto"]["networks"]["inside"]["aliases"]
    assert [filled(one, example()) for one in aliases] == ["edge.example.org"]


@pytest.mark.parametrize("service", ["broker-files", "revocations"])
def test_commands_of_the_compose_file_exist(service: str) -> None:
    """The shell reads the script, and the program its options."""
    script = filled(compose()["services"][service]["command"][0], example())
    subprocess.run(["sh", "-n", "-c", script], check=True)
    command = re.search(r"edgectl (server (?:[^|\n]|\\\n)+)", script)
    assert command is not None
    words = re.findall(r"'[^']*'|\S+", command[1].replace("\\\n", " "))
    options = [word for word in words if word.startswith("--")]
    assert options
    helped = subprocess.run(
        [sys.executable, "-m", "edgectl", "server", words[1], "--help"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    for option in options:
        assert f"{option} " in helped.stdout, option


def documented(beginning: str) -> list[str]:
    """Return the words of the command of the page on backups that begins so."""
    page = (ROOT / "docs/operations/backup.md").read_text().replace("\\\n", " ")
    (line,) = re.findall(rf"(?m)^{beginning}.*$", page)
    return shlex.split(line)


def mounted(words: list[str]) -> set[str]:
    """Return where the volumes of a command lie in the container."""
    given = [words[at + 1] for at, word in enumerate(words) if word == "--volume"]
    return {one.split(":")[1] for one in given}


@pytest.mark.parametrize("beginning", ["docker compose run", "docker run"])
def test_the_backup_of_the_documentation_finds_its_data_and_its_folders(
    beginning: str, tmp_path: Path
) -> None:
    words = documented(beginning)
    if beginning == "docker run":
        places, command = mounted(words), words[words.index("edgectl-server") + 1 :]
    else:
        services = compose()["services"]
        server, backup = services["server"], services[words[-1]]
        assert backup["environment"] == server["environment"], "the same database and blobs"
        assert {"postgres", "s3"} <= set(backup["depends_on"])
        assert set(backup["networks"]) == {"store"}
        assert backup["profiles"], "not started with the others"
        places = mounted(words) | {one.split(":")[1] for one in backup["volumes"]}
        command = backup["command"]
    containerfile = (CONTAINER / "Containerfile").read_text()
    (data,) = re.findall(r"EDGECTL_SERVER_DATA=(\S+)", containerfile)
    assert places == {data, "/backup", "/passphrase"}

    # --- run as it stands, with folders of this test in their places
    here = {"/backup/": f"{tmp_path}/backup/", "/passphrase": f"{tmp_path}/passphrase"}
    (tmp_path / "backup").mkdir()
    (tmp_path / "passphrase").write_text("correct horse battery\n")
    (tmp_path / "passphrase").chmod(0o400)
    there = tmp_path / "data"
    there.mkdir(mode=0o700)
    open_migrated(Settings(data=str(there)).database_address).close()
    now = datetime(2026, 11, 30, tzinfo=UTC)
    Repository.open(there / "tuf", Keys.open(there / "keys"), now)
    Authority.open(there / "pki", now)
    done = subprocess.run(
        [sys.executable, "-m", "edgectl", *(here.get(word, word) for word in command)],
        env={**os.environ, "EDGECTL_SERVER_DATA": str(there)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "backup").glob("*/manifest.json"))


class _Echo(http.server.BaseHTTPRequestHandler):
    """Answers with the headers that arrived."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps(dict(self.headers)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Say nothing."""


@pytest.fixture
def behind() -> Iterator[int]:
    """What stands for the server; its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/bin") is None, reason="nginx is not installed"
)
def test_nginx_says_who_asks_whatever_they_say_of_themselves(behind: int, tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "pki", datetime.now(UTC))  # noqa: TID251 - a certificate of today
    identity = authority.web_identity(("127.0.0.1",), datetime.now(UTC))  # noqa: TID251
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    text = (COMPOSE / "nginx.conf").read_text()
    for old, new in (
        ("server:8080", f"127.0.0.1:{behind}"),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("/tls/certificate.pem", str(identity.certificate)),
        ("/tls/key.pem", str(identity.key)),
        ("/tmp/", f"{tmp_path}/"),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "nginx.conf").write_text(f"daemon off;\nerror_log stderr;\n{text}")
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    command = [str(nginx), "-p", str(tmp_path), "-e", "stderr", "-c", str(tmp_path / "nginx.conf")]
    subprocess.run([*command, "-t"], check=True, capture_output=True, timeout=30)
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        context = ssl.create_default_context(cafile=str(identity.authority))
        request = urllib.request.Request(
            f"https://127.0.0.1:{port}/api/v1/version",
            headers={"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "http"},
        )

        def ask() -> dict[str, str] | None:
            try:
                with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                    assert answer.headers["Strict-Transport-Security"]
                    found: dict[str, str] = json.load(answer)
                    return found
            except urllib.error.URLError:
                return None

        seen = wait_for(ask, "nginx to answer")
        assert seen["X-Forwarded-For"] == "127.0.0.1"
        assert seen["X-Forwarded-Proto"] == "https"
    finally:
        running.terminate()
        running.wait(20)
