"""``edgectl apply``: files that are right, files that are wrong, and what comes of them."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import answers
from cli.fake_server import problem
from edgectl.errors import LocalError
from edgectl.spec_files import DOCUMENTS_MAX, RolloutSpec, read_specs, rollout_yaml
from edgectl.types import GatePolicy, PhaseSpec, RolloutPolicy, RolloutRequest, Selector
from edgectl_server import schemas as s

ROLLOUT = """\
# the canary first
kind: Rollout
model: har
version: "2"
selector: {where: site=porto}
policy:
  max_in_progress: 5
  phases:
    - {name: canary, devices: 5, soak_s: 3600}
"""
SELECTOR = "kind: Selector\nname: pis\ntext: hw=rpi4\n"


@pytest.fixture
def specs(fleet_server):
    applied = s.RolloutApplied(action="start", rollout=answers.rollout(), changed={})
    fleet_server.routes |= {
        ("POST", "/rollouts/apply"): (200, applied),
        ("POST", "/rollouts/plan"): (200, answers.forecast()),
        ("GET", "/selectors"): (
            200,
            s.Page[s.SavedSelectorInfo](items=[answers.saved_selector()], total=1),
        ),
        ("PUT", "/selectors/pis"): (200, answers.saved_selector()),
    }
    return fleet_server


def test_documents_are_applied_in_their_order(logged_in, specs, tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text(f"{SELECTOR}---\n{ROLLOUT}")
    got = logged_in("apply", "-f", str(file), "--json")
    assert got.code == 0, got.err
    first, second = json.loads(got.out)
    assert (first["kind"], first["action"]) == ("Selector", "change")
    assert (second["kind"], second["action"], second["plan"]) == ("Rollout", "start", None)
    (asked,) = specs.requests("POST", "/rollouts/apply")
    assert asked.json()["policy"]["phases"][0]["soak_s"] == 3600
    assert specs.requests("PUT", "/selectors/pis")[0].json() == {"text": "hw=rpi4"}


def test_a_dry_run_changes_nothing_and_shows_the_plan(logged_in, specs, tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text(f"{SELECTOR}---\n{ROLLOUT}")
    got = logged_in("apply", "-f", str(file), "--dry-run")
    assert got.code == 0, got.err
    assert "would be changed" in got.out
    assert "canary" in got.out
    assert not specs.requests("PUT")
    (asked,) = specs.requests("POST", "/rollouts/apply")
    assert asked.query == [("dry_run", "true")]


def test_a_dry_run_takes_the_selectors_of_the_files_for_saved(logged_in, specs, tmp_path):
    """The first time that a file is tried, none of its selectors is there yet."""
    file = tmp_path / "fleet.yaml"
    selectors = "kind: Selector\nname: porto\ntext: site=porto\n---\n"
    selectors += "kind: Selector\nname: few\ntext: '@porto and not tag=demo'\n---\n"
    where = """{where: '@few and x="@few" and runs=har@2 or @other'}"""
    rollout = ROLLOUT.replace("{where: site=porto}", where)
    rollout = rollout.replace("canary, devices: 5", "canary, where: '@few'")
    file.write_text(selectors + rollout)
    got = logged_in("apply", "-f", str(file), "--dry-run")
    assert got.code == 0, got.err
    few = "((site=porto) and not tag=demo)"
    for path in ("/rollouts/apply", "/rollouts/plan"):
        (asked,) = specs.requests("POST", path)
        body = asked.json()
        assert body["selector"]["where"] == f'{few} and x="@few" and runs=har@2 or @other'
        assert body["policy"]["phases"][0]["where"] == few


def test_a_refusal_stops_it(logged_in, specs, tmp_path):
    specs.routes["POST", "/rollouts/apply"] = problem(409, "rollout.unchangeable", hint="put back")
    file = tmp_path / "r.yaml"
    file.write_text(f"{ROLLOUT}---\n{SELECTOR}")
    got = logged_in("apply", "-f", str(file))
    assert (got.code, "error[rollout.unchangeable]" in got.err) == (1, True)
    assert "applying the rollout of har@2" in got.err
    assert not specs.requests("PUT")


def test_nothing_is_done_when_a_file_is_wrong(logged_in, specs, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(f"{SELECTOR}---\n{ROLLOUT}  max_in_progres: 3\n")
    got = logged_in("apply", "-f", str(file))
    assert got.code == 1
    assert f"{file}, line 14: unknown key max_in_progres; do you mean max_in_progress?" in got.err
    assert not specs.seen
    assert logged_in("apply", "-f", str(tmp_path / "none.yaml")).code == 1
    assert logged_in("apply").code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "kind: Rollout\nmodel: har\nversion: 1.10\nselector: {all: true}",
            "line 3: Expected `str`",
        ),
        ("kind: Fax", "line 1: a document begins with"),
        ("- kind: Rollout", "line 1: expected `key: value`"),
        (f"{ROLLOUT}    - {{name: b, devices: x}}\n", "line 10: Expected `int | null`, got `str`"),
        (f"{ROLLOUT}    - {{name: b, device: 1}}\n", "line 10: unknown key device"),
        (f"{ROLLOUT}model: other\n", "line 10: model is there twice"),
        ("kind: Rollout\nmodel: har\n", "line 1: Object missing required field `version`"),
        ("a: &x [1]\nb: *x", "line 1: anchors"),
        ("kind: !!python/object/apply:os.system [id]", "line 1: tags"),
        ("kind: [" * 20, "line 1: more than 16 levels"),
        ("---\na: 1\n" * (DOCUMENTS_MAX + 1), "documents"),
        ("kind: 'Rollout", "this is no YAML"),
        ("kind: \x07", "this is no YAML"),
        ("# nothing", "says nothing"),
        ("x" * 300_000, "more than 262144 characters"),
        ("kind: Rollout\n? [a]\n: b\n", "line 2: a key is a word"),
        ("kind: Rollout\nmodel: 2026-99-99\n", "line 2"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text, words):
    with pytest.raises(LocalError) as caught:
        read_specs(text, "r.yaml")
    assert caught.value.code == "apply.file"
    assert words in caught.value.detail


def test_a_bomb_of_aliases_costs_nothing():
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
    )
    with pytest.raises(LocalError, match="anchors and aliases"):
        read_specs(bomb, "r.yaml")


@given(st.text(alphabet="kind: Rolout\n-[]{},'\"&*!#|>%@0123456789ty", max_size=60))
def test_any_text_is_a_spec_or_a_documented_error(text):
    codes = set()
    for whole in (text, ROLLOUT + text):
        try:
            read_specs(whole, "r.yaml")
        except LocalError as error:
            codes.add(error.code)
    assert codes <= {"apply.file"}


def test_what_is_exported_says_the_same(logged_in, fleet_server):
    policy = RolloutPolicy(
        max_in_progress=3,
        latency_ratio_max=None,
        windows="mon-fri 02:00-04:00",
        gates=GatePolicy(success_min=0.9),
        phases=[PhaseSpec(name="no", devices=1), PhaseSpec(name="2", percent=50.0, approval=True)],
    )
    request = RolloutRequest("har", "1.10", Selector(devices=["pi-1", "on"]), policy)
    (spec,) = read_specs(rollout_yaml(request), "r.yaml")
    assert isinstance(spec, RolloutSpec)
    assert spec.request() == request
    info = answers.rollout()
    fleet_server.routes["GET", "/rollouts/R1"] = (200, info)
    got = logged_in("rollout", "export", "R1")
    assert got.out == "kind: Rollout\nmodel: har\nversion: '1'\nselector:\n  all: true\n"
    as_json = json.loads(logged_in("rollout", "export", "R1", "--json").out)
    assert msgspec.convert(as_json, RolloutRequest).version == "1"
