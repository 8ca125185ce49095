"""What every command starts from: the address, the token, the options that they share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from edgectl.authorities import read_authority
from edgectl.client import Client
from edgectl.config import DEFAULT_URL, Config, config_path, read_config, write_config
from edgectl.errors import LocalError
from edgectl.transport import server_url
from edgectl_protocol.enrolment import parse_fingerprint
from edgectl_protocol.errors import InvalidName, ProtocolError
from edgectl_protocol.names import (
    check_device_id,
    check_group_name,
    check_model_name,
    check_variant,
    check_version,
)

__all__ = [
    "DEVICE",
    "FINGERPRINT",
    "GROUP",
    "MODEL",
    "MODEL_AND_VERSION",
    "MODEL_VERSION",
    "NAME",
    "VARIANT",
    "VERSION",
    "Session",
    "examples",
    "given",
    "json_option",
    "limit_option",
    "pass_session",
]


def given(asked: Mapping[str, str | None]) -> list[tuple[str, str]]:
    """Return the parameters of a query that were given."""
    return [(name, value) for name, value in asked.items() if value is not None]


Command = TypeVar("Command", bound=Callable[..., Any])


class Session:
    """Address and token, found when they are first needed."""

    def __init__(self, url: str = "", environment: Mapping[str, str] | None = None) -> None:
        self._url = url
        self._environment = os.environ if environment is None else environment
        self.config_file = config_path(self._environment)

    def config(self) -> Config:
        """Return the stored configuration."""
        return read_config(self.config_file)

    def store(self, config: Config) -> None:
        """Store the configuration, readable by its owner only."""
        write_config(self.config_file, config)

    def address(self) -> str:
        """Return the server's address; see `edgectl.config` for the order."""
        chosen = self._url or self._environment.get("EDGECTL_URL", "")
        return server_url(chosen or self.config().current or DEFAULT_URL)

    def token(self) -> str:
        """Return the token for that address, empty when there is none."""
        given = self._environment.get("EDGECTL_TOKEN", "").strip()
        if given:
            return _checked_token(given)
        login = self.config().servers.get(self.address())
        return login.token if login else ""

    def authority(self) -> str:
        """Return the authority to believe for that address, in PEM; empty: those of this machine.

        Raises:
            LocalError: ``auth.authority``: the file in EDGECTL_CA holds none.
        """
        given = self._environment.get("EDGECTL_CA", "")
        if given:
            return read_authority(Path(given))
        login = self.config().servers.get(self.address())
        return login.authority if login else ""

    def connect(self) -> Client:
        """Return a client with a token.

        Raises:
            LocalError: ``auth.missing``: nobody has logged in to this server.
        """
        token = self.token()
        if not token:
            raise LocalError(
                "auth.missing",
                f"not logged in to {self.address()}",
                f"edgectl login {self.address()}",
            )
        hint = f"edgectl login {self.address()}"
        if self._environment.get("EDGECTL_TOKEN", "").strip():
            hint = f"EDGECTL_TOKEN goes before a login: correct it, or unset it and `{hint}`"
        return Client(self.address(), token, login_hint=hint, authority=self.authority())


def _checked_token(token: str) -> str:
    if not token.isascii() or not token.isprintable() or " " in token:
        raise LocalError(
            "auth.token", "this is no token: it holds other than letters", "check EDGECTL_TOKEN"
        )
    return token


pass_session = click.make_pass_decorator(Session)


def json_option(command: Command) -> Command:
    """Add ``--json`` as the parameter `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON on stdout and nothing else."
    )(command)


def limit_option(command: Command) -> Command:
    """Add ``--limit``."""
    return click.option(
        "--limit",
        type=click.IntRange(1, 100_000),
        default=100,
        show_default=True,
        help="How many to show at most.",
    )(command)


def examples(*lines: str) -> str:
    """Return the epilogue of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


class _Named(click.ParamType[str]):
    """A name that follows the contract's grammar."""

    def __init__(self, name: str, check: Callable[[str], str]) -> None:
        self.name = name
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or fail as a usage error."""
        try:
            return self._check(str(value))
        except ProtocolError as error:
            self.fail(str(error), param, ctx)


def _check_reference(value: str) -> str:
    name, at, version = value.partition("@")
    check_model_name(name)
    if at:
        check_version(version)
    return value


def _check_group(value: str) -> str:
    return check_group_name(value) if value else value  # the default: none


def _check_whole_reference(value: str) -> str:
    if "@" not in value:
        raise InvalidName(f"{value!r} has no version: write it like {value}@1")
    return _check_reference(value)


def _check_colon_reference(value: str) -> str:
    """Return MODEL@VERSION, which may be written with a colon too."""
    if "@" in value or ":" not in value:
        return _check_whole_reference(value)
    name, _, version = value.partition(":")
    return _check_reference(f"{name}@{version}")


DEVICE = _Named("device", check_device_id)
FINGERPRINT = _Named("fingerprint", parse_fingerprint)
GROUP = _Named("group", _check_group)
NAME = _Named("name", check_model_name)
VERSION = _Named("version", check_version)
MODEL = _Named("model[@version]", _check_reference)
MODEL_VERSION = _Named("model@version", _check_whole_reference)
MODEL_AND_VERSION = _Named("model:version", _check_colon_reference)
VARIANT = _Named("variant", check_variant)
