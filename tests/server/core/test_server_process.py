"""The whole server as a process: started, used, stopped, killed, started again."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from waiting import wait_for

ACTIVITY = Path(__file__).parents[3] / "server/edgectl/demo/activity"
START_S = 180
WAIT_S = 60


class ServerProcess:
    """``python -m edgectl_server start`` on free ports."""

    def __init__(self, data: Path, *options: str, as_json: bool = True) -> None:
        self.data = data
        self.log = data.parent / f"{data.name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "edgectl_server", "start"),
                    *("--data", str(data), "--port", "0", "--broker-port", "0"),
                    *(("--json",) if as_json else ()),
                    *options,
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.lines: list[str] = []
        self.ready = threading.Event()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if "ready" in line:
                self.ready.set()
        self.ready.set()

    def wait_ready(self) -> dict:
        assert self.ready.wait(START_S), self.log.read_text()
        found = [json.loads(line) for line in self.lines if line.startswith("{")]
        assert found, self.log.read_text()
        assert found[0].get("ready"), found
        return found[0]

    @contextmanager
    def client(self) -> Iterator[httpx2.Client]:
        url = self.wait_ready()["url"]
        with httpx2.Client(base_url=f"{url}/api/v1", timeout=30) as client:
            password = (self.data / "admin-password").read_text().strip()
            body = {"username": "admin", "password": password}
            token = client.post("/tokens:login", json=body).json()["token"]
            client.headers["Authorization"] = f"Bearer {token}"
            yield client

    def stop(self, signal_: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Return the exit code and how long it took."""
        if self.process.poll() is None:
            self.process.send_signal(signal_)
        started = time.monotonic()
        code = self.process.wait(WAIT_S)
        seconds = time.monotonic() - started
        self.reader.join()
        self.process.stdout.close()
        return code, seconds


@pytest.fixture
def start(tmp_path):
    started = []

    def start(*options, name="data", as_json=True):
        server = ServerProcess(tmp_path / name, *options, as_json=as_json)
        started.append(server)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)


def ended(client, job_id: str):
    """Wait for the end of a job and return it."""

    def look():
        job = client.get(f"/jobs/{job_id}").json()
        return job if job["finished_at"] else None

    return wait_for(look, "the end of the job")


def send(client, content: bytes, *, offset=0, stop=None):
    name = hashlib.sha256(content).hexdigest()
    headers = {"Upload-Offset": str(offset), "Upload-Length": str(len(content))}
    answer = client.patch(f"/uploads/{name}", content=content[offset:stop], headers=headers)
    assert answer.status_code == 204, answer.text
    return name


def test_start_answer_and_stop_with_open_streams(start):
    server = start()
    line = server.wait_ready()
    assert line["broker"].startswith("mqtts://127.0.0.1:")
    assert line["data"] == str(server.data)
    with server.client() as client:
        ready = client.get("/health/ready")
        assert ready.status_code == 200, ready.text
        assert set(ready.json()["checks"].values()) == {"ok"}
        assert client.get("/fleet").json()["devices"] == 0
        with client.stream("GET", "/events?topic=fleet") as stream:
            pieces = stream.iter_text()
            text = ""
            while '"snapshot"' not in text:
                text += next(pieces)
            assert "event: fleet" in text
            code, seconds = server.stop()
            assert (code, len("".join(pieces))) == (0, 0)
    assert seconds < 5
    assert "Traceback" not in server.log.read_text()


def test_only_the_owner_may_look_into_the_data_folder(start):
    server = start()
    server.wait_ready()
    server.stop()
    for path in [server.data, *server.data.rglob("*")]:
        open_to_others = path.stat().st_mode & 0o077
        assert not open_to_others or path.suffix == ".pem", path


def test_a_second_server_is_refused_and_the_first_goes_on(start):
    first = start()
    port = first.wait_ready()["url"].rpartition(":")[2]
    second = start()
    assert second.stop(signal.SIGCONT)[0] == 1
    refusal = json.loads(second.lines[0])
    assert refusal["ready"] is False
    assert refusal["error"]["code"] == "server.running"
    assert str(first.process.pid) in refusal["error"]["detail"]
    third = start("--port", port, name="other")
    assert third.stop(signal.SIGCONT)[0] == 1
    assert json.loads(third.lines[0])["error"]["code"] == "server.listen"
    with first.client() as client:
        assert client.get("/me").json()["user"] == "admin"
    assert first.stop(signal.SIGINT)[0] == 0


def test_wrong_settings_are_said_and_nothing_is_made(start, tmp_path):
    server = start("--tick-s", "0")
    assert server.stop(signal.SIGCONT)[0] == 1
    assert json.loads(server.lines[0])["error"]["code"] == "settings.invalid"
    assert not server.data.exists()
    log = server.log.read_text()
    assert log.startswith("error[settings.invalid]: ")
    assert "try: " in log
    assert start("--no-such-option").stop(signal.SIGCONT)[0] == 2


def test_a_restart_keeps_everything_and_the_password_is_in_no_log(start):
    first = start(as_json=False)
    assert first.ready.wait(START_S)
    wait_for(lambda: any(line.startswith("edgectl server ready: ") for line in first.lines), "it")
    password = (first.data / "admin-password").read_text().strip()
    assert str(first.data / "admin-password") in "".join(first.lines)
    first.stop()
    second = start()
    with second.client() as client:
        content = os.urandom(1000)
        name = send(client, content)
        token = client.headers["Authorization"]
        root = sorted(path.name for path in (second.data / "tuf").glob("*root*"))
    second.stop()
    third = start()
    url = third.wait_ready()["url"]
    headers = {"Authorization": token}
    answer = httpx2.head(f"{url}/api/v1/uploads/{name}", headers=headers)
    assert answer.headers["upload-complete"] == "?1"
    assert sorted(path.name for path in (third.data / "tuf").glob("*root*")) == root
    third.stop()
    for server in (first, second, third):
        assert password not in "".join(server.lines), "a journal keeps what it is told"
        assert password not in server.log.read_text()


def test_the_first_password_is_told_to_a_person(tmp_path):
    ours, theirs = os.openpty()
    data = tmp_path / "data"
    command = [sys.executable, "-P", "-m", "edgectl_server", "start", "--data", str(data)]
    with subprocess.Popen([*command, "--port", "0", "--broker-port", "0"], stdout=theirs) as server:
        os.close(theirs)
        said = b""
        try:
            while b"ready" not in said:
                said += os.read(ours, 4096)
        finally:
            server.terminate()
            os.close(ours)
    assert (data / "admin-password").read_bytes().strip() in said


@pytest.mark.parametrize(("trusted", "statuses"), [("", {401, 429}), ("127.0.0.1", {401})])
def test_only_a_trusted_proxy_names_the_client(start, trusted, statuses):
    server = start("--trusted-proxies", trusted)
    url = server.wait_ready()["url"]
    body = {"username": "admin", "password": "wrong password"}
    seen = set()
    for number in range(12):
        headers = {"X-Forwarded-For": f"10.0.0.{number}", "X-Forwarded-Proto": "https"}
        seen.add(httpx2.post(f"{url}/api/v1/session", json=body, headers=headers).status_code)
    assert seen == statuses
    server.stop()


def test_users_by_command_line(start, tmp_path):
    server = start()
    url = server.wait_ready()["url"]
    command = [sys.executable, "-P", "-m", "edgectl_server", "user", "--data", str(server.data)]

    def run(*arguments, text=None):
        return subprocess.run(  # noqa: PLW1510  # the exit code is looked at
            [*command, *arguments], input=text, capture_output=True, text=True, timeout=60
        )

    def login(password):
        body = {"username": "anna", "password": password}
        return httpx2.post(f"{url}/api/v1/session", json=body)

    password = run("anna").stdout.strip()
    assert login(password).json()["role"] == "viewer"
    assert run("anna", "--role", "operator", "--password-stdin", text="new password\n").stdout == ""
    assert login(password).status_code == 401
    assert login("new password").json()["role"] == "operator"
    assert "error[auth.password]" in run("anna", "--password-stdin", text="short\n").stderr
    assert run("anna", "--delete").returncode == 0
    assert login("new password").status_code == 401
    missing = run("anna", "--data", str(tmp_path / "none"))
    assert (missing.returncode, "error[server.data]" in missing.stderr) == (1, True)
    missing = run("anna", "--data", str(tmp_path))  # its database is another one
    assert (missing.returncode, "error[database.empty]" in missing.stderr) == (1, True)
    server.stop()


@pytest.mark.postgresql
def test_on_postgresql(start, postgresql_url):
    server = start("--database-url", postgresql_url)
    with server.client() as client:
        assert client.get("/health/ready").json()["ready"] is True
    assert not (server.data / "edgectl.sqlite").exists()
    assert server.stop()[0] == 0


def peak_memory(process: subprocess.Popen) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def test_a_large_upload_costs_little_memory(start, tmp_path):
    length = 200 * 1024**2
    block = os.urandom(1024**2)
    digest = hashlib.sha256()
    for _ in range(200):
        digest.update(block)
    name = digest.hexdigest()
    server = start()
    with server.client() as client:
        before = peak_memory(server.process)
        headers = {
            "Upload-Offset": "0",
            "Upload-Length": str(length),
            "Content-Length": str(length),
        }
        answer = client.patch(
            f"/uploads/{name}", content=(block for _ in range(200)), headers=headers
        )
        assert answer.headers["upload-complete"] == "?1", answer.text
        grown = peak_memory(server.process) - before
    server.stop()
    assert grown < 32 * 1024**2


def test_kill_9_in_the_middle_of_an_upload(start):
    content = os.urandom(24 * 1024**2)
    name = hashlib.sha256(content).hexdigest()
    first = start()
    part = first.data / "uploads" / f"{name}.part"

    def cut():
        yield content[: 8 * 1024**2]
        wait_for(lambda: part.exists() and part.stat().st_size >= 7 * 1024**2, "half the upload")
        first.stop(signal.SIGKILL)
        yield content[8 * 1024**2 :]

    with first.client() as client, pytest.raises(httpx2.HTTPError):
        client.patch(
            f"/uploads/{name}",
            content=cut(),
            headers={"Upload-Offset": "0", "Upload-Length": str(len(content))},
        )
    second = start()
    with second.client() as client:
        offset = int(client.head(f"/uploads/{name}").headers["upload-offset"])
        assert 7 * 1024**2 <= offset < len(content)
        send(client, content, offset=offset)
        assert client.head(f"/uploads/{name}").headers["upload-complete"] == "?1"
    second.stop()


def push(client) -> dict:
    files = {
        name: send(client, (ACTIVITY / file).read_bytes())
        for name, file in (
            ("model", "har_v1.onnx"),
            ("calibration", "calibration.npz"),
            ("evaluation", "eval.npz"),
        )
    }
    answer = client.post("/models/har/versions", json={"filename": "har_v1.onnx", **files})
    assert answer.status_code == 202, answer.text
    return answer.json()


def children(process: subprocess.Popen) -> list[int]:
    listed = subprocess.run(  # noqa: PLW1510  # no children: exit code 1
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, timeout=30
    )
    return [int(line) for line in listed.stdout.split()]


def test_kill_9_in_the_middle_of_a_push(start):
    first = start()
    with first.client() as client:
        accepted = push(client)
        wait_for(
            lambda: (
                client.get(f"/jobs/{accepted['job']}").json()["progress"]["stage"] == "quantize"
            ),
            "quantization",
        )
        assert children(first.process)
        first.stop(signal.SIGKILL)
    second = start()
    with second.client() as client:
        job = ended(client, accepted["job"])
        assert (job["state"], job["attempts"]) == ("succeeded", 2)
        version = client.get("/models/har/versions/1").json()
        assert version["state"] == "ready"
        assert len({one["variant"] for one in version["variants"]}) == len(version["variants"])
        assert client.get("/jobs").json()["total"] == 1
    assert list((second.data / "jobs").iterdir()) == []
    assert second.stop()[0] == 0


def test_sigterm_in_the_middle_of_a_push_is_quick_and_loses_nothing(start):
    first = start()
    with first.client() as client:
        accepted = push(client)
        wait_for(
            lambda: client.get(f"/jobs/{accepted['job']}").json()["state"] == "running", "the job"
        )
        code, seconds = first.stop()
    assert code == 0
    assert seconds < 10
    second = start()
    with second.client() as client:
        job = ended(client, accepted["job"])
        assert (job["state"], job["attempts"]) == ("succeeded", 1)
    second.stop()
