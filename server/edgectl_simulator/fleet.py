"""A run: identities, then all devices at once, until it is stopped; then good-byes and a summary.

Order: the folder is locked, open files are allowed for, new devices enrol, the broker and the keys
of orders are asked for, the run is counted, devices connect. Backwards at the end; whatever ends
it, the folder remembers what the devices do.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgectl_protocol.errors import InvalidName
from edgectl_protocol.names import check_device_id
from edgectl_simulator.counts import Counts
from edgectl_simulator.device import Device, World
from edgectl_simulator.enrolling import Door
from edgectl_simulator.errors import Misused, SimulatorError
from edgectl_simulator.gate import Gate
from edgectl_simulator.identities import Folder
from edgectl_simulator.link import limit_memory
from edgectl_simulator.memory import Memory
from edgectl_simulator.plan import Plan
from edgectl_simulator.profiles import Profile, pick_profile
from edgectl_simulator.trust import Trust

__all__ = ["simulate"]

_SPARE_FILES = 128
_SAY_S = 2.0
_END_S = 30.0
_BOOTS_PER_RUN = 1_000_000
"""More than a device restarts in a run; its boots must grow from run to run."""

Say = Callable[[str], None]


def simulate(plan: Plan, say: Say) -> dict[str, Any]:
    """Run a simulation until SIGINT, SIGTERM or the end of its duration; return the summary.

    Args:
        plan: what is asked for.
        say: takes lines for a person.

    Raises:
        SimulatorError: it cannot begin, or no device could ever connect.
    """
    profile = pick_profile(plan.profile, plan.profiles_file)
    names = [_checked(f"{plan.prefix}-{number:05}") for number in range(1, plan.devices + 1)]
    _allow_files(plan.devices)
    limit_memory()
    with Folder.opened(Path(plan.folder).expanduser().absolute()) as folder:
        return asyncio.run(_Run(plan, profile, folder, names, say).live())


class _Run:
    """One simulation."""

    def __init__(
        self, plan: Plan, profile: Profile, folder: Folder, names: list[str], say: Say
    ) -> None:
        self._plan, self._profile, self._folder = plan, profile, folder
        self._names, self._say = names, say
        self._counts = Counts()
        self._stopping = asyncio.Event()

    async def live(self) -> dict[str, Any]:
        """Do it all, in order."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        with _signals(self._stopping.set):
            door = Door(self._plan.server)
            try:
                world = await self._until_stopped(self._prepare(door))
                devices = [] if world is None else self._make(world)
                try:
                    await self._run(devices)
                finally:
                    self._folder.save()
            finally:
                await door.close()
        counts = self._counts
        if devices and not counts.happened["connected"] and not self._stopping.is_set():
            why = ", ".join(counts.problems) or "there was no time for it"
            raise SimulatorError(
                "simulate.unconnected",
                f"no device could connect: {why}",
                hint="check that devices reach the broker, and its limit on connections",
            )
        return {
            "devices": len(self._names),
            "profile": self._plan.profile,
            "seed": self._plan.seed,
            "run_s": round(loop.time() - begun_s, 1),
            "faults": _faults(devices),
            **counts.summary(),
        }

    async def _until_stopped(self, work: Any) -> Any:
        """Return what comes of `work`; None where it was stopped before."""
        working = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not working.done():
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
            return None
        return working.result()

    async def _prepare(self, door: Door) -> World:
        """Have everybody enrolled; ask where the broker is, and who signs orders."""
        folder, plan = self._folder, self._plan
        known = folder.enrolled()
        fresh = [name for name in self._names if name not in known]
        if fresh:
            self._say(f"{len(fresh)} devices enrol")
        every = max(1, len(fresh) // 10)

        def told(done: int) -> None:
            self._counts.enrolled = done
            if done % every == 0 or done == len(fresh):
                self._say(f"{done} of {len(fresh)} have enrolled")

        if known and not folder.fleet.authority_pem:
            raise SimulatorError(
                "simulate.folder",
                f"{plan.folder} holds devices of a server that is not known any more",
                hint="choose another folder with --folder, or remove it",
            )
        await door.admit(folder, fresh, plan.token, told)
        first = self._names[0]
        enrolment = await door.ask_again(folder, first)

        async def newest_root() -> str:
            return (await door.ask_again(folder, first)).root

        folder.fleet.server = plan.server
        folder.fleet.runs += 1
        folder.save()  # before anybody speaks: no number of a boot is used twice
        return World(
            broker=enrolment.broker,
            folder=folder,
            profile=self._profile,
            trust=Trust(enrolment.root, newest_root),
            gate=Gate(plan.connect_rate),
            counts=self._counts,
            boot=folder.fleet.runs * _BOOTS_PER_RUN,
            seed=plan.seed,
            download=plan.download,
        )

    def _make(self, world: World) -> list[Device]:
        remembered = self._folder.fleet.devices
        return [Device(name, world, remembered.setdefault(name, Memory())) for name in self._names]

    async def _run(self, devices: list[Device]) -> None:
        """Let all live until it is enough; then stop them, and wait for them, within a bound."""
        if not devices:
            return
        self._say(f"{len(devices)} devices connect, {self._plan.connect_rate:g} a second at most")
        living = [asyncio.ensure_future(device.run()) for device in devices]
        telling = asyncio.ensure_future(self._tell())
        try:
            done, _ = await asyncio.wait(
                {*living, asyncio.ensure_future(self._enough())},
                return_when=asyncio.FIRST_COMPLETED,
            )
            for one in done:
                one.result()  # a device that has ended by itself is a bug of ours
            self._say("stopping")
        finally:
            telling.cancel()
            for device in devices:
                device.stop()
            await asyncio.wait(living, timeout=_END_S)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.gather(*living, return_exceptions=True)

    async def _enough(self) -> None:
        """Return when it is to end."""
        duration_s = self._plan.duration_s or None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), duration_s)

    async def _tell(self) -> None:
        said = ""
        while True:
            await asyncio.sleep(_SAY_S)
            line = self._counts.line()
            if line != said:
                self._say(line)
            said = line


def _checked(name: str) -> str:
    try:
        return check_device_id(name)
    except InvalidName as error:
        raise Misused("simulate.plan", str(error), hint="take another --prefix") from error


def _faults(devices: list[Device]) -> dict[str, int]:
    """Return how many devices have which fault."""
    found: dict[str, int] = {}
    for device in devices:
        for name in device.traits.names():
            found[name] = found.get(name, 0) + 1
    return found


def _allow_files(devices: int) -> None:
    """Have as many files open as there are connections.

    Raises:
        SimulatorError: ``simulate.files``.
    """
    wanted = devices + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        if hard != resource.RLIM_INFINITY and wanted > hard:
            raise SimulatorError(
                "simulate.files",
                f"{devices} devices need {wanted} open files, and {hard} are allowed",
                hint=f"ulimit -Hn {wanted} as root, or fewer devices",
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at SIGINT and SIGTERM."""
    loop = asyncio.get_running_loop()
    for one in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(one, stop)
    try:
        yield
    finally:
        for one in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(one)
