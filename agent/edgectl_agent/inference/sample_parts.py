"""Samples that applications give in parts: one at a time is put together, and checked whole.

An application is only half trusted: what it gives is bounded while it comes (`SAMPLE_BYTES_MAX`
once, for all applications together), and refused unless it is a sample of the very model that the
application was offered, with the tensors of its contract. One that was not taken lately, by the
device's clock, is left out. That the numbers are true cannot be checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from edgectl_agent import clock
from edgectl_agent.bundle import Bundle
from edgectl_agent.inference.hub_messages import SamplePart
from edgectl_protocol.errors import ProtocolError
from edgectl_protocol.manifest import TensorSpec
from edgectl_protocol.samples import (
    SAMPLE_BYTES_MAX,
    SAMPLE_HEAD_BYTES_MAX,
    SampleReason,
    SampleTensor,
    read_sample_head,
    sample_datatype,
)

__all__ = ["Assembly", "Sample", "SampleRefused"]

SILENT_S_MAX = 10.0
"""Whoever gives no next part for so long gives way to others."""
TAKEN_BEFORE_MAX = timedelta(days=1)
TAKEN_AFTER_MAX = timedelta(seconds=5)


class SampleRefused(Exception):
    """What an application gives is no sample of the model that it was offered."""


class Sample(NamedTuple):
    """A whole one, checked."""

    content: bytes
    reason: SampleReason


class Assembly:
    """The sample that is being put together, if there is one."""

    def __init__(
        self,
        *,
        now: Callable[[], datetime] = clock.now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now, self._monotonic = now, monotonic
        self._giver: object = None
        self._manifest = ""
        self._content = bytearray()
        self._heard_s = 0.0

    def take(self, giver: object, bundle: Bundle, part: SamplePart) -> Sample | None:
        """Take a part; return the sample once it is whole.

        A part that does not follow the one before is left out, with all that follows it: its
        beginning may have been left out because somebody else was giving one.

        Args:
            giver: whose part it is.
            bundle: of the model that the part names.
            part: decoded.

        Raises:
            SampleRefused: it is whole and no sample of that model, or too long.
        """
        now_s = self._monotonic()
        free = self._giver is None or now_s - self._heard_s > SILENT_S_MAX
        if part.at == 0 and (free or self._giver is giver):
            self._giver, self._manifest = giver, part.manifest
            self._content = bytearray()
        follows = part.at == len(self._content) and part.manifest == self._manifest
        if self._giver is not giver or not follows:
            return None
        self._heard_s = now_s
        if part.at + len(part.content) > SAMPLE_BYTES_MAX:
            self.forget(giver)
            raise SampleRefused(f"a sample of more than {SAMPLE_BYTES_MAX} bytes")
        self._content += part.content
        if not part.last:
            return None
        content = bytes(self._content)
        self.forget(giver)
        return self._checked(bundle, content)

    def forget(self, giver: object) -> None:
        """Forget what a giver has not given to its end."""
        if self._giver is giver:
            self._giver, self._manifest, self._content = None, "", bytearray()

    def _checked(self, bundle: Bundle, content: bytes) -> Sample | None:
        try:
            head = read_sample_head(content[:SAMPLE_HEAD_BYTES_MAX], len(content))
        except ProtocolError as error:
            raise SampleRefused(f"not a sample: {error}") from error
        note, config = head.note, bundle.config
        said = (note.model, note.version, note.manifest)
        if said != (bundle.slot, bundle.version, bundle.manifest):
            raise SampleRefused("a sample of another model than it says")
        wanted = {
            **{f"input.{one.name}": one for one in config.inputs},
            **{f"output.{one.name}": one for one in config.outputs},
        }
        given = {one.name: one for one in head.tensors}
        if given.keys() != wanted.keys() or not all(
            _fits(given[name], spec) for name, spec in wanted.items()
        ):
            raise SampleRefused("other tensors than the model has")
        age = self._now() - note.taken_at
        if not -TAKEN_AFTER_MAX <= age <= TAKEN_BEFORE_MAX:
            return None  # perhaps the clock was set
        return Sample(content, note.reason)


def _fits(tensor: SampleTensor, spec: TensorSpec) -> bool:
    sizes = zip(tensor.shape, spec.shape, strict=False)
    return (
        tensor.datatype == sample_datatype(spec.datatype)
        and len(tensor.shape) == len(spec.shape)
        and all(wanted in {-1, got} for got, wanted in sizes)
    )
