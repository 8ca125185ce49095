"""The child of a conversion: ``python child.py job.json``, with the converter's own Python.

Two processes, as in `edgectl_server.pipeline.__main__`: the first watches and kills the worker when
standard input ends, which is when the server has died; it passes a signal on as 128 and its number.
The worker reads the text of the modules that it will run, takes from itself what it does not need
(memory, processor time, files, and by Landlock every folder but its own), and only then looks at
the model. It tells its progress as lines of JSON on standard output, and leaves ``result.json``
(exit code 0) or ``refusal.json`` (exit code 3).

The standard library alone is imported here; the job brings the paths of `confinement` and of
`system_calls`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXIT_REFUSED = 3
_EXIT_ORPHANED = 4
_SHELL_SIGNAL_BASE = 128
_PACKAGE = "edgectl_server.converters.foreign"

Tell = Callable[[str], None]


def main(arguments: list[str]) -> int:
    """Do the job whose file is named in `arguments`; return the exit code."""
    job = json.loads(Path(arguments[0]).read_text())
    worker = os.fork()
    return _watch(worker) if worker else _work(job)


def _watch(worker: int) -> int:
    """Return the worker's exit code, unless standard input ends before."""

    def end_with_parent() -> None:
        while os.read(0, 4096):
            pass
        os.kill(worker, signal.SIGKILL)
        os._exit(_EXIT_ORPHANED)

    threading.Thread(target=end_with_parent, name="parent-watch", daemon=True).start()
    _, status = os.waitpid(worker, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _SHELL_SIGNAL_BASE - code


def _work(job: dict[str, Any]) -> int:
    """Do the work and return the exit code."""
    modules = {name: Path(path).read_text() for name, path in job["modules"].items()}
    confinement = _module("confinement", Path(job["confinement"]).read_text())
    system_calls = _module("system_calls", Path(job["system_calls"]).read_text())
    _limit(job["limits"])
    confinement.confine(Path.cwd().resolve(), [Path(path) for path in job["inputs"]])
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
    return EXIT_REFUSED if refused else 0


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


def _limit(limits: dict[str, int]) -> None:
    """Set the limits of this process; a hard limit that is lower already stays."""
    wanted = {
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_FSIZE: limits["file_bytes_max"],
        resource.RLIMIT_NOFILE: limits["files_max"],
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        _, hard = resource.getrlimit(kind)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
