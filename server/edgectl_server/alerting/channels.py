"""The channels that we send by ourselves: what a message becomes by e-mail and by MQTT."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC
from typing import Protocol

from edgectl_protocol import topics
from edgectl_server.alerting.delivery import Notice, Sender
from edgectl_server.alerting.mail import MailServer, make_mailer
from edgectl_server.alerting.texts import event_of, mail_text
from edgectl_server.errors import Unavailable

__all__ = ["Publishes", "by_email", "by_mqtt"]

_ANSWER_S = 10.0


class Publishes(Protocol):
    """What is needed of the link to the broker."""

    @property
    def connected(self) -> bool:
        """Whether it is."""

    def publish(
        self,
        topic: str,
        payload: bytes,
        retain: bool = False,
        *,
        timeout_s: float = 5.0,
        answered: Callable[[bool], None] = ...,
    ) -> None:
        """Queue a message."""


def by_email(server: MailServer) -> Sender:
    """Return what sends by e-mail."""
    mailer = make_mailer(server)

    def send(notice: Notice) -> str:
        subject, text = mail_text(notice.data)
        return mailer(notice.target, subject, text, notice.id)

    return send


def by_mqtt(link: Publishes, *, within_s: float = _ANSWER_S) -> Sender:
    """Return what publishes, and is content when the broker has taken the message.

    Args:
        link: to the broker.
        within_s: how long that may take.
    """

    def send(notice: Notice) -> str:
        names = [topics.device_alert(one) for one in notice.target] or [topics.alerts()]
        payload = mqtt_payload(notice)
        taken: dict[str, bool] = {}
        changed = threading.Condition()

        def note(topic: str) -> Callable[[bool], None]:
            def answered(ok: bool) -> None:
                with changed:
                    taken[topic] = ok
                    changed.notify_all()

            return answered

        if not link.connected:
            return "the server is not connected to the broker"
        try:
            for name in names:
                link.publish(name, payload, timeout_s=within_s, answered=note(name))
        except Unavailable as error:
            return error.detail
        with changed:
            changed.wait_for(lambda: len(taken) == len(names), within_s)
        late = [name for name in names if name not in taken]
        refused = [name for name in names if taken.get(name) is False]
        if refused:
            return f"the broker refuses {', '.join(refused)}"
        return f"the broker does not answer for {', '.join(late)}" if late else ""

    return send


def mqtt_payload(notice: Notice) -> bytes:
    """Return a message as it is published; its id is the same at every attempt."""
    at = notice.created_at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    said = {"id": notice.id, "type": event_of(notice.data), "timestamp": at, "data": notice.data}
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
