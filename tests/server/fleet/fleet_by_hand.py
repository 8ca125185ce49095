"""A fleet whose devices report by hand, with the services that steer it."""

import json
from pathlib import Path

import msgspec
from msgspec import structs
from securesystemslib.dsse import Envelope

from edgectl_protocol.messages import (
    Capabilities,
    Installed,
    Order,
    Reason,
    ReportedState,
    SlotReport,
    UpdateReport,
    decode,
)
from edgectl_protocol.update import UpdateState
from edgectl_server.delta_making import DeltasWanted
from edgectl_server.ordering import Ordering
from edgectl_server.rollouts import Rollouts
from edgectl_server.schemas import RolloutInfo, RolloutPolicy, RolloutRequest, Selector
from edgectl_server.settings import Settings
from edgectl_server.signing.content_keys import ContentKeys
from edgectl_server.signing.keys import Keys
from edgectl_server.signing.orders import OrderSigner
from edgectl_server.signing.repository import Repository
from edgectl_server.storage.blobs import BlobStore
from edgectl_server.storage.database import Database
from edgectl_server.storage.paging import PageQuery
from edgectl_server.storage.tables import Device
from server.fleet.fleet_helpers import CAPABILITIES, Clock, add_version, new_device

PAGE = PageQuery(q="", sort="", offset=0, limit=200)
U = UpdateState


class Fleet:
    """The services under test, and devices that do what a test says."""

    def __init__(self, folder: Path, database: Database, settings: Settings | None = None) -> None:
        self.clock = Clock()
        self.database = database
        self.keys = Keys.open(folder / "keys")
        self.repository = Repository.open(folder / "tuf", self.keys, self.clock())
        self.blobs = BlobStore(str(folder / "blobs"))
        signer = OrderSigner(self.keys)
        self.content_keys = ContentKeys.open(folder / "keys")
        self.ordering = Ordering(
            database=database, signer=signer, content_keys=self.content_keys, now=self.clock
        )
        self.deltas = DeltasWanted(settings or Settings(), database, self.blobs, self.clock)
        self.rollouts = Rollouts(
            database=database, ordering=self.ordering, now=self.clock, deltas=self.deltas
        )
        self.manifests: dict[str, dict[str, str]] = {}

    def version(self, version: str, **options: object) -> None:
        self.manifests[version] = add_version(
            self.database, self.blobs, self.repository, version=version, **options
        )

    def add(self, *names: str, capabilities: Capabilities | None = CAPABILITIES) -> None:
        with self.database.write() as session:
            for name in names:
                state = ReportedState(
                    device=name, boot=1, seq=1, online=True, capabilities=capabilities
                )
                session.add(
                    new_device(name, self.clock(), online=True, reported=msgspec.to_builtins(state))
                )

    def start(
        self, version: str = "1", devices: list[str] | None = None, *, group: str = "", **policy
    ) -> str:
        selector = Selector(devices=devices or [], group=group, all=not (devices or group))
        request = RolloutRequest(
            model="har", version=version, selector=selector, policy=RolloutPolicy(**policy)
        )
        return self.rollouts.start(request, "anna").id

    def order(self, name: str) -> Order | None:
        with self.database.read() as session:
            document = session.get_one(Device, name).order
        if document is None:
            return None
        envelope = Envelope.from_dict(json.loads(json.dumps(document)))
        envelope.verify([self.keys.signer("orders").public_key], 1)
        return decode(Order, envelope.payload)

    def amend(self, name: str, *, rollout: str | None = None, **changes: object) -> None:
        """Change what the device has reported last; `rollout` is that of its newest update."""
        with self.database.write() as session:
            device = session.get_one(Device, name)
            state = structs.replace(msgspec.convert(device.reported, ReportedState), **changes)
            if rollout is not None:
                slot = state.slots["har"]
                update = structs.replace(slot.update, rollout=rollout)
                slots = {"har": structs.replace(slot, update=update)}
                state = structs.replace(state, slots=slots)
            device.reported = msgspec.to_builtins(state)

    def report(self, name: str, state: UpdateState, *, attempt: int = 1, nonce: str = "") -> None:
        """The device has obeyed its order so far."""
        order = self.order(name)
        wanted = order.slots["har"]
        last = wanted.candidates[-1 if state is U.REJECTED else 0]
        installed = Installed(
            version=wanted.version,
            variant=last.variant,
            manifest=last.manifest,
            since=self.clock(),
        )
        slot = SlotReport(
            running=installed if state is U.COMMITTED else None,
            update=UpdateReport(
                order=order.counter,
                version=wanted.version,
                variant=last.variant,
                manifest=last.manifest,
                state=state,
                attempt=attempt,
                reason=Reason(code="trial.latency", detail="too slow"),
            ),
        )
        with self.database.write() as session:
            device = session.get_one(Device, name)
            reported = ReportedState(
                device=name,
                boot=1,
                seq=device.seq + 1,
                online=True,
                capabilities=CAPABILITIES,
                order_counter=order.counter,
                order_nonce=nonce or order.nonce,
                slots={"har": slot},
            )
            device.reported = msgspec.to_builtins(reported)
        self.rollouts.touch([name])

    def refuse(self, name: str, counter: int | None, *, accepted: int = 0) -> None:
        """The device does not obey what came last as an order."""
        with self.database.write() as session:
            device = session.get_one(Device, name)
            reported = ReportedState(
                device=name,
                boot=1,
                seq=device.seq + 1,
                online=True,
                capabilities=CAPABILITIES,
                order_counter=accepted,
                order_nonce=device.order_nonces.get(str(accepted)),
                refusal=Reason(code="order.clock", detail="the clock says 1970"),
                refused_counter=counter,
            )
            device.reported = msgspec.to_builtins(reported)
        self.rollouts.touch([name])

    def reason(self, rollout: str, name: str) -> str | None:
        infos = {one.device: one.reason for one in self.rollouts.devices(rollout, PAGE).items}
        found = infos[name]
        return None if found is None else found.code

    def states(self, rollout: str) -> dict[str, str]:
        return {one.device: one.state for one in self.rollouts.devices(rollout, PAGE).items}

    def show(self, rollout: str) -> RolloutInfo:
        return self.rollouts.rollout(rollout)
