"""For processes under Debian's faketime 0.9.10, whose `clock_nanosleep` refuses every sleep.

With its monotonic clock left alone it answers EINVAL, which `time.sleep` raises; a wait on a lock
takes another way.
"""

import threading
import time


def sleep(seconds: float) -> None:
    """Wait as `time.sleep` does."""
    threading.Event().wait(seconds)


time.sleep = sleep
