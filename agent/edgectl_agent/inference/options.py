"""What can be set about the endpoint, as the supervisor tells it to the inference process."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Options"]


class Options(Struct, frozen=True, kw_only=True):
    """See ``docs/agent.toml``, where each of them is a setting."""

    names: tuple[str, ...] = ()
    """Names of this machine that a Host header may have, besides its addresses and `localhost`."""
    token_file: str | None = None
    """File of the token that requests must bring; None for none."""
    token_on_socket: bool = False
    """Whether the Unix socket asks for it too."""
    body_bytes_max: int = 16 * 1024 * 1024
    connections_max: int = 128
    queue_max: int = 128
    client_max: int = 64
    shared_memory: bool = False
    grpc_port: int | None = None
    """TCP port of gRPC, 0 for any free one; None for no gRPC."""
