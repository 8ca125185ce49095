"""The SDK: models of this device in an application's own process.

Applications import from `edgectl_agent`, which loads this package when it is first needed. Nothing
of the agent imports it: it needs NumPy and a runtime.
"""

from edgectl_agent.sdk.errors import InputRefused, ModelUnavailable, PredictionFailed, SdkError
from edgectl_agent.sdk.holding import hold
from edgectl_agent.sdk.model import Model
from edgectl_agent.sdk.outcomes import tell_outcome
from edgectl_agent.sdk.prediction import Prediction

__all__ = [
    "InputRefused",
    "Model",
    "ModelUnavailable",
    "Prediction",
    "PredictionFailed",
    "SdkError",
    "hold",
    "tell_outcome",
]
