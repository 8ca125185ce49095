"""``python -m edgectl.demo.keeper COMMAND…``: a parent that never leaves its child behind.

The demo holds the other end of this process's stdin. When that closes, because the demo is done or
because it was killed by force, the child is asked to end, then killed with its whole process group.
One mechanism for both, so that the rare case is the tested one. When the child ends by itself, its
exit code becomes ours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType

__all__ = ["GRACE_S", "keep"]

GRACE_S = 5.0
"""How long the child may take to end after it was asked."""
_READ_BYTES = 4096


def keep(command: Sequence[str]) -> int:
    """Run `command` until it ends or stdin does; return its exit code."""
    asked = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def wait_for_end_of_input() -> None:
        while os.read(0, _READ_BYTES):
            pass
        asked.set()

    threading.Thread(target=wait_for_end_of_input, daemon=True).start()
    while not asked.wait(0.05):
        code = child.poll()
        if code is not None:
            return code
    child.terminate()
    try:
        child.wait(GRACE_S)
    finally:
        # Takes this process along, and whatever the child has left in the group.
        os.killpg(0, signal.SIGKILL)
    raise AssertionError("unreachable")


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]))
