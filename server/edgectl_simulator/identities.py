"""Who the simulated devices are, in a folder, so that a second run is the same fleet.

::

    FOLDER/fleet.json         which server, how many runs, what each device remembers
    FOLDER/devices/NAME.key   a key that has no certificate yet
    FOLDER/devices/NAME.pem   certificate and key of a device that has enrolled

A key is written before anything is asked for, so that a lost answer is no lost name. One run has
the folder at a time. All files are readable by their owner only: a certificate that is worth
nothing but to a test server still opens that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from msgspec import Struct

from edgectl_protocol.names import DeviceId
from edgectl_simulator.errors import SimulatorError
from edgectl_simulator.memory import Memory

__all__ = ["FleetFile", "Folder", "make_key", "signing_request"]

_FLEET_BYTES_MAX = 256 * 1024**2
_IDENTITY_BYTES_MAX = 64 * 1024


class FleetFile(Struct, kw_only=True):
    """``fleet.json``."""

    server: str = ""
    authority_pem: str = ""
    """Of the server that the devices have enrolled at."""
    runs: int = 0
    devices: dict[DeviceId, Memory] = {}


class Folder:
    """The folder of one fleet; `opened` makes and locks it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._devices = path / "devices"
        self.fleet = FleetFile()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path) -> Iterator[Folder]:
        """Use the folder, alone.

        Raises:
            SimulatorError: ``simulate.folder``: it cannot be used, or another run has it.
        """
        folder = cls(path)
        try:
            folder._devices.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(path, error.strerror or str(error)) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SimulatorError(
                    "simulate.folder",
                    f"another simulation uses {path}",
                    hint="end it, or give this one a folder of its own with --folder",
                ) from error
            folder._read()
            yield folder
        finally:
            os.close(lock)

    def _read(self) -> None:
        file = self._path / "fleet.json"
        try:
            with file.open("rb") as opened:
                content = opened.read(_FLEET_BYTES_MAX)
            self.fleet = msgspec.json.decode(content, type=FleetFile)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            raise _unusable(self._path, f"fleet.json: {error}") from error

    def save(self) -> None:
        """Write what the fleet remembers; a crash leaves the old or the new.

        Raises:
            SimulatorError: ``simulate.folder``.
        """
        self._write("fleet.json", msgspec.json.encode(self.fleet))

    def enrolled(self) -> set[str]:
        """Return the names of the devices that have a certificate."""
        return {one.stem for one in self._devices.glob("*.pem")}

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """Return the key of a device that has not enrolled, made now if it has none."""
        try:
            return _load_key((self._devices / f"{name}.key").read_bytes())
        except FileNotFoundError:
            key = make_key()
            self._write(f"devices/{name}.key", _pem(key))
            return key
        except (OSError, ValueError) as error:
            raise _unusable(self._path, f"{name}.key: {error}") from error

    def identity(self, name: str) -> tuple[Path, ec.EllipticCurvePrivateKey]:
        """Return the file with certificate and key of an enrolled device, and the key."""
        file = self._devices / f"{name}.pem"
        try:
            with file.open("rb") as opened:
                return file, _load_key(opened.read(_IDENTITY_BYTES_MAX))
        except (OSError, ValueError) as error:
            raise _unusable(self._path, f"{name}.pem: {error}") from error

    def keep(self, name: str, key: ec.EllipticCurvePrivateKey, certificate_pem: str) -> None:
        """Note that a device has enrolled."""
        self._write(f"devices/{name}.pem", certificate_pem.encode() + _pem(key))
        (self._devices / f"{name}.key").unlink(missing_ok=True)

    def _write(self, name: str, content: bytes) -> None:
        file = self._path / name
        fresh = file.with_name(f"{file.name}.new")
        try:
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as opened:
                opened.write(content)
            # Not synchronized: what a power cut takes from a simulation is simulated again.
            fresh.replace(file)
        except OSError as error:
            raise _unusable(self._path, error.strerror or str(error)) from error


def make_key() -> ec.EllipticCurvePrivateKey:
    """Return a new key as devices have it."""
    return ec.generate_private_key(ec.SECP256R1())


def signing_request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """Return a request for a certificate, PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(content: bytes) -> ec.EllipticCurvePrivateKey:
    start = content.find(b"-----BEGIN PRIVATE KEY-----")
    key = load_pem_private_key(content[max(start, 0) :], password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a key of a device")  # noqa: TRY004 - of what is in a file
    return key


def _unusable(path: Path, why: str) -> SimulatorError:
    return SimulatorError(
        "simulate.folder",
        f"{path} cannot be used: {why}",
        hint="choose another folder with --folder, or remove it: its devices enrol anew then",
    )
