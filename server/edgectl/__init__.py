"""The operator's command line and the typed client of the REST API; HTTP only."""

from edgectl_protocol import __version__

__all__ = ["__version__"]
