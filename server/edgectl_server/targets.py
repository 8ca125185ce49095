"""The device classes of this server: the reference that is shipped, and the operator's own file.

A device's class is kept with its row, so that it can be counted and searched; it is decided when
the device reports what it is, and for all devices at the start of the server, because the profiles
may have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from sqlalchemy import func, select, update

from edgectl_protocol.messages import Capabilities, ReportedState
from edgectl_server.domain.targets import (
    TEXT_BYTES_MAX,
    Classification,
    Target,
    TargetsInvalid,
    class_of,
    parse_targets,
)
from edgectl_server.errors import Refused
from edgectl_server.schemas import TargetInfo, TargetLimits, TargetList
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device, Measurement

__all__ = ["REFERENCE", "Targets", "open_targets"]

REFERENCE = Path(__file__).with_name("targets.toml")
_BATCH = 500


def open_targets(file: str = "") -> Targets:
    """Read the profiles.

    Args:
        file: of the operator; empty: the reference alone.

    Raises:
        Refused: ``targets.invalid``: the file cannot be read, or says what no profile may say.
    """
    reference = REFERENCE.read_text("utf-8")
    own = [_read(Path(file).expanduser())] if file else []
    try:
        return Targets(parse_targets(reference, *own))
    except TargetsInvalid as error:
        raise Refused(
            "targets.invalid",
            f"the device classes in {file} are not valid: {error}",
            hint="docs/targets.md says what each key means",
        ) from error


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(TEXT_BYTES_MAX + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(
            "targets.invalid",
            f"cannot read the device classes in {file}: {error}",
            hint="check targets_file in the server's settings",
        ) from error


class Targets:
    """The profiles. Its methods may be called from any thread."""

    def __init__(self, profiles: Sequence[Target]) -> None:
        self._profiles = {one.name: one for one in profiles}

    def get(self, name: str) -> Target | None:
        """Return a profile; None where there is none of that name."""
        return self._profiles.get(name)

    def classify(self, capabilities: Capabilities | None) -> Classification:
        """Return the class of a device that has reported `capabilities`."""
        if capabilities is None:
            return Classification(None, "the device has not said what it is")
        return class_of(capabilities, self._profiles.values())

    def classify_all(self, database: Database) -> int:
        """Decide anew about every device, and return how many have another class now.

        What such a device has measured goes with it, unless it was of a third class then: another
        machine, under the same name.
        """
        after, changed = "", 0
        while True:
            with database.write() as session:
                devices = session.scalars(
                    select(Device).where(Device.id > after).order_by(Device.id).limit(_BATCH)
                ).all()
                for device in devices:
                    name = self.classify(_capabilities(device)).name
                    if name == device.device_class:
                        continue
                    session.execute(
                        update(Measurement)
                        .where(
                            Measurement.device == device.id,
                            Measurement.device_class == device.device_class,
                        )
                        .values(device_class=name)
                    )
                    device.device_class = name
                    changed += 1
                if not devices:
                    return changed
                after = devices[-1].id

    def list(self, database: Database) -> TargetList:
        """Return the profiles, and how many devices of the fleet are of each."""
        counted = (
            select(Device.device_class, func.count())
            .where(Device.state == "enrolled")
            .group_by(Device.device_class)
        )
        with database.read() as session:
            counts = {row[0]: row[1] for row in session.execute(counted)}
        return TargetList(
            items=[_info(one, counts.get(one.name, 0)) for one in self._profiles.values()],
            unclassified=sum(n for name, n in counts.items() if name not in self._profiles),
        )


def _capabilities(device: Device) -> Capabilities | None:
    if not device.reported:
        return None
    return msgspec.convert(device.reported, ReportedState).capabilities


def _info(target: Target, devices: int) -> TargetInfo:
    return TargetInfo(
        name=target.name,
        description=target.description,
        machine=list(target.machine),
        cpu_model=list(target.cpu_model),
        cpu_features=list(target.cpu_features),
        runtimes=list(target.runtimes),
        execution_providers=list(target.execution_providers),
        memory_bytes=target.memory_bytes,
        opset=target.opset,
        objective=target.objective,
        watts_per_core=target.watts_per_core,
        limits=TargetLimits(
            latency_p95_us=target.limits.latency_p95_us, rss_bytes=target.limits.rss_bytes
        ),
        saturates=target.saturates,
        devices=devices,
    )
