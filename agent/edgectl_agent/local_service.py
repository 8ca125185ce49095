"""Everything that answers at the device, put together: holds, files to install, the socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgectl_agent import health
from edgectl_agent.clock import moment, now
from edgectl_agent.core import steps
from edgectl_agent.core.machine import Machine
from edgectl_agent.hold_file import HoldFile
from edgectl_agent.local_control import LocalControl
from edgectl_agent.local_desk import Asked, LocalDesk
from edgectl_agent.local_messages import Outcome
from edgectl_agent.offline import Packages
from edgectl_agent.offline_install import OfflineInstaller
from edgectl_agent.settings import Settings
from edgectl_agent.store import Store
from edgectl_agent.trust.process import Trust
from edgectl_protocol.messages import Reason

__all__ = ["LocalService"]

Holds = dict[str, Any]


class LocalService:
    """The part of the supervisor that people and applications at the device talk to."""

    def __init__(
        self,
        hold: HoldFile,
        *,
        settings: Settings,
        machine: Machine,
        store: Store,
        packages: Packages,
        trust: Trust,
        put: Callable[[Asked], None],
        feed: Callable[[steps.Event], None],
        status: Callable[[Holds], dict[str, Any]],
        tell: Callable[[Outcome], None],
        stopping: Callable[[], bool],
    ) -> None:
        """Prepare; see `LocalDesk` and `OfflineInstaller` for the arguments."""
        self._machine = machine
        self._packages = packages
        installer = OfflineInstaller(
            store=store,
            packages=packages,
            trust=trust,
            floor=lambda: machine.record.floor,
            runtimes=health.runtimes,
            now=now,
            stopping=stopping,
        )
        self._desk = LocalDesk(
            hold,
            put=put,
            feed=feed,
            installer=installer,
            status=lambda: status(self._desk.shown(moment())),
            tell=tell,
            settled=self._settled,
        )
        self._control = LocalControl(
            settings.control_path, self._desk.handle, group=settings.control_group
        )

    def begin(self) -> None:
        """Open the socket; the machine has just begun."""
        self.tidy()
        self.watch()
        self._control.start()

    def stop(self) -> None:
        """Close the socket."""
        self._control.stop()

    def watch(self) -> None:
        """Look at the holds; called each turn."""
        self._desk.watch(moment())

    def take(self, asked: Asked) -> None:
        """Do what is asked, in the main thread."""
        self._desk.take(asked, moment())

    def answered(self, request: str, reason: Reason | None) -> None:
        """Pass on the machine's answer."""
        self._desk.answered(request, reason)

    def tidy(self) -> None:
        """Forget the files that no update needs any more; called after each transition."""
        self._packages.tidy(self._machine.record)

    def _settled(self, slot: str) -> None:
        self._packages.handed_over(slot)
        self.tidy()
