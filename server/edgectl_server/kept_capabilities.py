"""What a device is, kept here so that it need not say it in every report.

A report without capabilities names the number of the one that had them first
(`ReportedState.capabilities_seq`). A device leaves them out only after the server has said that it
keeps them. Where they are not those that are kept here all the same, as after a restore from a
backup, the device is asked to say them again; until then the older ones count.
"""

from __future__ import annotations

from msgspec.structs import replace

from edgectl_protocol.messages import Ack, ReportedState
from edgectl_server.order_answers import reported_of
from edgectl_server.storage.tables import Device

__all__ = ["answer_to", "complete"]

_LOST = 0


def complete(device: Device, state: ReportedState) -> ReportedState:
    """Return a report that is news with the capabilities that it leaves out.

    Args:
        device: with the report before this one.
        state: as it came.
    """
    if state.capabilities is not None or state.capabilities_seq is None:
        return state
    before = reported_of(device)
    if before is None:
        return replace(state, capabilities_seq=None)
    same = (before.boot, before.capabilities_seq) == (state.boot, state.capabilities_seq)
    return replace(
        state,
        capabilities=before.capabilities,
        capabilities_seq=state.capabilities_seq if same else None,
    )


def answer_to(device: Device, state: ReportedState) -> Ack | None:
    """Return what to tell a device after its report was taken; None: nothing.

    Args:
        device: as it is stored now.
        state: as it came.
    """
    named = state.capabilities_seq
    if named is None or (device.boot, device.seq) != (state.boot, state.seq):
        return None  # of an older agent, or no news
    kept = device.reported.get("capabilities_seq") == named
    if kept == (state.capabilities is None):
        return None
    seq = named if kept else _LOST
    return Ack(boot=state.boot, seq=0, capabilities_seq=seq, decompresses=True)
