"""Samples of inputs and answers, and the policy by which they may leave devices."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from edgectl_protocol.samples import BYTES_PER_DAY_MAX, SAMPLE_REASONS
from edgectl_server.schemas.base import Schema

__all__ = [
    "LabelStateStr",
    "SampleInfo",
    "SampleKeyInfo",
    "SampleNews",
    "SamplePolicyChange",
    "SamplePolicyInfo",
    "SampleReasonStr",
    "SampleTensorInfo",
]

SampleReasonStr = Literal[
    "uncertain", "out-of-reference", "disagreeing", "diverse", "random", "asked"
]

LabelStateStr = Literal["unlabelled", "labelled", "conflict", "skipped"]


class SamplePolicyChange(Schema):
    """``PUT /models/{name}/samples``: what may leave a device as it is."""

    bytes_per_day: int = Field(default=0, ge=0, le=BYTES_PER_DAY_MAX)
    """Of one device; 0: nothing."""
    reasons: list[SampleReasonStr] = Field(default=[], max_length=len(SAMPLE_REASONS))
    """Why samples may be taken; none: nothing leaves."""
    random_share: float = Field(default=0.2, ge=0, le=1)
    """Of all samples, those that are taken whatever was answered."""
    seal: str | None = Field(default=None, pattern=r"^(server|none|[A-Za-z0-9+/]{43}=)$")
    """To which key samples are sealed on the device: the server's own, none, or a public key of
    X25519, base64, whose private half people keep. Not given: as before, at first the server's."""
    revision: int | None = Field(default=None, ge=0)
    """Of the policy that this one is made from: if another is in force by now, it is refused."""


class SamplePolicyInfo(Schema):
    """What of a model may leave devices; without a policy nothing, with the revision 0."""

    model: str
    bytes_per_day: int
    reasons: list[SampleReasonStr]
    random_share: float
    seal: str
    """``server``, ``none``, or the public key."""
    key: str | None
    """Name of the key that devices seal to; None: to none."""
    revision: int
    """Grows with each change."""
    changed_at: datetime | None
    changed_by: str


class SampleTensorInfo(Schema):
    """One tensor in the file of a sample."""

    name: str
    """``input.NAME`` or ``output.NAME``."""
    datatype: str
    """As safetensors names it, such as F32."""
    shape: list[int]


class SampleInfo(Schema):
    """One input of a model, and what it has answered, as a device has sent it."""

    id: str
    device: str
    model: str
    version: str
    manifest: str
    digest: str
    """Of the file."""
    reason: SampleReasonStr
    taken_at: datetime
    """By the device's clock."""
    received_at: datetime
    expires_at: datetime
    length: int
    tensors: list[SampleTensorInfo]
    request: str | None
    """As the application has named it."""
    answer: int
    """Number of the class that the model has answered; -1: it has no class scores."""
    confidence: float | None
    label_state: LabelStateStr
    label: str | None
    """What annotations agree on."""
    key: str | None
    """Name of the key that it came sealed to; None: it came as it was."""
    sealed: bool
    """It still is, to a key that this server does not have: nothing that is in it is known here."""
    redacted: bool
    """Its device's owner had it changed before it was written."""


class SampleKeyInfo(Schema):
    """A key that samples are, or were, sealed to."""

    id: str
    public: str
    """Of X25519, base64."""
    holder: Literal["server", "outside"]
    current: bool
    """It is the server's that policies carry."""
    created_at: datetime
    created_by: str
    samples: int
    """That are here and came sealed to it."""


class SampleNews(Schema):
    """Of the topic ``samples``: changes when one has come or gone."""

    samples: int
    received_at: datetime | None
    """Of the newest."""
