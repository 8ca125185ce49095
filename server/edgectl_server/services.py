"""Everything that runs in one server, put together in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgectl_server.auth import Auth
from edgectl_server.hub import Hub
from edgectl_server.jobs import Jobs
from edgectl_server.registry import Registry
from edgectl_server.settings import Settings
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.uploads import Uploads

__all__ = ["Services"]


@dataclass(kw_only=True)
class Services:
    """What the API and the background work use."""

    settings: Settings
    database: Database
    blobs: BlobStore
    hub: Hub
    auth: Auth
    jobs: Jobs
    uploads: Uploads
    registry: Registry
    enrolment: Any = None
    fleet: Any = None
    rollouts: Any = None
    telemetry: Any = None
    repository: Any = None
    authority: Any = None
    publisher: Any = None
    link: Any = None
    broker: Any = None
    closers: list[Any] = field(default_factory=list)
