"""Which server, and the tokens that open it: ``$XDG_CONFIG_HOME/edgectl/config.json``, mode 0600.

Order: ``--url`` or ``EDGECTL_URL``, then the server of the last login, then `DEFAULT_URL`. The
token is ``EDGECTL_TOKEN``, or the one that was stored *for this very address*: no token goes to
another server than the one that gave it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgectl.errors import LocalError

__all__ = ["DEFAULT_URL", "Config", "Login", "config_path", "read_config", "write_config"]

DEFAULT_URL = "http://127.0.0.1:8080"
_CONFIG_BYTES_MAX = 1024 * 1024


class Login(msgspec.Struct, frozen=True):
    """What a login has left behind."""

    token: str
    user: str
    role: str
    authority: str = ""
    """In PEM, the only one that is believed for this server; empty: those of this machine."""

    def __repr__(self) -> str:
        """Say who, never the token."""
        return f"Login(user={self.user!r}, role={self.role!r})"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file's content."""

    current: str = ""
    """Address of the last login."""
    servers: dict[str, Login] = {}

    def logged_in(self, url: str, login: Login) -> Config:
        """Return a config that uses `url` and knows its token."""
        return Config(url, {**self.servers, url: login})

    def logged_out(self, url: str) -> Config:
        """Return a config without the token of `url`."""
        rest = {known: login for known, login in self.servers.items() if known != url}
        return Config(self.current, rest)


def config_path(environment: Mapping[str, str]) -> Path:
    """Return where the configuration is kept."""
    home = environment.get("XDG_CONFIG_HOME", "")
    base = Path(home) if home.startswith("/") else Path(environment.get("HOME", "~")) / ".config"
    return base.expanduser() / "edgectl" / "config.json"


def read_config(path: Path) -> Config:
    """Return the stored configuration, an empty one if there is none.

    Raises:
        LocalError: ``config.file``: not readable or not ours.
    """
    hint = f"remove {path} and log in again with `edgectl login`"
    try:
        with path.open("rb") as file:
            content = file.read(_CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise LocalError("config.file", f"{path}: {error.strerror}") from error
    if len(content) > _CONFIG_BYTES_MAX:
        raise LocalError("config.file", f"{path} is larger than {_CONFIG_BYTES_MAX} bytes", hint)
    try:
        return msgspec.json.decode(content, type=Config)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LocalError("config.file", f"{path} is not understood: {error}", hint) from error


def write_config(path: Path, config: Config) -> None:
    """Store `config` readable by its owner only; the old file stays whole until the new one is."""
    content = msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise LocalError("config.file", f"{path}: {error.strerror}") from error
