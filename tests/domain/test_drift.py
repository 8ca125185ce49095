"""Drift judged from counts: the budget of false alarms, changes seen, correlation allowed for."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from edgectl_protocol.names import digest_of
from edgectl_protocol.watching import Feature, Reference
from edgectl_server.domain import two_samples
from edgectl_server.domain.data_quality import examine
from edgectl_server.domain.drift import (
    DriftState,
    Judged,
    Limits,
    Usual,
    Window,
    compare_group,
    evaluate,
    next_state,
)
from edgectl_server.domain.two_samples import chi2_tail, compare

EDGES = np.quantile(np.random.default_rng(0).normal(size=200_000), np.arange(1, 32) / 32)
Rows = np.ndarray


def bins(values: Rows) -> list[int]:
    counts: list[int] = np.bincount(np.searchsorted(EDGES, values, "right"), minlength=32).tolist()
    return counts


def reference(random: np.random.Generator, features: int = 4, rows: int = 2000) -> Reference:
    """Standard normal features."""
    values = random.normal(size=(features, rows))
    return Reference(
        definition=1,
        source="evaluation",
        dataset=digest_of(b""),
        rows=rows,
        inputs=(),
        features=tuple(
            Feature(
                name=f"x.{number}",
                edges=tuple(EDGES.tolist()),
                counts=tuple(bins(one)),
                low=float(one.min()),
                high=float(one.max()),
            )
            for number, one in enumerate(values)
        ),
        classes=(1000, 1000),
    )


def window(
    random: np.random.Generator, values: Rows, *, device: str = "pi-1", site: str = "porto"
) -> Window:
    """Counts of rows of features, [features, rows]."""
    answers = random.integers(0, 2, values.shape[1])
    return Window(
        device,
        site,
        values.shape[1],
        [bins(one) for one in values],
        np.bincount(answers, minlength=2).tolist(),
    )


def by_group(judged: list[Judged]) -> dict[tuple[str, str], Judged]:
    return {(one.level, one.group): one for one in judged}


def test_without_a_change_the_budget_of_false_alarms_holds() -> None:
    """200 evaluations of 3 devices at 2 sites; at a budget of 5 % some 10 may alarm."""
    random = np.random.default_rng(1)
    limits = Limits(false_alarms=0.05, distance=0.0, spread=0.0)
    alarms = 0
    for _ in range(200):
        told = reference(random)
        windows = [
            window(random, random.normal(size=(4, 250)), device=device, site=site)
            for device, site in (("a", "porto"), ("b", "porto"), ("c", "faro"))
            for _ in range(4)
        ]
        alarms += any(one.shifted for one in evaluate(told, windows, limits))
    assert alarms <= 200 * 0.05 + 2 * np.sqrt(200 * 0.05)


def test_a_change_at_one_site_is_found_there_and_named() -> None:
    random = np.random.default_rng(2)
    windows = []
    for number in range(8):
        values = random.normal(size=(4, 600))
        site = "porto" if number < 4 else "faro"
        if site == "faro":
            values[2] += 0.5
        windows.append(window(random, values, device=f"pi-{number}", site=site))
    judged = by_group(evaluate(reference(random), windows, Limits()))
    assert judged["site", "faro"].shifted
    assert judged["site", "porto"].shifted is False
    (finding,) = judged["site", "faro"].findings
    assert finding.feature == "x.2"
    assert finding.comparison.shift == pytest.approx(0.14, abs=0.03), "0.5 standard deviations"
    drifting = {
        group for (level, group), one in judged.items() if level == "device" and one.shifted
    }
    assert drifting == {f"pi-{number}" for number in range(4, 8)}


def test_usual_days_take_findings_away_and_add_none() -> None:
    random = np.random.default_rng(5)
    told = reference(random, features=2)
    night = [
        window(random, random.normal(size=(2, 250)) + np.array([[0.0], [0.9]])) for _ in range(6)
    ]
    plain = by_group(evaluate(told, night, Limits()))["fleet", ""]
    assert [one.feature for one in plain.findings] == ["x.1"]

    def days(count: int, move: float, device: str = "pi-1") -> list[Usual]:
        return [
            Usual(
                date(2031, 1, 1 + number),
                window(
                    random, random.normal(size=(2, 250)) + np.array([[0.3], [move]]), device=device
                ),
            )
            for number in range(count)
        ]

    def found(usual: list[Usual], seen: list[Window] = night) -> dict[str, list[str]]:
        return {
            one.level: [finding.feature for finding in one.findings]
            for one in evaluate(told, seen, Limits(), usual)
        }

    assert found(days(7, 0.9)) == {"fleet": [], "site": [], "device": []}
    assert found(days(7, 0.0)) == {"fleet": ["x.1"], "site": ["x.1"], "device": ["x.1"]}
    assert found(days(2, 0.9))["fleet"] == ["x.1"], "two days are not enough"
    others = found(days(7, 0.9, "pi-2"))
    assert others == {"fleet": [], "site": [], "device": ["x.1"]}, "a device has days of its own"
    quiet = [window(random, random.normal(size=(2, 250))) for _ in range(6)]
    assert found(days(7, 0.9), quiet) == {"fleet": [], "site": [], "device": []}


def test_answers_are_a_feature() -> None:
    random = np.random.default_rng(3)
    values = random.normal(size=(4, 800))
    whole = window(random, values)
    turned = Window(whole.device, whole.site, whole.rows, whole.histograms, [700, 100])
    judged = by_group(evaluate(reference(random), [turned], Limits()))
    assert [one.feature for one in judged["device", "pi-1"].findings] == ["classes"]


def levels(random: np.random.Generator, blocks: int) -> Rows:
    """An autoregressive series of block means: neighbouring rows share most of their value."""
    return random.normal(scale=0.6, size=blocks)


def test_rows_that_resemble_one_another_are_no_drift() -> None:
    """Each window of a device has a level of its own: 250 rows are worth about two.

    The reference is of the same process, seen for long, so that nothing has changed.
    """
    random = np.random.default_rng(4)
    alarms = naive = 0
    runs = 80
    for _ in range(runs):
        windows = []
        for device in range(6):
            for level in levels(random, 6):
                values = level + 0.8 * random.normal(size=(4, 250))
                windows.append(window(random, values, device=f"pi-{device}"))
        told = reference(random, rows=20_000)
        judged = evaluate(told, windows, Limits(distance=0.0, spread=0.0))
        alarms += any(one.shifted for one in judged)
        totals = np.sum([one.histograms[0] for one in windows], axis=0)
        naive += compare(np.array(told.features[0].counts), totals).p_value < 0.01
    assert naive > 0.5 * runs, "the test would see nothing if independent rows were assumed"
    assert alarms <= 0.05 * runs


def test_a_fleet_has_not_drifted_because_its_sensors_differ() -> None:
    random = np.random.default_rng(5)
    alarms = 0
    for _ in range(40):
        offsets = random.normal(scale=0.5, size=30)
        windows = [
            window(random, offset + 0.866 * random.normal(size=(4, 400)), device=f"pi-{number}")
            for number, offset in enumerate(offsets)
        ]
        judged = by_group(evaluate(reference(random, rows=20_000), windows, Limits()))
        alarms += bool(judged["fleet", ""].shifted)
        assert any(one.shifted for (level, _), one in judged.items() if level == "device")
    assert alarms <= 2


def test_what_is_significant_and_small_is_no_finding() -> None:
    random = np.random.default_rng(6)
    values = random.normal(size=(4, 200_000)) + 0.03
    told = reference(random, rows=200_000)
    assert not by_group(evaluate(told, [window(random, values)], Limits()))["fleet", ""].shifted
    all_matters = Limits(distance=0.0, spread=0.0)
    judged = by_group(evaluate(told, [window(random, values)], all_matters))
    assert judged["fleet", ""].shifted


def test_levels_that_ask_the_same_share_no_budget() -> None:
    """One device at one site is the fleet: one question a feature, and not one for each level."""
    random = np.random.default_rng(12)
    told = reference(random)
    alone = [window(random, random.normal(size=(4, 500)) + 0.3)]
    judged = by_group(evaluate(told, alone, Limits()))
    (p_value,) = {one.findings[0].p_value for one in judged.values()}
    name = judged["fleet", ""].findings[0].feature
    assert p_value == 5 * compare_group(told, alone)[name].p_value / 5, "four features and classes"
    # The same p-value decides whether it is a finding: of one level with all of the budget, of two
    # levels with the half. A device with too few rows asks nothing.
    few = window(random, random.normal(size=(4, 50)), device="pi-2")
    other = window(random, random.normal(size=(4, 500)), device="pi-3")
    for windows, levels in ((alone, 1), ([*alone, few], 2), ([*alone, other], 2)):
        least = min(one.p_value for one in evaluate(told, windows, Limits())[0].findings)
        for factor, found in ((1.01, True), (0.99, False)):
            limits = Limits(false_alarms=least * levels * factor)
            assert evaluate(told, windows, limits)[0].shifted is found


def test_few_rows_say_nothing() -> None:
    random = np.random.default_rng(7)
    few = window(random, random.normal(size=(4, 99)) + 5)
    assert {one.shifted for one in evaluate(reference(random), [few], Limits())} == {None}
    assert evaluate(reference(random), [], Limits()) == []


@pytest.mark.parametrize(
    ("seen", "states"),
    [
        ([True, False, True, False], ["suspected", "quiet", "suspected", "quiet"]),
        ([True, True, True], ["suspected", "drifting", "drifting"]),
        ([True, None, True], ["suspected", "suspected", "drifting"]),
        ([True, True, False, True], ["suspected", "drifting", "recovering", "drifting"]),
        ([True, True, False, False], ["suspected", "drifting", "recovering", "quiet"]),
        ([None, False], ["unknown", "quiet"]),
    ],
)
def test_one_evaluation_is_a_suspicion_two_are_drift(
    seen: list[bool | None], states: list[DriftState]
) -> None:
    state: DriftState = "unknown"
    found = []
    for shifted in seen:
        state = next_state(state, shifted)
        found.append(state)
    assert found == states


def test_tests_are_right_where_there_is_a_reference_for_them() -> None:
    from scipy import stats

    for value, freedom in ((10, 3), (31, 31), (90, 31), (50, 6), (0, 3), (1000, 4), (5000, 30)):
        assert chi2_tail(value, freedom) == pytest.approx(stats.chi2.sf(value, freedom), rel=1e-9)
    random = np.random.default_rng(8)
    old, new = random.normal(size=1500), random.normal(size=900) + 0.15
    counts = np.array(bins(old)), np.array(bins(new))
    places = [np.searchsorted(EDGES, one, "right") for one in (old, new)]
    found = compare(*counts)
    assert found.distance == pytest.approx(stats.ks_2samp(*places).statistic, abs=1e-9)
    rank_sum = stats.mannwhitneyu(places[1], places[0], method="asymptotic", use_continuity=False)
    assert found.shift == pytest.approx(rank_sum.statistic / (1500 * 900) - 0.5, abs=1e-9)
    chi2 = stats.chi2_contingency(np.stack(counts), correction=False).pvalue
    splits = [g_test(*counts, edge) for edge in range(1, 32)]
    least = min(31 * min(splits), chi2, rank_sum.pvalue)
    assert found.p_value == pytest.approx(3 * least, rel=0.01), "SciPy's ties are of N - 1"


def g_test(old: np.ndarray, new: np.ndarray, edge: int) -> float:
    from scipy import stats

    table = [[one[:edge].sum(), one[edge:].sum()] for one in (old, new)]
    return float(stats.chi2_contingency(table, correction=False, lambda_="log-likelihood").pvalue)


@pytest.mark.parametrize(("rows", "edge"), [(500, 31), (500, 1), (60, 31), (1200, 16)])
def test_a_split_decides_as_it_does_by_scipy(rows: int, edge: int) -> None:
    """Rows in a tail, where neither the rank sum nor chi² of 32 bins is the least p-value."""
    old = np.full(32, 200)
    new = np.full(32, rows / 32)
    new[edge:] *= 3.5
    found = compare(old, new.round())
    splits = [g_test(old, new.round(), at) for at in range(1, 32)]
    if edge > 1:
        assert found.p_value == pytest.approx(3 * 31 * min(splits), rel=1e-6)
    assert found.p_value <= 3 * 31 * min(splits) * (1 + 1e-6)


def test_a_split_is_as_rare_as_its_p_value_says() -> None:
    """The tail of chi² beside exact binomial tails, where few rows are expected at an edge."""
    from scipy import stats

    reference_rows = 10**9  # as good as exact: a one-sample question
    for rows, share in ((500, 1 / 32), (100, 1 / 32), (2000, 0.001)):
        old = np.array([1 - share, share]) * reference_rows
        expected = rows * share
        for seen in range(int(expected) + 1, int(expected + 6 * np.sqrt(expected)) + 8):
            told = g_test_tail(old, np.array([rows - seen, seen]))
            exact = stats.binom.sf(seen - 1, rows, share)
            assert told >= 0.9 * exact, (rows, share, seen)


def g_test_tail(old: np.ndarray, new: np.ndarray) -> float:
    return two_samples._split(old.astype(float), new.astype(float))[0]


def test_what_moves_a_tail_is_seen_sooner_than_by_kolmogorov_smirnov() -> None:
    from scipy import stats

    random = np.random.default_rng(11)
    split = rows = 0
    for _ in range(60):
        old, new = random.normal(size=1500), random.normal(size=500)
        new[:40] = np.abs(new[:40]) + 1.5
        split += compare(np.array(bins(old)), np.array(bins(new))).p_value < 1e-4
        rows += stats.ks_2samp(old, new).pvalue < 1e-4
    assert rows < 15
    assert split > 2 * rows + 15


@pytest.mark.parametrize(
    "bad", [([0, 0], [5, 5]), ([5, 5], [0, 0]), ([10], [10]), ([9, 0], [9, 0])]
)
def test_histograms_without_a_question_have_no_answer(bad: tuple[list[int], list[int]]) -> None:
    found = compare(np.array(bad[0], float), np.array(bad[1], float))
    assert found.p_value == 1.0


def faults(values: Rows, **changes: object) -> list[tuple[str, str]]:
    random = np.random.default_rng(9)
    told = reference(random)
    whole = window(random, values)
    outside = [
        int(((one < told.features[0].low) | (one > told.features[0].high)).sum()) for one in values
    ]
    one = Window(whole.device, whole.site, whole.rows, whole.histograms, whole.classes, (), outside)
    fields = {**one.__dict__, **changes}
    return [(fault.kind, fault.feature) for fault in examine(told, [Window(**fields)])]


def test_faults_of_the_data_are_named() -> None:
    random = np.random.default_rng(10)
    sound = random.normal(size=(4, 500))
    assert faults(sound) == []
    stuck = sound.copy()
    stuck[1] = 0.001
    assert faults(stuck) == [("constant", "x.1")]
    far = sound.copy()
    far[2] += 20
    assert faults(far) == [("outside", "x.2")]
    at_its_end = np.minimum(sound + 2.2, 2.5)
    assert faults(at_its_end)[0] == ("saturated", "x.0")
    assert faults(sound, clock_shift_s=-3600) == [("clock", "")]
    histograms = [bins(one) for one in sound]
    histograms[3] = bins(sound[3][:400])
    lost = faults(sound, histograms=histograms, missing=(0, 0, 0, 100))
    assert lost == [("missing", "x.3")]
    assert faults(random.normal(size=(4, 20)) + 20) == [], "too few rows"
