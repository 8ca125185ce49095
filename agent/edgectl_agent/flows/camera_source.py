"""``camera:/dev/video0``: frames of a camera, by OpenCV (the extra ``camera``).

Options: ``fps`` (5): frames a second that are taken; ``width``, ``height``: what the camera is to
give. A path of a video file is read to its end instead. A frame that waits gives way to the next.
"""

from __future__ import annotations

import stat
import threading
from pathlib import Path
from typing import Any

from edgectl_agent.clock import moment
from edgectl_agent.errors import UsageError
from edgectl_agent.flows.addresses import Address
from edgectl_agent.flows.images import check_pillow, fit_picture
from edgectl_agent.flows.items import Contract, Deliver, Item, Malformed

__all__ = ["CameraSource"]

_PIXELS_MAX = 16384


class CameraSource:
    """See the module."""

    def __init__(self, address: Address, contract: Contract) -> None:
        self._path = Path(address.place)
        self._contract = contract
        self._pause_s = 1 / address.number("fps", 5.0, 0.01, 1000.0)
        self._width = address.number("width", 0, 0, _PIXELS_MAX)
        self._height = address.number("height", 0, 0, _PIXELS_MAX)
        self.newest_wins = not self._path.is_file()
        check_pillow()
        try:
            import cv2  # noqa: F401
        except ImportError as error:
            raise UsageError(
                "flow.extra",
                "cameras need OpenCV, which is not installed",
                hint="pip install 'edgectl-agent[camera]'",
            ) from error

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """See `Source.run`."""
        import cv2

        capture: Any = cv2.VideoCapture(str(self._path))
        try:
            if not capture.isOpened():
                raise OSError(f"cannot open {self._path}")
            if self._width and self._height:
                capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._width)
                capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._height)
            self._read(capture, deliver, stop)
        finally:
            capture.release()

    def _read(self, capture: Any, deliver: Deliver, stop: threading.Event) -> None:
        """Deliver frames; those in between are grabbed and not decoded, or they would be old."""
        live = stat.S_ISCHR(self._path.stat().st_mode)
        number, due_s = 0, float("-inf")
        while not stop.is_set():
            if not capture.grab():
                if live:
                    raise OSError(f"{self._path} gives no frames any more")
                return
            now_s = moment().elapsed_s
            if live and now_s < due_s:
                continue
            due_s = now_s + self._pause_s
            good, pixels = capture.retrieve()
            if not good:
                continue
            number += 1
            try:
                given: Any = fit_picture(pixels[:, :, ::-1].copy(), self._contract())
            except Malformed as error:
                given = error
            deliver(Item(name=f"frame {number}", given=given))
