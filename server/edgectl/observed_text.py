"""What a device has measured of a model besides its trial, in a few words for a person.

A shadow answers copies of live requests; a model that was activated is observed; the swap between
both is what requests may notice.
"""

from __future__ import annotations

from edgectl import types
from edgectl.output import bytes_text, latency_text, plain

__all__ = [
    "observed_rows",
    "reason_text",
    "rollout_bytes_text",
    "seen_text",
    "shadow_text",
    "swap_text",
    "transfer_text",
]

_PER_CENT = 100


def reason_text(reason: types.ReasonInfo) -> str:
    """Return a reason with its code, which the list of errors explains."""
    return plain(f"{reason.code}: {reason.detail}")


def swap_text(swap: types.SwapInfo) -> str:
    """Say how long it took, and what requests noticed of it."""
    loading = f"loaded in {swap.load_ms:.0f} ms" if swap.load_ms else "was in memory already"
    gap = f"requests waited {swap.gap_ms:.0f} ms" if swap.gap_ms else "no gap"
    kept = ", the model before is kept in memory" if swap.resident else ""
    return f"{loading}, {gap}{kept}"


def transfer_text(transfer: types.TransferInfo) -> str:
    """Say what came over the network, and what was saved."""
    saved = transfer.whole_bytes - transfer.fetched_bytes
    told = bytes_text(transfer.fetched_bytes)
    if saved > 0:
        deltas = (transfer.delta is not None) + (transfer.rest is not None)
        how = ("", ", by a delta", ", by deltas")[deltas]
        told += f" of {bytes_text(transfer.whole_bytes)}{how}: {bytes_text(saved)} saved"
    if transfer.refusal:
        told += f"; without the delta: {transfer.refusal.code}: {transfer.refusal.detail}"
    return told


def rollout_bytes_text(count: types.RolloutBytes) -> str:
    """Say what devices were expected to fetch, and what they have saved."""
    told = f"{bytes_text(count.predicted)} expected of {bytes_text(count.whole)}"
    if count.fetched:
        told += f", {bytes_text(count.fetched)} fetched, {bytes_text(count.saved)} saved"
    return told


def shadow_text(shadow: types.ObservationInfo) -> str:
    """Say what a shadow did with copies of requests."""
    return ", ".join([_copies(shadow), *_errors(shadow), *_latency(shadow), *_shift(shadow)])


def seen_text(seen: types.ObservationInfo) -> str:
    """Say what a model did since it was activated."""
    parts = [f"{seen.requests} requests", *(_errors(seen) or ["no errors"]), *_latency(seen)]
    parts += _shift(seen)
    if seen.mirrored:
        parts.append(f"the model before: {_copies(seen)}")
    return ", ".join(parts)


def observed_rows(
    device: types.UpdateInfo | types.RolloutDeviceInfo | types.DeviceEventInfo,
) -> list[tuple[str, str]]:
    """Return the name and the words of each thing that is known, in the order of their time."""
    rows = []
    transfer = device.transfer
    if transfer is not None and (transfer.delta or transfer.rest or transfer.refusal):
        rows.append(("fetched", transfer_text(transfer)))
    if device.shadow is not None:
        rows.append(("shadow", shadow_text(device.shadow)))
    if device.swap is not None:
        rows.append(("swap", swap_text(device.swap)))
    if device.observation is not None:
        rows.append(("observed", seen_text(device.observation)))
    return rows


def _copies(seen: types.ObservationInfo) -> str:
    if not seen.mirrored:
        return "no copies yet" + (f", {seen.skipped} skipped" if seen.skipped else "")
    agreed = f"{seen.agreed / seen.mirrored * _PER_CENT:.0f} % of {seen.mirrored} copies agree"
    return agreed + (f", {seen.skipped} skipped" if seen.skipped else "")


def _errors(seen: types.ObservationInfo) -> list[str]:
    named = ((seen.errors, "errors"), (seen.non_finite, "with NaN or infinity"))
    return [f"{count} {name}" for count, name in named if count]


def _latency(seen: types.ObservationInfo) -> list[str]:
    if seen.latency_p95_us is None:
        return []
    beside = ""
    if seen.reference_p95_us is not None:
        beside = f" ({latency_text(seen.reference_p95_us)} before)"
    return [f"p95 {latency_text(seen.latency_p95_us)}{beside}"]


def _shift(seen: types.ObservationInfo) -> list[str]:
    return [] if seen.class_shift is None else [f"classes shifted by {seen.class_shift:.2f}"]
