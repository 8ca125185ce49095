"""What a device remembers: what runs, what was ordered, and where its updates stand."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from edgectl_protocol.fields import Nonce, Reason
from edgectl_protocol.messages import (
    SLOTS_MAX,
    Candidate,
    Installed,
    ObservationReport,
    Order,
    SlotOrder,
    SwapReport,
    TrialReport,
    UpdateReport,
)
from edgectl_protocol.names import Digest, ModelName
from edgectl_protocol.update import UpdateState

__all__ = ["REJECTED_MAX", "Memory", "Update"]

REJECTED_MAX = 64


class Update(Struct, kw_only=True, omit_defaults=True):
    """The newest update of one slot."""

    slot: ModelName
    wanted: SlotOrder
    candidate: Candidate
    order: int
    nonce: Nonce
    state: UpdateState = UpdateState.IDLE
    attempt: int = 0
    bytes_done: int = 0
    aborted: bool = False
    """It is taken back, and the model is not blamed."""
    reason: Reason | None = None
    trial: TrialReport | None = None
    shadow: ObservationReport | None = None
    observation: ObservationReport | None = None
    swap: SwapReport | None = None

    @property
    def manifest(self) -> str:
        """Digest of what is installed."""
        return self.candidate.manifest

    def is_for(self, wanted: SlotOrder) -> bool:
        """Say whether it leads to what is wanted."""
        return (self.wanted.version, self.wanted.candidates) == (wanted.version, wanted.candidates)

    def report(self) -> UpdateReport:
        """Return it as it is told."""
        return UpdateReport(
            order=self.order,
            version=self.wanted.version,
            variant=self.candidate.variant,
            manifest=self.manifest,
            state=self.state,
            attempt=self.attempt,
            bytes_done=self.bytes_done,
            bytes_total=self.bytes_done,
            rollout=self.wanted.rollout,
            reason=self.reason,
            trial=self.trial,
            shadow=self.shadow,
            observation=self.observation,
            swap=self.swap,
        )


class Memory(Struct, kw_only=True, omit_defaults=True):
    """Of one device, from one start to the next, and from one run to the next."""

    order: Order | None = None
    """The newest that was accepted."""
    running: Annotated[dict[ModelName, Installed], Meta(max_length=SLOTS_MAX)] = {}
    previous: Annotated[dict[ModelName, Installed], Meta(max_length=SLOTS_MAX)] = {}
    updates: Annotated[dict[ModelName, Update], Meta(max_length=SLOTS_MAX)] = {}
    rejected: Annotated[tuple[Digest, ...], Meta(max_length=REJECTED_MAX)] = ()

    @property
    def floor(self) -> int:
        """Counter of that order; only a higher one is new."""
        return 0 if self.order is None else self.order.counter
