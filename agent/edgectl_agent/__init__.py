"""The agent: brings models to one device, serves them there, and reports."""

import os

from edgectl_protocol import __version__

__all__ = ["__version__"]

# From 1.29 on onnxruntime reports its use to its maker and leaves an identifier in the home folder.
# A device reports to its own server and to nobody else; children inherit this.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
