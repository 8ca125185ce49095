"""Which slots of a device are ordered now, where rollouts say what switches together.

A rollout may say that its version goes with versions of other models: a detector with the
classifier that was trained on its output. Rules:

1. Until the version is committed on a device, its slot is ordered there only together with all the
   versions that it goes with, so that each of these rollouts may begin whenever it does.
2. Slots that are ordered because of that are coupled in the order, and the device switches them
   together or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["DesiredVersion", "couple"]


@dataclass(frozen=True)
class DesiredVersion:
    """What a slot shall run."""

    version: str
    goes_with: tuple[str, ...] = ()
    """``slot@version``."""
    committed: bool = False
    """It runs there already, and stays whatever becomes of the others."""


def couple(
    desired: Mapping[str, DesiredVersion],
) -> tuple[frozenset[str], tuple[tuple[str, ...], ...]]:
    """Return the slots that are ordered, and among them those that are coupled, in groups."""
    kept = dict(desired)
    while True:
        alone = [
            slot
            for slot, one in kept.items()
            if not one.committed and not all(_is_there(name, kept) for name in one.goes_with)
        ]
        if not alone:
            break
        for slot in alone:
            del kept[slot]
    groups: list[set[str]] = []
    for slot, one in kept.items():
        group = {slot, *(_slot(name) for name in one.goes_with if _is_there(name, kept))}
        for other in [other for other in groups if not other.isdisjoint(group)]:
            group |= other
            groups.remove(other)
        groups.append(group)
    coupled = sorted(tuple(sorted(group)) for group in groups if len(group) > 1)
    return frozenset(kept), tuple(coupled)


def _slot(name: str) -> str:
    return name.partition("@")[0]


def _is_there(name: str, desired: Mapping[str, DesiredVersion]) -> bool:
    slot, _, version = name.partition("@")
    return slot in desired and desired[slot].version == version
