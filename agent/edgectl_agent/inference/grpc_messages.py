"""The messages of `inference.GRPCInferenceService`, built here instead of generated.

Source: kserve/open-inference-protocol, ``specification/protocol/open_inference_grpc.proto``, and
for statistics, repository, configuration and shared memory triton-inference-server/common,
``protobuf/grpc_service.proto``: same package, same numbers, and only the fields that are used here.

They live in a pool of descriptors of their own. Every generated copy of this protocol registers the
package ``inference`` in the process-wide pool, which refuses a second one that differs: a program
that uses a client and this module must not fail on importing the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["METHODS", "SERVICE", "message"]

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _FIELD.TYPE_BOOL,
    "bytes": _FIELD.TYPE_BYTES,
    "double": _FIELD.TYPE_DOUBLE,
    "float": _FIELD.TYPE_FLOAT,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "string": _FIELD.TYPE_STRING,
    "uint32": _FIELD.TYPE_UINT32,
    "uint64": _FIELD.TYPE_UINT64,
}
_NAME_AND_VERSION = {1: "string name", 2: "string version"}
_DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output",
              "cache_hit", "cache_miss")  # fmt: skip
_MESSAGES: Mapping[str, Mapping[int, str]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {1: "bool live"},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {1: "bool ready"},
    "ModelReadyRequest": _NAME_AND_VERSION,
    "ModelReadyResponse": {1: "bool ready"},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {1: "string name", 2: "string version", 3: "string* extensions"},
    "ModelMetadataRequest": _NAME_AND_VERSION,
    "ModelMetadataResponse.TensorMetadata": {
        1: "string name", 2: "string datatype", 3: "int64* shape",
    },
    "ModelMetadataResponse": {
        1: "string name", 2: "string* versions", 3: "string platform",
        4: "ModelMetadataResponse.TensorMetadata* inputs",
        5: "ModelMetadataResponse.TensorMetadata* outputs",
    },
    "InferParameter": {
        1: "bool bool_param ?", 2: "int64 int64_param ?", 3: "string string_param ?",
        4: "double double_param ?", 5: "uint64 uint64_param ?",
    },
    "InferTensorContents": {
        1: "bool* bool_contents", 2: "int32* int_contents", 3: "int64* int64_contents",
        4: "uint32* uint_contents", 5: "uint64* uint64_contents", 6: "float* fp32_contents",
        7: "double* fp64_contents", 8: "bytes* bytes_contents",
    },
    "ModelInferRequest.InferInputTensor": {
        1: "string name", 2: "string datatype", 3: "int64* shape",
        4: "<InferParameter> parameters", 5: "InferTensorContents contents",
    },
    "ModelInferRequest.InferRequestedOutputTensor": {
        1: "string name", 2: "<InferParameter> parameters",
    },
    "ModelInferRequest": {
        1: "string model_name", 2: "string model_version", 3: "string id",
        4: "<InferParameter> parameters", 5: "ModelInferRequest.InferInputTensor* inputs",
        6: "ModelInferRequest.InferRequestedOutputTensor* outputs", 7: "bytes* raw_input_contents",
    },
    "ModelInferResponse.InferOutputTensor": {
        1: "string name", 2: "string datatype", 3: "int64* shape",
        4: "<InferParameter> parameters", 5: "InferTensorContents contents",
    },
    "ModelInferResponse": {
        1: "string model_name", 2: "string model_version", 3: "string id",
        4: "<InferParameter> parameters", 5: "ModelInferResponse.InferOutputTensor* outputs",
        6: "bytes* raw_output_contents",
    },
    "ModelConfigRequest": _NAME_AND_VERSION,
    # Kinds of tensors are an enumeration there: the same on the wire as an int32.
    "ModelInput": {1: "string name", 2: "int32 data_type", 4: "int64* dims"},
    "ModelOutput": {1: "string name", 2: "int32 data_type", 3: "int64* dims"},
    "ModelConfig": {
        1: "string name", 2: "string platform", 4: "int32 max_batch_size", 5: "ModelInput* input",
        6: "ModelOutput* output", 17: "string backend",
    },
    "ModelConfigResponse": {1: "ModelConfig config"},
    "ModelStatisticsRequest": _NAME_AND_VERSION,
    "StatisticDuration": {1: "uint64 count", 2: "uint64 ns"},
    "InferStatistics": {
        number: f"StatisticDuration {name}" for number, name in enumerate(_DURATIONS, 1)
    },
    "ModelStatistics": {
        1: "string name", 2: "string version", 3: "uint64 last_inference",
        4: "uint64 inference_count", 5: "uint64 execution_count",
        6: "InferStatistics inference_stats",
    },
    "ModelStatisticsResponse": {1: "ModelStatistics* model_stats"},
    "RepositoryIndexRequest": {1: "string repository_name", 2: "bool ready"},
    "RepositoryIndexResponse.ModelIndex": {
        1: "string name", 2: "string version", 3: "string state", 4: "string reason",
    },
    "RepositoryIndexResponse": {1: "RepositoryIndexResponse.ModelIndex* models"},
    "RepositoryModelLoadRequest": {1: "string repository_name", 2: "string model_name"},
    "RepositoryModelLoadResponse": {},
    "RepositoryModelUnloadRequest": {1: "string repository_name", 2: "string model_name"},
    "RepositoryModelUnloadResponse": {},
    "SystemSharedMemoryStatusRequest": {1: "string name"},
    "SystemSharedMemoryStatusResponse.RegionStatus": {
        1: "string name", 2: "string key", 3: "uint64 offset", 4: "uint64 byte_size",
    },
    "SystemSharedMemoryStatusResponse": {
        1: "<SystemSharedMemoryStatusResponse.RegionStatus> regions",
    },
    "SystemSharedMemoryRegisterRequest": {
        1: "string name", 2: "string key", 3: "uint64 offset", 4: "uint64 byte_size",
    },
    "SystemSharedMemoryRegisterResponse": {},
    "SystemSharedMemoryUnregisterRequest": {1: "string name"},
    "SystemSharedMemoryUnregisterResponse": {},
}  # fmt: skip
"""Fields by number: type and name. ``*`` is repeated, ``<>`` a map from strings, ``?`` one of."""

METHODS = (
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer",
    "ModelConfig", "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad",
    "RepositoryModelUnload", "SystemSharedMemoryStatus", "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
)  # fmt: skip
"""Each takes ``<Method>Request`` and gives ``<Method>Response``."""


def message(name: str) -> Any:
    """Return the class of a message."""
    return _CLASSES[name]


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="edgectl/open_inference.proto", package=PACKAGE, syntax="proto3"
    )
    made: dict[str, Any] = {}
    for name in sorted(_MESSAGES, key=lambda name: name.count(".")):
        outer, _, inner = name.rpartition(".")
        described = made[outer].nested_type.add() if outer else file.message_type.add()
        described.name = inner
        made[name] = described
    for name, fields in _MESSAGES.items():
        for number, field in fields.items():
            _add_field(made[name], f".{PACKAGE}.{name}", number, field)
    return file


def _add_field(described: Any, path: str, number: int, text: str) -> None:
    kind, name, *one_of = text.split()
    field = described.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL)
    if kind.startswith("<"):
        entry = described.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add_field(entry, path, 1, "string key")
        _add_field(entry, path, 2, f"{kind[1:-1]} value")
        field.label = _FIELD.LABEL_REPEATED
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f"{path}.{entry.name}"
        return
    if kind.endswith("*"):
        field.label, kind = _FIELD.LABEL_REPEATED, kind[:-1]
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    if one_of:
        if not described.oneof_decl:
            described.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_file().SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _classes()
