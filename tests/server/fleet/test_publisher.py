"""What the broker is made to hold: bounded, cleared, and never forgotten."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from edgectl_protocol import topics
from edgectl_protocol.chunks import chunk_count
from edgectl_protocol.manifest import CARD_FILE, MODEL_FILES, decode_manifest, layer_by_file
from edgectl_protocol.messages import SeedRequest
from edgectl_protocol.names import digest_of
from edgectl_server.clock import now
from edgectl_server.distribution.publisher import Publisher
from edgectl_server.schemas import RolloutRequest, Selector
from edgectl_server.storage.tables import BundleVariant, Delta, Retained
from server.fleet.conftest import Site
from waiting import wait_for


@pytest.fixture
def broker() -> str:
    return "embedded"


@pytest.fixture
def quiet(site: Site) -> Site:
    """A site whose ticker does not publish: the test does."""
    site.plane.ticker.close()
    return site


def start(site: Site, version: str = "1") -> str:
    request = RolloutRequest(model="har", version=version, selector=Selector(all=True))
    return site.plane.rollouts.start(request, "anna").id


def publisher_of(site: Site, **options: int) -> Publisher:
    return Publisher(
        database=site.database,
        blobs=site.blobs,
        repository=site.plane.repository,
        link=site.plane.link,
        now=now,
        **options,
    )


def noted(site: Site) -> dict[str, bool]:
    with site.database.read() as session:
        rows = session.scalars(select(Retained).where(Retained.kind == "blob"))
        return {row.key: row.complete for row in rows}


def model_of(site: Site, manifest: str):
    return layer_by_file(decode_manifest(site.blobs.read(manifest)), MODEL_FILES["onnx"])


def test_devices_layers_of_all_variants_and_no_documents(quiet: Site) -> None:
    manifests = quiet.version()
    quiet.pi("pi-1")
    start(quiet)
    quiet.plane.publisher.reconcile()
    held = noted(quiet)
    assert len(held) == 6  # of two variants each manifest, model and config
    assert all(held.values())
    for manifest in manifests.values():
        layers = decode_manifest(quiet.blobs.read(manifest))
        assert manifest in held
        assert layer_by_file(layers, CARD_FILE).digest not in held
    quiet.plane.publisher.reconcile()
    assert noted(quiet) == held


def test_a_stop_in_the_middle_is_gone_on_with_and_cleared_later(quiet: Site) -> None:
    quiet.version()
    pi = quiet.pi("pi-1")
    rollout = start(quiet)
    half = publisher_of(quiet)
    publish = quiet.plane.link.publish
    sent = []

    def stop_after_three(topic: str, payload: bytes, *args: object, **options: object) -> None:
        if topic.startswith("edgectl/v1/blob/"):
            sent.append(topic)
            if len(sent) == 3:
                half.close()
        publish(topic, payload, *args, **options)

    quiet.plane.link.publish = stop_after_three
    half.reconcile()
    quiet.plane.link.publish = publish
    assert len(sent) == 3
    assert not all(noted(quiet).values())

    quiet.plane.rollouts.abort(rollout, "anna", "")
    quiet.plane.publisher.reconcile()  # another run: it knows what was begun, and clears it
    assert noted(quiet) == {}
    pi.subscribe(*sent)
    assert quiet.plane.link.flush(5)
    marker = topics.head()
    pi.subscribe(marker)
    wait_for(lambda: marker in pi.got)
    assert [topic for topic in sent if any(pi.got.get(topic, []))] == []


def test_the_budget_is_kept_the_older_rollout_first(quiet: Site, caplog) -> None:
    older = quiet.version("1", sizes={"fp32": 300_000})
    newer = quiet.version("2", sizes={"fp32": 300_000})
    quiet.pi("pi-1")
    quiet.pi("pi-2")
    for version, device in (("1", "pi-1"), ("2", "pi-2")):
        selector = Selector(devices=[device])
        request = RolloutRequest(model="har", version=version, selector=selector)
        quiet.plane.rollouts.start(request, "anna")
    small = publisher_of(quiet, budget_bytes=400_000)
    for _ in range(3):
        small.reconcile()
    held = noted(quiet)
    assert model_of(quiet, older["fp32"]).digest in held
    assert model_of(quiet, newer["fp32"]).digest not in held
    assert caplog.text.count("do not fit into the broker's budget") == 1


def test_a_broker_that_forgot_gets_everything_again(quiet: Site) -> None:
    manifests = quiet.version()
    pi = quiet.pi("pi-1")
    start(quiet)
    quiet.plane.publisher.reconcile()
    model = model_of(quiet, manifests["fp32"])
    name = topics.chunk(model.digest, chunk_count(model.size) - 1)
    quiet.plane.link.publish(name, b"", retain=True)
    assert quiet.plane.link.flush(5)
    pi.subscribe(name)
    quiet.plane.publisher.reconcile()
    assert not any(pi.got.get(name, []))
    quiet.plane.publisher.forget()
    quiet.plane.publisher.reconcile()
    wait_for(lambda: any(pi.got.get(name, [])))


def test_seeds_are_limited_and_expire(quiet: Site, monkeypatch) -> None:
    manifests = quiet.version()
    pi = quiet.pi("pi-1")
    rollout = start(quiet)
    wait_for(lambda: quiet.plane.fleet.device("pi-1").capabilities)
    quiet.plane.rollouts.tick()
    with quiet.database.write() as session:  # the rollout ends, the device keeps what it shall run
        from edgectl_server.storage.tables import Rollout

        session.get_one(Rollout, rollout).state = "completed"
    publisher = publisher_of(quiet)
    digest = manifests["int8"]
    name = topics.chunk(digest, 0)
    pi.subscribe(name)
    for _ in range(5):
        publisher.seed(SeedRequest(device="pi-1", blob=digest, chunks=(0,)))
    publisher.reconcile()
    wait_for(lambda: pi.got.get(name))
    publisher.seed(SeedRequest(device="pi-1", blob=digest, chunks=(0,)))  # too soon
    publisher.seed(SeedRequest(device="pi-1", blob=digest_of(b"else"), chunks=(0,)))  # not its own
    publisher.reconcile()
    assert noted(quiet) == {digest: True}
    assert len(pi.got[name]) == 1

    monkeypatch.setattr(publisher, "_now", lambda: now() + timedelta(hours=2))
    publisher.reconcile()
    assert noted(quiet) == {}
    wait_for(lambda: pi.got[name][-1] == b"")


def test_deltas_are_there_for_as_long_as_their_rollout(quiet: Site) -> None:
    quiet.version("1", models={"fp32": b"one" * 1000})
    manifests = quiet.version("2", models={"fp32": b"two" * 1000})
    pi = quiet.pi("pi-1")
    delta = b"a delta " * 20_000
    digest = quiet.blobs.add_bytes(delta)
    with quiet.database.write() as session:
        wanted = select(BundleVariant).where(BundleVariant.manifest == manifests["fp32"])
        session.add(
            Delta(
                version_id=session.scalars(wanted).one().version_id,
                variant="fp32",
                base_version="1",
                base_manifest=digest_of(b"base"),
                manifest=manifests["fp32"],
                state="ready",
                base=digest_of(b"base"),
                target=digest_of(b"target"),
                digest=digest,
                bytes=len(delta),
                created_at=now(),
            )
        )
    quiet.plane.publisher.reconcile()
    assert noted(quiet) == {}
    rollout = start(quiet, "2")
    quiet.plane.publisher.reconcile()
    assert noted(quiet)[digest]
    assert pi.fetch(digest, len(delta)) == delta
    quiet.plane.rollouts.abort(rollout, "anna", "")
    quiet.plane.publisher.reconcile()
    assert noted(quiet) == {}


def test_one_device_cannot_push_out_what_others_lack(quiet: Site, monkeypatch) -> None:
    quiet.version()
    publisher = publisher_of(quiet)
    answered = []
    monkeypatch.setattr(publisher, "_answer_seed", lambda one: answered.append(one.device))
    publisher.seed(SeedRequest(device="pi-1", blob=digest_of(b"model"), chunks=(0,)))
    for number in range(300):
        blob = digest_of(b"%d" % number)
        publisher.seed(SeedRequest(device="pi-2", blob=blob, chunks=(0,)))
    publisher._answer_seeds()
    assert answered[0] == "pi-1"
    assert len(answered) <= 9


def test_a_clock_that_was_set_back_does_not_hold_up_who_lacks_something(
    quiet: Site, monkeypatch
) -> None:
    publisher = publisher_of(quiet)
    answered = []
    monkeypatch.setattr(publisher, "_answer_seed", answered.append)
    request = SeedRequest(device="pi-1", blob=digest_of(b"model"), chunks=(0,))
    at = now()
    for seconds, count in ((0, 1), (1, 1), (-86400, 2), (-86399, 2), (-86300, 3)):
        monkeypatch.setattr(publisher, "_now", lambda by=seconds: at + timedelta(seconds=by))
        publisher.seed(request)
        publisher._answer_seeds()
        assert len(answered) == count, seconds
