"""Samples on a device: what may leave in a day, what goes first, and what a device forbids."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from agent.core.made import START
from agent.core.simulated_disk import PowerCut, SimulatedDisk, Survival
from edgectl_agent.core.timing import Moment
from edgectl_agent.durable import Disk, RealDisk
from edgectl_agent.samples import OFFERED_MAX, Samples
from edgectl_agent.uploads import Held, Uploads
from edgectl_protocol.messages import Reason, encode
from edgectl_protocol.names import digest_of
from edgectl_protocol.samples import (
    SampleNote,
    SamplePolicy,
    SampleReason,
    SampleTensor,
    encode_sample,
)
from edgectl_protocol.sealed_samples import SEALED_MEDIA_TYPE, seal_sample
from edgectl_protocol.uploads import UploadWanted

BOTH = SamplePolicy(bytes_per_day=100_000, reasons=("random", "uncertain"))


def sample(
    seed: int,
    *,
    reason: SampleReason = "uncertain",
    size: int = 1000,
    model: str = "har",
    redacted: Literal["", "yes"] = "",
) -> bytes:
    """A sample taken `seed` seconds after the start."""
    note = SampleNote(
        model=model,
        version="1",
        manifest=digest_of(b"m"),
        reason=reason,
        taken_at=START + timedelta(seconds=seed),
        redacted=redacted,
    )
    content = seed.to_bytes(2, "big") + bytes(size - 2)
    return encode_sample(note, [(SampleTensor("input.x", "U8", (size,)), content)])


LENGTH = len(sample(1))


class Device:
    """A device between two starts."""

    def __init__(
        self,
        disk: Disk,
        *,
        allowed: bool = True,
        bytes_max: int = 10**6,
        redacts: bool = False,
    ) -> None:
        self.offered: list[Held] = []
        self.uploads = Uploads(
            "pi-1",
            disk,
            bytes_max=10**6,
            bytes_per_s=2**30,
            offer=self.offered.append,
            voice=self,
            say=lambda line: None,
        )
        self.samples = Samples(
            disk, self.uploads, allowed=allowed, bytes_max=bytes_max, redacts=redacts
        )

    def connected(self) -> bool:
        return True

    def publish_bulk(self, topic: str, payload: bytes) -> bool:
        return True

    def pump(self, policy: SamplePolicy = BOTH, at: datetime = START) -> None:
        policies = self.samples.policies({"har": policy})
        self.samples.pump(policies, Moment(at, 0.0))

    def keep(self, *contents: bytes, policy: SamplePolicy = BOTH) -> None:
        for content in contents:
            self.samples.keep(content, self.samples.policies({"har": policy}))

    def end(self, **how: Any) -> None:
        """Let the server end all that is on offer."""
        for held in self.uploads.held("sample"):
            self.uploads.take(encode(UploadWanted(upload=held.upload, **how)), 0.0)


@pytest.fixture
def disk(tmp_path: Path) -> RealDisk:
    return RealDisk(tmp_path)


def kept(disk: Disk) -> list[str]:
    return [name for name in disk.list("samples") if name != "spent.json"]


def test_a_sample_is_offered_with_what_it_is_of(disk: RealDisk) -> None:
    device = Device(disk)
    device.keep(sample(1))
    assert len(kept(disk)) == 1
    device.pump()
    (held,) = device.offered
    assert held.sample is not None
    assert (held.kind, held.sample.model, held.sample.reason) == ("sample", "har", "uncertain")
    assert held.upload == digest_of(sample(1))
    assert kept(disk) == [], "it is in one folder only"
    path = Path(disk.locate("uploads/" + held.upload.removeprefix("sha256:")))
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_few_are_on_offer_at_a_time_the_oldest_first(disk: RealDisk) -> None:
    device = Device(disk)
    device.keep(*(sample(seed) for seed in (5, 4, 3, 2, 1, 6)))
    device.pump()
    device.pump()
    assert [held.upload for held in device.offered] == [
        digest_of(sample(seed)) for seed in range(1, OFFERED_MAX + 1)
    ]
    device.end(done=True)
    device.pump()
    assert len(device.offered) == 6


def test_the_budget_of_a_day_survives_restarts_and_clocks_that_jump(disk: RealDisk) -> None:
    policy = SamplePolicy(bytes_per_day=2 * LENGTH, reasons=("uncertain",))
    sent = 0
    for seed in range(1, 11):
        device = Device(disk)
        device.keep(sample(seed), policy=policy)
        # Each start without a battery: first the day of the last shutdown, then today.
        for day in (-400, 0):
            device.pump(policy, START + timedelta(days=day))
            sent += len(device.uploads.held("sample"))
            device.end(done=True)
    assert sent == 4, "two for each of the two days, however often it starts"
    device = Device(disk)
    device.pump(policy, START + timedelta(days=1))
    assert len(device.offered) == 2, "the next day begins anew"


def test_a_refusal_ends_a_sample_and_its_budget_is_spent(disk: RealDisk) -> None:
    policy = SamplePolicy(bytes_per_day=LENGTH, reasons=("uncertain",))
    device = Device(disk)
    device.keep(sample(1), sample(2), policy=policy)
    device.pump(policy)
    device.end(refused=Reason(code="sample.budget", detail="too much"))
    device.pump(policy)
    assert len(device.offered) == 1
    assert len(kept(disk)) == 1


def test_the_oldest_of_the_largest_reason_goes_first(disk: RealDisk) -> None:
    device = Device(disk, bytes_max=4 * LENGTH)
    device.keep(sample(1, reason="random"))
    device.keep(*(sample(seed) for seed in range(2, 7)))
    names = {digest_of(one).removeprefix("sha256:") for one in (
        sample(1, reason="random"), *(sample(seed) for seed in (4, 5, 6)))}  # fmt: skip
    assert set(kept(disk)) == names
    device.keep(sample(9, size=5 * LENGTH))
    assert set(kept(disk)) == names, "what has no room at all takes none"


def test_a_device_that_forbids_it_keeps_and_sends_nothing(disk: RealDisk) -> None:
    """Privacy mode wins over the server's policy, and over what was kept before."""
    before = Device(disk)
    before.keep(*(sample(seed) for seed in range(6)))
    before.pump()
    assert before.uploads.held("sample")
    assert kept(disk)
    device = Device(disk, allowed=False)
    assert device.samples.policies({"har": BOTH}) == {}
    device.samples.tidy(device.samples.policies({"har": BOTH}))
    device.uploads.start(0.0)
    assert device.offered == [], "not even what was on offer before"
    device.keep(sample(7))
    device.pump()
    assert device.offered == []
    assert device.uploads.held("sample") == ()
    assert kept(disk) == []
    assert disk.list("uploads") == ()


@pytest.mark.parametrize(
    "policy",
    [SamplePolicy(), SamplePolicy(bytes_per_day=10**6, reasons=("random",))],
    ids=["off", "another reason"],
)
def test_a_policy_that_goes_takes_with_it_what_was_kept(
    disk: RealDisk, policy: SamplePolicy
) -> None:
    device = Device(disk)
    device.keep(*(sample(seed) for seed in range(6)))
    device.pump()
    device.pump(policy)
    assert device.uploads.held("sample") == ()
    assert kept(disk) == []


def test_a_model_without_a_policy_gives_nothing(disk: RealDisk) -> None:
    device = Device(disk)
    device.keep(sample(1, model="other"), b"no sample at all")
    assert kept(disk) == []


def test_an_upload_that_is_no_sample_does_not_give_way(disk: RealDisk) -> None:
    device = Device(disk)
    for number in range(15):
        device.uploads.add("logs", bytes([number]), "text/plain", at=START, elapsed_s=0.0)
    device.keep(*(sample(seed) for seed in range(3)))
    device.pump()
    assert len(device.uploads.held("logs")) == 15
    assert len(device.uploads.held("sample")) == 1


def test_what_is_no_sample_is_removed_at_the_start(disk: RealDisk) -> None:
    Device(disk).keep(sample(1))
    for name, content in (("f" * 64, b"\0" * 20), ("half.tmp", sample(2)), ("x", b"")):
        disk.write(f"samples/{name}", content)
    disk.write("samples/spent.json", b"[" * 100_000)
    device = Device(disk)
    assert kept(disk) == [digest_of(sample(1)).removeprefix("sha256:")]
    device.pump()
    assert len(device.offered) == 1
    assert json.loads(disk.read("samples/spent.json"))["har"]["2026-11-23"] == LENGTH


KEYED = SamplePolicy(bytes_per_day=100_000, reasons=("random", "uncertain"), key=bytes(range(32)))


def sealed(seed: int) -> bytes:
    """What the sample process gives; nothing here opens it."""
    return seal_sample(
        sample(seed),
        device="pi-1",
        key=bytes(range(32)),
        encrypt=lambda plain, _: bytes(48 + len(plain)),
    )


def test_a_sealed_sample_is_kept_and_offered_as_one(disk: RealDisk) -> None:
    device = Device(disk)
    assert device.samples.key_of(sample(1), {"har": KEYED}) == KEYED.key
    assert device.samples.key_of(sample(1), {"har": BOTH}) is None
    device.keep(sealed(1), policy=KEYED)
    again = Device(disk)
    again.pump(KEYED)
    (held,) = again.offered
    assert (held.media_type, held.upload) == (SEALED_MEDIA_TYPE, digest_of(sealed(1)))
    assert held.sample is not None
    assert held.sample.model == "har"


def test_where_the_policy_has_a_key_nothing_plain_lies_or_leaves(disk: RealDisk) -> None:
    """Also what was kept, or was on offer, before it had one."""
    before = Device(disk)
    before.keep(*(sample(seed) for seed in range(6)))
    before.pump()
    assert before.uploads.held("sample")
    assert kept(disk)
    device = Device(disk)
    device.samples.tidy({"har": KEYED})
    device.uploads.start(0.0)
    assert device.offered == []
    assert (kept(disk), disk.list("uploads")) == ([], ())
    device.keep(sample(9), policy=KEYED)
    assert kept(disk) == [], "nor by a mistake of ours"
    device.keep(sealed(10), policy=KEYED)
    device.samples.tidy({"har": BOTH})
    assert len(kept(disk)) == 1, "what is sealed stays when the policy has no key any more"


def test_where_the_owner_wants_redaction_nothing_else_lies_or_leaves(disk: RealDisk) -> None:
    before = Device(disk)
    before.keep(*(sample(seed) for seed in range(6)))
    before.pump()
    device = Device(disk, redacts=True)
    device.samples.tidy({"har": BOTH})
    assert (kept(disk), disk.list("uploads")) == ([], ())
    device.keep(sample(8), sample(9, redacted="yes"))
    assert kept(disk) == [digest_of(sample(9, redacted="yes")).removeprefix("sha256:")]


@pytest.mark.parametrize("survival", ["lost", "kept", "random"])
def test_wherever_the_power_goes_no_more_leaves_than_may(survival: Survival) -> None:
    policy = SamplePolicy(bytes_per_day=LENGTH, reasons=("uncertain",))
    for cut in range(100):
        disk = SimulatedDisk()
        disk.cut_at = cut
        offered, whole = list[Held](), False
        try:
            device = Device(disk)
            offered = device.offered
            device.keep(sample(1), sample(2), policy=policy)
            device.pump(policy)
            whole = True
        except PowerCut:
            disk.reboot(survival, random.Random(cut))
        again = Device(disk)
        again.uploads.start(0.0)
        again.pump(policy)
        left = {held.upload for held in (*offered, *again.offered)}
        assert len(left) <= 1, f"{left} have left, cut at {cut}"
        if whole:
            assert left == {digest_of(sample(1))}
            return
    pytest.fail("it never came to its end")
