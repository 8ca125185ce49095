"""Enrolment: tokens, keys that were let in beforehand, devices that ask."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from edgectl_server.schemas.base import DeviceIdStr, GroupStr, Schema

__all__ = [
    "ApproveRequest",
    "AuthorityInfo",
    "EnrolRequestInfo",
    "EnrolTokenCreated",
    "EnrolTokenInfo",
    "EnrolTokenRequest",
    "ImageSnippet",
    "PreauthoriseRequest",
    "PreauthoriseResult",
    "PreauthorisedEntry",
    "PreauthorisedInfo",
    "RejectRequest",
]

FingerprintStr = Annotated[str, Field(min_length=64, max_length=128)]
"""Of a device's key: 64 hexadecimal digits, in groups or not."""


class EnrolTokenRequest(Schema):
    """``POST /enrolment/tokens``."""

    uses: int = Field(default=1, ge=1, le=10000)
    expires_in_s: int = Field(default=3600, ge=60, le=30 * 86400)
    group: GroupStr = ""
    """Of the devices that enrol with it."""


class EnrolTokenCreated(Schema):
    """The only time that the token is shown."""

    token: str
    id: str
    uses: int
    expires_at: datetime
    group: str


class EnrolTokenInfo(Schema):
    """A token without its secret."""

    id: str
    group: str
    uses_left: int
    expires_at: datetime
    created_at: datetime
    created_by: str


class ImageSnippet(Schema):
    """What an image does at the first boot of each device."""

    form: Literal["cloud-init", "script"]
    text: str
    placeholder: str
    """What stands in the text where an enrolment token belongs."""


class PreauthorisedEntry(Schema):
    """A key that may enrol under a name."""

    device: DeviceIdStr
    fingerprint: FingerprintStr
    group: GroupStr = ""


class PreauthoriseRequest(Schema):
    """``POST /enrolment/preauthorised``: all of them, or none."""

    entries: list[PreauthorisedEntry] = Field(min_length=1, max_length=1000)


class PreauthoriseResult(Schema):
    """What has become of the entries."""

    added: int
    """New, or in place of another key of that name."""
    unchanged: int
    """On the list already, or enrolled with that key."""


class PreauthorisedInfo(Schema):
    """A key that may enrol, and has not yet."""

    device: str
    fingerprint: str
    group: str
    approved: bool
    """Somebody has approved its request, and it has not asked again since."""
    created_at: datetime
    created_by: str


class EnrolRequestInfo(Schema):
    """A device that asks to be let in. Anybody can ask: only the fingerprint says who it is."""

    device: str
    fingerprint: str
    state: Literal["waiting", "rejected"]
    rejected_by: str
    source: str
    """Address that it asked from, or the network of it."""
    taken: bool
    """The name belongs to an enrolled device with another key."""
    first_at: datetime
    last_at: datetime


class ApproveRequest(Schema):
    """``POST /enrolment/requests/{device}/actions/approve``."""

    fingerprint: FingerprintStr
    """As the device shows it, in whole."""
    group: GroupStr = ""


class RejectRequest(Schema):
    """``POST /enrolment/requests/{device}/actions/reject``."""

    fingerprint: FingerprintStr


class AuthorityInfo(Schema):
    """By what a device that enrols without a token knows this server."""

    fingerprint: str
    """``sha256:`` and 64 hexadecimal digits, of the authority's key."""
    certificate_pem: str
    takes_requests: bool
    """Devices may ask to be approved."""
