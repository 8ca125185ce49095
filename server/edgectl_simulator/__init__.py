"""A fleet that is not there: simulated devices that speak the real protocol to a real server.

Each device enrols, connects by mutual TLS, signs what it says, checks who has signed its orders and
answers them with the events of a real update. It runs no model: what it measures is drawn, and
faults are declared in profiles (`profiles.toml`). One process, one asyncio loop, one connection a
device. ``edgectl simulate`` becomes ``python -m edgectl_simulator`` and hands it a `Plan`.
"""

from edgectl_protocol import __version__

__all__ = ["__version__"]
