"""What can be wrong on this device, check by check: for ``edgectl-agent doctor``.

Every check ends ``ok``, ``warn`` or ``fail`` and says the next step unless it is ok; none changes
anything but a probe file that is removed again. A check that itself breaks is a ``fail``.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from edgectl_agent import health
from edgectl_agent.clock import now
from edgectl_agent.connection import Endpoint
from edgectl_agent.device_key import KEY_PATH, load_key
from edgectl_agent.durable import RealDisk
from edgectl_agent.enrol import AUTHORITY_PATH, CERTIFICATE_PATH, load_identity
from edgectl_agent.errors import AgentError
from edgectl_agent.local_client import ask
from edgectl_agent.local_messages import Status
from edgectl_agent.redaction_trial import try_redaction
from edgectl_agent.renewal import read_validity
from edgectl_agent.settings import Settings

__all__ = ["CHECKS", "Check", "examine"]

_FSYNC_S_WARN = 0.5
_CONNECT_S_MAX = 10.0
_RUNTIME_S_MAX = 60.0
_HOT_C = 75.0
_TOO_HOT_C = 85.0
_BEFORE_US = datetime(2025, 1, 1, tzinfo=UTC)
"""Any clock that says so has not been set."""

_THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
_PROVIDERS = (
    "import json, onnxruntime as o; print(json.dumps([o.__version__, o.get_available_providers()]))"
)


class Check(Struct, frozen=True):
    """The outcome of one check."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    next: str = ""


class _Signed(Struct):
    expires: datetime


class _Metadata(Struct):
    signed: _Signed


def examine(settings: Settings) -> Iterator[Check]:
    """Yield the checks, what the others rest on first."""
    yield Check("settings", "ok", "read, and every value is in its bounds")
    for name, check in CHECKS.items():
        yield _guarded(name, lambda check=check: check(settings))  # type: ignore[misc]


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except AgentError as error:
        return Check(name, "fail", f"[{error.code}] {error.detail}", error.hint)
    except PermissionError as error:
        return Check(name, "warn", f"{error.filename} may not be read by this user", "use sudo")
    except (OSError, ValueError) as error:
        return Check(name, "fail", str(error) or type(error).__name__, "edgectl-agent logs")


def _state(settings: Settings) -> Check:
    name, directory = "state directory", settings.state_directory
    if not directory.is_dir():
        return Check(name, "fail", f"{directory} is not there", "give --state, or run the agent")
    found = directory.stat()
    for path in (directory, directory / "identity", directory / KEY_PATH):
        if path.exists() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return Check(name, "fail", f"others may get at {path}", f"chmod go= {path}")
    foreign = [one for one in directory.iterdir() if one.lstat().st_uid not in {found.st_uid, 0}]
    if foreign:
        return Check(
            name,
            "fail",
            f"{foreign[0]} belongs to another user than the folder",
            f"chown -R --reference={directory} {directory}",
        )
    return Check(name, "ok", f"{directory}, mode {found.st_mode & 0o777:04o}")


def _disk(settings: Settings) -> Check:
    free = RealDisk(settings.state_directory).free_bytes()
    kept = settings.disk_reserve_bytes
    detail = f"{free / 1e6:.0f} MB free, {kept / 1e6:.0f} MB kept in reserve"
    if free < kept:
        return Check("disk", "fail", detail, "free space in that file system: nothing is fetched")
    if free < 4 * kept:
        return Check("disk", "warn", detail, "free space in that file system")
    return Check("disk", "ok", detail)


def _writes(settings: Settings) -> Check:
    """Write, synchronize and remove a small file."""
    name = "disk writes"
    disk = RealDisk(settings.state_directory)
    probe = f"doctor-{secrets.token_hex(4)}.tmp"
    began_s = time.monotonic()
    try:
        disk.write(probe, b"probe")
        disk.sync(probe)
        disk.sync_directory(".")
    except PermissionError:
        return Check(name, "warn", "this user may not write there", "use sudo")
    except OSError as error:
        next_step = "mount it read-write, or replace the card: dmesg says what it has seen"
        return Check(name, "fail", f"cannot write: {error.strerror}", next_step)
    finally:
        with suppress(OSError):
            disk.unlink(probe)
    took_s = time.monotonic() - began_s
    detail = f"a durable write takes {took_s * 1000:.1f} ms"
    if took_s > _FSYNC_S_WARN:
        return Check(name, "warn", detail, "the card may be worn out: updates will be slow")
    return Check(name, "ok", detail)


def _clock(settings: Settings) -> Check:
    at = now()
    shown = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    next_step = "set it, and have it kept: timedatectl set-ntp true"
    if at < _BEFORE_US:
        return Check("clock", "fail", f"{shown}: it has not been set", next_step)
    disk = RealDisk(settings.state_directory)
    if disk.size(CERTIFICATE_PATH) is not None and at < read_validity(disk).start:
        return Check("clock", "fail", f"{shown} is before the certificate was made", next_step)
    return Check("clock", "ok", shown)


def _certificate(settings: Settings) -> Check:
    disk = RealDisk(settings.state_directory)
    if load_identity(disk) is None:
        return Check(
            "certificate", "fail", "this device is not enrolled", "edgectl-agent enrol --help"
        )
    validity = read_validity(disk)
    left_s = (validity.end - now()).total_seconds()
    detail = f"until {validity.end:%Y-%m-%d %H:%M} UTC"
    if left_s <= 0:
        return Check(
            "certificate", "fail", f"expired: {detail}", "is the clock right, the server reachable?"
        )
    if left_s < validity.life_s / 6:
        return Check(
            "certificate", "warn", detail, "it should be renewed by now: is the server up?"
        )
    return Check("certificate", "ok", f"{detail}, {left_s / 86400:.0f} days left")


def _key(settings: Settings) -> Check:
    disk = RealDisk(settings.state_directory)
    if disk.size(KEY_PATH) is None and load_identity(disk) is None:
        return Check("key", "ok", "none yet: it is made when this device enrols")
    key = load_key(disk, settings.key)
    try:
        key.sign(b"doctor")
        return Check("key", "ok", f"signs; fingerprint {key.key_id[:16]}…")
    finally:
        key.close()


def _broker(settings: Settings) -> Check:
    disk = RealDisk(settings.state_directory)
    identity = load_identity(disk)
    if identity is None:
        return Check("broker", "fail", "not enrolled: no broker is known", "edgectl-agent enrol")
    key = load_key(disk, settings.key)
    endpoint = Endpoint(
        host=identity.broker.host,
        port=identity.broker.port,
        certificate=Path(disk.locate(CERTIFICATE_PATH)),
        key=key,
        authority=Path(disk.locate(AUTHORITY_PATH)),
        device=identity.device,
    )
    place = f"{endpoint.host}:{endpoint.port}"
    try:
        context = endpoint.tls()
        with (
            socket.create_connection((endpoint.host, endpoint.port), _CONNECT_S_MAX) as plain,
            context.wrap_socket(plain, server_hostname=endpoint.host) as secure,
        ):
            return Check("broker", "ok", f"{place} answers, {secure.version()}")
    except OSError as error:
        detail = f"{place}: {error.strerror or error}"
        next_step = "models go on serving; is the network up, the name right, port open, clock set?"
        return Check("broker", "fail", detail, next_step)
    finally:
        key.close()


def _metadata(settings: Settings) -> Check:
    folder = settings.state_directory / "tuf"
    ends: dict[str, datetime] = {}
    for role in ("root", "targets", "snapshot", "timestamp"):
        path = folder / f"{role}.json"
        if path.exists():
            content = path.read_bytes()
            with suppress(msgspec.MsgspecError):
                ends[role] = msgspec.json.decode(content, type=_Metadata).signed.expires
    if not ends:
        return Check("signed metadata", "ok", "none yet: it comes with the first order")
    role, end = min(ends.items(), key=lambda item: item[1])
    left_s = (end - now()).total_seconds()
    detail = f"{role} ends {end:%Y-%m-%d %H:%M} UTC"
    if left_s < 0:
        next_step = "it is fetched anew with the next order; if that fails, is the server running?"
        return Check("signed metadata", "warn", f"{detail}: over", next_step)
    return Check("signed metadata", "ok", detail)


def _runtime(settings: Settings) -> Check:  # noqa: ARG001 - as the others
    found = health.runtimes()
    if not found:
        return Check("runtime", "fail", "no runtime is installed", "pip install onnxruntime")
    shown = ", ".join(f"{name} {version}" for name, version in sorted(found.items()))
    if "onnxruntime" not in found:
        return Check("runtime", "ok", shown)
    done = subprocess.run(
        [sys.executable, "-P", "-c", _PROVIDERS],
        capture_output=True,
        timeout=_RUNTIME_S_MAX,
        check=False,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
    )
    if done.returncode != 0:
        tail = done.stderr.decode("utf-8", "replace").strip()[-200:]
        how = f"signal {-done.returncode}" if done.returncode < 0 else tail
        next_step = (
            "another build may suit this processor: the package that brings its libraries, or pip "
            "install 'onnxruntime<…'"
        )
        return Check("runtime", "fail", f"onnxruntime does not start: {how}", next_step)
    _, providers = json.loads(done.stdout)
    return Check("runtime", "ok", f"{shown}; providers: {', '.join(providers)}")


def _agent(settings: Settings) -> Check:
    try:
        live = ask(settings.control_path, Status())
    except AgentError as error:
        return Check("agent", "fail", error.detail, error.hint)
    if live["connected"]:
        return Check("agent", "ok", f"runs, connected, version {live['agent_version']}")
    why = live["connection_error"] or "no reason yet"
    return Check("agent", "warn", f"runs, not connected: {why}", "the line about the broker above")


def _endpoint(settings: Settings) -> Check:
    name = "inference endpoint"
    try:
        live = ask(settings.control_path, Status())
    except AgentError:
        return Check(name, "warn", "not asked: the agent does not answer", "see the agent's line")
    place, problems = live["endpoint"], live["endpoint_problems"]
    address = urlsplit(place)
    connection = http.client.HTTPConnection(
        address.hostname or "", address.port or 0, timeout=_CONNECT_S_MAX
    )
    try:
        connection.request("GET", "/v2/health/live")
        status = connection.getresponse().status
    finally:
        connection.close()
    if status not in {http.client.OK, http.client.UNAUTHORIZED}:
        return Check(name, "fail", f"{place} answers {status}", "edgectl-agent logs")
    token = ", and asks for its token" if status == http.client.UNAUTHORIZED else ""
    if problems:
        hint = "correct it, then start the agent again"
        return Check(name, "warn", f"{place} answers{token}; {'; '.join(problems)}", hint)
    return Check(name, "ok", f"{place} answers{token}")


def _temperature(settings: Settings) -> Check:
    sample = health.system_sample(now(), settings.state_directory, 0)
    throttled = 0
    with suppress(OSError, ValueError):
        throttled = int(_THROTTLED.read_text("ascii").strip(), 16)
    heat = sample.temperature_c
    detail = "no sensor" if heat is None else f"{heat:.0f} °C"
    if throttled & 0x1:
        return Check("temperature", "fail", f"{detail}, under-voltage", "a stronger power supply")
    if throttled & 0xE or (heat is not None and heat >= _TOO_HOT_C):
        return Check("temperature", "warn", f"{detail}, slowed down", "cool it: latencies suffer")
    if heat is not None and heat >= _HOT_C:
        return Check("temperature", "warn", detail, "it is about to slow down: cool it")
    return Check("temperature", "ok", detail)


def _redaction(settings: Settings) -> Check:
    found = try_redaction(settings)
    return Check("redaction", "ok" if found.good else "fail", found.detail, found.next)


CHECKS: Mapping[str, Callable[[Settings], Check]] = {
    "state directory": _state,
    "disk": _disk,
    "disk writes": _writes,
    "clock": _clock,
    "certificate": _certificate,
    "key": _key,
    "broker": _broker,
    "signed metadata": _metadata,
    "runtime": _runtime,
    "agent": _agent,
    "inference endpoint": _endpoint,
    "redaction": _redaction,
    "temperature": _temperature,
}
"""By name, in the order in which they are made."""
