"""Measures models for the person at the device, each in a process that may die alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from edgectl_agent.bundle import Bundle
from edgectl_agent.enrol import load_identity
from edgectl_agent.errors import Refused
from edgectl_agent.inference.process import child_environment
from edgectl_agent.keyring import Keyring
from edgectl_agent.settings import Settings
from edgectl_agent.status import open_state
from edgectl_agent.store import Store
from edgectl_agent.trial import run_trial

__all__ = ["bench_file", "bench_slot"]


def bench_slot(settings: Settings, slot: str, runs: int) -> list[dict[str, Any]]:
    """Measure what a slot runs, and what ran before; return a row of figures for each.

    Raises:
        Refused: ``bench.nothing``: it runs nothing.
        StepFailed: a file is damaged, or a key is not there.
    """
    return [_measure(settings, bundle, runs) for bundle in _bundles(settings, slot)]


def _bundles(settings: Settings, slot: str) -> list[Bundle]:
    """Return what a slot runs, and what ran before."""
    disk = open_state(settings.state_directory)
    identity = load_identity(disk)
    keyring = Keyring(settings.key_path, identity.device if identity else "")
    store = Store(disk, keyring=keyring)
    pointer = store.pointers().get(slot)
    if pointer is None or pointer.running is None:
        raise Refused(
            "bench.nothing",
            f"nothing runs in a slot {slot!r}",
            hint="edgectl-agent models shows the slots; a file is named with its ending, m.onnx",
        )
    return [
        store.bundle(slot, manifest=one.manifest, version=one.version, variant=one.variant)
        for one in (pointer.running, pointer.previous)
        if one is not None
    ]


def _measure(settings: Settings, bundle: Bundle, runs: int) -> dict[str, Any]:
    try:
        result = run_trial(
            bundle,
            timeout_s=settings.trial_timeout_s,
            memory_bytes_max=settings.trial_memory_bytes_max,
            runs=runs,
        )
    finally:
        bundle.forget_key()
    figures = {} if result.report is None else msgspec.to_builtins(result.report)
    reason = "" if result.reason is None else f"[{result.reason.code}] {result.reason.detail}"
    return {
        **figures,
        "model": f"{bundle.slot} {bundle.version} ({bundle.variant})",
        "bytes": Path(bundle.model).stat().st_size,
        "verdict": result.verdict.value,
        "reason": reason,
    }


def bench_file(settings: Settings, file: Path, runs: int) -> dict[str, Any]:
    """Measure a model file with random inputs; return a row of figures.

    Raises:
        Refused: ``bench.file``: it is not there.
    """
    if not file.is_file():
        raise Refused("bench.file", f"{file} is not there", hint="name an .onnx file, or a slot")
    seconds = settings.trial_timeout_s
    command = [sys.executable, "-P", "-m", "edgectl_agent.bench_child"]
    row: dict[str, Any] = {"model": file.name, "verdict": "rejected", "reason": ""}
    try:
        done = subprocess.run(
            [*command, str(file.absolute()), str(runs), str(seconds)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds + 10,
            check=False,
            env=child_environment(),
            start_new_session=True,
        )
        result = json.loads(done.stdout) if done.returncode == 0 else {}
    except subprocess.TimeoutExpired:
        return {**row, "reason": f"not done after {seconds:g} s"}
    if done.returncode != 0:
        how = f"killed by signal {-done.returncode}" if done.returncode < 0 else "it failed"
        return {**row, "reason": f"{how}: {done.stderr.decode('utf-8', 'replace')[-200:]}"}
    if "error" in result:
        return {**row, "reason": result["error"]}
    return {**row, **result, "verdict": "ok"}
