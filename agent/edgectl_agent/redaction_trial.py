"""Tries what the device's owner wants done to samples, on made-up ones: for ``doctor``.

A made-up sample has the tensors of a model that this device runs, all zeros. It goes through the
same process and sandbox as a real one, and what comes back is thrown away. A program that runs well
by hand may lack there a file, the network, or time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from edgectl_agent.clock import now
from edgectl_agent.durable import RealDisk
from edgectl_agent.owned_programs import ProgramRefused, check_named
from edgectl_agent.sample_desk import Redaction, redact_once
from edgectl_agent.settings import Settings
from edgectl_agent.store import read_config, read_pointers
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import BundleConfig
from edgectl_protocol.messages import Installed
from edgectl_protocol.samples import (
    SAMPLE_BYTES_MAX,
    SampleNote,
    SampleTensor,
    encode_sample,
    sample_datatype,
)

__all__ = ["Found", "try_redaction"]

_DROPS = "redaction.dropped"
_UNTRIED = "nothing runs here to try it on"
_NEXT = {
    "redaction.failed": "run it by hand on a file of `edgectl samples get`; in the sandbox it has "
    "no network, and reads system folders, /opt and its own folder alone",
    "redaction.timeout": "make it quicker, or raise redact_timeout_s",
    "redaction.changed": "it must write the same tensors, of the same datatype and shape",
    "redaction.step": "name every tensor in redact; `keep` leaves one as it is",
    "redaction.memory": "raise redact_memory_bytes_max",
}


class Found(NamedTuple):
    """What is to be said of it."""

    good: bool
    detail: str
    next: str = ""


def try_redaction(settings: Settings) -> Found:
    """Say whether samples would be redacted."""
    redaction = Redaction.of(settings)
    if not settings.samples:
        return Found(True, "no sample leaves this device: samples = false")
    if not redaction.wanted:
        return Found(True, "none: samples leave as they are, where a policy asks for them")
    state = settings.state_directory
    user = state.stat().st_uid
    if redaction.command:
        program = Path(redaction.command[0])
        try:
            check_named(program, user)
        except FileNotFoundError:
            problem = f"redact_command: {program} is not there: every sample is dropped"
            return Found(False, problem, "install it, or correct the setting")
        except ProgramRefused as error:
            problem = f"redact_command: {error}: every sample is dropped"
            return Found(False, problem, "it must be of root or of the agent's user alone")
    if os.geteuid() != user:
        return Found(True, "allowed; not tried: only the agent's own user can do that")
    return _try(redaction, state)


def _try(redaction: Redaction, state: Path) -> Found:
    disk = RealDisk(state)
    said: list[str] = []
    lacking: set[str] = set()
    for slot, pointer in sorted(read_pointers(disk).items()):
        if pointer.running is None:
            continue
        config = read_config(disk, pointer.running.manifest)
        content = None if config is None else _made_up(slot, pointer.running, config)
        if content is None:
            continue
        outcome = redact_once(redaction, content, device="doctor", state=state)
        if outcome.code not in {"", _DROPS}:
            problem = f"[{outcome.code}] a made-up sample of {slot}: {outcome.detail}"
            return Found(False, problem, _NEXT.get(outcome.code, "edgectl-agent logs"))
        said.append(f"{slot} {'dropped' if outcome.code else 'redacted'}")
        lacking.update(outcome.unconfined)
    without = f"; without {', '.join(sorted(lacking))}" if lacking else ""
    return Found(True, f"tried on zeros: {', '.join(said)}{without}" if said else _UNTRIED)


def _made_up(slot: str, running: Installed, config: BundleConfig) -> bytes | None:
    """Return a sample of zeros; None for a model that gives none."""
    note = SampleNote(
        model=slot,
        version=running.version,
        manifest=running.manifest,
        reason="random",
        taken_at=now(),
    )
    tensors = []
    for kind, specs in (("input", config.inputs), ("output", config.outputs)):
        for spec in specs:
            datatype = sample_datatype(spec.datatype)
            if datatype is None:
                return None
            shape = tuple(max(1, size) for size in spec.shape)
            tensors.append(SampleTensor(f"{kind}.{spec.name}", datatype, shape))
    if sum(one.length for one in tensors) > SAMPLE_BYTES_MAX:
        return None
    try:
        return encode_sample(note, [(one, bytes(one.length)) for one in tensors])
    except ProtocolError:
        return None  # with its head it is longer than a sample may be
