"""The journal's lines in words: what happened to the slots."""

from __future__ import annotations

from collections.abc import Iterator

from edgectl_agent.core.record import Record, Update

__all__ = ["told"]


def told(before: Record, after: Record) -> Iterator[str]:
    """Yield in words what has changed between two records of the journal."""
    if after.counter != before.counter and after.order is not None:
        wanted = ", ".join(f"{s} {one.version}" for s, one in sorted(after.order.slots.items()))
        yield f"order {after.counter} accepted: {wanted or 'no model'}"
    for slot in sorted(set(after.local) - set(before.local)):
        yield f"{slot}: wanted by a person at the device"
    for slot, update in sorted(after.updates.items()):
        line = _told_update(before.updates.get(slot), update)
        if line:
            yield line
    for digest in after.rejected:
        if digest not in before.rejected:
            yield f"remembered as bad: {digest}"
    for digest in before.rejected:
        if digest not in after.rejected:
            yield f"forgiven: {digest}"
    if after.stopped and not before.stopped:
        yield "the agent ended in good order"


def _told_update(before: Update | None, update: Update) -> str:
    same = before is not None and before.manifest == update.manifest
    if same and before is not None and before.state is update.state:
        if update.resumes > before.resumes:
            return f"{update.slot}: the agent died while it was {update.state}; it goes on there"
        return ""
    reason = f"  [{update.reason.code}] {update.reason.detail}" if update.reason else ""
    was = f"{before.state} -> " if same and before is not None else ""
    name = f"{update.slot} {update.version} ({update.candidate.variant})"
    return f"{name}: {was}{update.state}{reason}"
