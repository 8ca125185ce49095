"""The child: ``python -m edgectl_server.pipeline spec.json``, in its working directory.

The first process watches, and ends the worker with the parent (see `watched`); the worker is
`worker.do_confined`. Whatever runs a model is a task of its own (`tasks`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgectl_server.pipeline.spec import PipelineResult, PipelineSpec, decode_spec
from edgectl_server.pipeline.watched import watched
from edgectl_server.pipeline.worker import Tell, do_confined


def main(arguments: list[str]) -> int:
    """Run the pipeline by the spec file named in `arguments`; return the exit code."""
    spec = decode_spec(Path(arguments[0]).read_bytes())
    return watched(lambda: do_confined(spec.limits, spec.files, lambda tell: _search(spec, tell)))


def _search(spec: PipelineSpec, tell: Tell) -> PipelineResult:
    from edgectl_server.pipeline.search import search  # numpy, onnx, onnxruntime

    return search(spec, Path.cwd(), tell)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
