"""A device under attack: the whole update machine on a simulated disk, real verification."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from agent.core.made import MadeBundle, make_order, simple_bundle
from agent.core.simulation import World
from conformance.repository import BASE_URL, Files, SignedRepository
from edgectl_agent.core.record import Floor
from edgectl_agent.trust.process import Trust
from edgectl_agent.trust.verifier import Verifier
from edgectl_protocol import topics
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.messages import MetadataHead, UpdatePolicy, encode
from edgectl_protocol.metadata import parse_metadata_file

V1 = simple_bundle("1", length=1000)
V2 = simple_bundle("2", length=1000)
TIMEOUT_S = 0.5
ONCE = UpdatePolicy(observe_s=2.0, attempts_max=1)


class Trusted(Protocol):
    """Both ways to decide, in this process and in one of its own."""

    def find(
        self, target: str, manifest: str, floor: Floor, cancelled: Callable[[], bool]
    ) -> Floor: ...


class Here:
    """The verifier in this process."""

    def __init__(self, cache: Path, repository: SignedRepository) -> None:
        files = Files(repository)
        self._verifier = Verifier(cache, repository.first_root, files, base_url=BASE_URL)

    def find(
        self, target: str, manifest: str, floor: Floor, cancelled: Callable[[], bool]
    ) -> Floor:
        return self._verifier.find(target, manifest, floor)


class Topics:
    """Retained topics with what the repository serves now; a `Transport`."""

    def __init__(self, repository: SignedRepository) -> None:
        self._repository = repository
        self._next: list[tuple[str, bytes]] = []

    def connected(self) -> bool:
        return True

    def subscribe(self, names: Any) -> None:
        retained = {topics.head(): encode(MetadataHead(root=self._repository.head))}
        for name, content in self._repository.files.items():
            try:
                retained[topics.metadata(*parse_metadata_file(name))] = content
            except ProtocolError:
                continue  # a name that no topic can have
        self._next += [(name, retained[name]) for name in names if name in retained]

    def unsubscribe(self, names: Any) -> None:
        self._next.clear()

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None:
        return self._next.pop(0) if self._next else None

    def publish(self, topic: str, payload: bytes) -> None:
        raise AssertionError("trust publishes nothing")


@dataclass
class Device(World):
    """The simulated device of the crash tests, with metadata that is really checked."""

    repository: SignedRepository = field(default_factory=SignedRepository)
    cache: Path = Path()
    process: bool = False
    orders: int = 0
    trust: Trusted | None = None

    def begin(self) -> None:
        self.close()
        if self.process:
            self.trust = Trust(
                self.cache, self.repository.first_root, Topics(self.repository), timeout_s=TIMEOUT_S
            )
        else:
            self.trust = Here(self.cache, self.repository)

    def close(self) -> None:
        if isinstance(self.trust, Trust):
            self.trust.close()

    def find(
        self, target: str, manifest: str, floor: Floor, cancelled: Callable[[], bool]
    ) -> Floor:
        assert self.trust is not None
        return self.trust.find(target, manifest, floor, cancelled)

    def order(self, bundle: MadeBundle) -> str:
        """Order `bundle`, and return why it was not installed; nothing if it was."""
        self.orders += 1
        before = len(self.reasons)
        self.deliver(make_order(self.orders, [bundle], policy=ONCE))
        self.settle()
        new = self.reasons[before:]
        assert (self.running() == bundle.digest) == (not new), new
        return new[-1] if new else ""

    def kept(self) -> tuple[Any, ...]:
        """What no refused attack may change: the floor, what is installed, what serves."""
        serving = {slot: one.manifest for slot, one in self.inference.serving.items()}
        return self.machine.record.floor, self.machine.pointers, serving

    def lose_cache(self) -> None:
        """As after a power loss: python-tuf's cache is not durable, the journal is."""
        shutil.rmtree(self.cache)
        self.begin()
