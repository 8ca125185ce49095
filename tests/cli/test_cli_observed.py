"""What devices measure after a trial is shown: shadow, swap, observation, and why one waits."""

import json

from cli.answers import device, device_event, page, rollout_device
from edgectl_server import schemas as s

SHADOW = s.ObservationInfo(mirrored=40, agreed=39, skipped=2, latency_p95_us=900.0)
SWAP = s.SwapInfo(load_ms=41.5, gap_ms=12.0, resident=True)
OBSERVED = s.ObservationInfo(
    requests=500,
    errors=3,
    latency_p95_us=1500.0,
    reference_p95_us=1200.0,
    class_shift=0.125,
    mirrored=50,
    agreed=49,
)
SEEN = {"shadow": SHADOW, "swap": SWAP, "observation": OBSERVED}
SHADOW_WORDS = "98 % of 40 copies agree, 2 skipped, p95 900 µs"
SWAP_WORDS = "loaded in 42 ms, requests waited 12 ms, the model before is kept in memory"
OBSERVED_WORDS = (
    "500 requests, 3 errors, p95 1.5 ms (1.2 ms before), classes shifted by 0.12, "
    "the model before: 98 % of 50 copies agree"
)
WAITS = s.ReasonInfo(code="update.window", detail="switches mon-fri 02:00-04:00")


def unfolded(text):
    return " ".join(text.split())


def test_a_device_is_shown_with_what_it_measured_and_why_it_waits(logged_in, fleet_server):
    shown = device()
    update = shown.slots[0].update.model_copy(update={**SEEN, "state": "waiting", "reason": WAITS})
    shown.slots[0].update = update
    fleet_server.routes["GET", "/devices/pi-1"] = (200, shown)
    out = unfolded(logged_in("devices", "show", "pi-1").out)
    for words in (SHADOW_WORDS, SWAP_WORDS, OBSERVED_WORDS):
        assert words in out
    assert "waits update.window: switches mon-fri" in out
    update = json.loads(logged_in("devices", "show", "pi-1", "--json").out)["slots"][0]["update"]
    assert (update["swap"]["gap_ms"], update["shadow"]["agreed"]) == (12.0, 39)


def test_a_rollout_is_shown_with_it_too(logged_in, fleet_server):
    row = rollout_device().model_copy(update=SEEN)
    fleet_server.routes["GET", "/rollouts/R1/devices"] = (200, page(row))
    out = unfolded(logged_in("rollout", "status", "R1").out)
    for name, words in (
        ("shadow", SHADOW_WORDS),
        ("swap", SWAP_WORDS),
        ("observed", OBSERVED_WORDS),
    ):
        assert f"pi-1 {name}: {words}" in out


def test_an_event_is_shown_with_what_belongs_to_the_state_that_ended(logged_in, fleet_server):
    rows = [
        device_event().model_copy(update={**SEEN, "before": before, "reason": None})
        for before in ("shadowing", "activating", "observing", "trial")
    ]
    fleet_server.routes["GET", "/devices/pi-1/events"] = (200, page(*rows))
    out = unfolded(logged_in("devices", "events", "pi-1").out)
    for words in ("98 % of 40", "loaded in 42", "500 requests"):
        assert out.count(words) == 1


def test_a_swap_without_a_gap_says_so(logged_in, fleet_server):
    row = rollout_device().model_copy(
        update={"swap": s.SwapInfo(resident=True), "shadow": s.ObservationInfo()}
    )
    fleet_server.routes["GET", "/rollouts/R1/devices"] = (200, page(row))
    out = unfolded(logged_in("rollout", "status", "R1").out)
    assert "swap: was in memory already, no gap" in out
    assert "shadow: no copies yet" in out
