"""Selectors: which devices, as people write it: ``site=porto and hw=rpi4 and not tag=demo``.

Grammar, lowest precedence first::

    any       = all { "or" all }
    all       = one { "and" one }
    one       = "not" one | "(" any ")" | "@" name | field condition
    condition = ( "=" | "!=" ) value | "in" "(" value { "," value } ")"
              | ( "<" | "<=" | ">" | ">=" ) number
    field     = one of FIELDS | one of NUMBERS | "reported." label | label
    value     = letters, digits and . _ : + / @ - ; with a last "*" what begins so; or in "quotes"

A label is one that people have given; what a device claims of itself is ``reported.label``.
``x=*`` is true where there is any x. What is not there is equal to nothing, so ``site!=porto`` is
true of devices without a site. Of NUMBERS, which are compared as such, ``cores<2`` is not true of
devices that have not said how many they have. ``@name`` is a saved selector. Everything has a
bound, and an error says where it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "FIELDS",
    "LABEL",
    "MOMENTARY",
    "NUMBERS",
    "TEXT_MAX",
    "WORDS",
    "All",
    "AnyOf",
    "Comparison",
    "Condition",
    "Expression",
    "Not",
    "Saved",
    "SelectorError",
    "expand",
    "fields_of",
    "parse_selector",
    "to_text",
]

EXPANDED_MAX = 200
"""Values that an expression may have when names of saved ones stand for what they mean."""
TEXT_MAX = 4096
DEPTH_MAX = 32
CONDITIONS_MAX = 2 * EXPANDED_MAX
"""Each condition counts, and each of its values: as many as may come out of `expand`."""
LABEL = r"[a-z][a-z0-9_-]{0,31}"
MOMENTARY = frozenset({"failing", "held", "online", "overdue", "security", "updating"})
"""Fields that are true or false, and change by the minute."""
FIELDS = MOMENTARY | {
    "agent",
    "class",
    "cpu",
    "desired",
    "device",
    "feature",
    "group",
    "machine",
    "os",
    "runs",
    "runtime",
}
"""Not the names of labels; `docs/rollouts.md` says what each is."""
NUMBERS = frozenset({"cores", "free_disk_mb", "memory_mb"})
"""Fields that are numbers; megabytes are of 1,000,000 bytes."""
WORDS = frozenset({"and", "or", "not", "in", "reported"})
_EXACT = MOMENTARY | {"desired", "feature", "runs", "runtime"}
_TOKEN = re.compile(
    r"\s*(?:(?P<sign>!=|<=|>=|=|<|>|\(|\)|,)"
    r"|\"(?P<quoted>[^\"\x00-\x1f\x7f]{0,128})\""
    r"|@(?P<saved>[a-z0-9][a-z0-9._-]{0,63})"
    r"|(?P<word>[A-Za-z0-9._:+/@-]{1,128}\*?|\*))",
    re.ASCII,
)
_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,3})?", re.ASCII)
_FIELD = re.compile(rf"(?:reported\.)?{LABEL}", re.ASCII)


class SelectorError(ValueError):
    """A text is no selector; it says what was expected, and where."""

    def __init__(self, what: str, text: str, position: int) -> None:
        super().__init__(f"{what} at character {position + 1}: {_around(text, position)}")
        self.position = position


@dataclass(frozen=True)
class Condition:
    """A field is one of these values; a value that ends in ``*`` is a beginning."""

    field: str
    values: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True)
class Comparison:
    """A number of a device stands so to another; never true where it has none."""

    field: str
    operator: str
    """``=``, ``<``, ``<=``, ``>`` or ``>=``."""
    number: str
    """As it was written."""


@dataclass(frozen=True)
class Saved:
    """What a saved selector says."""

    name: str


@dataclass(frozen=True)
class Not:
    """The opposite."""

    of: Expression


@dataclass(frozen=True)
class All:
    """All of them."""

    of: tuple[Expression, ...]


@dataclass(frozen=True)
class AnyOf:
    """One of them at least."""

    of: tuple[Expression, ...]


Expression = Condition | Comparison | Saved | Not | All | AnyOf


def parse_selector(text: str) -> Expression:
    """Return what a text means.

    Raises:
        SelectorError: with the place.
    """
    if len(text) > TEXT_MAX:
        raise SelectorError(f"a selector has at most {TEXT_MAX} characters", text, TEXT_MAX)
    parser = _Parser(text)
    found = parser.any_of(0)
    parser.end()
    return found


def expand(expression: Expression, saved: Mapping[str, Expression]) -> Expression:
    """Return an expression without names of saved ones.

    Raises:
        KeyError: a name that is not in `saved`, or that stands in itself.
        SelectorError: it would be too large; the place is that of nothing.
    """
    return _Expanding(saved).expand(expression, frozenset())


class _Expanding:
    """Counts what comes out: a few saved selectors that name one another twice have no end."""

    def __init__(self, saved: Mapping[str, Expression]) -> None:
        self._saved = saved
        self._conditions = 0

    def expand(self, expression: Expression, inside: frozenset[str]) -> Expression:
        match expression:
            case Saved(name):
                if name in inside:
                    raise KeyError(name)
                return self.expand(self._saved[name], inside | {name})
            case Not(of):
                return Not(self.expand(of, inside))
            case All(parts):
                return All(tuple(self.expand(one, inside) for one in parts))
            case AnyOf(parts):
                return AnyOf(tuple(self.expand(one, inside) for one in parts))
            case Condition() | Comparison():
                values = expression.values if isinstance(expression, Condition) else ("",)
                self._conditions += len(values)
                if self._conditions > EXPANDED_MAX or len(inside) > DEPTH_MAX:
                    raise SelectorError("with what its names mean, it is too large", "", 0)
                return expression


def fields_of(expression: Expression) -> frozenset[str]:
    """Return the fields that an expression asks for; of saved ones nothing."""
    match expression:
        case Condition(field) | Comparison(field):
            return frozenset({field})
        case Saved():
            return frozenset()
        case Not(of):
            return fields_of(of)
        case All(parts) | AnyOf(parts):
            return frozenset().union(*(fields_of(one) for one in parts))


def to_text(expression: Expression) -> str:
    """Return a text that means the same."""
    match expression:
        case Condition():
            return _condition_text(expression)
        case Comparison(field, operator, number):
            return f"{field}{operator}{number}"
        case Saved(name):
            return f"@{name}"
        case Not(of):
            return f"not ({to_text(of)})"
        case All(parts):
            return " and ".join(f"({to_text(one)})" for one in parts)
        case AnyOf(parts):
            return " or ".join(f"({to_text(one)})" for one in parts)


def _condition_text(condition: Condition) -> str:
    field, values, negated = condition.field, condition.values, condition.negated
    if len(values) == 1:
        return f"{field}{'!=' if negated else '='}{_quoted(values[0])}"
    listed = ", ".join(_quoted(one) for one in values)
    return f"{'not ' if negated else ''}{field} in ({listed})"


def _quoted(value: str) -> str:
    found = _TOKEN.fullmatch(value)
    plain = found is not None and found["word"] == value and value not in WORDS
    return value if plain else f'"{value}"'


def _around(text: str, position: int) -> str:
    start = max(0, position - 20)
    shown = text[start:position] + "»" + text[position : position + 20]
    return "".join(one if one.isprintable() else "?" for one in shown)


@dataclass(frozen=True)
class _Token:
    kind: str
    value: str
    position: int


class _Parser:
    """Descends into the grammar; each method takes what it is named after."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._at = 0
        self._conditions = 0

    def any_of(self, depth: int) -> Expression:
        parts = [self._all(depth)]
        while self._takes_word("or"):
            parts.append(self._all(depth))
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def end(self) -> None:
        token = self._peek()
        if token.kind != "end":
            raise self._wrong("expected and, or, or the end", token)

    def _all(self, depth: int) -> Expression:
        parts = [self._one(depth)]
        while self._takes_word("and"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _one(self, depth: int) -> Expression:
        token = self._peek()
        if depth >= DEPTH_MAX:
            raise self._wrong(f"more than {DEPTH_MAX} levels", token)
        if self._takes_word("not"):
            return Not(self._one(depth + 1))
        if self._takes_sign("("):
            found = self.any_of(depth + 1)
            self._need(")")
            return found
        self._conditions += 1
        if self._conditions > CONDITIONS_MAX:
            raise self._wrong(f"more than {CONDITIONS_MAX} conditions", token)
        if token.kind == "saved":
            self._at += 1
            return Saved(token.value)
        return self._condition()

    def _condition(self) -> Expression:
        token = self._peek()
        if token.kind != "word" or token.value in WORDS:
            raise self._wrong("expected a field such as site", token)
        if not _FIELD.fullmatch(token.value):
            raise self._wrong("a field is a name such as site or reported.site", token)
        self._at += 1
        name = token.value
        if name in NUMBERS:
            return self._comparison(name)
        if self._takes_word("in"):
            self._need("(")
            values = [self._value(name)]
            while self._takes_sign(","):
                values.append(self._value(name))
            self._need(")")
            return Condition(name, tuple(values))
        if self._takes_sign("!="):
            return Condition(name, (self._value(name),), negated=True)
        if self._takes_sign("="):
            return Condition(name, (self._value(name),))
        raise self._wrong("expected =, != or in", self._peek())

    def _comparison(self, name: str) -> Expression:
        if self._takes_word("in"):
            self._need("(")
            one_of = [Comparison(name, "=", self._number(name))]
            while self._takes_sign(","):
                one_of.append(Comparison(name, "=", self._number(name)))
            self._need(")")
            return AnyOf(tuple(one_of))
        if self._takes_sign("!="):
            return Not(Comparison(name, "=", self._number(name)))
        for operator in ("<=", ">=", "<", ">", "="):
            if self._takes_sign(operator):
                return Comparison(name, operator, self._number(name))
        raise self._wrong("expected =, !=, <, <=, >, >= or in", self._peek())

    def _number(self, name: str) -> str:
        token = self._peek()
        value = self._value(name)
        if not _NUMBER.fullmatch(value):
            raise self._wrong(f"{name} is a number such as 500", token)
        return value

    def _value(self, name: str) -> str:
        token = self._peek()
        if token.kind not in {"word", "quoted"}:
            raise self._wrong(f"expected a value of {name}", token)
        if name in MOMENTARY and token.value not in {"true", "false"}:
            raise self._wrong(f"{name} is true or false", token)
        if name in _EXACT and token.value.endswith("*"):
            raise self._wrong(f"{name} takes whole values", token)
        self._conditions += 1
        if self._conditions > CONDITIONS_MAX:
            raise self._wrong(f"more than {CONDITIONS_MAX} values", token)
        self._at += 1
        return token.value

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _takes_word(self, word: str) -> bool:
        token = self._peek()
        found = token.kind == "word" and token.value == word
        self._at += found
        return found

    def _takes_sign(self, sign: str) -> bool:
        token = self._peek()
        found = token.kind == "sign" and token.value == sign
        self._at += found
        return found

    def _need(self, sign: str) -> None:
        if not self._takes_sign(sign):
            raise self._wrong(f"expected {sign}", self._peek())

    def _wrong(self, what: str, token: _Token) -> SelectorError:
        return SelectorError(what, self._text, token.position)


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise SelectorError("a character that has no place here", text, at)
        kind = match.lastgroup
        assert kind is not None
        start = match.end() - len(match[0].lstrip())
        found.append(_Token(kind, match[kind], start))
        at = match.end()
    return [*found, _Token("end", "", end)]
