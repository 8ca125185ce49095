"""The agent's configuration: one frozen value, read once at the edge.

Flags win over the environment (``EDGECTL_AGENT_<KEY>``), which wins over the file, which wins over
the defaults. Unknown keys are refused, wherever they stand. Every key is described, with its
default, in ``docs/agent.toml``; a test keeps that true.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from edgectl_agent.errors import UsageError
from edgectl_agent.http_pull import parse_address
from edgectl_agent.redaction_steps import parse_steps, split_command
from edgectl_agent.server_tls import check_server_ca
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.messages import MaintenanceWindow
from edgectl_protocol.names import check_device_id
from edgectl_protocol.windows import parse_windows

__all__ = ["ENVIRONMENT_PREFIX", "Settings", "load_settings"]

ENVIRONMENT_PREFIX = "EDGECTL_AGENT_"
GROUP_LABEL = "group"
BANDWIDTH_MIN = 4096
"""Bytes per second: with less, one chunk takes longer than others wait for it."""
_FILE_BYTES_MAX = 256 * 1024
Label = Annotated[str, Meta(max_length=128)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set. Sizes are bytes, durations seconds."""

    server: str = ""
    server_ca: Annotated[str, Meta(max_length=4096)] = ""
    device: str = ""
    token: str = ""
    token_file: str = ""
    authority: str = ""
    state: str = "/var/lib/edgectl-agent"
    key: str = ""
    key_directory: str = ""
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8500
    socket: str = ""
    models_socket: str = "models.sock"
    models_group: str = ""
    control_socket: str = "control.sock"
    control_group: str = ""
    hooks: str = "/etc/edgectl/hooks"
    hook_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    endpoint_names: str = ""
    endpoint_token_file: str = ""
    endpoint_token_on_socket: bool = False
    endpoint_body_bytes_max: Annotated[int, Meta(ge=1024, le=1024**3)] = 16 * 1024**2
    endpoint_connections_max: Annotated[int, Meta(ge=1, le=4096)] = 128
    endpoint_queue_max: Annotated[int, Meta(ge=1, le=4096)] = 128
    endpoint_client_max: Annotated[int, Meta(ge=1, le=4096)] = 64
    shared_memory: bool = False
    grpc_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    labels: Annotated[dict[Label, Label], Meta(max_length=32)] = {}
    reconnect_s_max: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    telemetry_s: Annotated[float, Meta(ge=0.1, le=86400)] = 30.0
    spool_bytes_max: Annotated[int, Meta(ge=65536)] = 16 * 1024**2
    upload_bytes_max: Annotated[int, Meta(ge=65536)] = 32 * 1024**2
    upload_bytes_per_s: Annotated[int, Meta(ge=1024)] = 1024**2
    samples: bool = True
    samples_bytes_max: Annotated[int, Meta(ge=65536)] = 16 * 1024**2
    redact: Annotated[str, Meta(max_length=16384)] = ""
    redact_command: Annotated[str, Meta(max_length=4096)] = ""
    redact_timeout_s: Annotated[float, Meta(gt=0, le=600)] = 10.0
    redact_memory_bytes_max: Annotated[int, Meta(ge=16 * 1024**2)] = 256 * 1024**2
    disk_reserve_bytes: Annotated[int, Meta(ge=0)] = 32 * 1024**2
    transfer: Literal["auto", "mqtt", "http"] = "auto"
    mirror: Annotated[str, Meta(max_length=1024)] = ""
    bandwidth: Annotated[int, Meta(ge=0)] = 0
    maintenance: Annotated[str, Meta(max_length=1024)] = ""
    memory_reserve_bytes: Annotated[int, Meta(ge=0)] = 48 * 1024**2
    batch_rows_max: Annotated[int, Meta(ge=1, le=1024)] = 1
    trial_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    trial_memory_bytes_max: Annotated[int, Meta(ge=64 * 1024**2)] = 1024**3

    @property
    def maintenance_windows(self) -> tuple[MaintenanceWindow, ...]:
        """`maintenance` as windows; raise `MalformedMessage` for anything else."""
        return parse_windows(self.maintenance)

    @property
    def state_directory(self) -> Path:
        """`state` as a path."""
        return Path(self.state).expanduser().absolute()

    @property
    def control_path(self) -> Path:
        """`control_socket` as a path; relative ones are below `state`."""
        return self.state_directory / self.control_socket

    @property
    def hooks_directory(self) -> Path | None:
        """`hooks` as a path; None where none are wanted."""
        return Path(self.hooks).expanduser().absolute() if self.hooks else None

    @property
    def key_path(self) -> Path:
        """`key_directory` as a path; beside the identity where it is not set."""
        if not self.key_directory:
            return self.state_directory / "identity"
        return Path(self.key_directory).expanduser().absolute()


def load_settings(
    *, file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> Settings:
    """Put the sources together.

    Args:
        file: a TOML file, or None for none.
        environment: as `os.environ`.
        flags: by key; None is a flag that was not given.

    Raises:
        UsageError: ``settings.file``, ``settings.unknown``, ``settings.value`` or
            ``settings.label``.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values.update(_read_file(file))
    for name, text in environment.items():
        if name.startswith(ENVIRONMENT_PREFIX):
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower()
            values[key] = parse_labels(text) if key == "labels" else text
    values.update({key: value for key, value in flags.items() if value is not None})
    known = set(Settings.__struct_fields__)
    for key in values:
        if key not in known:
            raise UsageError(
                "settings.unknown",
                f"there is no setting {key!r}",
                hint=f"the settings are {', '.join(sorted(known))}",
            )
    try:
        settings = msgspec.convert(values, Settings, strict=False)
        if settings.device:
            check_device_id(settings.device)
        parse_windows(settings.maintenance)
        parse_steps(settings.redact)
        split_command(settings.redact_command)
        check_server_ca(settings.server_ca)
        _check_transfer(settings)
    except (msgspec.ValidationError, ProtocolError) as error:
        raise UsageError(
            "settings.value", str(error), hint="docs/agent.toml shows each setting"
        ) from error
    if GROUP_LABEL in settings.labels:
        raise UsageError(
            "settings.label",
            f"{GROUP_LABEL!r} is no label of the device's own: the server says its group",
            hint="give the group when making the token: edgectl devices token create --group NAME",
        )
    return settings


def _check_transfer(settings: Settings) -> None:
    if 0 < settings.bandwidth < BANDWIDTH_MIN:
        raise UsageError(
            "settings.value",
            f"bandwidth is {settings.bandwidth} bytes per second, at least {BANDWIDTH_MIN}",
            hint="0 is no bound",
        )
    if settings.mirror:
        parse_address(settings.mirror)


def parse_labels(text: str) -> dict[str, str]:
    """Split ``site=porto,line=2``; raise `UsageError` for anything else."""
    labels = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise UsageError(
                "settings.value", f"{part!r} is not a label", hint="write it as name=value"
            )
        labels[key.strip()] = value.strip()
    return labels


def _read_file(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as handle:
            content = handle.read(_FILE_BYTES_MAX + 1)
        if len(content) > _FILE_BYTES_MAX:
            raise UsageError(
                "settings.file",
                f"{file} is longer than {_FILE_BYTES_MAX} bytes",
                hint="is it another file? check --config",
            )
        return tomllib.loads(content.decode())
    except OSError as error:
        raise UsageError(
            "settings.file", f"cannot read {file}: {error.strerror}", hint="check --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            "settings.file",
            f"{file} is not TOML: {error}",
            hint="docs/agent.toml shows every setting as it is written",
        ) from error
