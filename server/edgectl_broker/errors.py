"""What can go wrong in the broker.

The tree is small and sorted by who must act::

    BrokerError
    ├── ProtocolViolation     a client broke MQTT or a limit: its connection ends with `reason`
    │   └── VersionRefused    a client speaks a version of MQTT that this broker does not
    ├── StateUnusable         the state folder cannot be read or is of another version: the operator
    └── CannotListen          address or certificate files cannot be used: the operator

Every error carries a stable `code`; the sentence is for a person.
"""

from __future__ import annotations

from mqtt5 import DisconnectReasonCode

__all__ = ["BrokerError", "CannotListen", "ProtocolViolation", "StateUnusable", "VersionRefused"]


class BrokerError(Exception):
    """The broker cannot do what was asked."""

    code = "broker.error"


class ProtocolViolation(BrokerError):
    """A client broke the protocol or a limit; only its own connection ends."""

    code = "broker.protocol"

    def __init__(self, reason: DisconnectReasonCode, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class VersionRefused(ProtocolViolation):
    """A client speaks another version of MQTT; `legacy` asks for the answer of MQTT 3.1.1."""

    code = "broker.version"

    def __init__(self, detail: str, *, legacy: bool) -> None:
        super().__init__(DisconnectReasonCode.PROTOCOL_ERROR, detail)
        self.legacy = legacy


class StateUnusable(BrokerError):
    """The state on disk cannot be used."""

    code = "broker.state"


class CannotListen(BrokerError):
    """The broker cannot open its port."""

    code = "broker.listen"
