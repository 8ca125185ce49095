"""From an offer of the hub to a model in this process.

The model's file comes as an open descriptor. Where this process may open the file itself, through
``/proc/self/fd``, the runtime maps it and shares its pages with the agent; where the file belongs
to another user, its content is copied into memory without a name (memfd_create(2)), which lives as
long as the runtime needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.errors import LoadFailed
from edgectl_agent.inference.hub_messages import Offer
from edgectl_agent.inference.served import prepare
from edgectl_agent.sdk.loaded import Loaded
from edgectl_agent.session import Stop

__all__ = ["load_offer"]

_COPY_BYTES = 1024 * 1024


def load_offer(offer: Offer, files: Sequence[int], misbehaved: Callable[[], object]) -> Loaded:
    """Load and warm up what was offered.

    Args:
        offer: the description.
        files: descriptors of model and golden data; they stay the caller's.
        misbehaved: see `Loaded`.

    Raises:
        LoadFailed: the runtime refuses it, or is not installed.
        OSError: the files cannot be read.
    """
    copies: list[int] = []
    try:
        model, golden = (_path_of(file, copies) for file in files)
        bundle = Bundle(
            slot=offer.slot,
            version=offer.version,
            variant=offer.variant,
            manifest=offer.manifest,
            model=model,
            golden=golden,
            config=offer.config,
            threads=offer.threads,
            provider=offer.provider,
        )
        loaded, _ = prepare(bundle, Stop())
    except MemoryError as error:
        raise LoadFailed("load.memory", "not enough memory to load the model") from error
    finally:
        for copy in copies:
            os.close(copy)
    return Loaded(bundle, loaded, misbehaved, offer.reference)


def _path_of(file: int, copies: list[int]) -> str:
    """Return a path under which the file can be opened; a copy that is needed joins `copies`."""
    path = f"/proc/self/fd/{file}"
    if os.access(path, os.R_OK):
        return path
    copy = os.memfd_create("edgectl-model", os.MFD_CLOEXEC)
    copies.append(copy)
    at = 0
    while part := os.pread(file, _COPY_BYTES, at):
        os.write(copy, part)
        at += len(part)
    return f"/proc/self/fd/{copy}"
