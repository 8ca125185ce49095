"""Addresses of sources and sinks: ``folder:/photos?pattern=*.jpg``, ``mqtt://host/topic``.

``scheme:place?name=value&…``. Options that nobody takes are refused, so that a typing error is
noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

from edgectl_agent.errors import UsageError

__all__ = ["Address", "parse_address"]

_LENGTH_MAX = 4096

T = TypeVar("T", int, float)


class Address:
    """One source or sink as a person wrote it.

    Attributes:
        text: as it was given, without a password.
        scheme: such as ``folder``.
        place: what stands between scheme and options.
    """

    def __init__(self, text: str, scheme: str, place: str, options: dict[str, str]) -> None:
        self.text = text
        self.scheme = scheme
        self.place = place
        self._options = options
        self._known: set[str] = set()

    def text_option(self, name: str, default: str, choices: tuple[str, ...] = ()) -> str:
        """Return an option; raise `UsageError` unless it is among `choices`, if there are any."""
        self._known.add(name)
        value = self._options.get(name, default)
        if choices and value not in choices:
            raise self.refused(f"{name} is one of {', '.join(choices)}, got {value!r}")
        return value

    def number(self, name: str, default: T, low: T, high: T) -> T:
        """Return an option as a number of the type of `default`, from `low` to `high`."""
        self._known.add(name)
        text = self._options.get(name)
        if text is None:
            return default
        kind: Callable[[str], T] = type(default)
        try:
            value = kind(text)
        except ValueError:
            raise self.refused(f"{name} is a number, got {text!r}") from None
        if not low <= value <= high:
            raise self.refused(f"{name} is from {low} to {high}, got {text}")
        return value

    def check_known(self) -> None:
        """Raise `UsageError` when there are options that nobody has asked for."""
        unknown = sorted(set(self._options) - self._known)
        if unknown:
            known = ", ".join(sorted(self._known)) or "none"
            raise self.refused(f"it has no option {unknown[0]!r}; its options are: {known}")

    def refused(self, detail: str) -> UsageError:
        """Return the error that says what is wrong with it."""
        return UsageError(
            "flow.address",
            f"{self.text}: {detail}",
            hint="docs/sdk.md shows every source and sink with its options",
        )


def parse_address(text: str) -> Address:
    """Take an address apart; raise `UsageError` ``flow.address`` for what is none."""
    if text == "-":
        return Address("-", "-", "", {})
    scheme, colon, rest = text.partition(":")
    shown = _without_password(text)
    if not colon or not scheme.isalpha() or len(text) > _LENGTH_MAX:
        raise Address(shown[:80], "", "", {}).refused("it begins with a scheme, such as folder:")
    if scheme == "webhook":  # the rest is an address of its own, options and all
        return Address(shown, scheme, rest, {})
    place, _, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=32)
    options = dict(pairs)
    address = Address(shown, scheme.lower(), place, options)
    if len(options) != len(pairs):
        raise address.refused("an option is given twice")
    if not place:
        raise address.refused("nothing stands behind the scheme")
    return address


def _without_password(text: str) -> str:
    try:
        password = urlsplit(text).password
    except ValueError:
        return text
    return text.replace(f":{password}@", ":…@") if password else text
