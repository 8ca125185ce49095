"""The virtual environments of converters: made on demand, whole or not there.

An environment is a folder ``<name>-<digest>``; the digest is of its requirements, the Python
version and the processor, so that another release's pins make another folder. It is built beside
its place, under a lock, and renamed when all is in it and on disk; ``edgectl.json``, written last,
lists what was installed. A build that was cut leaves a folder with a leading dot, which is removed
by the next.

pip runs as the server's user, with its network: what it installs is pinned, ready-made (wheels: no
code of a package runs) and all that is needed (nothing is resolved). It obeys the operator's pip
settings (pip.conf, ``PIP_…``), gets none of the server's, and ends with the server.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from edgectl_server import confined
from edgectl_server.pipeline.errors import PipelineCancelled, PipelineFailed
from edgectl_server.storage.files import make_private_directory, write_durably

__all__ = ["CONVERTERS", "Converter", "ConverterName", "Environment", "Environments"]

ConverterName = Literal["sklearn", "tensorflow", "pytorch"]
MiB = 1024**2

_READY = "edgectl.json"
_READY_BYTES_MAX = MiB
_POLL_S = 0.2
_OUTPUT_BYTES_MAX = 8 * MiB
_DIGITS = 12
_PASSED_ON = (
    "HOME", "PATH", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY",
    "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "XDG_CONFIG_HOME",
    "XDG_CONFIG_DIRS", "XDG_CACHE_HOME",
)  # fmt: skip
_NO_NETWORK = (
    b"NewConnectionError", b"Could not fetch URL", b"Failed to establish", b"name resolution",
    b"ConnectionError", b"Connection refused", b"ReadTimeoutError", b"ConnectTimeoutError",
    b"ProxyError", b"SSLError", b"Network is unreachable",
)  # fmt: skip
_NO_WHEEL = (b"No matching distribution", b"Could not find a version")
_NOTHING = b"(from versions: none)"
_NO_ROOM = (b"No space left on device", b"Disk quota exceeded")
# Ends what it has started, with its whole group, when standard input ends: the server has died.
_WATCH = """
import os, signal, subprocess, sys, threading
def end():
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=end, daemon=True).start()
sys.exit(subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL))
"""


@dataclass(frozen=True)
class Converter:
    """A converter as an operator sees it.

    Attributes:
        name: of the environment.
        formats: what it converts.
        megabytes: what it takes on disk, about.
        imports: modules whose import proves that the environment works.
    """

    name: ConverterName
    formats: str
    megabytes: int
    imports: tuple[str, ...]


CONVERTERS: dict[str, Converter] = {
    one.name: one
    for one in (
        Converter("sklearn", "scikit-learn (.skops)", 430, ("skl2onnx", "skops.io", "onnxruntime")),
        Converter(
            "tensorflow",
            "TensorFlow SavedModel (folder, .zip), Keras (.keras, .h5); ONNX to TFLite",
            1550,
            ("tensorflow", "tf2onnx", "onnx2tf", "onnxruntime"),
        ),
        Converter(
            "pytorch",
            "PyTorch exported program (.pt2)",
            1100,
            ("torch.onnx", "onnxscript", "onnxruntime"),
        ),
    )
}


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """``edgectl.json``: an environment that is whole."""

    converter: str
    python: str
    """Version of its Python."""
    packages: dict[str, str]
    """Version by name, of all that was installed."""
    seconds: float
    """How long it took."""


@dataclass(frozen=True)
class _Build:
    """A build that somebody waits for."""

    name: str
    deadline: float
    tell: Callable[[str], None]
    cancelled: Callable[[], bool]


class Environments:
    """The environments below one folder."""

    def __init__(
        self, directory: Path, *, build_s_max: float = 1800.0, on_demand: bool = True
    ) -> None:
        """Use `directory`, which is made when the first one is built.

        Args:
            directory: absolute; ``converters`` in the server's data.
            build_s_max: how long a build, and waiting for somebody else's, may take.
            on_demand: False: `python` builds none, only `install` does.
        """
        self._directory = directory
        self._build_s_max = build_s_max
        self._on_demand = on_demand

    def path(self, name: str) -> Path:
        """Return where the environment `name` is, or would be."""
        seed = f"{_requirements(name)}\n{platform.python_version()}\n{platform.machine()}"
        digest = hashlib.sha256(seed.encode()).hexdigest()[:_DIGITS]
        return self._directory / f"{name}-{digest}"

    def installed(self, name: str) -> Environment | None:
        """Return what is in the environment `name`, or None where there is none."""
        try:
            content = confined.read_regular(self.path(name) / _READY, _READY_BYTES_MAX)
            return msgspec.json.decode(content, type=Environment)
        except (OSError, msgspec.MsgspecError):
            return None

    def python(
        self, name: str, *, tell: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> Path:
        """Return the Python of an environment, which is made if it is not there.

        Raises:
            PipelineFailed: ``convert.missing``, ``convert.disk`` or ``convert.time``.
            PipelineCancelled: `cancelled` has said so.
        """
        if self.installed(name) is None and not self._on_demand:
            raise PipelineFailed(
                "convert.missing",
                f"The converter {name} is not installed on this server, and it may not install it.",
                f"Ask its operator to run: edgectl server converters install {name}",
            )
        self.install(name, tell=tell, cancelled=cancelled)
        return self.path(name) / "bin" / "python"

    def install(
        self, name: str, *, tell: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> Environment:
        """Make the environment `name`, if it is not there; raises as `python` does."""
        found = self.installed(name)
        if found is not None:
            return found
        build = _Build(name, time.monotonic() + self._build_s_max, tell, cancelled)
        make_private_directory(self._directory)
        with self._locked(build):
            found = self.installed(name)
            if found is None:
                found = self._build(build)
        return found

    @contextmanager
    def _locked(self, build: _Build) -> Iterator[None]:
        """Hold the lock of the environment; the kernel lets go of it when the process ends."""
        descriptor = os.open(
            self._directory / f".{build.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            told = False
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        build.tell(
                            f"waiting for another installation of the converter {build.name}"
                        )
                        told = True
                if build.cancelled():
                    raise _cancelled()
                if time.monotonic() > build.deadline:
                    raise self._too_slow(build.name)
                time.sleep(_POLL_S)
            yield
        finally:
            os.close(descriptor)

    def _build(self, build: _Build) -> Environment:
        name, converter = build.name, CONVERTERS[build.name]
        for left in self._directory.glob(f".{name}-*.building"):  # of a build that was cut
            shutil.rmtree(left, ignore_errors=True)
        started = time.monotonic()
        place = self.path(name)
        building = self._directory / f".{place.name}.building"
        build.tell(f"installing the converter {name} (about {converter.megabytes} MB, once)")
        try:
            make_private_directory(building)
            (building / "requirements.txt").write_text(_requirements(name))
            python = str(building / "bin" / "python")
            steps = (
                [sys.executable, "-m", "venv", str(building)],
                [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input",
                 "--no-deps", "--only-binary", ":all:", "--progress-bar", "off",
                 "--requirement", str(building / "requirements.txt")],
                [python, "-c", f"import {', '.join(converter.imports)}"],
                [python, "-c", _LIST],
            )  # fmt: skip
            lines: list[str] = []
            for step in steps:
                lines = self._step(build, step, building)
            packages = msgspec.json.decode(lines[-1], type=dict[str, str])
            ready = Environment(
                converter=name,
                python=platform.python_version(),
                packages=packages,
                seconds=round(time.monotonic() - started, 1),
            )
            write_durably(building / _READY, msgspec.json.encode(ready, order="sorted"))
            os.sync()  # thousands of files: what has its name after a power loss shall be whole
            if place.exists():
                shutil.rmtree(place)  # without `edgectl.json`: not one of ours that is whole
            building.rename(place)
        except OSError as error:
            raise _no_room(name, error.strerror or str(error)) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return ready

    def _step(self, build: _Build, command: list[str], building: Path) -> list[str]:
        """Run one step and return its output; raise if it fails."""
        output: list[str] = []

        def on_line(content: bytes) -> None:
            line = content.decode(errors="replace").strip()
            output.append(line)
            if line.startswith(("Collecting", "Downloading", "Installing")):
                what, _, _ = line.partition(" (from")
                build.tell(f"converter {build.name}: {what[:80]}")

        try:
            ended = confined.run(
                [sys.executable, "-I", "-c", _WATCH, *command],
                building,
                environment=_environment(building),
                wall_s=max(1.0, build.deadline - time.monotonic()),
                stdout_bytes_max=_OUTPUT_BYTES_MAX,
                on_line=on_line,
                cancelled=build.cancelled,
            )
        except confined.CommandCancelled as error:
            raise _cancelled() from error
        except confined.CommandOverrun as error:
            raise self._too_slow(build.name) from error
        if ended.code != 0:
            raise _explain(build.name, ended)
        return output

    def _too_slow(self, name: str) -> PipelineFailed:
        return PipelineFailed(
            "convert.time",
            f"Installing the converter {name} took more than {self._build_s_max:g} s.",
            f"Install it ahead: edgectl server converters install {name}; or raise"
            " converter_install_s_max.",
        )


_LIST = (
    "import json, importlib.metadata as m; print(json.dumps({d.metadata['Name']: d.version"
    " for d in m.distributions() if d.metadata['Name'] not in ('pip', 'setuptools')}))"
)


def _requirements(name: str) -> str:
    folder = resources.files("edgectl_server.converters") / "requirements"
    return (folder / f"{name}.txt").read_text()


def _environment(building: Path) -> dict[str, str]:
    given = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith("PIP_")
    }
    return {"LANG": "C.UTF-8", "PYTHONNOUSERSITE": "1", "TMPDIR": str(building)} | given


def _explain(name: str, ended: confined.Ended) -> PipelineFailed:
    """Say why a step has failed, and what to do about it."""
    ahead = (
        f"Give the server's user a pip.conf with an index that it can reach, or run where there is"
        f" a network: edgectl server converters install {name}, and copy the folder"
        " (docs/converters.md, \"Without a network\")."
    )  # fmt: skip
    said = next(
        (
            line[:300]
            for line in ended.stderr.decode(errors="replace").splitlines()
            if line.startswith("ERROR")
        ),
        ended.last_line or f"exit code {ended.code}",
    )
    if any(mark in ended.stderr for mark in _NO_ROOM):
        return _no_room(name, said)
    if any(mark in ended.stderr for mark in _NO_NETWORK):
        return PipelineFailed(
            "convert.missing",
            f"The converter {name} is not installed, and the package index cannot be reached:"
            f" {said}",
            ahead,
        )
    if _NOTHING in ended.stderr:
        return PipelineFailed(
            "convert.missing",
            f"The converter {name} is not installed, and the package index cannot be reached or has"
            f" nothing of the kind: {said}",
            ahead,
        )
    if any(mark in ended.stderr for mark in _NO_WHEEL):
        python = f"Python {platform.python_version()} on {platform.machine()}"
        return PipelineFailed(
            "convert.missing",
            f"The converter {name} cannot be installed for {python}: {said}",
            "Run the server with Python 3.11 or 3.12 on x86-64 or arm64, or push ONNX instead.",
        )
    return PipelineFailed(
        "convert.missing", f"The converter {name} cannot be installed: {said}", ahead
    )


def _no_room(name: str, why: str) -> PipelineFailed:
    return PipelineFailed(
        "convert.disk",
        f"There is no place for the converter {name}: {why}",
        f"Free {CONVERTERS[name].megabytes} MB in the server's data folder, then push again.",
    )


def _cancelled() -> PipelineCancelled:
    return PipelineCancelled("pipeline.cancelled", "The push was cancelled.")
