"""``iio:iio:device0``: a sensor of the kernel's Industrial I/O subsystem, read through sysfs.

Options: ``channels``: names such as ``accel_x,accel_y,accel_z`` (by default all of the device, by
name); ``rate`` (50): rows a second; ``window`` (1) and ``step``. A value is
``(raw + offset) * scale``, in the units of the kernel (Documentation/ABI/testing/sysfs-bus-iio).
For some hundred rows a second: faster sensors have a buffer, which is not read here.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path

from edgectl_agent.clock import moment
from edgectl_agent.flows.addresses import Address
from edgectl_agent.flows.items import Contract, Deliver, Item, Malformed
from edgectl_agent.flows.windows import CHANNELS_MAX, arranged, windows_of

__all__ = ["IioSource"]

DEVICES = Path("/sys/bus/iio/devices")
_VALUE_BYTES_MAX = 64
_CHANNEL = re.compile(r"[a-z0-9_]{1,64}")


class IioSource:
    """See the module."""

    newest_wins = True

    def __init__(self, address: Address, contract: Contract, devices: Path = DEVICES) -> None:
        self._device = devices / address.place
        self._contract = contract
        self._pause_s = 1 / address.number("rate", 50.0, 0.001, 10_000.0)
        self._windows = windows_of(address)
        wanted = address.text_option("channels", "")
        if "/" in address.place or not self._device.is_dir():
            raise address.refused(f"there is no {self._device}")
        there = sorted(
            path.name.removeprefix("in_").removesuffix("_raw")
            for path in self._device.glob("in_*_raw")
        )
        names = wanted.split(",") if wanted else there
        missing = [name for name in names if name not in there or not _CHANNEL.fullmatch(name)]
        if missing or not 0 < len(names) <= CHANNELS_MAX:
            raise address.refused(f"there is no channel {missing[:1]}: there are {there}")
        self._channels = [
            (
                self._device / f"in_{name}_raw",
                self._constant(name, "offset", 0.0),
                self._constant(name, "scale", 1.0),
            )
            for name in names
        ]

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """See `Source.run`."""
        due_s = moment().elapsed_s
        while not stop.is_set():
            row = [(_number(path) + offset) * scale for path, offset, scale in self._channels]
            try:
                window = self._windows.push(row)
                if window is not None:
                    deliver(self._item(arranged(window, self._contract())))
            except Malformed as error:
                deliver(self._item(error))
            due_s = max(due_s + self._pause_s, moment().elapsed_s - self._pause_s)
            stop.wait(max(due_s - moment().elapsed_s, 0))

    def _item(self, given: object) -> Item:
        return Item(name=self._device.name, given=given)

    def _constant(self, channel: str, what: str, default: float) -> float:
        """Return the channel's own value, or that of its kind: in_accel_x_scale, in_accel_scale."""
        kind = channel.rpartition("_")[0]
        for name in filter(None, (channel, kind)):
            path = self._device / f"in_{name}_{what}"
            if path.exists():
                return _number(path)
        return default


def _number(path: Path) -> float:
    """Return a value of sysfs; raise `OSError` where there is none."""
    with path.open("rb") as file:
        text = file.read(_VALUE_BYTES_MAX)
    try:
        return float(text)
    except ValueError as error:
        raise OSError(f"{path} holds no number") from error
