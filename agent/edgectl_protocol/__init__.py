"""The contract between server, agent, operators' tools and firmware.

Topics, messages, bundle manifests, update states, histograms and names: what two programs of
edgectl must agree on, and nothing else. No I/O, no clock, no thread, no randomness.
"""

__version__ = "0.1.0"

PROTOCOL = "edgectl/v1"
"""Root of every MQTT topic; changes only when old and new cannot talk to each other."""
