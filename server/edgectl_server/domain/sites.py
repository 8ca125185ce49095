"""The disruption budget of sites: how many devices of each must stay available.

Rules:

1. Available is who is online and not in progress in any rollout. Who is offline is not available,
   so that a site with a broken device has a smaller budget left, and its update takes nothing away.
2. The budget holds when a device is about to be ordered; what fails by itself, it cannot prevent.
3. A site whose budget leaves no device free is never touched: that is said, and not bent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgectl_server.domain.rollout_facts import RolloutPolicy, Site

__all__ = ["SiteBudget", "must_stay"]


def must_stay(policy: RolloutPolicy, total: int) -> int:
    """Return how many of a site's devices must stay available."""
    wanted = 0 if policy.available_min is None else policy.available_min
    if policy.available_percent is not None:
        wanted = max(wanted, math.ceil(total * policy.available_percent / 100))
    return wanted


class SiteBudget:
    """What is left of each site's budget while devices are chosen."""

    def __init__(self, policy: RolloutPolicy, sites: Mapping[str, Site]) -> None:
        self._policy = policy
        self._sites = sites
        self._taken: dict[str, int] = {}

    def has_left(self, site: str) -> bool:
        """Say whether an available device of the site can be taken."""
        found = self._sites.get(site)
        if found is None:
            return True
        left = found.available - self._taken.get(site, 0) - 1
        return left >= must_stay(self._policy, found.total)

    def take(self, site: str) -> bool:
        """Take an available device from a site, if its budget has one left."""
        if not self.has_left(site):
            return False
        self._taken[site] = self._taken.get(site, 0) + 1
        return True
