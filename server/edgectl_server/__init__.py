"""The control plane: registry, pipeline, signing, distribution, fleet, rollouts, telemetry, API."""

from edgectl_protocol import __version__

__all__ = ["__version__"]
