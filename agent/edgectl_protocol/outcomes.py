"""What has turned out to be true of a request: said by an application, through its device.

A device tells it only where a policy asks for samples of that model: an outcome is of use beside
the input that it belongs to, and says as much of people as that does.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from edgectl_protocol.fields import Count, Message, Time
from edgectl_protocol.names import DeviceId, ModelName

__all__ = ["OUTCOME_PAYLOAD_TYPE", "OutcomeLabel", "OutcomeReport", "OutcomeRequest"]

OUTCOME_PAYLOAD_TYPE = "application/vnd.edgectl.outcome.v1+json"
OutcomeRequest = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,64}$")]
"""As the application has named it; of a request with many rows with the row's number: ``ID:3``."""
OutcomeLabel = Annotated[str, Meta(min_length=1, max_length=256)]
"""Name of a class."""


class OutcomeReport(Message, frozen=True, kw_only=True, omit_defaults=True):
    """``up/event``: what a request has turned out to be of, told until acknowledged."""

    device: DeviceId
    boot: Count
    seq: Count
    at: Time
    """When it was said."""
    model: ModelName
    request_id: OutcomeRequest
    label: OutcomeLabel
