"""What the endpoint says about itself and its models, whatever transport asks.

Values are plain: JSON, and the fields of the gRPC messages of the same names.
"""

from __future__ import annotations

from typing import Any

from edgectl_agent.inference.refusals import Kind, Refused
from edgectl_agent.inference.service import Service
from edgectl_agent.inference.slots import Served
from edgectl_agent.inference.statistics import Duration
from edgectl_protocol import __version__
from edgectl_protocol.manifest import TensorSpec

__all__ = [
    "all_statistics",
    "model_config",
    "model_index",
    "model_metadata",
    "model_statistics",
    "refuse_loading",
    "server_metadata",
]

_PLATFORMS = {"onnx": "onnx_onnxv1", "tflite": "tensorflow_tflite"}
"""By format, in the protocol's words: project and format."""
_CONFIG_PLATFORMS = {"onnx": "onnxruntime_onnx", "tflite": "tensorflowlite_tflite"}
"""The same in the words of a model configuration."""
_CONFIG_TYPES = {
    "FP16": "TYPE_FP16",
    "FP32": "TYPE_FP32",
    "FP64": "TYPE_FP64",
    "BYTES": "TYPE_STRING",
}


def server_metadata(service: Service) -> dict[str, Any]:
    """Return name, version and extensions."""
    extensions = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
    if service.memory is not None:
        extensions.append("system_shared_memory")
    return {"name": "edgectl", "version": __version__, "extensions": extensions}


def model_metadata(served: Served) -> dict[str, Any]:
    """Return a model's contract; `parameters` and `labels` are ours."""
    bundle = served.bundle
    return {
        "name": bundle.slot,
        "versions": [bundle.version],
        "platform": _PLATFORMS[bundle.config.format],
        "inputs": bundle.config.inputs,
        "outputs": bundle.config.outputs,
        "parameters": served.parameters,
        "labels": bundle.config.labels,
    }


def model_config(served: Served) -> dict[str, Any]:
    """Return a model's configuration as clients of Triton read it.

    The batch is a dimension of the shape, as in the contract: `max_batch_size` is 0.
    """
    bundle = served.bundle
    return {
        "name": bundle.slot,
        "platform": _CONFIG_PLATFORMS[bundle.config.format],
        "backend": bundle.config.runtime,
        "max_batch_size": 0,
        "input": [_config_of(spec) for spec in bundle.config.inputs],
        "output": [_config_of(spec) for spec in bundle.config.outputs],
    }


def _config_of(spec: TensorSpec) -> dict[str, Any]:
    kind = _CONFIG_TYPES.get(spec.datatype, f"TYPE_{spec.datatype}")
    return {"name": spec.name, "data_type": kind, "dims": list(spec.shape)}


def model_index(service: Service) -> list[dict[str, Any]]:
    """Return the models that serve."""
    return [
        {
            "name": served.bundle.slot,
            "version": served.bundle.version,
            "state": "READY",
            "reason": "",
        }
        for served in service.slots
    ]


def refuse_loading() -> Refused:
    """Return why clients cannot load or unload models."""
    return Refused(
        "applications do not load or unload models: what serves here is what was rolled out to "
        "this device, see `edgectl push`",
        Kind.FORBIDDEN,
    )


def all_statistics(service: Service) -> list[dict[str, Any]]:
    """Return the statistics of all models."""
    return [model_statistics(served) for served in service.slots]


def model_statistics(served: Served) -> dict[str, Any]:
    """Return a model's requests and where their time went, since it was loaded."""
    totals = served.statistics.totals()
    none = Duration(0, 0)
    durations = {
        "success": totals.success,
        "fail": totals.fail,
        "queue": totals.queue,
        "compute_input": totals.read,
        "compute_infer": totals.run,
        "compute_output": totals.write,
        "cache_hit": none,
        "cache_miss": none,
    }
    return {
        "name": served.bundle.slot,
        "version": served.bundle.version,
        "last_inference": totals.last_ms,
        "inference_count": totals.rows,
        "execution_count": totals.run.times,
        "inference_stats": {
            name: {"count": found.times, "ns": found.ns} for name, found in durations.items()
        },
        "batch_stats": [],
    }
