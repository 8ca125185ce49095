"""The agent: brings models to one device, serves them there, and reports."""

from edgectl_protocol import __version__

__all__ = ["__version__"]
