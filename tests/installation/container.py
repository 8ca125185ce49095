"""The server's image, built and run, and the Compose file as a whole, by Docker's own engine.

Two courses, of one image and of all services: what each step leaves is what the next one finds.
The programs of other people are stood in for by Debian's (`stand_ins`), as no registry is needed;
the image, the Compose file, nginx's and Mosquitto's configuration, the networks, volumes, users and
checks are the real ones.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from e2e.conftest import activity  # noqa: F401 - a fixture
from e2e.fleet import Agent, Server, stopping
from edgectl.client import Client
from edgectl_server.signing.authority import Authority
from installation.engine import NEEDED, Engine, apart, make_engine_root
from installation.foreign import A72, entering, make_enterable
from installation.machine import remove
from installation.packages import ROOT, build, with_version
from installation.server_package import free_ports, with_a_migration
from installation.stand_ins import IMAGES, make_archive, make_stand_ins
from installation.test_container import documented
from waiting import wait_for

HOST = "edge.example.org"
IMAGE, NEXT = "edgectl-server", "edgectl-server-next"
BASE = "localhost/edgectl-base:bookworm-amd64"
STATE = "/var/lib/edgectl-server"
STOP_S = 20.0
AARCH64 = 183
USER = 65532
"""Of the image."""

missing = [name for name in NEEDED if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(
        bool(missing) or os.geteuid() != 0,
        reason=f"needs root and {', '.join(missing) or 'nothing else'}: "
        "packaging/install_test_packages.py installs them",
    ),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Hundreds of megabytes, and layers: not in memory.
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        yield folder
    finally:
        remove(folder)


@pytest.fixture(scope="module")
def package(folder: Path) -> Path:
    return build("server", folder / "package")


def build_image(package: Path, folder: Path, *options: str) -> Path:
    archive = folder / f"{package.stem}.tar"
    subprocess.run(
        [
            *(sys.executable, str(ROOT / "packaging/container/build.py"), str(package)),
            *("--output", str(archive), "--storage", str(folder / "storage"), *options),
        ],
        check=True,
        timeout=1200,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    return archive


@pytest.fixture(scope="module")
def image(package: Path, folder: Path) -> Path:
    return build_image(package, folder, "--own-base", "--tag", IMAGE)


@pytest.fixture(scope="module")
def next_image(package: Path, image: Path, folder: Path) -> Path:
    """The image of a next version, whose tables are others."""
    changed = with_version(package, "0.2.0~deb12", folder, with_a_migration)
    return build_image(changed, folder, "--base", BASE, "--tag", NEXT)


@pytest.fixture(scope="module")
def engine(image: Path, next_image: Path, folder: Path) -> Iterator[Engine]:
    """An engine with all images; from here on there is no network but its own."""
    root = make_engine_root(folder)
    make_archive(root)
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {HOST}\n")
    with apart(hosts):
        engine = Engine(root)
        try:
            for archive in (image, next_image):
                shutil.copy(archive, archive.with_suffix(".copy"))
                engine.load(archive.with_suffix(".copy"))
            make_stand_ins(engine)
            yield engine
        finally:
            engine.stop()


class InContainers(Server):
    """The server in a container, as the tests drive one of their own."""

    def __init__(self, engine: Engine, container: str, url: str, authority: str) -> None:
        self.engine, self.container, self.url = engine, container, url
        self.authority = authority
        self.log = SimpleNamespace(read_text=lambda: engine.docker("logs", container))
        self._client: Client | None = None

    def read(self, path: str) -> str:
        """Return a file of its data folder."""
        return self.engine.value("exec", self.container, "cat", f"{STATE}/{path}")

    @property
    def client(self) -> Client:
        if self._client is None:
            password = self.read("admin-password").strip()
            with Client(self.url, authority=self.authority) as anonymous:
                token = anonymous.login("admin", password, name="tests").token
            self._client = Client(self.url, token, authority=self.authority)
        return self._client

    def stop_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


# ---------------------------------------------------------------- what is built


def config_of(archive: Path) -> dict[str, Any]:
    with tarfile.open(archive) as tar:
        content = tar.extractfile("manifest.json")
        assert content is not None
        (manifest,) = json.load(content)
        content = tar.extractfile(manifest["Config"])
        assert content is not None
        config: dict[str, Any] = json.load(content)
        return config


def test_two_builds_have_the_same_layers(package: Path, image: Path, folder: Path) -> None:
    again = folder / "again"
    again.mkdir()
    other = build_image(package, again, "--own-base", "--tag", IMAGE)
    try:
        assert config_of(other)["rootfs"] == config_of(image)["rootfs"]
    finally:
        remove(again)


@pytest.fixture(scope="module")
def foreign(folder: Path) -> Path:
    """The file system of an image for arm64, put together on this machine."""
    place = folder / "foreign"
    package = build("server", place, architecture="arm64")
    archive = build_image(package, place, "--own-base", "--tag", f"{IMAGE}-arm64")
    config = config_of(archive)
    assert config["architecture"] == "arm64"
    (place / "config").write_text(json.dumps(config["config"]))
    root = place / "root"
    root.mkdir()
    with tarfile.open(archive) as tar:
        content = tar.extractfile("manifest.json")
        assert content is not None
        layers = json.load(content)[0]["Layers"]
        for name in layers:
            layer = subprocess.run(
                ["tar", "--extract", "--numeric-owner", "--directory", str(root)],
                input=tar.extractfile(name).read(),  # type: ignore[union-attr]
                check=True,
            )
            assert layer.returncode == 0
    return root


def machine_of(path: Path) -> int | None:
    """Return the architecture of a program or library, as ELF numbers it."""
    with path.open("rb") as file:
        head = file.read(20)
    return int.from_bytes(head[18:20], "little") if head[:4] == b"\x7fELF" else None


def test_an_image_for_another_architecture_is_all_of_it(foreign: Path) -> None:
    files = [path for path in foreign.rglob("*") if path.is_file() and not path.is_symlink()]
    machines = {found for path in files if (found := machine_of(path)) is not None}
    assert machines == {AARCH64}
    for path in ("etc/passwd", "etc/ssl/certs/ca-certificates.crt", "bin/sh"):
        assert (foreign / path).exists(), path
    compiled = [path for path in files if path.suffix == ".pyc"]
    assert any("usr/lib/python3.11" in str(path) for path in compiled)
    assert any("site-packages" in str(path) for path in compiled)


@pytest.fixture(scope="module")
def emulator(folder: Path) -> Path:
    """QEMU for one process of another architecture, not installed."""
    place = folder / "emulator"
    place.mkdir()
    subprocess.run(["apt-get", "download", "qemu-user-static"], check=True, cwd=place)
    (package,) = place.glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, place], check=True)
    return place / "usr/bin" / A72.emulator


def test_an_image_for_another_architecture_runs(
    foreign: Path,
    emulator: Path,
    activity: dict[str, Any],  # noqa: F811 - a fixture
) -> None:
    """Under qemu's emulation of one process: a real inference, the checks before a start."""
    shutil.copy(emulator, foreign / "qemu")
    shutil.copy(activity["model"], foreign / "model.onnx")
    start = ["chroot", "--userspec=65532:65532", str(foreign), "/qemu"]
    start += ["/usr/lib/edgectl-server/bin/python3", "-I"]
    script = (
        "import numpy, onnxruntime, platform; s = onnxruntime.InferenceSession('/model.onnx'); "
        "i = s.get_inputs()[0]; shape = [n if isinstance(n, int) else 1 for n in i.shape]; "
        "print(platform.machine(), s.run(None, {i.name: numpy.zeros(shape, 'f4')})[0].shape)"
    )
    for words, expected in (
        (["-c", script], "aarch64 (1, 7)"),
        (["-m", "edgectl_server", "check", "--data", "/var/lib/edgectl-server"], "keys"),
    ):
        done = subprocess.run(
            [*start, *words], check=False, capture_output=True, text=True, timeout=300,
            env={"PATH": "/usr/sbin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert expected in done.stdout, done.stdout


def test_an_image_for_another_architecture_serves(foreign: Path, emulator: Path) -> None:
    """Its own command as it is, with all processes that it starts; its own question for the health.

    It is root of a user namespace, where the image's own user does not exist.
    """
    config = json.loads((foreign.parent / "config").read_text())
    make_enterable(foreign)
    enter = entering(foreign, A72, str(emulator))
    settings = dict(line.split("=", 1) for line in config["Env"])
    port, broker_port = free_ports()
    settings |= {
        "EDGECTL_SERVER_DATA": "/tmp/data",
        "EDGECTL_SERVER_LISTEN_HOST": "127.0.0.1",
        "EDGECTL_SERVER_LISTEN_PORT": str(port),
        "EDGECTL_SERVER_BROKER_HOST": "127.0.0.1",
        "EDGECTL_SERVER_BROKER_PORT": str(broker_port),
        "HOME": "/tmp",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }

    def done(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*enter, *command], check=False, env=settings, timeout=300, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    said = done(*config["Entrypoint"], "--version")
    assert re.fullmatch(r"edgectl \d\S+", said.stdout.strip()), said
    log = foreign.parent / "server.log"
    begun = datetime.now(UTC)  # noqa: TID251 - how long it takes
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*enter, *config["Entrypoint"], *config["Cmd"]],
            env=settings, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:

        def healthy() -> bool:
            assert server.poll() is None, log.read_text()
            return done(*config["Healthcheck"]["Test"][1:]).returncode == 0

        wait_for(healthy, "the server to be healthy", bound_s=900)
        took = (datetime.now(UTC) - begun).total_seconds()  # noqa: TID251
        print(f"arm64, emulated: healthy after {took:.0f} s")
    finally:
        server.kill()
        server.wait(30)
    assert "Traceback" not in log.read_text(), log.read_text()


def test_nothing_is_compiled_at_each_start(engine: Engine) -> None:
    # All that a server imports sooner or later, so that nothing is missing in the package either.
    script = "import scipy.optimize, edgectl_server.training.refit, edgectl_server.services"
    said = engine.docker(
        *("run", "--rm", "--entrypoint", "/usr/lib/edgectl-server/bin/python3", IMAGE),
        *("-I", "-v", "-c", script),
    )
    assert "code object from" in said, "Python says where each module comes from"
    assert re.findall(r"(?m)^# code object from '(?!.*\.pyc').*$", said) == []


def test_the_image_says_what_it_is(engine: Engine) -> None:
    found = engine.inspect(IMAGE, kind="image")
    assert found["Config"]["User"] == "65532:65532"
    assert found["Config"]["Healthcheck"]["Test"][0] == "CMD"
    assert set(found["Config"]["Volumes"]) == {STATE}
    assert set(found["Config"]["ExposedPorts"]) == {"8080/tcp", "8883/tcp"}
    print(f"image: {found['Size'] / 1e6:.0f} MB")


# ---------------------------------------------------------------- the image alone

CLOSED = (
    *("--read-only", "--tmpfs", "/tmp"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
)
SETTINGS = {
    "EDGECTL_SERVER_TLS": "own",
    "EDGECTL_SERVER_BROKER_PUBLIC_HOST": HOST,
    "EDGECTL_SERVER_PUBLIC_URL": f"https://{HOST}:8080",
}


def started(engine: Engine, image: str) -> InContainers:
    """Start the image on the volume, and wait until it is healthy."""
    settings = [word for item in SETTINGS.items() for word in ("--env", "=".join(item))]
    engine.docker(
        *("run", "--detach", "--name", "server", *CLOSED, *settings),
        *("--publish", "8080:8080", "--publish", "8883:8883", "--volume", f"data:{STATE}", image),
    )
    engine.wait_healthy("server")
    authority = engine.value("exec", "server", "cat", f"{STATE}/pki/authority.pem")
    return InContainers(engine, "server", f"https://{HOST}:8080", authority)


def stopped(engine: Engine) -> None:
    """Stop it as an operator does; it ends in order and in time."""
    begun = datetime.now(UTC)  # noqa: TID251 - how long it takes
    engine.docker("stop", "--time", "60", "server")
    took = (datetime.now(UTC) - begun).total_seconds()  # noqa: TID251
    state = engine.inspect("server")["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False), engine.docker("logs", "server")
    assert took < STOP_S
    print(f"stopped in {took:.1f} s")
    engine.docker("rm", "server")


def revision(engine: Engine, image: str) -> str:
    script = (
        "import sqlite3; print(sqlite3.connect('edgectl.sqlite')"
        ".execute('SELECT version_num FROM alembic_version').fetchone()[0])"
    )
    return engine.value(
        *("run", "--rm", "--volume", f"data:{STATE}", "--entrypoint"),
        *("/usr/lib/edgectl-server/bin/python3", image, "-I", "-c", script),
    )


def test_the_course_of_an_image(
    engine: Engine,
    activity: dict[str, Any],  # noqa: F811 - a fixture
    tmp_path: Path,
) -> None:
    # --- what keeps it from starting is said, and nothing is wrong with what it brings
    volume = ("--volume", f"data:{STATE}")
    said = engine.docker("run", "--rm", *CLOSED, *volume, IMAGE, "server", "check", codes=(1,))
    assert "trusted_proxies" in said, said
    assert said.count("✗") <= 1 or "ports" in said, said
    tls = ("--env", "EDGECTL_SERVER_TLS=own")
    print(engine.docker("run", "--rm", *CLOSED, *volume, *tls, IMAGE, "server", "check"))

    # --- started, it is nobody, and can write to nothing but its volume
    server = started(engine, IMAGE)
    assert engine.value("exec", "server", "id", "-u") == "65532"
    for place in ("/", "/usr/lib/edgectl-server", "/etc"):
        said = engine.docker("exec", "server", "touch", f"{place}/x", codes=(1,))
        assert "Read-only" in said, said
    assert engine.value("exec", "server", "stat", "-c", "%a %u", STATE) == "700 65532"
    running = engine.value("exec", "server", "cat", "/proc/1/status")
    assert re.search(r"(?m)^CapEff:\s+0+$", running), "no capabilities"

    # --- a model, and a device that commits it
    pushed = server.push("har", activity["model"], calibration=activity["calibration"])
    assert pushed.state == "succeeded", pushed.error
    ca = tmp_path / "authority.pem"
    ca.write_text(server.authority)
    agent = Agent(server, "pi-1", tmp_path / "pi-1", server.enrol_token(), server_ca=str(ca))
    with stopping(agent):
        agent.start()
        server.wait_rollout(server.roll_out("har", "1", observe_s=0.2))
        assert agent.served("har") == "1"
        log = server.log.read_text()
        assert "ERROR" not in log, log
        print([line for line in log.splitlines() if "isolat" in line or "namespace" in line])

        # --- upgraded on the same volume: all is there, tables are new, the device stays
        server.stop_client()
        before = revision(engine, IMAGE)
        stopped(engine)
        server = started(engine, NEXT)
        assert (before, revision(engine, NEXT)) == (max(before, "0001"), "9999_next")
        wait_for(lambda: server.client.device("pi-1").online, "the device back", bound_s=90)
        assert [one.version for one in server.client.versions("har").items] == ["1"]
        pushed = server.push("har", activity["model"], "2", precisions=["fp32"])
        assert pushed.state == "succeeded", pushed.error
        server.wait_rollout(server.roll_out("har", "2", observe_s=0.2))
        assert agent.served("har") == "2"
        server.stop_client()
        stopped(engine)
    # --- back to the version before, it says why not
    check = ("run", "--rm", *CLOSED, *volume, *tls, IMAGE, "server", "check")
    assert "newer edgectl" in engine.docker(*check, codes=(1,))


# ---------------------------------------------------------------- all services


class Composed:
    """The Compose file in the engine's folder, with settings of this test."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.place = engine.root / "compose"
        shutil.copytree(ROOT / "packaging/compose", self.place)
        authority = Authority.open(folder / "web", datetime.now(UTC))  # noqa: TID251 - a certificate of today
        identity = authority.web_identity((HOST,), datetime.now(UTC))  # noqa: TID251
        self.authority = identity.authority.read_text()
        (self.place / "tls").mkdir()
        shutil.copy(identity.certificate, self.place / "tls/certificate.pem")
        shutil.copy(identity.key, self.place / "tls/key.pem")
        self.settings = {
            "EDGECTL_HOST": HOST,
            "POSTGRES_PASSWORD": "0123456789abcdef",
            "S3_PASSWORD": "fedcba9876543210",
            "TLS_FOLDER": "./tls",
        }
        text = (self.place / "example.env").read_text()
        assert set(re.findall(r"(?m)^(\w+)=", text)) == set(self.settings)
        self.write()

    def write(self, **more: str) -> None:
        lines = [f"{name}={value}\n" for name, value in (self.settings | more).items()]
        (self.place / ".env").write_text("".join(lines))

    def __call__(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        return self.engine.docker("compose", *words, codes=codes, folder="/compose")

    def container(self, service: str) -> str:
        """Return the container of a service."""
        words = ("compose", "ps", "--all", "--quiet", service)
        return self.engine.value(*words, folder="/compose")

    def state(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = self.engine.inspect(self.container(service))["State"]
        return found


@pytest.fixture
def composed(engine: Engine, tmp_path: Path) -> Iterator[Composed]:
    named = yaml.safe_load((ROOT / "packaging/compose/compose.yaml").read_text())["services"]
    others = {one["image"] for one in named.values() if "EDGECTL_IMAGE" not in one["image"]}
    assert others == IMAGES, "images of the Compose file that are not stood in for, or the reverse"
    composed = Composed(engine, tmp_path)
    yield composed
    composed("down", "--volumes", "--timeout", "30")
    remove(composed.place)


def test_the_course_of_all_services(
    composed: Composed,
    activity: dict[str, Any],  # noqa: F811 - a fixture
    tmp_path: Path,
) -> None:
    engine = composed.engine

    # --- looked at before the first start, then all up, each after what it needs
    print(composed("run", "--rm", "server", "server", "check"))
    begun = datetime.now(UTC)  # noqa: TID251 - how long it takes
    composed("up", "--detach", "--pull", "never")
    print(f"up in {(datetime.now(UTC) - begun).total_seconds():.0f} s")  # noqa: TID251
    assert composed.state("broker-files")["ExitCode"] == 0
    server = InContainers(
        engine, composed.container("server"), f"https://{HOST}", composed.authority
    )
    wait_for(
        lambda: all(
            composed.state(name)["Status"] == "running"
            for name in ("server", "mosquitto", "revocations", "postgres", "s3", "nginx")
        ),
        "all services",
    )

    # --- through nginx to the server, its database and its store; by Mosquitto to a device
    pushed = server.push("har", activity["model"], calibration=activity["calibration"])
    assert pushed.state == "succeeded", pushed.error
    ca = tmp_path / "authority.pem"
    ca.write_text(composed.authority)
    agents = [
        Agent(server, name, tmp_path / name, server.enrol_token(), server_ca=str(ca))
        for name in ("pi-1", "pi-2")
    ]
    with stopping(*agents):
        for agent in agents:
            agent.start()
        server.wait_rollout(server.roll_out("har", "1", observe_s=0.2))
        assert [agent.served("har") for agent in agents] == ["1", "1"]
        query = "SELECT count(*) FROM device"
        psql = ("psql", "--username", "edgectl", "--tuples-only", "--no-align", "--command", query)
        assert composed("exec", "-T", "postgres", *psql).strip() == "2"
        blobs = composed("exec", "-T", "s3", "find", "/data/edgectl/blobs/sha256", "-type", "f")
        assert len(blobs.splitlines()) > 5, blobs

        # --- who talks to the outside reaches neither database nor store, and the server no outside
        for name in ("nginx", "mosquitto"):
            for other in ("postgres", "s3"):
                composed("exec", "-T", name, "getent", "hosts", other, codes=(2,))
        routes = composed("exec", "-T", "server", "cat", "/proc/net/route").splitlines()[1:]
        assert routes
        assert "00000000" not in {line.split()[1] for line in routes}, "no way out"

        # --- the backup of the documentation, beside the running services
        folder = engine.root / "backup/edgectl"
        folder.mkdir(parents=True, mode=0o700)
        passphrase = engine.root / "etc/edgectl-backup.passphrase"
        passphrase.write_text("correct horse battery\n")
        passphrase.chmod(0o400)
        for path in (folder, passphrase):
            os.chown(path, USER, USER)
        backup = documented("docker compose run")[2:]
        print(composed(*backup))
        (manifest,) = folder.glob("*/manifest.json")
        assert manifest.stat().st_uid == USER
        restore = ("server", "restore", "/backup", "--passphrase-file", "/passphrase", "--check")
        print(composed(*backup, *restore))

        # --- a revoked device is out, at Mosquitto too: the server has tried it with a canary
        server.client.revoke_device("pi-2")
        wait_for(lambda: not server.client.device("pi-2").online, "pi-2 out", bound_s=90)
        told = re.compile(r"[12] revoked, the broker was told")
        wait_for(lambda: told.search(composed("logs", "revocations")), "Mosquitto told", bound_s=90)
        assert "error" not in composed("logs", "revocations").lower()

        # --- the broker's certificate renewed, without a connection lost
        old = composed("exec", "-T", "mosquitto", "cat", "/broker/broker.pem")
        composed("run", "--rm", "--env", "RENEW_BROKER=1", "broker-files")
        composed("kill", "--signal", "HUP", "mosquitto")
        assert composed("exec", "-T", "mosquitto", "cat", "/broker/broker.pem") != old
        assert server.client.device("pi-1").online

        # --- the next version on the same volumes; nginx finds it, and the device
        server.stop_client()
        composed.write(EDGECTL_IMAGE=NEXT)
        composed("up", "--detach", "--pull", "never")
        server.container = composed.container("server")
        engine.wait_healthy(server.container)
        wait_for(lambda: server.client.device("pi-1").online, "the device back", bound_s=90)
        pushed = server.push("har", activity["model"], "2", precisions=["fp32"])
        assert pushed.state == "succeeded", pushed.error
        server.wait_rollout(server.roll_out("har", "2", "pi-1", observe_s=0.2))
        assert agents[0].served("har") == "2"
        server.stop_client()

    # --- stopped, each in order
    composed("stop")
    for name in ("server", "mosquitto", "postgres", "nginx"):
        assert composed.state(name)["ExitCode"] == 0, composed("logs", name)[-2000:]
