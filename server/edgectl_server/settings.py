"""The server's configuration: a value, read once, frozen, passed in.

Each key is looked up on the command line, then in the environment as ``EDGECTL_SERVER_<KEY>``, then
in a TOML file, then here. Unknown keys are refused. ``docs/server.toml`` shows every key with its
default; a test keeps it true. Units are in the names.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from edgectl_server.errors import Refused

__all__ = ["ENVIRONMENT_PREFIX", "Settings", "load_settings"]

ENVIRONMENT_PREFIX = "EDGECTL_SERVER_"
_MEBIBYTE = 1024**2

_Port = Annotated[int, Meta(ge=0, le=65535)]
_Positive = Annotated[int, Meta(ge=1)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that an operator may set."""

    data: str = "edgectl-data"
    """Folder of everything that the server keeps; made with mode 0700."""
    listen_host: str = "127.0.0.1"
    """Address on which the API and the web UI are served."""
    listen_port: _Port = 8080
    """0: any free port; the ready line says which."""
    standby: bool = False
    """Wait while another server works for this installation, then take its place."""
    database_url: str = ""
    """``postgresql+psycopg://…``; empty: SQLite in the data folder."""
    blobs_url: str = ""
    """``s3://bucket/prefix``; empty: a folder in the data folder."""
    broker: str = "embedded"
    """``embedded``, ``mosquitto`` (a private one is started), or ``mqtts://host:port``."""
    broker_host: str = "127.0.0.1"
    """Address on which the embedded or the private broker listens."""
    broker_port: _Port = 8883
    """0: any free port."""
    broker_public_host: str = ""
    """Name or address by which devices reach the broker; empty: `broker_host`."""
    broker_kick_port: _Port = 0
    """With ``mqtts://…``: where ``broker-config`` lets this server end connections; 0: nowhere."""
    broker_connections_max: Annotated[int, Meta(ge=10, le=100_000)] = 1000
    """Connections that the embedded or the private broker takes at once."""
    key_passphrase_file: str = ""
    """File whose first line encrypts the signing keys; empty: they are protected by mode 0600."""
    device_certificate_days: Annotated[float, Meta(ge=0.0001, le=3650)] = 365.0
    """Life of a device's certificate; devices renew it in the last third of that."""
    renewal_grace_days: Annotated[float, Meta(ge=0, le=3650)] = 365.0
    """How long after its end a certificate may still be renewed."""
    enrol_requests_max: Annotated[int, Meta(ge=0, le=10_000)] = 100
    """How many devices may wait for approval; 0: none may ask."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is written to standard error."""
    tls: Literal["off", "own", "files"] = "off"
    """``own``: a certificate of our own authority; ``files``: `tls_certificate` and `tls_key`."""
    tls_certificate: str = ""
    """PEM file: the certificate, then what is between it and its authority."""
    tls_key: str = ""
    """PEM file of its key; `key_passphrase_file` opens it, if it is encrypted."""
    tls_names: str = ""
    """More names and addresses, comma-separated, that the own certificate is for."""
    insecure_http: bool = False
    """Serve plain HTTP to the network, for all to read along."""
    trusted_proxies: str = ""
    """Addresses, comma-separated, whose ``X-Forwarded-For`` and ``-Proto`` are believed."""
    session_s: _Positive = 12 * 3600
    """How long a login of the web UI lasts."""
    public_url: str = ""
    """``https://…`` by which browsers reach the server; needed by single sign-on off loopback."""
    oidc_issuer: str = ""
    """Address of an OpenID provider; empty: no single sign-on."""
    oidc_client_id: str = ""
    """Name under which the provider knows this server."""
    oidc_client_secret_file: str = ""
    """File whose first line is the client's secret; empty: a public client."""
    oidc_name: str = "single sign-on"
    """What the button on the login page says after "Log in with"."""
    oidc_scopes: str = "openid profile"
    """What is asked of the provider, separated by spaces."""
    oidc_roles_claim: str = "groups"
    """Claim that holds a person's groups or roles; dots lead into objects."""
    oidc_roles: str = ""
    """``value=role; value=role``: which values of that claim give which role."""
    oidc_default_role: Literal["", "viewer", "operator"] = ""
    """Role of those whom `oidc_roles` does not name; empty: they have no access."""
    upload_bytes_max: _Positive = 2 * 1024 * _MEBIBYTE
    """Largest file that may be uploaded."""
    upload_free_bytes_min: Annotated[int, Meta(ge=0)] = 256 * _MEBIBYTE
    """Uploads are refused when less than this would stay free on the disk."""
    upload_keep_s: _Positive = 7 * 86400
    """Unfinished uploads older than this are deleted at start."""
    job_lease_s: Annotated[float, Meta(ge=0.5)] = 30.0
    """A job whose worker has been silent for so long is taken up again."""
    job_attempts_max: _Positive = 3
    """How often a job is tried before it has failed."""
    pipeline_memory_bytes_max: Annotated[int, Meta(ge=256 * _MEBIBYTE)] = 8 * 1024 * _MEBIBYTE
    """Address space of the process that works on an uploaded model; it uses much less of it."""
    pipeline_cpu_s_max: _Positive = 3600
    """Processor time of that process, and of each of its trials."""
    pipeline_wall_s_max: _Positive = 3600
    """Time by the clock of that process."""
    pipeline_workers: Annotated[int, Meta(ge=1, le=64)] = 2
    """How many recipes are tried at a time; each may use the memory above."""
    loop_period_s: Annotated[float, Meta(ge=0.2, le=86400)] = 30.0
    """How often the loop of each model is looked at."""
    trainers_file: str = ""
    """TOML file that names trainers of your own: docs/training.md; empty: there are none."""
    trains: bool = True
    """Whether this server trains itself; if not, workers do."""
    training_wait_s: _Positive = 300
    """A training for which no worker has had the trainer for so long is an alert."""
    mlflow_uri: str = ""
    """Tracking server of MLflow that retrainings are told to; empty: none."""
    mlflow_experiment: Annotated[str, Meta(min_length=1, max_length=200)] = "edgectl"
    """That their runs belong to; it is made if there is none of this name."""
    mlflow_token_file: str = ""
    """File (mode 0600) whose first line is a bearer token for it; empty: it wants none."""
    known_trials_bytes_max: Annotated[int, Meta(ge=0)] = 2 * 1024 * _MEBIBYTE
    """Variants that were tried are kept up to this, so that they need not be made again."""
    delta_bases_max: Annotated[int, Meta(ge=0, le=64)] = 8
    """From so many bundles that the fleet runs are deltas to a version made; 0: from none."""
    delta_wait_s: Annotated[float, Meta(ge=0, le=86400)] = 120.0
    """For so long a rollout waits for them; then it goes with whole files."""
    delta_s_max: _Positive = 900
    """Time by the clock and of the processor that making one of them may take."""
    delta_memory_bytes_max: Annotated[int, Meta(ge=256 * _MEBIBYTE)] = 4 * 1024 * _MEBIBYTE
    """Address space of the process that makes one."""
    targets_file: str = ""
    """TOML file with device classes of your own, beside those that are shipped; empty: none."""
    converters: str = ""
    """Folder of the environments in which other formats than ONNX are converted; empty: one in the
    data folder."""
    converters_on_demand: bool = True
    """Install a converter's environment when the first model needs it."""
    converter_install_s_max: _Positive = 1800
    """How long that may take."""
    device_upload_bytes_per_day: Annotated[int, Meta(ge=0)] = 64 * _MEBIBYTE
    """What one device may upload in a day, of each kind: logs, samples."""
    device_uploads_at_once: Annotated[int, Meta(ge=1, le=256)] = 8
    """How many uploads are received at a time, of one device one of each kind; the others wait."""
    device_upload_days: _Positive = 14
    """What devices have uploaded is deleted when it is older."""
    samples_days: _Positive = 30
    """Samples of inputs and answers are deleted when they are older."""
    samples_bytes_max: Annotated[int, Meta(ge=0)] = 4 * 1024 * _MEBIBYTE
    """Of all of them; when they take more, the oldest go, but none of the last day."""
    datasets_bytes_max: Annotated[int, Meta(ge=0)] = 16 * 1024 * _MEBIBYTE
    """Of all samples that datasets hold; when they take more, no further one is made."""
    device_overdue_s: Annotated[int, Meta(ge=60)] = 3600
    """A device that has been offline for longer is overdue."""
    telemetry_gap_s: Annotated[int, Meta(ge=60)] = 900
    """A device that is online and has sent nothing for so long has a gap in its telemetry."""
    alert_gather_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0
    """Least time between two messages of a route: what comes meanwhile is told together."""
    smtp_host: str = ""
    """Mail server that takes alerts; empty: alerts are not sent by e-mail."""
    smtp_port: _Port = 587
    """Its port; 465 is usual with ``tls``."""
    smtp_security: Literal["starttls", "tls", "off"] = "starttls"
    """How the connection to it is encrypted; ``off`` is for this machine only."""
    smtp_user: str = ""
    """Name to log in with; empty: without a login."""
    smtp_password_file: str = ""
    """File whose first line is the password; nobody else may read it."""
    smtp_from: str = ""
    """Address from which alerts are sent."""
    smtp_authorities: str = ""
    """PEM file of authorities that may vouch for the mail server; empty: those of the system."""
    otel_endpoint: str = ""
    """``http://127.0.0.1:4318/v1/traces`` of an OpenTelemetry collector; empty: no traces."""
    webhooks_to_private_addresses: bool = False
    """Let webhooks go to addresses of the server's own network too, and by plain HTTP."""
    tick_s: Annotated[float, Meta(ge=0.05, le=60)] = 0.5
    """How often rollouts are looked at."""
    telemetry_retention_days: _Positive = 30
    """Older telemetry is deleted."""
    watch_rows_per_s: Annotated[float, Meta(ge=0, le=1000)] = 20.0
    """Rows of inputs and answers that a device describes at most; 0: none, and no drift is seen."""
    watch_window_s: Annotated[int, Meta(ge=1, le=86400)] = 600
    """Of so many seconds devices add up what they describe before they send it."""
    drift_period_s: Annotated[float, Meta(ge=1, le=7 * 86400)] = 3600.0
    """So much time is judged for drift at once; some windows long."""
    accuracy_drop: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    """A model's estimated accuracy that is so much lower than at push is told as an event."""

    @property
    def data_path(self) -> Path:
        """The data folder."""
        return Path(self.data).expanduser().absolute()

    @property
    def database_address(self) -> str:
        """The database's URL, whatever was set."""
        return self.database_url or f"sqlite:///{self.data_path / 'edgectl.sqlite'}"

    @property
    def blobs_address(self) -> str:
        """The blob store's URL or folder, whatever was set."""
        return self.blobs_url or str(self.data_path / "blobs")

    @property
    def device_uploads_address(self) -> str:
        """URL or folder of what devices upload, apart from all that devices fetch."""
        return f"{self.blobs_address.rstrip('/')}/device-uploads"

    @property
    def converters_path(self) -> Path:
        """The folder of the converters' environments, whatever was set."""
        if self.converters:
            return Path(self.converters).expanduser().absolute()
        return self.data_path / "converters"

    @property
    def broker_address_for_devices(self) -> str:
        """The broker's host as devices are told."""
        return self.broker_public_host or self.broker_host


def load_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None
) -> Settings:
    """Read the settings.

    Args:
        flags: from the command line; None means not given.
        environment: ``os.environ``; keys without the prefix are ignored.
        file: a TOML file, or None.

    Raises:
        Refused: ``settings.invalid``, naming the key and where it came from.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values.update(_from_file(file))
    known = {field.name: field for field in msgspec.structs.fields(Settings)}
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        if key not in known:
            raise Refused(
                "settings.invalid",
                f"{name} is not a setting",
                hint=f"the settings are: {', '.join(sorted(known))}",
            )
        values[key] = _convert(text, known[key].type, name)
    values.update({key: value for key, value in flags.items() if value is not None})
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise Refused(
            "settings.invalid",
            f"the settings are not valid: {error}",
            hint="docs/server.toml shows every key with its default",
        ) from error


def _from_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Refused(
            "settings.invalid",
            f"cannot read the settings file {file}: {error}",
            hint="it must be a TOML file; docs/server.toml is an example",
        ) from error


def _convert(text: str, kind: Any, name: str) -> Any:
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Refused("settings.invalid", f"{name}={text!r} is not valid: {error}") from error
