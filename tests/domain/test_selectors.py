"""Selectors: what texts mean, where they are wrong, and that nothing else comes of any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl_server.domain.selectors import (
    CONDITIONS_MAX,
    DEPTH_MAX,
    EXPANDED_MAX,
    FIELDS,
    NUMBERS,
    TEXT_MAX,
    WORDS,
    All,
    AnyOf,
    Comparison,
    Condition,
    Expression,
    Not,
    Saved,
    SelectorError,
    expand,
    fields_of,
    parse_selector,
    to_text,
)
from edgectl_server.schemas.selectors import _TAKEN

C = Condition
PORTO, PI, DEMO = C("site", ("porto",)), C("hw", ("rpi4",)), C("tag", ("demo",))


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("site=porto", PORTO),
        ("site=porto and hw=rpi4 and not tag=demo", All((PORTO, PI, Not(DEMO)))),
        ("site=porto or hw=rpi4 and tag=demo", AnyOf((PORTO, All((PI, DEMO))))),
        ("(site=porto or hw=rpi4) and tag=demo", All((AnyOf((PORTO, PI)), DEMO))),
        ("not not site=porto", Not(Not(PORTO))),
        (" site = porto ", PORTO),
        ("site!=porto", C("site", ("porto",), negated=True)),
        ("hw in (rpi4, rpi5)", C("hw", ("rpi4", "rpi5"))),
        ("device=pi-*", C("device", ("pi-*",))),
        ("site=*", C("site", ("*",))),
        ('os="Debian GNU/Linux 12"', C("os", ("Debian GNU/Linux 12",))),
        ("runs=har@1.2+b", C("runs", ("har@1.2+b",))),
        ("reported.site=porto", C("reported.site", ("porto",))),
        ("cores>=4", Comparison("cores", ">=", "4")),
        ("memory_mb < 900.5", Comparison("memory_mb", "<", "900.5")),
        ("free_disk_mb>500 and site=porto", All((Comparison("free_disk_mb", ">", "500"), PORTO))),
        ("cores!=4", Not(Comparison("cores", "=", "4"))),
        ("cores in (2, 4)", AnyOf((Comparison("cores", "=", "2"), Comparison("cores", "=", "4")))),
        ("@porto-pis and not tag=demo", All((Saved("porto-pis"), Not(DEMO)))),
    ],
)
def test_what_a_text_means(text: str, meaning: Expression) -> None:
    assert parse_selector(text) == meaning
    assert parse_selector(to_text(meaning)) == meaning


@pytest.mark.parametrize("value", [" porto", "porto ", " and", "", "(", "@name", "a b", "not"])
def test_a_value_in_quotes_stays_what_it_is(value: str) -> None:
    expression = parse_selector(f'site="{value}"')
    assert expression == C("site", (value,))
    assert parse_selector(to_text(expression)) == expression


def test_what_comes_of_saved_selectors_can_be_read_again() -> None:
    """As a rollout keeps it: the most values that there may be, in the most conditions."""
    names = [f"s{number}" for number in range(EXPANDED_MAX)]
    saved: dict[str, Expression] = {name: C("a", (name,)) for name in names}
    found = expand(AnyOf(tuple(Saved(name) for name in names)), saved)
    assert parse_selector(to_text(found)) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a field such as site at character 1: »"),
        ("site", "expected =, != or in at character 5: site»"),
        ("site=", "expected a value of site at character 6: site=»"),
        ("site=a b", "expected and, or, or the end at character 8: site=a »b"),
        ("site=a and", "expected a field such as site at character 11: site=a and»"),
        ("(site=a", "expected ) at character 8: (site=a»"),
        ("site in a", "expected ( at character 9: site in »a"),
        ("site=a;drop", "a character that has no place here at character 7: site=a»;drop"),
        ("Site=a", "a field is a name such as site or reported.site at character 1: »Site=a"),
        ("a.b=c", "a field is a name such as site or reported.site at character 1: »a.b=c"),
        ("online=maybe", "online is true or false at character 8: online=»maybe"),
        ("runs=har*", "runs takes whole values at character 6: runs=»har*"),
        ("cores>=four", "cores is a number such as 500 at character 8: cores>=»four"),
        ("cores>=1e9", "cores is a number such as 500 at character 8: cores>=»1e9"),
        ("cores", "expected =, !=, <, <=, >, >= or in at character 6: cores»"),
        ("site>porto", "expected =, != or in at character 5: site»>porto"),
        ("and=1", "expected a field such as site at character 1: »and=1"),
        ('os="Deb', 'a character that has no place here at character 4: os=»"Deb'),
    ],
)
def test_an_error_says_what_was_expected_and_where(text: str, words: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse_selector(text)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    "text",
    [
        "(" * (DEPTH_MAX + 1) + "a=b" + ")" * (DEPTH_MAX + 1),
        "not " * (DEPTH_MAX + 1) + "a=b",
        " or ".join(["a=b"] * (CONDITIONS_MAX + 1)),
        f"a in ({','.join('b' * (CONDITIONS_MAX + 1))})",
        "a=b" + " " * TEXT_MAX,
    ],
)
def test_everything_has_a_bound(text: str) -> None:
    with pytest.raises(SelectorError):
        parse_selector(text)


def test_saved_selectors_stand_for_what_they_mean() -> None:
    saved = {"pis": AnyOf((PI, Saved("demo"))), "demo": DEMO}
    assert expand(All((PORTO, Saved("pis"))), saved) == All((PORTO, AnyOf((PI, DEMO))))
    for text in ("@nobody", "@a"):
        with pytest.raises(KeyError):
            expand(parse_selector(text), {"a": Not(Saved("b")), "b": Saved("a")})


def test_saved_selectors_that_name_one_another_twice_have_a_bound() -> None:
    saved: dict[str, Expression] = {"s0": PORTO}
    for number in range(1, 60):
        saved[f"s{number}"] = AnyOf((Saved(f"s{number - 1}"), Saved(f"s{number - 1}")))
    assert len(to_text(expand(Saved("s6"), saved))) < 64 * EXPANDED_MAX
    with pytest.raises(SelectorError, match="too large"):
        expand(Saved("s12"), saved)
    with pytest.raises(SelectorError, match="too large"):
        expand(Saved("s59"), saved)


def test_which_fields_are_asked_for() -> None:
    asked = parse_selector("site=a and (not online=true or reported.x in (y, z)) and @c")
    assert fields_of(asked) == {"site", "online", "reported.x"}


_PIECES = st.sampled_from(
    [
        "site",
        "=",
        "!=",
        ">=",
        "cores",
        "4",
        "porto",
        " ",
        "(",
        ")",
        "and",
        "or",
        "not",
        "in",
        ",",
        "@x",
        '"',
        "*",
        "online",
    ]
)


def test_no_label_takes_the_name_of_a_field_or_word() -> None:
    assert _TAKEN == FIELDS | NUMBERS | WORDS


@given(st.one_of(st.text(max_size=60), st.lists(_PIECES, max_size=30).map("".join)))
def test_any_text_is_a_selector_or_a_selector_error(text: str) -> None:
    try:
        found = parse_selector(text)
    except SelectorError as error:
        wrong = error
    else:
        assert parse_selector(to_text(found)) == found or len(to_text(found)) > TEXT_MAX
        return
    assert 0 <= wrong.position <= len(text)
    assert str(wrong).isprintable()
