"""Where a key in a token is: a PKCS #11 URI (RFC 7512).

``pkcs11:token=edgectl;object=device?module-path=/usr/lib/libtoken.so&pin-source=file:/etc/edgectl/pin``

Rules: what is not known is refused, because it would otherwise be another key. A PIN is in a file
(``pin-source``) and never in the URI: settings are read by many.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from msgspec import Struct

from edgectl_agent.errors import UsageError

__all__ = ["KeyUri", "parse_key_uri"]

_SCHEME = "pkcs11:"
_URI_CHARACTERS_MAX = 1024
_PIN_BYTES_MAX = 256
_PATH = frozenset({"token", "serial", "object", "id", "type"})
_QUERY = frozenset({"module-path", "pin-source"})
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class KeyUri(Struct, frozen=True, kw_only=True):
    """A key in a token."""

    module: Path
    token: str = ""
    serial: str = ""
    object: str = ""
    id: bytes = b""
    pin_file: Path | None = None

    def read_pin(self) -> str | None:
        """Return the PIN; None where there is none.

        Raises:
            UsageError: ``key.pin``: it cannot be read, or everybody can read it.
        """
        if self.pin_file is None:
            return None
        try:
            with self.pin_file.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                pin = file.read(_PIN_BYTES_MAX + 1).decode().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                "key.pin",
                f"cannot read the PIN in {self.pin_file}: {error}",
                hint="write the PIN into that file, readable by the agent's user only",
            ) from error
        if mode & 0o007 or not 0 < len(pin) <= _PIN_BYTES_MAX:
            raise UsageError(
                "key.pin",
                f"{self.pin_file} is readable by everybody, empty or too long",
                hint=f"chmod 600 {self.pin_file}",
            )
        return pin


def parse_key_uri(text: str) -> KeyUri:
    """Return what a PKCS #11 URI says.

    Raises:
        UsageError: ``key.uri``.
    """
    if not text.startswith(_SCHEME) or len(text) > _URI_CHARACTERS_MAX:
        raise _wrong("it does not begin with pkcs11:, or is too long")
    path, _, query = text.removeprefix(_SCHEME).partition("?")
    values = _attributes(path, ";", _PATH) | _attributes(query, "&", _QUERY)
    module = values.get("module-path", "")
    pin_file = values.get("pin-source", "").removeprefix("file:")
    if not Path(module).is_absolute() or (pin_file and not Path(pin_file).is_absolute()):
        raise _wrong("module-path must be given, and paths be absolute")
    if not (values.get("token") or values.get("serial")):
        raise _wrong("it does not say which token: token=… or serial=…")
    if not (values.get("object") or values.get("id")):
        raise _wrong("it does not say which key: object=… or id=…")
    if values.get("type", "private") != "private":
        raise _wrong("type must be private")
    return KeyUri(
        module=Path(module),
        token=values.get("token", ""),
        serial=values.get("serial", ""),
        object=values.get("object", ""),
        id=values.get("id", "").encode("latin-1"),
        pin_file=Path(pin_file) if pin_file else None,
    )


def _attributes(text: str, separator: str, known: frozenset[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, text.split(separator)):
        name, equals, value = part.partition("=")
        if name == "pin-value":
            raise _wrong("the PIN must be in a file: pin-source=file:/…")
        if not equals or name not in known or name in found or _PERCENT.search(value):
            raise _wrong(f"{name!r} is not known, comes twice or has no good value")
        try:
            found[name] = unquote(value, "latin-1" if name == "id" else "utf-8", "strict")
        except UnicodeDecodeError as error:
            raise _wrong(f"{name!r} is not UTF-8") from error
        if not found[name].isprintable() and name != "id":
            raise _wrong(f"{name!r} has unprintable characters")
    try:
        found.get("id", "").encode("latin-1")
    except UnicodeEncodeError as error:
        raise _wrong("'id' is not bytes") from error
    return found


def _wrong(why: str) -> UsageError:
    return UsageError(
        "key.uri",
        f"key is not the URI of a key in a token: {why}",
        hint="pkcs11:token=NAME;object=NAME?module-path=/…/library.so&pin-source=file:/…",
    )
