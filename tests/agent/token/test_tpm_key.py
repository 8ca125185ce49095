"""The device's key in a TPM 2.0: a software TPM (swtpm) behind the PKCS #11 library for TPMs."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from waiting import wait_for

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so")
PIN = "271828"

PROGRAM = """
import contextlib, json, ssl, sys
from pathlib import Path
from edgectl_agent.device_key import load_or_make_key
from edgectl_agent.durable import RealDisk

state, uri, certificate, authority, port = sys.argv[1:]
with contextlib.closing(load_or_make_key(RealDisk(Path(state)), uri)) as key:
    if not Path(certificate).exists():
        print(key.signing_request("pi-1"))
        sys.exit()
    import socket
    names = []
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=authority)
        context.minimum_version = context.maximum_version = version
        key.load_into(context, Path(certificate))
        opened = socket.create_connection(("127.0.0.1", int(port)), 20)
        with context.wrap_socket(opened, server_hostname="localhost") as wrapped:
            names.append([wrapped.version(), wrapped.recv(100).decode()])
    print(json.dumps(names))
"""


class Tpm:
    """A TPM that keeps its state in a folder, and is switched off after each use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("tpm", "store"):
            (folder / name).mkdir()
        self.pin_file = folder / "pin"
        self.pin_file.write_text(PIN)
        self.pin_file.chmod(0o600)
        self.uri = (
            f"pkcs11:token=edgectl;object=device?module-path={LIBRARY}"
            f"&pin-source=file:{self.pin_file}"
        )

    @contextlib.contextmanager
    def powered(self) -> Iterator[dict[str, str]]:
        """Give the environment in which the TPM is found."""
        port = _free_pair()
        command = [
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder / 'tpm'}"),
            *("--server", f"type=tcp,port={port},bindaddr=127.0.0.1"),
            *("--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1"),
            *("--flags", "not-need-init,startup-clear"),
        ]
        tpm = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: _listens(port + 1) or tpm.poll() is not None, "swtpm", bound_s=20)
            yield {
                **os.environ,
                "TPM2_PKCS11_STORE": str(self.folder / "store"),
                "TPM2_PKCS11_TCTI": f"swtpm:host=127.0.0.1,port={port}",
                "TPM2_PKCS11_LOG_LEVEL": "0",
            }
        finally:
            with contextlib.suppress(OSError):
                _shut_down(port)
            tpm.kill()
            tpm.wait(60)

    def run(self, *command: str) -> str:
        with self.powered() as environment:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=60, check=False
            )
        assert done.returncode == 0, done.stderr
        return done.stdout


def _free_pair() -> int:
    """Return a free port before a free one, on which the client wants the control channel."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first, contextlib.suppress(OSError):
            port: int = first.getsockname()[1]
            with socket.create_server(("127.0.0.1", port + 1)):
                return port


def _shut_down(port: int) -> None:
    """Say TPM2_Shutdown(TPM_SU_CLEAR), as a system does; power cuts are counted as wrong PINs."""
    with socket.create_connection(("127.0.0.1", port), 10) as opened:
        opened.settimeout(10)
        opened.sendall(bytes.fromhex("80010000000c000001450000"))
        assert opened.recv(10)[-4:] == bytes(4)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture
def tpm(tmp_path: Path) -> Tpm:
    missing = [name for name in ("swtpm", "pkcs11-tool") if shutil.which(name) is None]
    if missing or not LIBRARY.exists():
        pytest.skip("swtpm, opensc or libtpm2-pkcs11-1 is not installed; see packaging/")
    made = Tpm(tmp_path)
    tool = ("pkcs11-tool", "--module", str(LIBRARY))
    made.run(*tool, "--slot-index", "0", "--init-token", "--label", "edgectl", "--so-pin", "3141")
    login = ("--login", "--login-type", "so", "--so-pin", "3141")
    made.run(*tool, "--token-label", "edgectl", *login, "--init-pin", "--pin", PIN)
    return made


def test_from_a_new_tpm_to_a_connection(tpm: Tpm, tmp_path: Path) -> None:
    """The key is made in the TPM, survives a power cycle, and signs both kinds of handshake."""
    from agent.token.test_tls_key import Place

    place = Place(tmp_path)
    certificate = tmp_path / "pi-1.pem"
    program = (sys.executable, "-c", PROGRAM, str(tmp_path / "state"), tpm.uri, str(certificate))
    text = tpm.run(*program, "", "0")
    request = x509.load_pem_x509_csr(text.encode())
    assert request.is_signature_valid
    place.certify(certificate, "pi-1", request.public_key())
    with place.serving(connections=2) as port:
        told = tpm.run(*program, str(place.authority.path), str(port))
    assert told.strip() == '[["TLSv1.2", "pi-1"], ["TLSv1.3", "pi-1"]]'


def test_another_tpm_does_not_open_the_folder(tpm: Tpm, tmp_path: Path) -> None:
    """A thief has the state directory, the token's store and the PIN, not the chip."""
    program = (sys.executable, "-c", PROGRAM, str(tmp_path / "state"), tpm.uri, "none")
    tpm.run(*program, "", "0")
    shutil.rmtree(tmp_path / "tpm")
    (tmp_path / "tpm").mkdir()
    with pytest.raises(AssertionError, match=r"key\.token"):
        tpm.run(*program, "", "0")
