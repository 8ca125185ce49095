"""A Mosquitto of one's own: its folder written by us, its process started by the test."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import mqtt5
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from edgectl_server.clock import now
from edgectl_server.distribution.broker_config import BrokerPlan, write_broker_config
from edgectl_server.distribution.mosquitto import find_mosquitto
from edgectl_server.signing.authority import Authority
from server.fleet.fleet_helpers import make_request
from waiting import wait_for

HOST = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in found]


def plan_for(folder: Path, **values: object) -> BrokerPlan:
    """Return a plan for files that are used where they are written, by whoever runs the test."""
    port, kick_port = free_ports(2)
    fields: dict[str, object] = {
        "host": HOST, "port": port, "kick_port": kick_port, "listen": HOST,
        "directory": str(folder / "files"), "state": str(folder / "state"),
        "user": getpass.getuser(), "server_url": "", "connections": 1000,
    }  # fmt: skip
    return BrokerPlan(**fields | values)


class OwnMosquitto:
    """The process, on a folder that `write_broker_config` has written."""

    def __init__(self, files: Path, state: Path, port: int, kick_port: int) -> None:
        self.files, self.host, self.port, self.kick_port = files, HOST, port, kick_port
        state.mkdir(parents=True, exist_ok=True)
        binary = find_mosquitto()
        assert binary is not None
        self.log = files.parent / "mosquitto.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [binary, "-c", str(files / "mosquitto.conf")], stdout=log, stderr=log
            )
        wait_for(self._listens, "mosquitto listens")

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            for port in (self.port, self.kick_port):
                socket.create_connection((HOST, port), 1).close()
        except OSError:
            return False
        return True

    @property
    def reload_command(self) -> str:
        return f"/bin/kill -HUP {self.process.pid}"

    def reload(self) -> None:
        os.kill(self.process.pid, signal.SIGHUP)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


class OwnSite:
    """An authority, and a Mosquitto of one's own that trusts it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pki = folder / "pki"
        self.authority = Authority.open(self.pki, now())
        self.plan = plan_for(folder)
        self.files = Path(self.plan.directory)
        write_broker_config(self.files, self.plan, self.authority, self.pki, now(), force=False)
        self.broker = OwnMosquitto(
            self.files, Path(self.plan.state), self.plan.port, self.plan.kick_port
        )

    def device(self, name: str) -> tuple[Path, Path, str]:
        """Return certificate, key and serial number of a new device."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = make_request("ee_0123456789abcdef_" + "A" * 43, name, key).csr_pem
        issued = self.authority.issue_device(csr, name, now())
        certificate, key_file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_text(issued.certificate_pem)
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, key_file, issued.serial

    def connect(self, certificate: Path, key: Path, *, port: int = 0, name: str = "x"):
        """Return an open connection, and what answers its CONNECT; None for a refusal."""
        context = ssl.create_default_context(cafile=str(self.pki / "authority.pem"))
        context.load_cert_chain(certificate, key)
        raw = socket.create_connection((HOST, port or self.plan.port), 10)
        secured = context.wrap_socket(raw, server_hostname=HOST, do_handshake_on_connect=False)
        try:
            secured.do_handshake()
            secured.sendall(mqtt5.ConnectPacket(name, clean_start=True, keep_alive=60).write())
            content = secured.recv(4096)
        except (ssl.SSLError, ConnectionError):
            content = b""
        if not content:
            secured.close()
            return None, None
        return secured, mqtt5.read(memoryview(content))[0]

    def accepted(self, certificate: Path, key: Path, **options: object) -> bool:
        opened, answer = self.connect(certificate, key, **options)
        if opened is not None:
            opened.close()
        return answer is not None and answer.reason_code == 0

    def close(self) -> None:
        self.broker.stop()
