"""The simulation finds protections of the planner missing when they are taken away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from domain import test_rollout_simulation as simulation
from edgectl_server.domain import rollouts, sites
from edgectl_server.domain.rollouts import ObservedRollout, Plan, RolloutPolicy

Patch = pytest.MonkeyPatch
_PLAN = rollouts.plan


def site_budget(patch: Patch) -> None:
    patch.setattr(sites.SiteBudget, "take", lambda self, site: True)


def phase_targets(patch: Patch) -> None:
    patch.setattr(rollouts, "targets", lambda phases, total, _: (total,) * max(1, len(phases)))


def proved_digests(patch: Patch) -> None:
    patch.setattr(rollouts._Proofs, "offer", lambda self, device: device.candidates or ())


def revert(patch: Patch) -> None:
    def plan(policy: RolloutPolicy, observed: ObservedRollout, now: object) -> Plan:
        return _PLAN(policy, replace(observed, revert=True), now)  # type: ignore[arg-type]

    patch.setattr(simulation, "plan", plan)


def selected_phases(patch: Patch) -> None:
    def plan(policy: RolloutPolicy, observed: ObservedRollout, now: object) -> Plan:
        everywhere = [replace(one, from_phase=0) for one in observed.devices]
        return _PLAN(policy, replace(observed, devices=everywhere), now)  # type: ignore[arg-type]

    patch.setattr(simulation, "plan", plan)


@pytest.mark.parametrize(
    "take_away",
    [site_budget, phase_targets, proved_digests, revert, selected_phases],
)
def test_a_protection_that_is_missing_is_found(
    take_away: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    take_away(monkeypatch)
    hunting = settings(
        max_examples=2000,
        stateful_step_count=60,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(simulation.Rollout, settings=hunting)
