"""Labels, selectors as statements, and rollouts by selector, on both databases."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from edgectl_protocol.messages import Capabilities, ReportedState
from edgectl_server.device_filter import OVERDUE_AFTER, Moment
from edgectl_server.device_selection import compile_selector, read_selector
from edgectl_server.domain.selectors import (
    All,
    AnyOf,
    Condition,
    Expression,
    Not,
    Saved,
    to_text,
)
from edgectl_server.errors import NotFound, Refused
from edgectl_server.labels import Labels
from edgectl_server.rollout_sites import read_sites
from edgectl_server.schemas import LabelRequest, RolloutRequest, Selector
from edgectl_server.storage.database import Database
from edgectl_server.storage.tables import Device, ReportedSlot
from server.fleet.fleet_by_hand import PAGE, Fleet
from server.fleet.fleet_helpers import Clock, new_device

NOW = Clock()()
MANIFEST = "sha256:" + "4f" * 32
FLEET: dict[str, dict[str, object]] = {
    "a": {"group": "porto", "labels": {"site": "porto", "hw": "rpi4"}, "online": True},
    "b": {"group": "porto", "labels": {"site": "porto", "hw": "rpi5", "tag": "demo"}},
    "c": {"labels": {"hw": "rpi_x"}, "device_class": "pi"},
    "d": {"labels": {"site": "po%"}},
    "e": {},
}
CAPABILITIES = {
    "a": Capabilities(
        machine="aarch64",
        os="Debian 12",
        cpu_model="Cortex-A72",
        cpu_features=("asimd", "asimddp"),
        runtimes={"onnxruntime": "1.32.0"},
        labels={"site": "lisboa"},
        cores=4,
        memory_bytes=8_000_000_000,
        disk_free_bytes=499_999_999,
    ),
    "b": Capabilities(machine="x86_64", disk_free_bytes=500_000_000, labels={"hw": 'a"b'}),
}


@pytest.fixture
def filled(database: Database) -> Database:
    with database.write() as session:
        for name, fields in FLEET.items():
            reported: object = {}
            if name in CAPABILITIES:
                state = ReportedState(
                    device=name, boot=1, seq=1, online=True, capabilities=CAPABILITIES[name]
                )
                reported = msgspec.to_builtins(state)
            session.add(new_device(name, Clock()(), reported=reported, **fields))
        session.flush()
        session.add(
            ReportedSlot(device="a", slot="har", version="2", manifest=MANIFEST, update_state=None)
        )
        session.add(
            ReportedSlot(device="b", slot="har", version=None, manifest=None, update_state=None)
        )
    return database


def meant(database: Database, text: str) -> str:
    with database.read() as session:
        condition = compile_selector(read_selector(session, text), Moment.at(NOW, OVERDUE_AFTER))
        return "".join(session.scalars(select(Device.id).where(condition).order_by(Device.id)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("site=porto", "ab"),
        ("site=porto and hw=rpi4 and not tag=demo", "a"),
        ("site!=porto", "cde"),
        ("not site=porto", "cde"),
        ("site=*", "abd"),
        ("not site=*", "ce"),
        ("hw=rpi*", "abc"),
        ("cores>=1", "ab"),
        ("cores>=2", "a"),
        ("cores<4", "b"),
        ("cores=4", "a"),
        ("cores!=4", "bcde"),
        ("cores in (1, 3)", "b"),
        ("not cores>=2", "bcde"),
        ("free_disk_mb>=500", "b"),
        ("free_disk_mb<500", "a"),
        ("memory_mb>7999.999 and site=porto", "a"),
        ("hw=rpi_*", "c"),  # no wildcard of the database
        ('site="po%"', "d"),
        ("hw in (rpi4, rpi5)", "ab"),
        ("group=porto", "ab"),
        ("class=pi or device=e", "ce"),
        ("online=true", "a"),
        ("online=false", "bcde"),
        ("reported.site=lisboa", "a"),
        ("reported.site=porto", ""),  # what people have said is another thing
        ("machine=aarch64", "a"),
        ('os="Debian 12"', "a"),
        ("cpu=Cortex*", "a"),
        ("feature=asimd", "a"),
        ("feature=asim", ""),
        ("runtime=onnxruntime", "a"),
        ("not runtime=onnxruntime", "bcde"),
        ("runs=har", "a"),
        ("runs=har@2", "a"),
        ("runs=har@1", ""),
        (f"runs=har@{MANIFEST}", "a"),
        (f"runs=har@{MANIFEST[:-1]}0", ""),
        ("device=a' OR '1'='1", None),
    ],
)  # fmt: skip
def test_which_devices_a_selector_means(filled: Database, text: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(Refused) as caught:
            meant(filled, text)
        assert caught.value.code == "selector.syntax"
        return
    assert meant(filled, text) == expected


_FIELDS = st.sampled_from(["site", "hw", "tag", "group", "device", "class"])
_VALUES = st.sampled_from(["porto", "rpi4", "rpi5", "rpi*", "demo", "a", "b", "pi", "*", "rpi_x"])
_CONDITIONS = st.builds(
    Condition, _FIELDS, st.lists(_VALUES, min_size=1, max_size=3).map(tuple), st.booleans()
)
_EXPRESSIONS = st.recursive(
    _CONDITIONS,
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: All(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: AnyOf(tuple(parts))),
    ),
    max_leaves=8,
)


def holds(expression: Expression, name: str) -> bool:
    """A reference: what an expression says of one device."""
    match expression:
        case Condition(field, values, negated):
            fields = FLEET[name]
            facts = {"device": name, "group": fields.get("group", ""), **fields.get("labels", {})}  # type: ignore[dict-item]
            facts["class"] = fields.get("device_class", "")
            text = str(facts.get(field, ""))
            found = any(
                text != "" and (text.startswith(one[:-1]) if one.endswith("*") else text == one)
                for one in values
            )
            return found is not negated
        case Not(of):
            return not holds(of, name)
        case All(parts):
            return all(holds(one, name) for one in parts)
        case AnyOf(parts):
            return any(holds(one, name) for one in parts)
        case Saved():
            raise AssertionError


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(expression=_EXPRESSIONS)
def test_the_database_means_what_the_words_say(filled: Database, expression: Expression) -> None:
    expected = "".join(name for name in FLEET if holds(expression, name))
    assert meant(filled, to_text(expression)) == expected


# ---------------------------------------------------------------- labels and saved selectors


def test_labels_are_set_and_removed_by_name_and_by_selector(filled: Database) -> None:
    labels = Labels(database=filled, now=Clock())
    done = labels.change(LabelRequest(devices=["d", "e"], set={"site": "faro"}))
    assert (done.matched, done.changed) == (2, 2)
    done = labels.change(LabelRequest(where="site=faro", set={"tag": "new"}, remove=["hw"]))
    assert (done.matched, done.changed) == (2, 2)
    assert meant(filled, "site=faro and tag=new") == "de"
    again = labels.change(LabelRequest(where="site=faro", set={"tag": "new"}))
    assert (again.matched, again.changed) == (2, 0)
    for wrong in (
        LabelRequest(set={"x": "y"}),
        LabelRequest(devices=["a"], where="site=faro"),
        LabelRequest(devices=["a", "nobody"], set={"x": "y"}),
    ):
        with pytest.raises(Refused, match=r"devices|enrolled"):
            labels.change(wrong)
    assert meant(filled, "x=y") == "", "all or nothing"
    many = {f"l{number}": "x" for number in range(31)}
    with pytest.raises(Refused) as caught:
        labels.change(LabelRequest(devices=["b"], set=many))
    assert caught.value.code == "labels.limit"


@pytest.mark.parametrize(
    "name", ["group", "online", "failing", "and", "reported", "Site", "a.b", "-a", ""]
)
def test_a_label_takes_no_name_that_means_something(name: str) -> None:
    with pytest.raises(ValueError, match="set"):
        LabelRequest(devices=["a"], set={name: "x"})


def test_saved_selectors_are_kept_used_and_guarded(filled: Database) -> None:
    labels = Labels(database=filled, now=Clock())
    assert labels.save("porto", "site=porto", "anna").devices == 2
    assert labels.save("pis", "@porto and hw=rpi4", "anna").devices == 1
    assert meant(filled, "@pis or device=e") == "ae"
    for text in ("@nobody", "@porto or @pis"):
        with pytest.raises(Refused) as caught:
            labels.save("porto", text, "anna")
        assert caught.value.code == "selector.unknown"
    with pytest.raises(Refused):
        labels.forget("porto")  # another one names it
    assert [one.name for one in labels.selectors(PAGE).items] == ["pis", "porto"]
    labels.forget("pis")
    labels.forget("porto")
    with pytest.raises(NotFound):
        labels.forget("porto")


def test_what_shares_devices_with_a_selector_is_told(filled: Database) -> None:
    labels = Labels(database=filled, now=Clock())
    labels.save("porto", "site=porto", "anna")
    labels.save("pis", "hw=rpi*", "anna")
    labels.save("elsewhere", "not site=porto", "anna")
    labels.save("nobody", "device=nobody", "anna")
    told = [(one.kind, one.name, one.devices, one.of) for one in labels.overlaps("porto")]
    assert told == [("group", "porto", 2, 2), ("selector", "pis", 2, 3)]
    for kind, name, devices, of in told:
        text = f"@{name}" if kind == "selector" else f"group={name}"
        assert len(meant(filled, text)) == of
        assert len(meant(filled, f"@porto and {text}")) == devices
    with pytest.raises(NotFound):
        labels.overlaps("unknown")


# ---------------------------------------------------------------- rollouts


@pytest.fixture
def fleet(tmp_path: Path, database: Database) -> Fleet:
    fleet = Fleet(tmp_path, database)
    fleet.version("1")
    fleet.add("a", "b", "c")
    return fleet


def start(fleet: Fleet, where: str) -> str:
    asked = RolloutRequest(model="har", version="1", selector=Selector(where=where))
    return fleet.rollouts.start(asked, "anna").id


def test_membership_follows_the_labels_while_a_rollout_runs(fleet: Fleet) -> None:
    labels = Labels(database=fleet.database, now=fleet.clock)
    labels.change(LabelRequest(devices=["a", "b"], set={"site": "porto"}))
    labels.save("porto", "site=porto", "anna")
    with fleet.database.write() as session:
        session.get_one(Device, "b").online = False
        session.get_one(Device, "b").reported = {}  # never said what it is: it is not ordered
    rollout = start(fleet, "@porto and not tag=demo")
    labels.save("porto", "site=faro", "anna")  # a rollout keeps what it meant
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"a": "in_progress", "b": "pending"}
    labels.change(LabelRequest(devices=["c"], set={"site": "porto"}))
    labels.change(LabelRequest(devices=["a", "b"], set={"tag": "demo"}))
    fleet.clock.advance(seconds=5)
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"a": "in_progress", "b": "cancelled", "c": "in_progress"}
    assert fleet.reason(rollout, "b") == "rollout.left"


def test_who_enrols_into_another_group_leaves_its_rollout(fleet: Fleet) -> None:
    with fleet.database.write() as session:
        for name in "ab":
            session.get_one(Device, name).group = "night"
        session.get_one(Device, "b").reported = {}  # never said what it is: it is not ordered
    rollout = fleet.start(group="night")
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"a": "in_progress", "b": "pending"}
    with fleet.database.write() as session:
        for name in "ab":
            session.get_one(Device, name).group = "day"
    fleet.clock.advance(seconds=5)
    fleet.rollouts.tick()
    assert fleet.states(rollout) == {"a": "in_progress", "b": "cancelled"}
    assert fleet.reason(rollout, "b") == "rollout.left"


def test_what_a_device_is_ordered_to_run_is_a_field(fleet: Fleet) -> None:
    fleet.version("2")
    start(fleet, "device in (a, b)")
    fleet.rollouts.tick()
    assert meant(fleet.database, "desired=har") == "ab"
    assert meant(fleet.database, "desired=har@1 and not runs=har@1") == "ab"
    assert meant(fleet.database, "desired=har@2") == ""
    assert meant(fleet.database, "not desired=har") == "c"
    assert meant(fleet.database, "desired=other") == ""


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ("site=", "selector.syntax"),
        ("@nobody", "selector.unknown"),
        ("online=true", "rollout.selector"),
        ("device=a and not (online=false)", "rollout.selector"),
    ],
)
def test_a_selector_that_is_wrong_starts_nothing(fleet: Fleet, where: str, code: str) -> None:
    with pytest.raises(Refused) as caught:
        start(fleet, where)
    assert caught.value.code == code
    assert fleet.rollouts.rollouts(PAGE).total == 0


def test_the_site_of_a_device_is_its_label_or_its_group(fleet: Fleet) -> None:
    labels = Labels(database=fleet.database, now=fleet.clock)
    labels.change(LabelRequest(devices=["a"], set={"site": "porto"}))
    with fleet.database.write() as session:
        session.get_one(Device, "b").group = "porto"
        session.get_one(Device, "b").online = False
    with fleet.database.read() as session:
        sites = read_sites(session)
    assert {name: (one.total, one.available) for name, one in sites.items()} == {
        "porto": (2, 1), "": (1, 1),
    }  # fmt: skip
