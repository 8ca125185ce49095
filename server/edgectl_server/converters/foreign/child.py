"""The child of a conversion: ``python child.py job.json``, with the converter's own Python.

The first process watches, and ends the worker with the server (see
`edgectl_server.pipeline.watched`). The worker reads the text of the modules that it will run, takes
from itself what it does not need (memory, processor time, files, privileges, and by Landlock every
folder but its own), and only then looks at the model. It tells its progress as lines of JSON on
standard output, and leaves ``result.json`` (exit code 0) or ``refusal.json`` (exit code 3).

The standard library alone is imported here; the job brings the paths of `watched`,
`confinement` and `system_calls`.
"""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PACKAGE = "edgectl_server.converters.foreign"

Tell = Callable[[str], None]


def main(arguments: list[str]) -> int:
    """Do the job whose file is named in `arguments`; return the exit code."""
    job = json.loads(Path(arguments[0]).read_text())
    watched = _module("watched", Path(job["watched"]).read_text())
    code: int = watched.watched(lambda: _work(job, watched))
    return code


def _work(job: dict[str, Any], watched: types.ModuleType) -> int:
    """Do the work and return the exit code."""
    modules = {name: Path(path).read_text() for name, path in job["modules"].items()}
    confinement = _module("confinement", Path(job["confinement"]).read_text())
    system_calls = _module("system_calls", Path(job["system_calls"]).read_text())
    watched.limit(**job["limits"])
    confinement.confine(Path.cwd().resolve(), [Path(path) for path in job["inputs"]])
    system_calls.drop_capabilities()
    system_calls.refuse_system_calls()
    _register(modules)
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error

    def tell(message: str) -> None:
        channel.write(json.dumps({"stage": "convert", "message": message[:400]}) + "\n")
        channel.flush()

    outcome = _run(job, tell)
    refused = "code" in outcome
    Path("refusal.json" if refused else "result.json").write_text(json.dumps(outcome))
    return watched.EXIT_REFUSED if refused else 0


def _run(job: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Return the result, or the fields of a refusal."""
    refusal = sys.modules[f"{_PACKAGE}.refusal"].Refusal
    try:
        done: dict[str, Any] = sys.modules[f"{_PACKAGE}.{job['script']}"].convert(job["job"], tell)
    except refusal as error:
        return {
            "kind": "refused",
            "code": error.code,
            "detail": error.detail,
            "hint": error.hint,
            "data": error.data,
        }
    except MemoryError:
        return {
            "kind": "failed",
            "code": "pipeline.memory",
            "detail": f"The model needs more than {job['limits']['memory_bytes'] // 2**20} MiB.",
            "hint": "Push a smaller model, or raise the server's memory limit.",
        }
    return done


def _register(modules: dict[str, str]) -> None:
    """Make the modules importable under their full names; the order is that of their imports."""
    package = ""
    for part in _PACKAGE.split("."):
        package = f"{package}.{part}".lstrip(".")
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = []
    for name, text in modules.items():
        full = f"{_PACKAGE}.{name}"
        sys.modules[full] = _module(full, text)


def _module(name: str, text: str) -> types.ModuleType:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(text, f"{name}.py", "exec"), module.__dict__)  # noqa: S102 - our own files
    return module


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
