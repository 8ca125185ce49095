"""The child: ``python -m edgectl_server.training spec.json``, in the folder of its run.

As that of the pipeline: the first process watches (`watched`), the worker is `worker.do_confined`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from edgectl_server.pipeline.watched import watched
from edgectl_server.pipeline.worker import Tell, do_confined
from edgectl_server.training.spec import TrainSpec, decode

_NICE = 10


def main(arguments: list[str]) -> int:
    """Do the task of the spec file named in `arguments`; return the exit code."""
    spec = decode(Path(arguments[0]).read_bytes())
    os.nice(_NICE)
    return watched(lambda: do_confined(spec.limits, [], lambda tell: _task(spec, tell)))


def _task(spec: TrainSpec, tell: Tell) -> msgspec.Struct:
    """Do it; numpy, onnx and onnxruntime are imported here, under the limits."""
    if spec.task == "head":
        from edgectl_server.training.head_trainer import train_head

        return train_head(spec, Path.cwd(), tell)
    from edgectl_server.training.examination import examine

    return examine(spec, Path.cwd())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
