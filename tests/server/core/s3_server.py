"""An object store that speaks S3: nanio, a server of other people, as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from waiting import wait_for

BUCKET = "edgectl"
USER, SECRET = "edgectl-tests", "a-secret-of-the-tests"


class S3Server:
    """A bucket behind HTTP; it may be stopped and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "data" / BUCKET).mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What the server is told of it, as an operator would."""
        return {
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "nanio", "serve", "--host", "127.0.0.1"),
                    *("--port", str(self.port), "--data-dir", str(self._folder / "data")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "NANIO_ACCESS_KEY": USER, "NANIO_SECRET_KEY": SECRET},
            )
        wait_for(self._answers, "the object store answers")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(60)
            self._process = None

    def names(self) -> list[str]:
        """Return what is in the bucket, by name."""
        root = self._folder / "data" / BUCKET
        found = (
            path for path in root.rglob("*") if path.is_file() and ".nanio-meta" not in path.parts
        )
        return sorted(str(path.relative_to(root)) for path in found)

    def requests(self) -> str:
        """Return the log of what was asked of it."""
        return (self._folder / "log").read_text()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.requests()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return True  # it wants to know who is asking
        except OSError:
            return False
