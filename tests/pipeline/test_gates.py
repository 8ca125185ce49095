"""Gates: each passes, fails, or has not enough to tell; what is allowed says by whom."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl_protocol.errors import InvalidRequirement
from edgectl_protocol.manifest import GateResult, Scores, TensorSpec
from edgectl_protocol.requirements import (
    KINDS,
    check_allowed,
    format_requirement,
    parse_requirement,
)
from edgectl_server.pipeline.gates import (
    Contract,
    Demands,
    Reading,
    check_contract,
    check_data_rows,
    check_variant,
    contract_changes,
    reason,
    refuses,
)
from edgectl_server.pipeline.spec import DataCheckRow


def demands(*requirements, allow=(), max_drop=1.0):
    return Demands(
        max_drop_points=max_drop,
        requirements=tuple(parse_requirement(one) for one in requirements),
        allowed=frozenset(allow),
        allowed_by="ann",
    )


def check(asked, *, finite=True, **readings):
    read = {
        name: one if isinstance(one, Reading) else Reading(one) for name, one in readings.items()
    }
    return {one.name: one for one in check_variant(read, asked, finite=finite)}


def test_drop_and_finite_are_always_there():
    found = check(demands(), drop=0.5)
    assert list(found) == ["finite", "drop"]
    assert [one.status for one in found.values()] == ["passed", "passed"]
    assert refuses(found.values()) == ()


@pytest.mark.parametrize(("drop", "status"), [(1.0, "passed"), (1.1, "failed"), (-5, "passed")])
def test_the_loss_has_a_bound(drop, status):
    found = check(demands(max_drop=1.0), drop=drop)["drop"]
    assert (found.status, found.measured, found.bound) == (status, drop, 1.0)


def test_a_loss_of_one_point_is_no_more_than_one():
    """In binary 100 * (0.9 - 0.89) is 1.0000000000000009."""
    assert 100 * (0.9 - 0.89) > 1.0
    assert check(demands(max_drop=1.0), drop=100 * (0.9 - 0.89))["drop"].status == "passed"


def test_without_data_the_loss_refuses_nothing():
    found = check(demands())
    assert found["drop"].status == "not_enough_data"
    assert refuses(found.values()) == ()


REQUIRED = [
    ("accuracy>=0.9", 0.9, 0.89),
    ("rmse<=2", 2, 2.1),
    ("own<=3", -7, 3.5),
    ("own>=3", 3, 2),
    ("class_recall_drop<=3", 3, 4),
    ("parent_agreement>=0.95", 1.0, 0.9),
    ("size<=200kB", 200_000, 200_001),
    ("latency_p95<=5ms", 5000, 5001),
    ("ram<=80MB", 1, 80_000_001),
]


@pytest.mark.parametrize(("text", "good", "bad"), REQUIRED)
def test_what_is_required(text, good, bad):
    name = parse_requirement(text).name
    asked = demands(text)
    assert check(asked, **{name: good})[name].status == "passed"
    failed = check(asked, **{name: bad})[name]
    assert failed.status == "failed"
    assert refuses([failed]) == (failed,)
    assert format_requirement(parse_requirement(text)) in reason(failed)
    assert failed.unit == KINDS[name].unit


@pytest.mark.parametrize(("text", "good", "bad"), REQUIRED)
def test_what_is_required_and_not_measured_is_refused(text, good, bad):
    """Or leaving the data out would be the way around."""
    name = parse_requirement(text).name
    for reading in ({}, {name: Reading(None, "no labels")}, {name: math.nan}, {name: math.inf}):
        found = check(demands(text), **reading)[name]
        assert found.status == "not_enough_data"
        assert found.measured is None
        assert refuses([found])
        assert "not enough data" in reason(found)


def test_numbers_that_are_none_are_worth_nothing():
    """NaN in the outputs: what they are worth counts as not measured, size and time as measured."""
    asked = demands("accuracy>=0.1", "size<=1kB", "own<=9")
    found = check(asked, finite=False, accuracy=0.9, size=10, own=1, drop=0.0)
    assert {name: one.status for name, one in found.items()} == {
        "finite": "failed",
        "drop": "not_enough_data",
        "accuracy": "not_enough_data",
        "size": "passed",
        "own": "not_enough_data",
    }
    assert found["finite"] in refuses(found.values())


def test_what_is_allowed_is_overridden_and_says_by_whom():
    asked = demands("size<=1kB", "accuracy>=0.9", allow=["size", "accuracy", "drop"])
    found = check(asked, drop=3, size=2000)
    for name in ("drop", "size", "accuracy"):
        assert (found[name].status, found[name].overridden_by) == ("overridden", "ann")
    assert found["size"].measured == 2000
    assert refuses(found.values()) == ()


def test_what_passes_is_not_overridden():
    found = check(demands("size<=1kB", allow=["size", "drop"]), size=10, drop=0)
    assert {one.status for one in found.values()} == {"passed"}


def test_allowing_one_gate_allows_no_other():
    found = check(demands("size<=1kB", "ram<=1kB", allow=["size"]), size=2000, ram=2000, drop=0)
    assert [one.name for one in refuses(found.values())] == ["ram"]


def test_nobody_can_allow_what_is_not_finite():
    found = check(demands(allow=["finite"]), finite=False)
    assert found["finite"].status == "failed"
    assert refuses(found.values())
    with pytest.raises(InvalidRequirement):
        check_allowed("finite")


@given(
    st.dictionaries(
        st.sampled_from(sorted(KINDS)), st.floats(allow_nan=True, allow_infinity=True), max_size=5
    ),
    st.booleans(),
)
def test_whatever_is_measured_can_be_signed_and_read(measured, finite):
    asked = demands(*(text for text, _, _ in REQUIRED))
    read = {name: Reading(one, "x" * 2000) for name, one in measured.items()}
    for result in check_variant(read, asked, finite=finite):
        content = msgspec.json.encode(result)
        assert msgspec.json.decode(content, type=GateResult) == result
        assert reason(result)


# ---------------------------------------------------------------- contract

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 3))
Y = TensorSpec(name="y", datatype="FP32", shape=(-1, 2))
LOGITS = Scores(output="y", kind="logits")
BEFORE = Contract(inputs=(X,), outputs=(Y,), scores=LOGITS, labels=("cat", "dog"))


def other(spec, **fields):
    return msgspec.structs.replace(spec, **fields)


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (Contract((other(X, name="z"),), (Y,), LOGITS), ("'x' is gone", "'z' is new")),
        (Contract((other(X, datatype="FP16"),), (Y,), LOGITS), ("was FP32, now FP16",)),
        (Contract((other(X, shape=(-1, 4)),), (Y,), LOGITS), ("[-1, 3], now [-1, 4]",)),
        (Contract((other(X, shape=(1, 3)),), (Y,), LOGITS), ("now [1, 3]",)),
        (Contract((other(X, shape=(-1, 3, 1)),), (Y,), LOGITS), ("now [-1, 3, 1]",)),
        (Contract((X, other(X, name="more")), (Y,), LOGITS), ("'more' is new",)),
        (Contract((X,), (other(Y, name="z"),), None), ("output 'y' is gone",)),
        (Contract((X,), (other(Y, datatype="FP64"),), LOGITS), ("was FP32, now FP64",)),
        (Contract((X,), (other(Y, shape=(-1, 3)),), LOGITS), ("now [-1, 3]",)),
        (
            Contract((X,), (Y,), Scores(output="y", kind="probabilities")),
            ("were logits", "now probabilities"),
        ),
        (Contract((X,), (Y,), LOGITS, ("dog", "cat")), ("order", "class 0 was 'cat', now 'dog'")),
        (Contract((X,), (Y,), LOGITS, ("cat", "fox")), ("gone: 'dog'", "new: 'fox'")),
        (Contract((X,), (Y,), LOGITS, ("cat", "dog", "dog")), ("number is another",)),
    ],
)
def test_what_applications_would_stumble_over(after, says):
    changes = "; ".join(contract_changes(BEFORE, after))
    for part in says:
        assert part in changes
    assert check_contract(BEFORE, after, demands()).status == "failed"
    allowed = check_contract(BEFORE, after, demands(allow=["contract"]))
    assert (allowed.status, allowed.overridden_by) == ("overridden", "ann")


@pytest.mark.parametrize(
    "after",
    [
        BEFORE,
        Contract((X,), (Y, other(Y, name="more")), LOGITS, ("cat", "dog")),
        Contract((X,), (Y,), LOGITS, ()),
        Contract((X,), (Y,), None, ("cat", "dog")),
    ],
)
def test_what_they_would_not(after):
    assert contract_changes(BEFORE, after) == ()


def test_a_free_dimension_accepts_what_a_fixed_one_did():
    fixed = Contract((other(X, shape=(1, 3)),), (other(Y, shape=(1, 2)),), LOGITS)
    assert contract_changes(fixed, BEFORE) == ()


def test_nothing_is_replaced():
    result = check_contract(None, BEFORE, demands(allow=["contract"]))
    assert result.status == "not_enough_data"
    assert refuses([result]) == ()


def test_a_thousand_labels_in_another_order_are_a_short_sentence():
    labels = tuple(f"a class with a long name {number}" for number in range(1000))
    before = Contract((X,), (Y,), LOGITS, labels)
    after = Contract((X,), (Y,), LOGITS, labels[::-1])
    result = check_contract(before, after, demands())
    assert "and 997 more" in result.detail
    assert len(result.detail) <= 512


# ---------------------------------------------------------------- data


def test_errors_in_the_data_refuse():
    warning = DataCheckRow(name="range", severity="warning", detail="far out")
    error = DataCheckRow(name="one_class", severity="error", detail="all are 3")
    assert check_data_rows([warning], demands()).status == "passed"
    refused = check_data_rows([error, warning], demands())
    assert refused.status == "failed"
    assert "one_class: all are 3" in refused.detail
    assert check_data_rows([error], demands(allow=["data"])).status == "overridden"
