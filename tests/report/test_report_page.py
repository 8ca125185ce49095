"""The report page: what is on it, that nothing foreign becomes markup, and that it reads well."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from axe_playwright_python.sync_playwright import Axe
from hypothesis import given, settings
from hypothesis import strategies as st

from edgectl_server.report_page import document, plots
from edgectl_server.report_page.page import CONTENT_SECURITY_POLICY, PAGE_BYTES_MAX, render
from report.documents import EVIL, poisoned, report, version
from ui.browser import PHONE, WIDE, launched

HEADINGS = [
    "Size, speed and accuracy",
    "What was tried",
    "Small steps",
    "Which layers are sensitive",
    "Confusion before and after",
    "Top disagreements",
    "Gates",
    "Checks of the data",
    "Where it comes from",
]


class Read(HTMLParser):
    """Collects tags, headings and text; fails on a tag that is not closed."""

    VOID = frozenset({"meta", "br", "col"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "h2":
            self.headings.append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            return
        self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings[-1] += data


def test_everything_is_on_it():
    page = Read(render(version()))
    assert page.headings == HEADINGS
    for words in (
        "har@1",
        "73% smaller than fp32, 3.2 times as fast on this machine, 0.40 points of accuracy gained",
        "5 quantized variants were measured, 2 of them rejected",
        "loses 34 points",
        "needs calibration data",
        "published as int8",
        "/block.0/Conv",
        "12 of 1,500 samples occur twice. Take them out.",
        "at most 1.00 points",
        "classes 3 and 4 are swapped. By ada.",
        "sample 116",
        "16: 4 closest, 3 class, 2 confident, 4 largest, 3 random",
        "2026-11-29 00:45 UTC by ada",
        "110,000 parameters, 43 nodes, opset 17",
        "12.3 kB, 2.8 %",
        "300 kB, 67.4 %",
        "fp32-steps-uniform-2.5 in place of fp32; 0.50 points may be lost.",
        "loses 2.53 points of what was trained",
        "its scales are not those",
    ):
        assert words in page.text, words
    assert page.tags.count("table") >= 8


@pytest.mark.parametrize("left_out", [*report(), "report"])
def test_every_section_can_be_absent(left_out):
    whole = version()
    if left_out == "report":
        whole["report"] = None
    else:
        del whole["report"][left_out]
    page = Read(render(whole))
    assert set(page.headings) <= set(HEADINGS)
    assert page.headings[-1] == "Where it comes from"


def test_a_refused_version_says_why():
    error = {
        "code": "pipeline.accuracy",
        "detail": "None keeps the accuracy.",
        "hint": "Push more.",
    }
    refused = version(state="refused", variants=[], error=error)
    refused["report"]["trials"] = [
        one for one in refused["report"]["trials"] if one["status"] != "accepted"
    ]
    text = Read(render(refused)).text
    assert "Nothing was published: the push was refused." in text
    assert "None keeps the accuracy.Push more." in text


def test_the_same_document_gives_the_same_page():
    assert render(version()) == render(json.loads(json.dumps(version())))


def test_hostile_text_stays_text():
    page = Read(render(poisoned(version())))
    assert page.text.count("<script>alert(1)</script>") > 50
    assert not {"script", "img", "iframe", "object", "a", "form", "input"} & set(page.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert not any(name in {"src", "href", "style", "action"} for name, _ in page.attributes)
    assert not set(render(poisoned(version()))) & set("\x00\u202e")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_report_of_any_form_gives_a_page(data):
    """Some part of a good document is replaced by anything."""
    whole = version()
    part = data.draw(st.sampled_from([whole, whole["report"], *whole["report"]["trials"][:2]]))
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(json_values)
    page = Read(render(whole))
    assert page.headings[-1] == "Where it comes from"


def test_a_page_has_a_bound():
    long = version(labels=["x" * 1000] * 2000)
    made = long["report"]
    made["trials"] = [made["trials"][1] | {"recipe": f"{n}" + "r" * 999} for n in range(999)]
    made["warnings"] = ["w" * 10_000] * 1000
    made["sensitivity"] = [{"node": "n" * 999, "operator": "o" * 999, "loss": 1.0}] * 9999
    made["confusion"] = {"before": [[1] * 200] * 200, "after": [[1] * 200] * 200}
    made["gates"] = made["data_checks"] = [
        dict.fromkeys(
            ("name", "status", "variant", "unit", "severity", "detail", "hint"), "y" * 9999
        )
    ] * 9999
    made["inputs"] = [{"name": "i" * 999, "datatype": "FP32", "shape": [1] * 999}] * 9999
    made["top_disagreements"] = [{"index": 10**5000, "reference_class": "b" * 9999}] * 9999
    assert len(render(long).encode()) < PAGE_BYTES_MAX


def test_the_size_of_an_update_is_there_where_there_is_a_parent():
    whole = version()
    del whole["report"]["small_steps"]
    assert "Update" not in Read(render(whole)).text
    whole["report"]["trials"][1]["update_bytes"] = 21_400
    text = Read(render(whole)).text
    assert "Update" in text
    assert "21.4 kB" in text


def test_what_a_mixed_recipe_leaves_in_float_is_marked():
    whole = version()
    whole["variants"][0]["trial"]["recipe"] = "int8-mixed-minmax-per-tensor-3"
    whole["report"]["sensitivity"][1]["nodes"] = 2
    kept = [one.kept for one in document.read_document(whole).sensitivity]
    assert kept == [True, True] + [False] * 14
    assert Read(render(whole)).text.count("left in float") == 2


def test_what_a_confusion_is_not():
    names = ("a", "b")
    for before, after in (([[1]], [[1]]), ([[1, 2], [3]], [[1, 2], [3, 4]]), ("xy", "xy")):
        made = {"report": {"confusion": {"before": before, "after": after}}, "labels": names}
        assert document.read_document(made).confusion is None


@settings(max_examples=200, deadline=None)
@given(low=st.floats(-1e6, 1e6), width=st.floats(1e-6, 1e6), count=st.integers(2, 8))
def test_ticks_are_few_and_inside(low, width, count):
    high = low + width
    if high <= low:
        return
    found = plots.ticks(low, high, count)
    slack = 1e-6 * max(abs(low), abs(high), width)
    assert len(found) <= count + 1
    assert all(low - slack <= value <= high + slack for value in found)


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    with launched() as started:
        yield started


@pytest.mark.chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("made", [version, lambda: poisoned(version())], ids=["plain", "hostile"])
def test_it_is_accessible_and_fits(browser, tmp_path, scheme, size, made):
    (tmp_path / "report.html").write_text(render(made()))
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("dialog", lambda dialog: troubles.append(f"a script ran: {dialog.message}"))
    page.on("request", lambda request: troubles.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    assert troubles == [(tmp_path / "report.html").as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it fits"
    assert page.locator("svg.plot").count() == 2
    assert page.evaluate("getComputedStyle(document.body).marginTop") == "0px", "our style is used"
    context.close()
    if made is version:
        # axe is a script, which the page forbids: it looks at the same page without the policy.
        relaxed = browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
        page = relaxed.new_page()
        page.goto((tmp_path / "report.html").as_uri())
        assert Axe().run(page).response["violations"] == []
        relaxed.close()


@pytest.mark.chromium
def test_the_policy_is_what_stops_a_script(browser, tmp_path):
    """Were the escaping to fail, the page's own policy would still run nothing."""
    broken = render(version()).replace("<footer>", "<footer><script>document.title='ran'</script>")
    file = tmp_path / "report.html"
    file.write_text(broken)
    for policy, title in ((True, "har@1: report"), (False, "ran")):
        file.write_text(broken if policy else broken.replace(_escaped(CONTENT_SECURITY_POLICY), ""))
        page = browser.new_page()
        page.goto(file.as_uri())
        assert page.title() == title
        page.close()


def _escaped(text: str) -> str:
    return text.replace("'", "&#x27;")


def test_the_sign_of_evil_is_in_the_hostile_document():
    assert EVIL in poisoned(version())["model"]
