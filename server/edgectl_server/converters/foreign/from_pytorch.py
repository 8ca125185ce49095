"""PyTorch → ONNX: an exported program, as ``torch.export.save`` writes it (``.pt2``).

Such a file is an archive of a graph in JSON and of raw weights. It may hold pickles in places
(weights of unusual kinds, constants that are Python objects, files of older releases), and PyTorch
would read them with all their power. Here they are refused by their names and flags, and while the
file is read the doors to pickles are shut: weights alone can be read.
Source: ``torch/export/pt2_archive/_package.py`` of PyTorch 2.13.

The batch is the first dimension of every input: any size (``torch.export.Dim``), or one sample.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgectl_server.converters.foreign.archives import check_archive
from edgectl_server.converters.foreign.comparison import (
    EXACT,
    Input,
    array_name,
    check,
    onnx_runner,
    read_samples,
)
from edgectl_server.converters.foreign.refusal import Refusal, one_line

__all__ = ["convert"]

_OPSET = 18
_CONFIG_BYTES_MAX = 32 * 1024 * 1024
_SAVE = (
    "Write it with torch.export.save of PyTorch 2.8 or newer: torch.export.export(model, inputs)."
)
_OBJECTS = ("custom_obj_", "opaque_obj_")
_DYNAMIC = (
    "Export it for any number: dynamic_shapes={'x': {0: torch.export.Dim('batch')}}, with an"
    " example of two samples."
)


def convert(job: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Convert ``job["source"]`` to ``job["target"]``; the result's fields are `Conversion`'s."""
    path = Path(job["source"])
    _check_archive(path, job["unpacked_bytes_max"])
    tell("starting PyTorch")
    import torch

    torch.set_num_threads(1)
    tell("reading the exported program")
    program = _load(path)
    inputs = _inputs(program)
    if len(inputs) == 1:
        inputs = [Input(array_name(job["data"]), inputs[0].shape, inputs[0].dtype)]
    tell("converting")
    _write(program, [one.name for one in inputs], Path(job["target"]))
    tell("comparing")
    samples = read_samples(job["data"], inputs)
    run, names = onnx_runner(Path(job["target"]))
    expected = _answers(program, [samples.arrays[one.name] for one in inputs])
    rows = check(names, expected, run(samples.arrays), samples, EXACT)
    return {"checks": rows}


def _check_archive(path: Path, bytes_max: int) -> None:
    """Refuse what is no exported program, or one with pickles in it."""
    members = check_archive(path, bytes_max)
    names = {member.filename.partition("/")[2] for member in members}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise Refusal("convert.pickle", "The file is TorchScript (torch.jit.save).", _SAVE)
    if any(name.endswith((".pkl", ".pickle")) for name in names):
        raise Refusal("convert.pickle", "The file holds a pickle, as torch.save writes it.", _SAVE)
    if "archive_format" not in names or "models/model.json" not in names:
        raise Refusal(
            "convert.no_model", "The archive is no exported program of PyTorch 2.8 or newer.", _SAVE
        )
    with zipfile.ZipFile(path) as archive:
        for member in members:
            kind = member.filename.rpartition("/")[2]
            if kind not in ("model_weights_config.json", "model_constants_config.json"):
                continue
            if member.file_size > _CONFIG_BYTES_MAX:
                raise Refusal("convert.too_large", f"{kind} has {member.file_size} bytes.")
            _check_config(archive.read(member), kind)


def _check_config(content: bytes, name: str) -> None:
    """Refuse weights and constants that would be read as pickles."""
    try:
        entries = json.loads(content).get("config", {}).values()
        found = [
            str(entry.get("path_name"))
            for entry in entries
            if entry.get("use_pickle") or str(entry.get("path_name")).startswith(_OBJECTS)
        ]
    except (ValueError, AttributeError, RecursionError) as error:
        raise Refusal("convert.damaged", f"{name} cannot be read: {one_line(error)}.") from error
    if found:
        raise Refusal(
            "convert.pickle",
            f"The exported program keeps {', '.join(found[:3])} as pickles.",
            "Make its weights and constants ordinary tensors, and export it again.",
        )


@contextmanager
def _no_pickles() -> Iterator[None]:
    """Shut the doors to pickles: tensors alone can be read."""
    import torch

    def refuse(*_: object, **__: object) -> Any:
        raise Refusal("convert.pickle", "The exported program holds a pickle.", _SAVE)

    def load(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, **(options | {"weights_only": True}))

    original, loads, objects = torch.load, pickle.loads, torch._C._pickle_load_obj  # noqa: SLF001
    torch.load, pickle.loads, torch._C._pickle_load_obj = load, refuse, refuse  # noqa: SLF001
    try:
        yield
    finally:
        torch.load, pickle.loads = original, loads
        torch._C._pickle_load_obj = objects  # noqa: SLF001


def _load(path: Path) -> Any:
    import torch

    try:
        with _no_pickles():
            return torch.export.load(str(path))
    except Refusal:
        raise
    except Exception as error:  # what a crafted or foreign file makes PyTorch raise
        raise Refusal(
            "convert.damaged",
            f"PyTorch {torch.__version__} cannot read the exported program: {one_line(error)}.",
            _SAVE,
        ) from error


def _inputs(program: Any) -> list[Input]:
    """Return the inputs; their first dimension is any number, or one."""
    found = []
    users = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in users:
            continue
        value = node.meta.get("val")
        if not hasattr(value, "shape") or value.dim() == 0:
            raise Refusal(
                "convert.unsupported",
                f"Input {node.name!r} is no tensor with a batch.",
                "Export the model with tensors alone as inputs.",
            )
        batch, *rest = value.shape
        if isinstance(batch, int) and batch != 1:
            raise Refusal(
                "convert.batch",
                f"Input {node.name!r} was exported for exactly {batch} samples.",
                _DYNAMIC,
            )
        shape = tuple(size if isinstance(size, int) else -1 for size in rest)
        found.append(Input(node.name, shape, str(value.dtype).removeprefix("torch.")))
    if not found:
        raise Refusal("convert.no_model", "The exported program has no input.", _SAVE)
    return found


def _write(program: Any, names: list[str], target: Path) -> None:
    import torch

    try:
        torch.onnx.export(
            program,
            None,
            str(target),
            dynamo=True,
            opset_version=_OPSET,
            external_data=False,
            input_names=names,
            verbose=False,
        )
    except Exception as error:
        cause = error.__cause__ or error
        raise Refusal(
            "convert.unsupported",
            f"PyTorch cannot export the program to ONNX: {one_line(cause)}.",
            "Use operators that torch.onnx.export supports, or export the model to ONNX yourself.",
        ) from error
    _strip(target)


def _strip(target: Path) -> None:
    """Remove what the exporter notes beside the model, such as paths of the author's sources."""
    import onnx

    model = onnx.load(str(target))
    for holder in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output,
                   *model.graph.value_info, *model.graph.initializer):  # fmt: skip
        del holder.metadata_props[:]
        holder.doc_string = ""
    target.write_bytes(model.SerializeToString(deterministic=True))


def _answers(program: Any, arrays: list[Any]) -> list[Any]:
    import torch

    module = program.module()
    single = any(
        isinstance(node.meta["val"].shape[0], int)
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    )
    step = 1 if single else len(arrays[0])
    answers: list[list[Any]] = []
    try:
        with torch.no_grad():
            for start in range(0, len(arrays[0]), step):
                batch = [torch.from_numpy(array[start : start + step]) for array in arrays]
                answers.append(torch.utils._pytree.tree_leaves(module(*batch)))  # noqa: SLF001
    except Exception as error:  # what the program itself raises
        raise Refusal(
            "convert.source",
            f"The exported program cannot be run: {one_line(error)}.",
            "Push data of the model's own shape and range.",
        ) from error
    return [torch.cat(list(output)).numpy() for output in zip(*answers, strict=True)]
