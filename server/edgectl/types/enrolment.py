"""What the REST API answers about enrolment; see `edgectl.types`, which has the rest and these."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

__all__ = [
    "AuthorityInfo",
    "EnrolRequestInfo",
    "EnrolTokenCreated",
    "EnrolTokenInfo",
    "ImageSnippet",
    "PreauthoriseResult",
    "PreauthorisedEntry",
    "PreauthorisedInfo",
]


class EnrolTokenCreated(Struct, frozen=True):
    """The only time that the token is shown."""

    token: str
    id: str
    uses: int
    expires_at: datetime
    group: str = ""


class EnrolTokenInfo(Struct, frozen=True):
    """A token without its secret."""

    id: str
    group: str
    uses_left: int
    expires_at: datetime
    created_at: datetime
    created_by: str


class PreauthorisedEntry(Struct, frozen=True):
    """A key that may enrol under a name."""

    device: str
    fingerprint: str
    group: str = ""


class PreauthoriseResult(Struct, frozen=True):
    """What has become of the entries."""

    added: int
    unchanged: int


class PreauthorisedInfo(Struct, frozen=True):
    """A key that may enrol, and has not yet."""

    device: str
    fingerprint: str
    group: str
    approved: bool
    created_at: datetime
    created_by: str


class EnrolRequestInfo(Struct, frozen=True):
    """A device that asks to be let in."""

    device: str
    fingerprint: str
    state: str
    rejected_by: str
    source: str
    taken: bool
    first_at: datetime
    last_at: datetime


class ImageSnippet(Struct, frozen=True):
    """What an image does at the first boot of each device."""

    form: str
    text: str
    placeholder: str
    """What stands in the text where an enrolment token belongs."""


class AuthorityInfo(Struct, frozen=True):
    """By what a device that enrols without a token knows the server."""

    fingerprint: str
    certificate_pem: str
    takes_requests: bool
