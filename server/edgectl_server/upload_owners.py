"""Who wants what devices upload: an owner for each kind."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from sqlalchemy.orm import Session

from edgectl_protocol.messages import Reason
from edgectl_protocol.uploads import UploadOffer
from edgectl_server.storage.tables import DeviceUpload

__all__ = ["Examined", "Owner"]


class Examined(NamedTuple):
    """What an owner has found a whole upload to be."""

    reason: Reason | None = None
    """Why it is not kept."""
    kept_as: str | None = None
    """Digest of what the file holds now, where the owner has put something else into it."""
    sealed_to: str | None = None
    """Name of the key that it came sealed to."""


class Owner(Protocol):
    """Who wants uploads of one kind; everything in the caller's transaction."""

    def admit(self, session: Session, device: str, offer: UploadOffer) -> Reason | None:
        """Say why an offer is not welcome, or None."""

    def examine(self, upload: DeviceUpload, path: Path) -> Examined:
        """Look at a whole upload before it is kept, in its file; outside of any transaction."""

    def moved(self, session: Session, upload: DeviceUpload, done: int, total: int) -> None:
        """Note how many chunks there are of an upload that was admitted."""

    def ended(self, session: Session, upload: DeviceUpload) -> None:
        """Note that an upload is complete, or has failed."""
