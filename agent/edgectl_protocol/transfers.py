"""What an order says of deltas, and what a device says it took to fetch a bundle.

A delta (docs/deltas.md) is named in the order, beside the bundle, for the base that the device has
reported to run: one for the model, one for the rest of the bundle. It is a blob like others, with
chunks, an index and addresses. Nothing of it is believed beyond what it leads to: the manifest that
was ordered and the layers that this names, byte for byte, or they are fetched whole.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from edgectl_protocol.chunks import BLOB_BYTES_MAX, chunk_count
from edgectl_protocol.fields import Count, Message, Reason
from edgectl_protocol.names import Digest

__all__ = ["REST_BYTES_MAX", "DeltaBlob", "DeltaOffer", "RestOffer", "TransferReport"]

REST_BYTES_MAX = 64 * 1024 * 1024
"""Of the rest of a bundle, as it is made and as it is made from."""


class DeltaBlob(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Where a delta is."""

    delta: Digest
    size: Annotated[int, Meta(ge=1, le=BLOB_BYTES_MAX)]
    """Bytes of the delta."""
    chunk_index: Digest | None = None
    """Of the delta; None where it is one chunk."""

    @property
    def consistent(self) -> bool:
        """Whether there is an index where one is needed, and only there."""
        return (chunk_count(self.size) > 1) == (self.chunk_index is not None)


class DeltaOffer(DeltaBlob, frozen=True, kw_only=True, omit_defaults=True):
    """A delta by which a layer of a bundle can be made from one that the device has."""

    base: Digest
    """The file that it is made from."""
    target: Digest
    """The layer that it makes."""


class RestOffer(DeltaBlob, frozen=True, kw_only=True, omit_defaults=True):
    """A delta by which manifest and layers of a bundle, but for the model, can be made."""

    base: Digest
    """Manifest of the bundle whose rest it is made from."""
    target: Digest
    """Of the file that it makes, see `edgectl_protocol.rests`."""
    target_bytes: Annotated[int, Meta(ge=1, le=REST_BYTES_MAX)]


class TransferReport(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What it took to fetch a bundle."""

    whole_bytes: Count
    """Of manifest and layers."""
    fetched_bytes: Count
    """Of those, and of a delta, that came over the network; what the device had is not counted."""
    delta: Digest | None = None
    """The delta by which the model was made; None: it was fetched whole, or was there."""
    rest: Digest | None = None
    """The delta by which the rest of the bundle was made; None as above."""
    refusal: Reason | None = None
    """Why a delta that the order named was not used."""
