"""What is not real around the simulated device: broker, transport, inference process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from edgectl_agent.bundle import Bundle
from edgectl_agent.core.evidence import Copies
from edgectl_agent.deltas import DeltaTask
from edgectl_agent.inference.errors import LoadFailed, SlotEmpty
from edgectl_agent.inference.process import SlotHealth
from edgectl_delta.decoder import apply_bytes
from edgectl_protocol.errors import DeltaRefused
from edgectl_protocol.messages import Reason, SwapReport

if TYPE_CHECKING:
    from agent.core.simulated_disk import SimulatedDisk
    from agent.core.simulation import World


@dataclass
class Broker:
    """Retained messages, and what one device has subscribed to."""

    retained: dict[str, bytes] = field(default_factory=dict)
    up: bool = True
    disturb: Callable[[str, bytes], Iterable[bytes]] = lambda _topic, payload: [payload]
    seeds: list[bytes] = field(default_factory=list)
    on_seed: Callable[[bytes], None] = lambda _payload: None


class FakeDeltaProcess:
    """`edgectl_agent.deltas.DeltaProcess` on a simulated disk: what it writes can be cut short."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def start(self) -> None:
        pass

    def apply(
        self, task: DeltaTask, *, cancelled: Callable[[], bool] = lambda: False
    ) -> Reason | None:
        delta = self._disk.read_located(task.delta)
        base = b"".join(self._disk.read_located(path) for path in task.base)
        try:
            made = apply_bytes(delta, base, bytes.fromhex(task.target_sha256))
        except DeltaRefused as error:
            return Reason(code=error.code, detail=str(error))
        path = self._disk.relative(task.target)
        self._disk.write(path, made[: len(made) // 2])
        self._disk.append(path, made[len(made) // 2 :])
        self._disk.sync(path)
        return None


class FakeTransport:
    """`Transport` on a `Broker`; waiting costs simulated time."""

    def __init__(self, broker: Broker, world: World) -> None:
        self._broker = broker
        self._world = world
        self._topics: set[str] = set()
        self._waiting: deque[tuple[str, bytes]] = deque()

    def connected(self) -> bool:
        return self._broker.up

    def subscribe(self, topics: Sequence[str]) -> None:
        self._topics.update(topics)
        for topic in topics:
            payload = self._broker.retained.get(topic)
            if payload is not None and self._broker.up:
                self._waiting.extend((topic, one) for one in self._broker.disturb(topic, payload))

    def came(self, topic: str) -> None:
        pass

    def unasked(self) -> int:
        return 0

    def bytes_in(self) -> int:
        return 0

    def unsubscribe(self, topics: Sequence[str]) -> None:
        self._topics.difference_update(topics)

    def receive(self, timeout_s: float) -> tuple[str, bytes] | None:
        if not self._waiting:
            self._world.elapsed_s += max(timeout_s, 0.01)
            return None
        self._world.elapsed_s += 0.001
        topic, payload = self._waiting.popleft()
        return (topic, payload) if topic in self._topics else None

    def publish(self, topic: str, payload: bytes) -> None:
        self._broker.seeds.append(payload)
        self._broker.on_seed(payload)


class FakeInference:
    """Serves what was loaded since the last boot; reads the files as the real one does."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.serving: dict[str, Bundle] = {}
        self.companions: dict[str, Bundle] = {}
        self.mirrored: set[str] = set()

    def switch(self, bundles: Sequence[Bundle]) -> dict[str, SwapReport]:
        for bundle in bundles:
            self._world.check_files(bundle)
            if bundle.manifest in self._world.unloadable:
                raise LoadFailed("load.invalid", "this one does not load", slot=bundle.slot)
        for bundle in bundles:
            old = self.serving.pop(bundle.slot, None)
            self.serving[bundle.slot] = bundle
            self.release(bundle.slot)
            if old is not None and self._world.roomy:
                self.companions[bundle.slot] = old
        self._check_coupled()
        return {bundle.slot: SwapReport(load_ms=1.0) for bundle in bundles}

    def exchange(self, manifests: Mapping[str, str]) -> dict[str, SwapReport] | None:
        ready = {slot: self.companions.get(slot) for slot in manifests}
        for slot, manifest in manifests.items():
            companion = ready[slot]
            if companion is None or companion.manifest != manifest:
                return None
        for slot, companion in ready.items():
            assert companion is not None
            assert companion.manifest not in self._world.blamed, "what was found bad serves again"
            self.serving[slot], self.companions[slot] = companion, self.serving[slot]
        self._check_coupled()
        return {slot: SwapReport(resident=True) for slot in manifests}

    def accompany(self, bundle: Bundle, *, share: float, cpu_max: float) -> SwapReport:
        if bundle.slot not in self.serving:
            raise SlotEmpty("slot.empty", bundle.slot)
        self._world.check_files(bundle)
        if bundle.manifest in self._world.unloadable:
            raise LoadFailed("load.invalid", "this one does not load", slot=bundle.slot)
        if not self._world.roomy:
            raise LoadFailed("load.memory_low", "two models do not fit", slot=bundle.slot)
        self.companions[bundle.slot] = bundle
        self.mirrored.add(bundle.slot)
        return SwapReport(load_ms=1.0, resident=True)

    def mirror(self, slot: str, *, share: float, cpu_max: float) -> bool:
        if share > 0 and slot in self.companions:
            self.mirrored.add(slot)
        return slot in self.mirrored

    def release(self, slot: str) -> None:
        self.companions.pop(slot, None)
        self.mirrored.discard(slot)

    def unload(self, slot: str) -> None:
        self.serving.pop(slot, None)
        self.release(slot)

    def die(self) -> None:
        self.serving.clear()
        self.companions.clear()
        self.mirrored.clear()

    def _check_coupled(self) -> None:
        """Coupled slots never answer with two versions."""
        found = [self.serving[slot] for slot in self._world.coupled if slot in self.serving]
        assert len({one.version for one in found}) <= 1, f"two halves serve: {found}"

    def health(self, slot: str) -> SlotHealth:
        bundle = self.serving.get(slot)
        if bundle is None:
            raise SlotEmpty("slot.empty", slot)
        errors = 50 if bundle.manifest in self._world.erring else 0
        return SlotHealth(
            manifest=bundle.manifest,
            requests=50,
            errors=errors,
            non_finite=0,
            companion=self.companions[slot].manifest if slot in self.companions else "",
            copies=self._copies(slot) if slot in self.mirrored else None,
            comparable=True,
        )

    def _copies(self, slot: str) -> Copies:
        companion = self.companions[slot].manifest
        errors = 50 if companion in self._world.erring else 0
        agreed = 0 if companion in self._world.differing else 50 - errors
        return Copies(runs=50, errors=errors, agreed=agreed)
