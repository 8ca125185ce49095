"""Hostile applications at the hub of a real inference process."""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from agent.inference.models import activity, make_bundle
from agent.sdk.conftest import Follow
from edgectl_agent.inference.hub import Hub, HubLimits
from edgectl_agent.inference.hub_messages import (
    LINE_BYTES_MAX,
    REQUESTS_MAX,
    Counted,
    Offer,
    check_counted,
    decode_from_application,
    decode_from_hub,
)
from edgectl_agent.inference.process import InferenceProcess
from edgectl_agent.inference.slots import Slots
from edgectl_agent.sdk.offers import load_offer
from edgectl_agent.unix_path import short_path
from edgectl_protocol.names import digest_of
from waiting import wait_for

LIMITS = HubLimits()
FOLLOW = {"type": "follow", "hub": 1, "slot": "activity", "application": "test"}


class Application:
    """Speaks to the hub byte by byte."""

    def __init__(self, hub: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        with short_path(hub) as name:
            self.socket.connect(name)
        self.rest = b""
        self.files: list[int] = []

    def say(self, *messages: object) -> None:
        self.raw(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def raw(self, content: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # what it said can still be read
            self.socket.sendall(content)

    def hear(self) -> dict[str, Any]:
        """Return the next line, empty at the end."""
        while b"\n" not in self.rest:
            try:
                part, files, _, _ = socket.recv_fds(self.socket, 65536, 8)
            except ConnectionResetError:
                return {}
            self.files.extend(files)
            if not part:
                return {}
            self.rest += part
        content, _, self.rest = self.rest.partition(b"\n")
        message: dict[str, Any] = json.loads(content)
        return message

    def close(self) -> None:
        self.socket.close()
        for file in self.files:
            os.close(file)
        self.files.clear()


Connect = Callable[[], Application]


@pytest.fixture
def connect(hub: Path) -> Iterator[Connect]:
    applications: list[Application] = []

    def make() -> Application:
        applications.append(Application(hub))
        return applications[-1]

    yield make
    for application in applications:
        application.close()


def counted(manifest: str, requests: int = 1, **changes: object) -> dict[str, Any]:
    message: dict[str, Any] = {
        "type": "counted",
        "manifest": manifest,
        "requests": requests,
        "errors": 0,
        "non_finite": 0,
        "refused": 0,
        "latency": [requests] + [0] * 41,
    }
    message.update(changes)
    return message


def test_an_offer_comes_with_files_that_can_be_read_and_not_written(
    process: InferenceProcess, connect: Connect, hub: Path, tmp_path: Path
) -> None:
    assert hub.stat().st_mode & 0o777 == 0o660
    bundle = make_bundle(tmp_path)
    process.load(bundle)
    application = connect()
    application.say(FOLLOW)
    offer = application.hear()
    assert (offer["type"], offer["manifest"]) == ("offer", bundle.manifest)
    model, golden = application.files
    for file, path in ((model, bundle.model), (golden, bundle.golden)):
        content = Path(path).read_bytes()
        assert os.pread(file, len(content) + 1, 0) == content
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(file, b"x", 0)


REFUSED_FIRST = {
    "not JSON": (b"GET / HTTP/1.1\r\n\r\n", "hub.malformed"),
    "nothing": (b"\n", "hub.malformed"),
    "deep": (b"[" * 50_000 + b"\n", "hub.malformed"),
    "not UTF-8": (
        b'{"type":"follow","hub":1,"slot":"\xff"}\n',
        "hub.malformed",
    ),
    "no end": (b"x" * (LINE_BYTES_MAX * 2), "hub.malformed"),
    "another version": (b'{"type":"follow","hub":2,"slot":"activity"}\n', "hub.version"),
    "a path": (b'{"type":"follow","hub":1,"slot":"../x"}\n', "hub.malformed"),
    "a long name": (
        b'{"type":"follow","hub":1,"slot":"a","application":"' + b"n" * 65 + b'"}\n',
        "hub.malformed",
    ),
    "counts first": (
        json.dumps(counted(digest_of(b""))).encode() + b"\n",
        "hub.malformed",
    ),
}


@pytest.mark.parametrize("name", REFUSED_FIRST)
def test_what_is_no_beginning_is_refused_with_a_reason(
    process: InferenceProcess, connect: Connect, name: str
) -> None:
    content, code = REFUSED_FIRST[name]
    application = connect()
    application.raw(content)
    refusal = application.hear()
    assert (refusal["type"], refusal["code"]) == ("refused", code)
    assert application.hear() == {}
    assert process.alive()


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "negative": {"requests": -1},
    "absurd": {"requests": REQUESTS_MAX + 1, "latency": [REQUESTS_MAX + 1] + [0] * 41},
    "beyond 64 bits": {"requests": 2**70, "latency": [2**70] + [0] * 41},
    "a fraction": {"requests": 0.5},
    "more errors than requests": {"errors": 2},
    "errors that were answered": {"errors": 1},
    "more NaN than answers": {"non_finite": 2},
    "latencies that were not": {"latency": [2] + [0] * 41},
    "another histogram": {"latency": [1]},
    "a longer histogram": {"latency": [1] + [0] * 42},
    "classes without scores": {"classes": [1], "confidence": [1] + [0] * 19},
    "too many classes": {"classes": [0] * 1025},
    "a confidence too few": {"confidence": [0] * 19},
    "a second beginning": FOLLOW,
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_counts_that_cannot_be_true_are_not_counted(
    process: InferenceProcess, connect: Connect, tmp_path: Path, name: str
) -> None:
    bundle = make_bundle(tmp_path)
    process.load(bundle)
    application = connect()
    application.say(FOLLOW)
    application.hear()
    application.say(counted(bundle.manifest, **IMPOSSIBLE[name]))
    refusal = application.hear()
    assert refusal["code"] in {"hub.tally", "hub.malformed"}
    assert application.hear() == {}
    assert process.health("activity").requests == 0
    assert process.windows() == ()


def test_more_classes_than_requests_can_have_had_are_refused(
    process: InferenceProcess, connect: Connect, tmp_path: Path
) -> None:
    process.load(bundle := make_bundle(tmp_path, scores=True))
    application = connect()
    application.say(FOLLOW)
    application.hear()
    good = {"classes": [256], "confidence": [256] + [0] * 19}
    application.say(counted(bundle.manifest, **good))
    bad = {"classes": [257], "confidence": [257] + [0] * 19}
    application.say(counted(bundle.manifest, **bad))
    assert application.hear()["code"] == "hub.tally"
    assert process.health("activity").requests == 1


def test_only_manifests_that_were_offered_can_be_spoken_of(
    process: InferenceProcess, connect: Connect, tmp_path: Path
) -> None:
    other = make_bundle(tmp_path, slot="other")
    process.load(make_bundle(tmp_path))
    process.load(other)
    application = connect()
    application.say(FOLLOW)
    offer = application.hear()
    application.say(
        counted(other.manifest, errors=1, latency=[0] * 42),
        counted(digest_of(b"made up"), 5),
        {"type": "trouble", "manifest": other.manifest, "code": "x", "detail": "y"},
        counted(offer["manifest"], 7),
    )
    wait_for(lambda: process.health("activity").requests == 7)
    assert process.health("other").requests == 0
    assert {window.manifest for window in process.windows()} == {offer["manifest"]}


def test_counts_that_come_late_are_of_the_model_that_they_name(
    process: InferenceProcess, connect: Connect, tmp_path: Path
) -> None:
    first, second = (make_bundle(tmp_path, version=version) for version in ("1", "2"))
    process.load(first)
    application = connect()
    application.say(FOLLOW)
    application.hear()
    process.load(second)
    assert application.hear()["manifest"] == second.manifest
    process.windows()  # the first one's counts have been fetched
    application.say(counted(first.manifest, 3), counted(second.manifest, 4))
    wait_for(lambda: process.health("activity").requests == 4)
    assert {w.manifest: w.requests for w in process.windows()} == {
        first.manifest: 3,
        second.manifest: 4,
    }
    assert process.windows() == ()


def test_a_flood_of_lines_ends_the_connection(
    process: InferenceProcess, connect: Connect, tmp_path: Path
) -> None:
    process.load(bundle := make_bundle(tmp_path))
    application = connect()
    application.say(FOLLOW)
    application.hear()
    application.say(*[counted(bundle.manifest)] * 2000)
    assert application.hear()["code"] == "hub.flood"
    assert process.health("activity").requests < LIMITS.lines_burst * 2


def test_one_user_does_not_take_every_connection(
    process: InferenceProcess, connect: Connect, follow: Follow, tmp_path: Path
) -> None:
    process.load(make_bundle(tmp_path))
    silent = [connect() for _ in range(LIMITS.connections_of_user_max)]
    last = connect()
    assert last.hear()["code"] == "hub.busy"
    waiting = follow(wait_s=0)
    wait_for(lambda: "sdk.refused: the agent refuses" in waiting.problem)
    assert "hub.busy" in waiting.problem
    for application in silent:
        assert application.hear() == {}, "who says nothing is left after a while"
    waiting.wait(60)
    assert waiting.predict(activity()[0][0]).version == "1"


def test_who_does_not_read_is_left(hub: Path, tmp_path: Path) -> None:
    """A description that is larger than what the kernel keeps for a reader."""
    labels = tuple(f"{number} {'x' * 250}" for number in range(1024))
    bundles = [make_bundle(tmp_path, version=version, labels=labels) for version in ("1", "2")]

    async def run() -> None:
        slots = Slots()
        listening = Hub(slots, HubLimits(write_s_max=0.5))
        slots.switched = listening.changed
        listening.listen(hub)
        await slots.load([bundles[0]], time.monotonic() + 60)
        deaf = Application(hub)
        deaf.say(FOLLOW)
        other = Application(hub)
        await asyncio.to_thread(other.say, FOLLOW)
        assert (await asyncio.to_thread(other.hear))["version"] == "1"
        await slots.load([bundles[1]], time.monotonic() + 60)
        assert (await asyncio.to_thread(other.hear))["version"] == "2"
        await asyncio.to_thread(wait_for, lambda: len(listening) == 1)
        deaf.close()
        other.close()
        await listening.close()

    asyncio.run(run())


def test_descriptors_that_an_application_sends_are_dropped(
    process: InferenceProcess, connect: Connect, tmp_path: Path
) -> None:
    process.load(make_bundle(tmp_path))
    assert process._child is not None
    folder = Path(f"/proc/{process._child.pid}/fd")
    application = connect()
    application.say(FOLLOW)
    application.hear()
    before = len(list(folder.iterdir()))
    carried = array.array("i", [application.socket.fileno()] * 50)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, carried)]
    application.socket.sendmsg([json.dumps(counted(digest_of(b""))).encode() + b"\n"], ancillary)
    application.say(counted(application_manifest(process), 2))
    wait_for(lambda: process.health("activity").requests == 2)
    assert len(list(folder.iterdir())) <= before


def application_manifest(process: InferenceProcess) -> str:
    return process.health("activity").manifest


def test_files_are_not_left_open(
    process: InferenceProcess, connect: Connect, tmp_path: Path
) -> None:
    process.load(make_bundle(tmp_path))
    assert process._child is not None
    folder = Path(f"/proc/{process._child.pid}/fd")
    before = len(list(folder.iterdir()))
    for _ in range(20):
        application = connect()
        application.say(FOLLOW)
        assert application.hear()["type"] == "offer"
        application.close()
    wait_for(lambda: len(list(folder.iterdir())) == before)


@pytest.mark.parametrize(
    ("place", "group", "words"),
    [("hub", "no-such-group", "no group 'no-such-group'"), ("none/hub", "", "No such file")],
)
def test_a_hub_that_cannot_open_takes_no_model_away(
    tmp_path: Path, place: str, group: str, words: str
) -> None:
    process = InferenceProcess(
        host="127.0.0.1", port=0, socket=None, hub=tmp_path / place, hub_group=group
    )
    process.start()
    try:
        (problem,) = process.problems
        assert words in problem
        process.load(make_bundle(tmp_path))
        assert process.health("activity").requests == 0
    finally:
        process.stop()


def test_a_group_may_connect(tmp_path: Path) -> None:
    process = InferenceProcess(
        host="127.0.0.1", port=0, socket=None, hub=tmp_path / "hub", hub_group="nogroup"
    )
    process.start()
    try:
        assert (tmp_path / "hub").group() == "nogroup"
    finally:
        process.stop()
    assert not (tmp_path / "hub").exists()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_lines_are_decoded_or_refused(content: bytes) -> None:
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        decode_from_application(content)


_numbers = st.integers(0, 5)


@settings(max_examples=300, deadline=None)
@given(_numbers, _numbers, _numbers, st.lists(_numbers, max_size=3), st.booleans())
def test_what_is_believed_adds_up(
    requests: int, errors: int, non_finite: int, classes: list[int], scores: bool
) -> None:
    one = Counted(
        manifest=digest_of(b""),
        requests=requests,
        errors=errors,
        non_finite=non_finite,
        refused=0,
        latency=(max(requests - errors, 0), *[0] * 41),
        confidence=(sum(classes), *[0] * 19) if classes else (),
        classes=tuple(classes),
    )
    if not check_counted(one, scores=scores):
        assert errors + non_finite <= requests
        assert scores or not any(classes)
        assert sum(classes) <= 256 * (requests - errors - non_finite)


def test_what_a_trial_has_chosen_comes_with_the_offer(
    process: InferenceProcess, connect: Connect, tmp_path: Path
) -> None:
    bundle = structs.replace(make_bundle(tmp_path), threads=2, provider="CPUExecutionProvider")
    process.load(bundle)
    application = connect()
    application.say(FOLLOW)
    line = application.hear()
    assert (line["threads"], line["provider"]) == (2, "CPUExecutionProvider")
    offer = decode_from_hub(json.dumps(line).encode())
    assert isinstance(offer, Offer)
    loaded = load_offer(offer, application.files, lambda: None)
    assert (loaded.threads, loaded.provider) == (2, "CPUExecutionProvider")
