"""The agent: brings models to one device, serves them there, and reports.

Applications of the device use its SDK: ``from edgectl_agent import Model``. It is loaded when it is
first asked for, because the supervisor imports this package too, and has no use for NumPy.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgectl_protocol import __version__

if TYPE_CHECKING:
    from edgectl_agent.sdk import (
        InputRefused,
        Model,
        ModelUnavailable,
        Prediction,
        PredictionFailed,
        SdkError,
        hold,
        tell_outcome,
    )

__all__ = [
    "InputRefused",
    "Model",
    "ModelUnavailable",
    "Prediction",
    "PredictionFailed",
    "SdkError",
    "__version__",
    "hold",
    "tell_outcome",
]

# From 1.29 on onnxruntime reports its use to its maker and leaves an identifier in the home folder.
# A device reports to its own server and to nobody else; children inherit this.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def __getattr__(name: str) -> Any:
    """Load the SDK for the first of its names that is asked for."""
    if name in __all__:
        return getattr(import_module("edgectl_agent.sdk"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
