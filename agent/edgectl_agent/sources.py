"""Where bundles come from: the broker, the server over HTTP, a mirror, as the settings say."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from edgectl_agent.clock import now
from edgectl_agent.connection import Connection, Mailbox
from edgectl_agent.core.pacing import Pacer
from edgectl_agent.device_key import DeviceKey
from edgectl_agent.downloader import Downloader
from edgectl_agent.durable import RealDisk
from edgectl_agent.http_pieces import HttpPieces
from edgectl_agent.http_pull import HttpClient
from edgectl_agent.pull_proof import make_proof, read_certificate
from edgectl_agent.settings import Settings
from edgectl_agent.signing import seal
from edgectl_agent.store import Store
from edgectl_protocol.messages import Reason

__all__ = ["make_downloader"]


def make_downloader(
    settings: Settings,
    disk: RealDisk,
    *,
    device: str,
    server: str,
    key: DeviceKey,
    store: Store,
    connection: Connection,
    alarm: Callable[[Reason], None],
) -> Downloader:
    """Return what fetches bundles into `store`.

    Args:
        settings: which sources, and the bound on bytes per second.
        disk: the state directory.
        device: its name.
        server: its address.
        key: of the device.
        store: of the same state directory.
        connection: to the broker.
        alarm: is told what an attacker may have done, from any thread.
    """
    pacer = Pacer(settings.bandwidth)

    def source(address: str, certificate: Callable[[], str] = str) -> HttpPieces:
        proof = make_proof(device, key, now=now, certificate=certificate)
        client = HttpClient(address, proof=proof, server_ca=settings.server_ca)
        return HttpPieces(client, alarm=alarm, pacer=pacer)

    mirror = settings.mirror if settings.transfer != "mqtt" else ""
    return Downloader(
        device,
        store,
        Mailbox(connection, once=True),
        seal=lambda request: seal(key, request),
        alarm=alarm,
        background=ThreadPoolExecutor(1, "checkpoint"),
        pacer=pacer,
        before=(source(mirror, lambda: read_certificate(disk)),) if mirror else (),
        after=(source(server),) if settings.transfer != "mqtt" else (),
        broker=settings.transfer != "http",
    )
