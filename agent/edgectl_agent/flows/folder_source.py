"""``folder:/path``: files that appear in a folder: pictures, ``.npy`` arrays, ``.json`` rows.

Options: ``pattern`` (``*``); ``settle_s`` (1): a file is taken when size and time have not changed
for so long; ``poll_s`` (0.5); ``done``: ``keep`` (remember it while this runs), ``delete``, or a
folder that it is moved to; ``existing``: ``take`` or ``skip`` what is there already; ``once``
(0): 1 ends when every file has been taken.

The folder is looked at again and again: that works on every file system, network shares included,
where inotify(7) sees nothing. Only ordinary files are taken; links are not followed. A file that
is malformed stays where it is.
"""

from __future__ import annotations

import fnmatch
import io
import json
import os
import stat
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from edgectl_agent.flows.addresses import Address
from edgectl_agent.flows.images import check_pillow, decode_picture
from edgectl_agent.flows.items import Contract, Deliver, Item, Malformed

__all__ = ["FolderSource"]

FILE_BYTES_MAX = 32 * 1024 * 1024
REMEMBERED_MAX = 100_000
_LISTED_MAX = 100_000

_Look = tuple[int, int]
"""Size and time of change."""


class FolderSource:
    """See the module."""

    newest_wins = False

    def __init__(self, address: Address, contract: Contract) -> None:
        self._folder = Path(address.place)
        self._contract = contract
        self._pattern = address.text_option("pattern", "*")
        self._settle_s = address.number("settle_s", 1.0, 0.0, 3600.0)
        self._poll_s = address.number("poll_s", 0.5, 0.01, 3600.0)
        self._done = address.text_option("done", "keep")
        self._once = address.number("once", 0, 0, 1) == 1
        self._skip = address.text_option("existing", "take", ("take", "skip")) == "skip"
        self._taken: OrderedDict[str, _Look] = OrderedDict()
        if not self._folder.is_dir():
            raise address.refused("there is no such folder")
        if self._done not in {"keep", "delete"} and not Path(self._done).is_dir():
            raise address.refused("done is keep, delete, or a folder that is there")
        check_pillow()

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """See `Source.run`."""
        if self._skip:
            self._skip = False
            for name, look in self._list().items():
                self._remember(name, look)
        seen: dict[str, tuple[_Look, float]] = {}
        waited_s = 0.0
        while not stop.is_set():
            found = {n: look for n, look in self._list().items() if self._taken.get(n) != look}
            seen = {
                name: (look, seen[name][1])
                if name in seen and seen[name][0] == look
                else (look, waited_s)
                for name, look in found.items()
            }
            for name, (look, since_s) in sorted(seen.items()):
                if waited_s - since_s >= self._settle_s and not stop.is_set():
                    self._remember(name, look)
                    deliver(self._item(name))
            if self._once and not found:
                return
            stop.wait(self._poll_s)
            waited_s += self._poll_s

    def _list(self) -> dict[str, _Look]:
        """Return the files that fit; raise `OSError` when the folder has gone."""
        found: dict[str, _Look] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not fnmatch.fnmatch(entry.name, self._pattern):
                    continue
                try:
                    if entry.is_file(follow_symlinks=False):
                        about = entry.stat(follow_symlinks=False)
                        found[entry.name] = (about.st_size, about.st_mtime_ns)
                except OSError:
                    continue  # it has gone in between
                if len(found) >= _LISTED_MAX:
                    break
        return found

    def _remember(self, name: str, look: _Look) -> None:
        self._taken[name] = look
        while len(self._taken) > REMEMBERED_MAX:
            self._taken.popitem(last=False)

    def _item(self, name: str) -> Item:
        path = self._folder / name
        try:
            given: Any = self._read(path)
        except Malformed as error:
            given = error
        except OSError as error:
            given = Malformed(f"cannot be read: {error.strerror}")
        return Item(name=name, given=given, done=lambda good: self._finish(path, good=good))

    def _read(self, path: Path) -> Any:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Malformed("no ordinary file")
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise Malformed(f"longer than {FILE_BYTES_MAX} bytes")
        match path.suffix.lower():
            case ".npy":
                try:
                    return np.load(io.BytesIO(content), allow_pickle=False)
                except Exception as error:  # the reader raises what it pleases
                    raise Malformed(f"no array: {error}") from error
            case ".json":
                try:
                    return json.loads(content)
                except (ValueError, RecursionError) as error:
                    raise Malformed(f"no JSON: {error}") from error
            case _:
                return decode_picture(content, self._contract())

    def _finish(self, path: Path, *, good: bool) -> None:
        if not good or self._done == "keep":
            return
        if self._done == "delete":
            path.unlink(missing_ok=True)
        else:
            path.rename(Path(self._done) / path.name)
        self._taken.pop(path.name, None)
