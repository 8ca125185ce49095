"""``edgectl-agent connect``: from a source through a model into sinks, without code."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgectl_agent.commands.common import Commands, add_command
from edgectl_agent.errors import AgentError, UsageError
from edgectl_agent.settings import Settings
from edgectl_protocol.errors import InvalidName
from edgectl_protocol.names import check_model_name

__all__ = ["add"]

SINKS_MAX = 16


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "connect",
        _connect,
        doing="connecting source, model and sinks",
        summary="send what a source gives through a model into sinks; docs/sdk.md describes them",
        examples=(
            "edgectl-agent connect gesture --from 'folder:/photos?pattern=*.jpg' --to -",
            "edgectl-agent connect activity --from 'serial:/dev/ttyS0?window=128' --to mqtt://pi/out",
        ),
    )
    parser.add_argument("slot", help="name of the model")
    parser.add_argument(
        "--from", dest="source", required=True, metavar="SOURCE", help="such as folder:/photos"
    )
    parser.add_argument(
        "--to",
        dest="sinks",
        action="append",
        metavar="SINK",
        help="such as file:/results.jsonl; - is standard output, the default; may be repeated",
    )
    parser.add_argument(
        "--outputs", action="store_true", help="results hold the outputs beside the label"
    )
    parser.add_argument(
        "--wait-s",
        type=float,
        default=60.0,
        help="seconds to wait for the model at the start (default: 60)",
    )
    parser.add_argument(
        "--models-socket", help="the agent's models_socket, where it is not found by itself"
    )


def _connect(settings: Settings, options: argparse.Namespace) -> int:
    """Work until the source has ended or a signal comes; counts go to standard error."""
    from edgectl_agent.flows.delivery import Delivery
    from edgectl_agent.flows.runner import Flow, contract_of
    from edgectl_agent.flows.sinks import open_sink
    from edgectl_agent.flows.sources import open_source
    from edgectl_agent.sdk import Model

    sinks: list[str] = options.sinks or ["-"]
    if len(sinks) > SINKS_MAX or len(set(sinks)) != len(sinks):
        raise UsageError("flow.address", f"at most {SINKS_MAX} sinks, each once", hint="see --help")
    try:
        name = check_model_name(options.slot)
    except InvalidName as error:
        raise UsageError("flow.address", str(error), hint="give the model's name") from error
    model = Model(name, wait_s=0, socket=_socket(settings, options))
    deliveries: list[Delivery] = []
    try:
        source = open_source(options.source, contract_of(model))
        deliveries.extend(Delivery(text, open_sink(text)) for text in sinks)
        _check_no_circle(options.source, sinks)
        model.wait(options.wait_s)
        flow = Flow(model, source, deliveries, outputs=options.outputs)
    except AgentError:
        for delivery in deliveries:
            delivery.close(0)
        model.close()
        raise
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: flow.stop())
    counts = flow.run()
    model.close()
    _report(counts, as_json=options.json)
    return 0


def _socket(settings: Settings, options: argparse.Namespace) -> Path | None:
    """Return where the hub is: as given, as the SDK finds it, or in the state directory."""
    from edgectl_agent.sdk.model import DEFAULT_SOCKETS, SOCKET_VARIABLE

    if options.models_socket:
        return Path(options.models_socket)
    if os.environ.get(SOCKET_VARIABLE):
        return None
    configured = settings.state_directory / settings.models_socket
    if not configured.exists() and any(path.exists() for path in DEFAULT_SOCKETS):
        return None
    return configured


def _check_no_circle(source: str, sinks: Sequence[str]) -> None:
    """Raise `UsageError` when results would come back as inputs."""
    from paho.mqtt import client as mqtt

    from edgectl_agent.flows.addresses import parse_address
    from edgectl_agent.flows.local_broker import Broker

    address = parse_address(source)
    if not address.scheme.startswith("mqtt"):
        return
    read = Broker(address)
    for text in sinks:
        sink = parse_address(text)
        if not sink.scheme.startswith("mqtt"):
            continue
        written = Broker(sink)
        same = (read.host, read.port) == (written.host, written.port)
        if same and mqtt.topic_matches_sub(read.topic, written.topic):
            raise sink.refused("the source reads that topic: results would come back as inputs")


def _report(counts: Any, *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(counts).decode(), file=sys.stderr)
        return
    shown = ", ".join(
        f"{name} {value}"
        for name, value in msgspec.structs.asdict(counts).items()
        if isinstance(value, int) and (value or name in {"received", "predicted"})
    )
    logging.getLogger(__name__).info("%s", shown)
    for name, sink in counts.sinks.items():
        logging.getLogger(__name__).info("%s: sent %d, dropped %d", name, sink.sent, sink.dropped)
