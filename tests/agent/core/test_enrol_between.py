"""Somebody on the network path, in each way to enrol and in renewal: they get nothing believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.core.between import Answer, Change, Site
from edgectl_agent.device_key import KEY_PATH, load_or_make_key
from edgectl_agent.durable import RealDisk
from edgectl_agent.enrol import CERTIFICATE_PATH, enrol, load_identity
from edgectl_agent.errors import AgentError, Refused, Unreachable, UsageError
from edgectl_agent.renewal import read_validity, renew
from edgectl_protocol.enrolment import format_fingerprint, reply_text
from edgectl_server.schemas import PreauthorisedEntry
from edgectl_server.signing.authority import Authority

MODES = ("token", "list", "approval")


class TooLong(Exception):
    """The device still waits after so many questions."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    running = Site(tmp_path / "site")
    yield running
    running.close()


@pytest.fixture
def thief(tmp_path: Path) -> Iterator[Site]:
    """A server of somebody else, with its own authority, that lets everybody in."""
    running = Site(tmp_path / "thief")
    yield running
    running.close()


def let_in(site: Site, disk: RealDisk, mode: str, name: str = "pi-1") -> dict[str, str]:
    """Prepare the server for a device; return what the device is given for it."""
    fingerprint = format_fingerprint(load_or_make_key(disk).key_id)
    if mode == "token":
        return {"token": site.token()}
    if mode == "list":
        site.admission.preauthorise([PreauthorisedEntry(device=name, fingerprint=fingerprint)], "a")
    return {"authority": site.fingerprint}


def approving(
    site: Site, name: str = "pi-1", *, at_most: int = 3
) -> dict[str, Callable[..., None]]:
    """The person who approves what the device shows, while it waits."""
    asked = 0
    shown: list[str] = []

    def pause(_seconds: float) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            site.admission.approve(name, shown[0], group="", user="ana")
        if asked > at_most:
            raise TooLong

    return {"waiting": shown.append, "pause": pause}


def come_in(site: Site, disk: RealDisk, mode: str) -> None:
    given = let_in(site, disk, mode)
    enrol(disk, server=site.url, device="pi-1", **given, **approving(site))


@pytest.mark.parametrize("mode", MODES)
def test_undisturbed_every_way_leads_in(site: Site, tmp_path: Path, mode: str) -> None:
    disk = RealDisk(tmp_path / "state")
    come_in(site, disk, mode)
    identity = load_identity(disk)
    assert identity is not None
    assert (identity.device, identity.broker.port) == ("pi-1", 8883)
    assert (tmp_path / "state" / KEY_PATH).stat().st_mode & 0o777 == 0o600


def edited(**changes: Any) -> Change:
    """Change fields inside the signed text."""

    def between(path: str, _request: bytes, answer: Answer) -> Answer:
        status, content = answer
        if status != 200:
            return answer
        reply = json.loads(content)
        key = "renewal" if path == "renew" else "enrolment"
        reply[key] = json.dumps(json.loads(reply[key]) | changes)
        return status, json.dumps(reply).encode()

    return between


def stripped(_path: str, _request: bytes, answer: Answer) -> Answer:
    """Take the authentication off."""
    status, content = answer
    if status != 200:
        return answer
    return status, json.dumps(json.loads(content) | {"mac": "", "signature": ""}).encode()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "between",
    [
        pytest.param(edited(broker={"host": "evil.example", "port": 1}), id="broker"),
        pytest.param(edited(root="{}"), id="root"),
        pytest.param(edited(device="pi-2"), id="device"),
        pytest.param(stripped, id="stripped"),
        pytest.param(lambda *_: (200, b"{}"), id="empty"),
        pytest.param(lambda *_: (200, b"\xff" * 600_000), id="long"),
        pytest.param(lambda *_: (202, b"[1]"), id="no waiting"),
    ],
)
def test_a_changed_answer_is_refused(
    site: Site, tmp_path: Path, mode: str, between: Change
) -> None:
    disk = RealDisk(tmp_path / "state")
    site.between = between
    with pytest.raises(Refused, match=r"enrol\.reply"):
        come_in(site, disk, mode)
    assert disk.list("identity") == ("key.pem",)
    site.between = lambda _path, _request, answer: answer
    enrol(disk, server=site.url, device="pi-1", **again(site, mode))  # nothing was lost by it
    assert load_identity(disk) is not None


def again(site: Site, mode: str) -> dict[str, Any]:
    return {"token": site.token()} if mode == "token" else {
        "authority": site.fingerprint, **approving(site),
    }  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_another_server_is_not_believed(site: Site, thief: Site, tmp_path: Path, mode: str) -> None:
    """It has an authority of its own, and would certify this device with pleasure."""
    disk = RealDisk(tmp_path / "state")
    given = let_in(site, disk, mode)
    theirs = let_in(thief, disk, "list")
    assert theirs
    site.between = lambda path, request, _answer: thief.answer(path, without_token(request, disk))
    with pytest.raises(Refused) as caught:
        enrol(disk, server=site.url, device="pi-1", **given)
    assert caught.value.code == ("enrol.reply" if mode == "token" else "enrol.authority")
    assert disk.list("identity") == ("key.pem",)


def without_token(content: bytes, disk: RealDisk) -> bytes:
    """What the thief needs to let a device in: they have its key for the sake of the argument."""
    from edgectl_protocol.enrolment import request_text

    request = json.loads(content)
    said = {name: request[name] for name in ("nonce", "device", "csr_pem")}
    proof = load_or_make_key(disk).sign(request_text(**said)).hex()
    return json.dumps(said | {"token_id": "", "proof": proof}).encode()


def test_our_authority_with_a_signature_of_theirs_is_not_believed(
    site: Site, thief: Site, tmp_path: Path
) -> None:
    disk = RealDisk(tmp_path / "state")
    given = let_in(site, disk, "list")

    def between(_path: str, request: bytes, answer: Answer) -> Answer:
        reply = json.loads(answer[1])
        text = json.dumps(json.loads(reply["enrolment"]) | {"root": "{}"})
        nonce = json.loads(request)["nonce"]
        signature = thief.authority.sign(reply_text(nonce=nonce, enrolment=text))
        return 200, json.dumps({"enrolment": text, "mac": "", "signature": signature}).encode()

    site.between = between
    with pytest.raises(Refused, match="not signed by the server's authority"):
        enrol(disk, server=site.url, device="pi-1", **given)


@pytest.mark.parametrize("mode", MODES)
def test_an_old_answer_is_not_believed(site: Site, tmp_path: Path, mode: str) -> None:
    disk = RealDisk(tmp_path / "state")
    come_in(site, disk, mode)
    genuine = next(answer for _, _, answer in site.exchanges if answer[0] == 200)
    for file in disk.list("identity"):
        if file != "key.pem":
            disk.unlink(f"identity/{file}")
    site.between = lambda *_: genuine
    with pytest.raises(Refused, match=r"enrol\.reply"):
        enrol(disk, server=site.url, device="pi-1", **again(site, mode))
    assert load_identity(disk) is None


def test_without_a_token_there_is_no_trust_on_first_use(site: Site, tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "state")
    let_in(site, disk, "list")
    with pytest.raises(UsageError, match=r"enrol\.missing"):
        enrol(disk, server=site.url, device="pi-1")
    assert site.exchanges == []


def test_with_a_token_a_given_authority_is_checked_too(
    site: Site, thief: Site, tmp_path: Path
) -> None:
    disk = RealDisk(tmp_path / "state")
    with pytest.raises(Refused, match=r"enrol\.authority"):
        enrol(disk, server=site.url, device="pi-1", token=site.token(), authority=thief.fingerprint)
    assert load_identity(disk) is None


def test_who_only_says_wait_gets_nothing(site: Site, tmp_path: Path) -> None:
    """The device goes on asking, at growing intervals, and shows its fingerprint once."""
    disk = RealDisk(tmp_path / "state")
    let_in(site, disk, "list")
    site.between = lambda *_: (202, b'{"fingerprint": "not the one of this device"}')
    shown: list[str] = []
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 20:
            raise TooLong

    with pytest.raises(TooLong):
        enrol(
            disk, server=site.url, device="pi-1", authority=site.fingerprint,
            waiting=shown.append, pause=pause,
        )  # fmt: skip
    assert shown == [format_fingerprint(load_or_make_key(disk).key_id)]
    assert max(pauses) <= 60
    assert min(pauses[-5:]) >= 30


def test_with_a_token_nobody_waits_for_a_person(site: Site, tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "state")
    site.between = lambda *_: (202, b'{"fingerprint": "wait for us"}')
    shown: list[str] = []
    with pytest.raises(Refused, match=r"enrol\.reply"):
        enrol(disk, server=site.url, device="pi-1", token=site.token(), waiting=shown.append)
    assert shown == []


def test_a_server_that_restarts_is_waited_for(site: Site, tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "state")
    let_in(site, disk, "approval")
    answers = iter([None, (503, b'{"code": "server.busy", "detail": "x"}'), None, None])

    def between(_path: str, _request: bytes, answer: Answer) -> Answer:
        return next(answers) or answer

    site.between = between
    steps = approving(site)
    enrol(disk, server=site.url, device="pi-1", authority=site.fingerprint, **steps)
    assert load_identity(disk) is not None


# ---------------------------------------------------------------- renewal


def at_the_end(site: Site, disk: RealDisk) -> bytes:
    """Move the server's clock to where the device's certificate is to be renewed."""
    come_in(site, disk, "token")
    site.time = read_validity(disk).end - (read_validity(disk).end - site.time) / 4
    site.exchanges.clear()
    return disk.read(CERTIFICATE_PATH)


def ask(site: Site, disk: RealDisk) -> Any:
    return renew(disk, server=site.url, device="pi-1", key=load_or_make_key(disk))


def foreign_certificate(site: Site, folder: Path) -> str:
    """A certificate of another authority for this device's own key and name."""
    disk = RealDisk(folder)
    csr = load_or_make_key(disk).signing_request("pi-1")
    other = Authority.open(folder / "other", site.time)
    return other.issue_device(csr, "pi-1", site.time).certificate_pem


def test_a_certificate_is_renewed_once(site: Site, tmp_path: Path) -> None:
    disk = RealDisk(tmp_path / "state")
    before = at_the_end(site, disk)
    renewed = ask(site, disk)
    assert renewed is not None
    assert renewed.start > site.time.replace(microsecond=0) - (renewed.end - renewed.start)
    after = disk.read(CERTIFICATE_PATH)
    assert after != before
    assert ask(site, disk) is None
    assert disk.read(CERTIFICATE_PATH) == after


@pytest.mark.parametrize("case", ["changed", "stripped", "foreign", "replayed", "enrolment"])
def test_a_renewal_that_is_not_the_servers_changes_nothing(
    site: Site, thief: Site, tmp_path: Path, case: str
) -> None:
    state = tmp_path / "state"
    disk = RealDisk(state)
    before = at_the_end(site, disk)
    if case == "changed":
        site.between = edited(certificate_pem=foreign_certificate(site, state))
    elif case == "stripped":
        site.between = stripped
    elif case == "foreign":
        come_in(thief, RealDisk(tmp_path / "elsewhere"), "token")
        theirs = foreign_certificate(site, state)

        def between(_path: str, request: bytes, _answer: Answer) -> Answer:
            text = json.dumps({"device": "pi-1", "certificate_pem": theirs})
            said = b"edgectl-renew-reply-v1\0" + json.loads(request)["nonce"].encode() + b"\0"
            signature = thief.authority.sign(said + text.encode())
            return 200, json.dumps({"renewal": text, "signature": signature}).encode()

        site.between = between
    elif case == "replayed":
        ask(site, disk)
        genuine = site.exchanges[-1][2]
        before = disk.read(CERTIFICATE_PATH)
        site.between = lambda *_: genuine
    else:  # what the authority has signed for another purpose
        key = load_or_make_key(disk)
        site.between = lambda _path, request, _answer: as_enrolment(site, disk, request, key)
    with pytest.raises(Refused, match=r"enrol\.reply"):
        ask(site, disk)
    assert disk.read(CERTIFICATE_PATH) == before
    assert disk.list("identity") == RealDisk(state).list("identity")


def as_enrolment(site: Site, disk: RealDisk, request: bytes, key: Any) -> Answer:
    """A genuine answer to an enrolment with the same nonce, in place of one to a renewal."""
    from edgectl_protocol.enrolment import request_text

    nonce = json.loads(request)["nonce"]
    said = {"nonce": nonce, "device": "pi-1", "csr_pem": key.signing_request("pi-1")}
    proof = key.sign(request_text(**said)).hex()
    status, content = site.answer("enrol", json.dumps(said | {"proof": proof}).encode())
    assert status == 200, content
    reply = json.loads(content)
    renewal = {"renewal": reply["enrolment"], "signature": reply["signature"]}
    return 200, json.dumps(renewal).encode()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((401, b'{"code": "enrol.renewal", "detail": "x"}'), Refused),
        ((500, b"oops"), Unreachable),
        ((429, b'{"code": "x.y", "detail": "\\u001b[2J"}'), Unreachable),
        ((200, b"[" * 100_000), Refused),
        ((200, b'{"renewal": "\xff", "signature": ""}'), Refused),
        ((200, b'{"renewal": "{}", "signature": "zz"}'), Refused),
    ],
)
def test_an_answer_that_is_none_changes_nothing(
    site: Site, tmp_path: Path, answer: Answer, expected: type[AgentError]
) -> None:
    disk = RealDisk(tmp_path / "state")
    before = at_the_end(site, disk)
    site.between = lambda *_: answer
    with pytest.raises(expected) as caught:
        ask(site, disk)
    assert caught.value.detail.isprintable()
    assert disk.read(CERTIFICATE_PATH) == before


def test_a_request_that_is_sent_again_does_no_harm(site: Site, tmp_path: Path) -> None:
    """Whoever has recorded it gets what they could read on the way, and the device goes on."""
    disk = RealDisk(tmp_path / "state")
    at_the_end(site, disk)
    ask(site, disk)
    recorded = site.exchanges[-1][1]
    issued = msgspec.json.decode(site.exchanges[-1][2][1])["renewal"]
    status, content = site.answer("renew", recorded)
    assert status == 200
    assert msgspec.json.decode(content)["renewal"] == issued
    assert ask(site, disk) is None
