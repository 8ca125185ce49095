"""Mails of alerts to a real mail server (aiosmtpd): encrypted, with a login, within bounds."""

import dataclasses
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_bytes, policy
from pathlib import Path

import msgspec
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from edgectl_server.alerting.channels import by_email
from edgectl_server.alerting.delivery import Notice
from edgectl_server.alerting.mail import MailServer, mail_server, make_mailer
from edgectl_server.alerting.texts import mail_text
from edgectl_server.clock import now
from edgectl_server.errors import Refused, Unavailable
from edgectl_server.settings import Settings
from edgectl_server.signing.authority import Authority

PASSWORD = "correct horse"


class Mailbox:
    """What a mail server does with mails: it keeps them, or refuses."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, list[str], bytes]] = []
        self.answer = "250 taken"

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802 - aiosmtpd's name
        if self.answer.startswith("250"):
            self.mails.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return self.answer


def check_login(_server, _session, _envelope, _mechanism, said):
    known = LoginPassword(b"edgectl", PASSWORD.encode())
    return AuthResult(success=said == known, handled=False)


class Opened(Controller):
    """A controller whose server wants what `options` say."""

    def __init__(self, mailbox: Mailbox, *, tls: ssl.SSLContext | None = None, **options) -> None:
        super().__init__(mailbox, hostname="127.0.0.1", port=free_port(), ssl_context=tls)
        self._options = options

    def factory(self) -> SMTP:
        with warnings.catch_warnings():  # over TLS it does not know that it is encrypted
            warnings.simplefilter("ignore", UserWarning)
            return SMTP(self.handler, authenticator=check_login, **self._options)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> tuple[Path, ssl.SSLContext]:
    authority = Authority.open(tmp_path_factory.mktemp("pki"), now())
    identity = authority.web_identity(["127.0.0.1"], now())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    return identity.authority, context


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    file.chmod(0o600)
    return file


def settings(port, authority, password_file, **more) -> Settings:
    return Settings(
        smtp_host="127.0.0.1",
        smtp_port=port,
        smtp_user="edgectl",
        smtp_password_file=str(password_file),
        smtp_from="edgectl@example.org",
        smtp_authorities=str(authority),
        **more,
    )


@pytest.fixture(params=["starttls", "tls"])
def server(request, mailbox, pki, password_file) -> Iterator[MailServer]:
    authority, context = pki
    options = {"tls": context, "auth_require_tls": False}
    if request.param == "starttls":
        options = {"tls_context": context, "require_starttls": True, "auth_require_tls": True}
    opened = Opened(mailbox, auth_required=True, **options)
    opened.start()
    found = mail_server(
        settings(opened.port, authority, password_file, smtp_security=request.param)
    )
    assert found is not None
    yield found
    opened.stop()


def notice(**alert) -> Notice:
    one = {
        "id": "0" * 16,
        "kind": "drift.site",
        "severity": "critical",
        "summary": "har@1 sees other data",
        "hint": "edgectl drift show har",
        "model": "har",
        "site": "porto",
        "device": "",
        "opened_at": "2031-01-01T12:00:00Z",
        **alert,
    }
    counts = {"began": 1, "again": 0, "ended": 0}
    data = {"route": "ops", "counts": counts, "began": [one], "again": [], "ended": []}
    at = datetime(2031, 1, 1, tzinfo=UTC)
    return Notice("alert_x", "email", ["a@example.org", "b@example.org"], data, at)


def test_a_mail_arrives_encrypted_and_after_a_login(server, mailbox):
    assert by_email(server)(notice()) == ""
    ((sender, receivers, content),) = mailbox.mails
    mail = message_from_bytes(content, policy=policy.default)
    assert (sender, receivers) == ("edgectl@example.org", ["a@example.org", "b@example.org"])
    assert mail["Subject"] == "edgectl: critical: har@1 sees other data (began)"
    assert mail["Message-ID"] == "<alert_x@example.org>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert "try: edgectl drift show har" in mail.get_content()


def test_what_devices_have_written_is_text_and_no_header(server, mailbox):
    evil = "x\r\nBcc: evil@example.org\r\n\r\n.\r\nMAIL FROM:<e@example.org>\u2028"
    assert by_email(server)(notice(summary=evil)) == ""
    ((_, receivers, content),) = mailbox.mails
    mail = message_from_bytes(content, policy=policy.default)
    assert receivers == ["a@example.org", "b@example.org"]
    assert mail["Bcc"] is None
    assert not any(line.startswith(("Bcc", "MAIL")) for line in mail.get_content().splitlines())


def test_refusals_are_said_without_the_password(server, mailbox, password_file):
    send = by_email(server)
    mailbox.answer = "452 the disk is full"
    assert send(notice()) == "the mail server has answered 452 the disk is full"
    password_file.write_text("wrong")
    said = send(notice())
    assert "535" in said
    assert "wrong" not in said
    password_file.chmod(0o640)
    assert "others may read" in send(notice())


def test_a_certificate_of_somebody_else_is_not_believed(server, mailbox):
    stranger = dataclasses.replace(server, authorities="")
    assert "CERTIFICATE_VERIFY_FAILED" in by_email(stranger)(notice())
    assert mailbox.mails == []


def test_no_password_goes_in_the_clear(mailbox, pki, password_file):
    """The server offers no encryption: nothing is said to it but that."""
    opened = Opened(mailbox)
    opened.start()
    found = mail_server(settings(opened.port, pki[0], password_file))
    assert "STARTTLS" in by_email(found)(notice())
    opened.stop()
    assert mailbox.mails == []


def test_a_server_that_answers_byte_by_byte_is_cut_off():
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def trickle() -> None:
        connection, _ = listener.accept()
        with connection:
            while not ended.is_set():
                try:
                    connection.sendall(b"2")
                except OSError:
                    return
                ended.wait(0.05)

    thread = threading.Thread(target=trickle)
    thread.start()
    server = MailServer("127.0.0.1", listener.getsockname()[1], "off", "", "", "a@example.org")
    begun = time.monotonic()
    assert make_mailer(server, within_s=0.5)(["b@example.org"], "s", "t", "i") != ""
    assert time.monotonic() - begun < 5
    ended.set()
    thread.join()
    listener.close()


def test_nobody_listens():
    server = MailServer("127.0.0.1", free_port(), "off", "", "", "a@example.org")
    assert "refused" in make_mailer(server)(["b@example.org"], "s", "t", "i").lower()


@pytest.mark.parametrize(
    "wrong",
    [
        {"smtp_from": ""},
        {"smtp_from": "edgectl"},
        {"smtp_password_file": ""},
        {"smtp_user": ""},
        {"smtp_security": "off", "smtp_host": "mail.example.org"},
    ],
)
def test_settings_that_would_not_work_or_not_be_safe(wrong, password_file):
    whole = settings(25, "", password_file)
    with pytest.raises(Refused) as refused:
        mail_server(msgspec.structs.replace(whole, **wrong))
    assert refused.value.code == "mail.settings"


def test_a_password_that_others_may_read_is_noticed_at_the_start(password_file):
    password_file.chmod(0o644)
    with pytest.raises(Unavailable, match="others may read"):
        mail_server(settings(25, "", password_file))
    assert mail_server(Settings()) is None


def test_a_storm_and_a_test_in_words():
    many = notice().data
    many = {**many, "counts": {"began": 500, "again": 1, "ended": 0}}
    subject, text = mail_text(many)
    assert subject == "edgectl: 500 began, 1 lasts still"
    assert "… and 499 more (began)" in text
    nothing = {"route": "ops", "counts": dict.fromkeys(("began", "again", "ended"), 0)}
    assert "this is a test" in mail_text({**nothing, "began": [], "again": [], "ended": []})[0]
