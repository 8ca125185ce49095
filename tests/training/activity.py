"""Trainings on the activity data: people wear the phone turned, some windows are labelled."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgectl.demo import activity_data
from edgectl_datasets.documents import (
    Dataset,
    Row,
    SplitName,
    SplitRule,
    dataset_id,
    encode_dataset,
)
from edgectl_datasets.folders import write_folder
from edgectl_datasets.rows_file import encode_rows
from edgectl_protocol.manifest import TensorSpec
from edgectl_protocol.samples import SampleNote, SampleTensor, encode_sample
from edgectl_server.training.spec import CALIBRATION, DATASET, EVALUATION, OUT, SOURCE

CLASSES = activity_data.LABELS
MANIFEST = "sha256:" + "1" * 64
START = datetime(2026, 11, 1, tzinfo=UTC)
PEOPLE = 9
INPUTS = (TensorSpec(name="input", datatype="FP32", shape=(-1, 6, 128)),)


def turned(windows: Any, degrees: float = 45.0) -> Any:
    """Return windows as of a phone that is turned about its z axis."""
    angle = np.deg2rad(degrees)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    both = np.kron(np.eye(2), turn)
    return np.einsum("ij,njt->nit", both, windows).astype(np.float32)


def evaluation() -> tuple[Any, Any, Any]:
    """Return windows, labels, and the person of each: rows are in the order of the people."""
    with np.load(activity_data.EVALUATION) as data:
        windows, labels = data["input"], data["label"]
    return windows, labels, np.arange(len(labels)) * PEOPLE // len(labels)


def sample(window: Any, at: datetime = START, classes: int = 7) -> bytes:
    """Return the file of a sample."""
    note = SampleNote(model="har", version="1", manifest=MANIFEST, reason="random", taken_at=at)
    tensors = [
        ("input.input", window[None].astype("<f4")),
        ("output.logits", np.zeros((1, classes), "<f4")),
    ]
    return encode_sample(
        note,
        [(SampleTensor(name, "F32", array.shape), array.tobytes()) for name, array in tensors],
    )


def write_dataset(
    path: Path,
    windows: Any,
    labels: Any,
    splits: list[SplitName],
    *,
    classes: Any = CLASSES,
    inputs: tuple[TensorSpec, ...] = INPUTS,
) -> str:
    """Write a dataset's folder, one device a split; return its id."""
    rows, blobs = [], {}
    for number, (window, label, split) in enumerate(zip(windows, labels, splits, strict=True)):
        content = sample(window, START + timedelta(seconds=number), len(classes))
        name = hashlib.sha256(content).hexdigest()
        blobs[name] = content
        rows.append(
            Row(
                sample=f"{number:016x}", split=split, label=classes[label], number=int(label),
                device=f"pi-{split}", site="", reason="random",
                captured_at=START + timedelta(seconds=number), model_digest=MANIFEST,
                answer=-1, confidence=None, blob=name,
            )
        )  # fmt: skip
    counts = {one: splits.count(one) for one in ("train", "validation", "test")}
    document = Dataset(
        format=1, id=MANIFEST, name="turned", created=START, model="har", inputs=inputs,
        classes=tuple(classes), rows=len(rows), splits=counts,  # type: ignore[arg-type]
        split=SplitRule(by="device", ratios=(0.7, 0.15, 0.15)),
    )  # fmt: skip
    fields = json.loads(encode_dataset(document)) | {"id": dataset_id(document, rows)}
    write_folder(
        path,
        json.dumps(fields).encode(),
        encode_rows(rows),
        [(name, lambda content=content: content) for name, content in blobs.items()],
    )
    return str(fields["id"])


def lay_out(
    directory: Path, windows: Any, *, labels: int = 300, test: int = 400, seed: int = 0
) -> tuple[Any, Any]:
    """Write the folder of a run: train and validation are of other people than test.

    Returns:
        The numbers of the windows to learn from, and of those to test with.
    """
    (directory / OUT).mkdir(parents=True)
    for name, source in (
        (SOURCE, activity_data.MODEL),
        (CALIBRATION, activity_data.CALIBRATION),
        (EVALUATION, activity_data.EVALUATION),
    ):
        (directory / name).write_bytes(source.read_bytes())
    _, truth, people = evaluation()
    random = np.random.default_rng(seed)
    learnt = np.isin(people, random.permutation(PEOPLE)[:5])
    chosen = random.permutation(np.flatnonzero(learnt))[:labels]
    tested = random.permutation(np.flatnonzero(~learnt))[:test]
    cut = labels * 5 // 6
    splits: list[SplitName] = [*["train"] * cut, *["validation"] * (labels - cut), *["test"] * test]  # type: ignore[list-item]
    rows = np.concatenate([chosen, tested])
    write_dataset(directory / DATASET, windows[rows], truth[rows], splits)
    return chosen, tested


def with_convolution(model: Any) -> Any:
    """Return a model whose last ``Gemm`` on a mean over places is a ``Conv`` before that mean."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    gemm = copy.graph.node[-1]
    assert gemm.op_type == "Gemm"
    mean = next(one for one in copy.graph.node if one.output[0] == gemm.input[0])
    weight = next(one for one in copy.graph.initializer if one.name == gemm.input[1])
    nodes = []
    if mean.op_type == "ReduceMean":
        axes = next(list(one.ints) for one in mean.attribute if one.name == "axes")
        nodes += [
            onnx.helper.make_node("Conv", [mean.input[0], *gemm.input[1:]], ["scores"]),
            onnx.helper.make_node("GlobalAveragePool", ["scores"], ["mean"]),
        ]
    else:  # nothing is pooled: one place
        axes = [-1]
        copy.graph.initializer.append(numpy_helper.from_array(np.array([2]), "last"))
        nodes += [
            onnx.helper.make_node("Unsqueeze", [gemm.input[0], "last"], ["places"]),
            onnx.helper.make_node("Conv", ["places", *gemm.input[1:]], ["mean"]),
        ]
    nodes.append(onnx.helper.make_node("Flatten", ["mean"], list(gemm.output)))
    copy.graph.node.remove(gemm)
    if mean.op_type == "ReduceMean":
        copy.graph.node.remove(mean)
    copy.graph.node.extend(nodes)
    weight.dims.extend([1] * len(axes))
    onnx.checker.check_model(copy)
    return copy
