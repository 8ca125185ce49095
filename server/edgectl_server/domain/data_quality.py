"""Is there something wrong with the data itself? From counts of one device, feature by feature.

==============  =================================================================================
``missing``     rows are no numbers: a sensor that is off, a division by zero on the way
``constant``    all rows are in one bin, where the reference has few: a sensor that is stuck
``saturated``   rows pile up in the first or last bin and go no further: a sensor at its end; or
                in many rows many elements are at the row's own ends (the feature ``clipped``)
``outside``     rows are beyond all that the reference has seen
``clock``       the device's clock was set within a window: times of its data are not to be trusted
==============  =================================================================================

Pure. Of a feature that is missing or constant nothing further is said: one cause, one finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgectl_protocol.watching import Reference
from edgectl_server.domain.drift import Window

__all__ = ["ROWS_MIN", "Fault", "examine"]

Kind = Literal["missing", "constant", "saturated", "outside", "clock"]

ROWS_MIN = 50
"""With fewer nothing is said but of the clock."""
MISSING_SHARE = 0.01
OUTSIDE_SHARE = 0.05
CONSTANT_SHARE = 0.999
PILED_SHARE = 0.5
USUAL_SHARE = 0.15
"""More than that the reference may not have in the bin in which rows pile up."""
CLOCK_S = 5


@dataclass(frozen=True)
class Fault:
    """What is wrong with a feature.

    Attributes:
        kind: what it is.
        feature: its name; empty for ``clock``.
        share: of the rows, 0 to 1; of ``clock`` the seconds that it was set by.
    """

    kind: Kind
    feature: str
    share: float


def examine(reference: Reference, windows: Sequence[Window]) -> tuple[Fault, ...]:
    """Return what is wrong with the data of one device.

    Args:
        reference: of its model.
        windows: of that device, each fits the reference.
    """
    found: list[Fault] = []
    shift_s = sum(abs(one.clock_shift_s) for one in windows)
    if shift_s >= CLOCK_S:
        found.append(Fault("clock", "", float(shift_s)))
    rows = sum(one.rows for one in windows)
    if rows < ROWS_MIN:
        return tuple(found)
    for number, feature in enumerate(reference.features):
        counts = np.sum([one.histograms[number] for one in windows], axis=0)
        missing = sum(one.missing[number] for one in windows if one.missing) / rows
        outside = sum(one.outside[number] for one in windows if one.outside) / rows
        if missing >= MISSING_SHARE:
            found.append(Fault("missing", feature.name, missing))
            continue
        shares = counts / counts.sum()
        fullest = int(shares.argmax())
        unusual = feature.counts[fullest] <= USUAL_SHARE * sum(feature.counts)
        at_the_end = fullest in {0, len(shares) - 1}
        clipped = feature.name.endswith(".clipped") and fullest == len(shares) - 1
        if clipped and unusual and shares[fullest] >= PILED_SHARE:
            found.append(Fault("saturated", feature.name, float(shares[fullest])))
        elif unusual and shares[fullest] >= CONSTANT_SHARE and outside < OUTSIDE_SHARE:
            found.append(Fault("constant", feature.name, float(shares[fullest])))
        elif outside >= OUTSIDE_SHARE:
            found.append(Fault("outside", feature.name, outside))
        elif unusual and at_the_end and shares[fullest] >= PILED_SHARE:
            found.append(Fault("saturated", feature.name, float(shares[fullest])))
    return tuple(found)
