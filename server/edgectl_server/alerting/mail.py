"""Sending a mail: SMTP with STARTTLS or TLS, and never for longer than a bound.

Rules: the password comes from a file that nobody else can read, and goes only over an encrypted
connection, or to this machine. The server's certificate is checked. A server that answers byte by
byte is cut off when the time is over: timeouts of single reads would let it hold the sender for
ever. What went wrong is said in one line, without the password.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from ipaddress import ip_address
from typing import Any, Literal, cast

from edgectl_server.errors import Refused, Unavailable
from edgectl_server.settings import Settings
from edgectl_server.signing.key_files import read_passphrase

__all__ = ["MailServer", "mail_server", "make_mailer"]

ATTEMPT_S_MAX = 30.0
_STEP_S_MAX = 10.0
_ERROR_CHARACTERS_MAX = 200

Mailer = Callable[[Sequence[str], str, str, str], str]
"""Takes addresses, subject, text and the message's id; returns what went wrong, empty: nothing."""


@dataclass(frozen=True)
class MailServer:
    """Who takes our mail.

    Attributes:
        host: its name or address.
        port: of it.
        security: how the connection is encrypted.
        user: to log in as; empty: without a login.
        password_file: file whose first line is the password.
        sender: address from which mails come.
        authorities: PEM file of those that may vouch for it; empty: those of the system.
    """

    host: str
    port: int
    security: Literal["starttls", "tls", "off"]
    user: str
    password_file: str
    sender: str
    authorities: str = ""


def mail_server(settings: Settings) -> MailServer | None:
    """Return who takes our mail; None: nobody was set.

    Raises:
        Refused: ``mail.settings``: a part is missing, or the password would be sent in the clear.
        Unavailable: ``keys.passphrase`` or ``keys.permissions``: of the password's file.
    """
    if not settings.smtp_host:
        return None
    if "@" not in settings.smtp_from or not settings.smtp_from.isprintable():
        raise Refused(
            "mail.settings",
            f"smtp_from is {settings.smtp_from[:80]!r}, expected an address",
            hint="set smtp_from to the address from which alerts are sent",
        )
    if bool(settings.smtp_user) != bool(settings.smtp_password_file):
        raise Refused(
            "mail.settings",
            "smtp_user and smtp_password_file belong together, and one of them is missing",
            hint="set both, or none for a server that wants no login",
        )
    if settings.smtp_security == "off" and not _is_here(settings.smtp_host):
        raise Refused(
            "mail.settings",
            f"smtp_security is off, and {settings.smtp_host} is not this machine",
            hint="set smtp_security to starttls or tls",
        )
    read_passphrase(settings.smtp_password_file)
    return MailServer(
        host=settings.smtp_host,
        port=settings.smtp_port,
        security=settings.smtp_security,
        user=settings.smtp_user,
        password_file=settings.smtp_password_file,
        sender=settings.smtp_from,
        authorities=settings.smtp_authorities,
    )


def make_mailer(server: MailServer, *, within_s: float = ATTEMPT_S_MAX) -> Mailer:
    """Return what sends.

    Args:
        server: that takes it.
        within_s: how long an attempt may take in all.
    """

    def send(addresses: Sequence[str], subject: str, text: str, identity: str) -> str:
        try:
            _send(server, addresses, _message(server, addresses, subject, text, identity), within_s)
        except (OSError, ValueError, smtplib.SMTPException) as error:
            return _said(error)
        except Unavailable as error:
            return error.detail[:_ERROR_CHARACTERS_MAX]
        return ""

    return send


def _message(
    server: MailServer, addresses: Sequence[str], subject: str, text: str, identity: str
) -> EmailMessage:
    message = EmailMessage(policy=SMTP_POLICY)  # it refuses line ends in headers
    message["From"] = server.sender
    message["To"] = ", ".join(addresses)
    message["Subject"] = subject
    message["Message-ID"] = f"<{identity}@{server.sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday replies
    message.set_content(text)
    return message


def _send(
    server: MailServer, addresses: Sequence[str], message: EmailMessage, within_s: float
) -> None:
    password = read_passphrase(server.password_file)
    context = ssl.create_default_context(cafile=server.authorities or None)
    opened: list[smtplib.SMTP] = []

    def cut_off() -> None:
        for connection in opened:
            there = connection.sock
            if there is not None:
                try:
                    # Not the method of SSLSocket, which would touch a state that is being used.
                    socket.socket.shutdown(there, socket.SHUT_RDWR)
                except OSError:
                    continue

    timer = threading.Timer(within_s, cut_off)
    timer.daemon = True
    timer.start()
    step_s = min(_STEP_S_MAX, within_s)
    connection = _connection(server, context, step_s)
    opened.append(connection)
    try:
        code, greeting = connection.connect(server.host, server.port)
        if code != 220:  # noqa: PLR2004 - RFC 5321, 4.2.2: ready
            raise smtplib.SMTPConnectError(code, greeting)
        if server.security == "starttls":
            connection.starttls(context=context)
        if password is not None:
            connection.login(server.user, password.decode("utf-8", "replace"))
        connection.send_message(message, server.sender, list(addresses))
        connection.close()  # the message is taken: how the farewell goes is of no interest
    finally:
        timer.cancel()
        connection.close()


def _connection(server: MailServer, context: ssl.SSLContext, step_s: float) -> smtplib.SMTP:
    """Return a connection that is not opened yet, so that it can be cut off meanwhile."""
    made: Any
    if server.security == "tls":
        made = smtplib.SMTP_SSL(timeout=step_s, context=context)
    else:
        made = smtplib.SMTP(timeout=step_s)
    # The constructor would set it, if it were to connect; certificates are checked for it.
    made._host = server.host  # noqa: SLF001
    return cast("smtplib.SMTP", made)


def _said(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        answer = error.smtp_error
        text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)
        said = f"the mail server has answered {error.smtp_code} {text}"
    elif isinstance(error, smtplib.SMTPRecipientsRefused):
        said = f"the mail server refuses {', '.join(sorted(error.recipients))}"
    elif isinstance(error, TimeoutError):
        said = "the mail server does not answer in time"
    else:
        said = f"{type(error).__name__}: {error}"
    shown = "".join(one if one.isprintable() else " " for one in said)
    return shown[:_ERROR_CHARACTERS_MAX]


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
